"""A running app: its lifespans, its connections, and its shutdown."""

from __future__ import annotations

import contextvars
import logging
import math
import random
from typing import Any, final

import anyio

from wsflow.addresses import Address
from wsflow.brokers import select
from wsflow.declare.router import Handler
from wsflow.errors import Reject, unwrap
from wsflow.limits import Limits
from wsflow.log import Log
from wsflow.messages.codec import bound
from wsflow.observer import ConnectionSummary, Observers
from wsflow.request import Request
from wsflow.runtime.access import TOO_MANY, AccessLog
from wsflow.runtime.admission import Admission, Admitted
from wsflow.runtime.ending import RESTART, SHUTDOWN, is_cancellation, refuse
from wsflow.runtime.memory import Memory
from wsflow.runtime.metrics import Metrics
from wsflow.runtime.pages import Pages
from wsflow.runtime.rates import SharedRates, client_key
from wsflow.runtime.scopes import Nest, Step
from wsflow.runtime.session import Dialling, Session
from wsflow.runtime.status import Status
from wsflow.runtime.turns import Turns
from wsflow.tasks.children import Children, Run
from wsflow.tasks.detached import detach
from wsflow.topics.channels import Channels
from wsflow.topics.declared import DeclaredTopics
from wsflow.topics.registry import Directory, Registry
from wsflow.transports.base import Exchange, Transport
from wsflow.wiring.environment import Environment
from wsflow.wiring.plan import AppPlan
from wsflow.wiring.sources import APP_TASK_GROUP

log = Log("wsflow")

MOST_IGNORED = 100
"""How many unknown tags are logged: peers choose them."""


@final
class App:
    """Serves the connections of one process.

    Args:
        plan: the wired app.
        limits: the limits of the app and of its connections.
        broker: URL of the broker that carries topics between processes, as ``wsflow run --broker``
            takes it.

    Attributes:
        sessions: the connections that have not ended, by id.
        directory: the connections that are open, and the topics.
        metrics: counts what happens here.
        observers: are told what happens here.
        values: what lifespans have provided.
        must_stop: set when the app must stop, because one of its own tasks has failed.
        left_behind: the names of handlers and tasks that did not end although they were cancelled.
        rates: the rate limits that connections share.
        context: the context of connections, with the context variables that lifespans have set.
        overran: whether, during shutdown, handlers were cancelled because their time was over.
        pages: answers plain HTTP requests.
        told_to_stop: whether it was told to stop, though it may still take connections.

    Raises:
        ValueError: the broker's URL is invalid, or its client is not installed.
        DeclarationError: a function cannot be used with these limits.
    """

    def __init__(self, plan: AppPlan, limits: Limits, broker: str = select.MEMORY) -> None:
        plan.check_limits(limits)
        make = select.broker(
            broker,
            limits.publish_timeout,
            plan.topics.with_history,
            history_bytes=limits.history_total_bytes,
        )
        topics = DeclaredTopics(plan.topics.types)  # more may be declared while it runs
        self.sessions: dict[str, Session] = {}
        self.metrics = Metrics(self)
        self.observers = Observers((AccessLog(), self.metrics, *plan.observers))
        channels = Channels(
            make,
            topics.presence_type,
            self.sessions,
            bound("msgpack", plan.hooks),
            self.observers,
            topics.template_of,
        )
        self.plan = plan
        self.limits = limits
        self.directory = Directory(
            channels,
            declared=topics,
            codecs=plan.codecs,
            measure=self.metrics.families,
            broker=select.kind(broker),
        )
        self.values: dict[Handler, Any] = {}
        self.must_stop = anyio.Event()
        self.left_behind: list[str] = []
        self.context = contextvars.copy_context()
        self.overran = False
        self.rates = SharedRates(plan, channels)
        self.turns = Turns()
        self.memory = Memory(limits.inbox_total_bytes, channels.counters)
        self._admission = Admission(plan.routes, limits)
        self.pages = Pages(self, self._admission)
        self.pages.status = Status(lambda take: take(self.unready))
        self.told_to_stop = False
        self._environment = Environment(self.directory, self.values)
        self._children = Children(detach, self._child_failed)
        self._error: BaseException | None = None
        self._setting_up: anyio.CancelScope | None = None
        self._aborted = False
        self._started = False  # the lifespans have set up
        self._ignored: set[tuple[str, object]] = set()  # paths, and tags that were logged
        self._goodbye = SHUTDOWN
        self._idle: anyio.Event | None = None  # set when the last connection is over

    # -- running

    async def run(self, serve: Run) -> None:
        """Connect to the broker, enter the lifespans and call ``serve``. When it returns, end all
        connections, leave the lifespans and disconnect.

        It is shielded from cancellation: it ends when ``serve`` returns, or by ``abort_start``
        before that.

        Raises:
            Exception: the first error of the broker, a lifespan, a task of the injected TaskGroup,
                or ``serve``.
        """

        for each in self.plan.declared:
            each.served += 1
        with anyio.CancelScope(shield=True):
            try:
                await self._connect_and_live(serve)
            except BaseException as exc:
                self.fail(exc)
            finally:
                for each in self.plan.declared:
                    each.served -= 1
                self.rates.stop()
                await self.directory.channels.broker.stop()
        if self._error is not None:
            raise self._error

    async def _connect_and_live(self, serve: Run) -> None:
        await self._connect()

        async def live(started: bool) -> None:
            if started and not self.stopping:
                await self._serve(serve)
            self._children.close()
            self.pages.cut_short()
            self.left_behind += await self._children.reap_within(self.limits.close_timeout)
            self.left_behind += await self.pages.reap_within(self.limits.close_timeout)

        limits = float("inf"), float("inf")  # a lifespan takes its time
        await Nest(self.plan.lifespans, self._environment, *limits, self).run(live)

    async def _connect(self) -> None:
        """Connect to the broker. It may be aborted: then no lifespan sets up."""
        with anyio.CancelScope() as scope:
            self._setting_up = scope
            if self._aborted:
                scope.cancel()
            await self.directory.channels.start()
            await self.plan.prepare(Registry(self.directory))
        self._setting_up = None
        if any(APP_TASK_GROUP in plan.invocation.sources for plan in self.plan.lifespans):
            self._environment.task_group = await self._children.open_group()

    def abort_start(self) -> None:
        """Stop connecting to the broker and setting up the lifespans, or do not begin. No effect
        after the start."""
        if not self._started:
            self._aborted = True
            if self._setting_up is not None:
                self._setting_up.cancel()

    async def _serve(self, serve: Run) -> None:
        """Call ``serve``, then end all connections. Raises nothing."""
        self._started = True
        self.context = contextvars.copy_context()  # with the context variables of the lifespans
        try:
            await serve()
        except BaseException as exc:
            self.fail(exc)
        await self.drain(0)

    # -- the steps of lifespans

    @property
    def stopping(self) -> bool:
        """Whether no further function may set up."""
        return self._aborted or self._error is not None

    def entering(self, handler: Handler, scope: anyio.CancelScope) -> None:
        self._setting_up = scope

    def entered(self, handler: Handler) -> None:
        self._setting_up = None

    async def recover(self, exc: Exception) -> BaseException | None:
        return exc

    def leaving(self, handler: Handler) -> None:
        """A lifespan has no timeout to tear down."""

    def failed(self, handler: Handler, exc: BaseException, step: Step, late: bool) -> None:
        self._setting_up = None
        if is_cancellation(exc) and self.stopping:
            return
        log.error("%s (%s) failed to %s", handler, handler.where, step)
        self.fail(exc)

    def _child_failed(self, name: str, exc: BaseException) -> None:
        log.error("%s failed: the app stops", name, exc_info=exc)
        self.fail(unwrap(exc))

    async def wait_for(self, event: anyio.Event, seconds: float = math.inf) -> None:
        """Wait for an event, for at most so many seconds, and no longer than the app goes on."""
        async with anyio.create_task_group() as tasks:
            tasks.cancel_scope.deadline = anyio.current_time() + seconds

            async def fails() -> None:
                await self.must_stop.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(fails)
            await event.wait()
            tasks.cancel_scope.cancel()

    def fail(self, exc: BaseException) -> None:
        """Stop the app because of an error. ``run`` raises the first one, the others are logged."""
        if self._error is None:
            self._error = exc
        else:
            log.error("an error while stopping", exc_info=exc)
        self.must_stop.set()
        if self._setting_up is not None:
            self._setting_up.cancel()

    # -- connections

    @property
    def running(self) -> list[str]:
        """The names of the handlers that run."""
        handlers = [name for each in list(self.sessions.values()) for name in each.running]
        return [*handlers, *self.pages.running]

    def open(self, request: Request, transport: Transport) -> Session | None:
        """Begin a connection, or refuse it with an HTTP answer. Needs no current task."""
        try:
            admitted = self._admission.admit(request)
            limits = admitted.plan.client_limits
            self.rates.check(limits, client_key(request), transport.now())
        except Reject as refusal:
            if refusal.status in TOO_MANY:
                self.directory.channels.counters["refused"] += 1
            self.refused(request.path, request.client, refusal.status)
            if log.enabled(logging.DEBUG):
                log.debug("refused with %d: %s", refusal.status, self.why_refused(request, refusal))
            refuse(transport, refusal, request.subprotocols)
            return None
        return self.begin(admitted, transport)

    def page(self, method: str, request: Request, exchange: Exchange) -> None:
        """Answer a request that is none for a WebSocket. Needs no current task."""
        self.pages.open(method, request, exchange)

    @property
    def unready(self) -> list[str]:
        """Why no connections should be sent here now; empty if they should."""
        why = []
        if not self._started:
            why.append("it has not started")
        if self.told_to_stop or self._admission.closed or self.must_stop.is_set():
            why.append("it stops")
        if not self.directory.channels.broker.connected:
            why.append("the broker is away")
        return why

    def why_refused(self, request: Request, refusal: Reject) -> str:
        """Why ``open`` has refused a request: for the log and for tests, and not for the peer."""
        return self._admission.why(request, refusal)

    def opened(self, session: Session) -> None:
        """A connection is open: its handshake was accepted."""
        self.observers.opened(session.connection, session.plan.template)

    def refused(self, path: str, client: Address | None, status: int) -> None:
        """A request was answered with an HTTP error, before there was a connection."""
        self.observers.refused(path, client, status)

    def turned_away(self, why: str) -> None:
        """A connection was refused before it could send its opening request."""
        self.directory.channels.counters["refused"] += 1
        log.often(logging.WARNING, "refused a connection: %s", why)

    def ignored(self, template: str, tag: object) -> None:
        """A message with an unknown tag was ignored. The first tags are logged, each once."""
        self.directory.channels.counters["ignored"] += 1
        if (template, tag) not in self._ignored and len(self._ignored) < MOST_IGNORED:
            self._ignored.add((template, tag))
            log.info("messages with the tag %r are ignored at %s", tag, template)

    def stalled(self) -> None:
        """The event loop was blocked for too long."""
        self.directory.channels.counters["stalled"] += 1

    def begin(
        self, admitted: Admitted, transport: Transport, dialling: Dialling | None = None
    ) -> Session:
        """Begin a connection that was accepted, or that a client makes."""
        plan, request, read = admitted
        session = Session(self, plan, request, transport, read, dialling)
        self.sessions[session.id] = session
        self._admission.begun(request)
        session.start()
        return session

    def identified(self, user: str) -> None:
        """A connection that is being set up is one of that user.

        Raises:
            Reject: the user has too many.
        """
        self._admission.identified(user)

    def forget(self, session: Session) -> None:
        """A connection has ended: nothing here knows it any more."""
        del self.sessions[session.id]
        self.directory.remove(session.connection)
        self._admission.ended(session.connection.request, session.user)
        if self._idle is not None and not self.sessions:
            self._idle.set()

    def ended(self, session: Session) -> None:
        """A connection has ended, and its peer was told: keep how it went."""
        self.left_behind += session.ending.left_behind
        self.overran = self.overran or (self._admission.closed and session.ending.overran)
        self.observers.ended(session.connection, _summary(session))

    async def drain(self, grace: float, *, over: float = 0.0, restart: bool = False) -> None:
        """Refuse new connections, and end all connections: with 1001, or with 1012 on a restart.

        They are ended at once, or spread evenly over ``over`` seconds, in random order. Consumers
        of each handle what was received, for a grace period of at most ``grace`` seconds; then they
        are cancelled, and named in the log, and so are pages. Returns when every connection has
        ended.
        """
        self._admission.closed = True
        self._goodbye = RESTART if restart else SHUTDOWN
        began = anyio.current_time()
        await self._drain_sessions(grace, over, began)
        in_time = await self.pages.stop(began + over + grace - anyio.current_time())
        self.overran = self.overran or (not in_time and grace > 0)

    async def _drain_sessions(self, grace: float, over: float, began: float) -> None:
        sessions = list(self.sessions.values())
        if not sessions:
            return
        idle = self._idle = self._idle or anyio.Event()
        if over:
            random.shuffle(sessions)
        for number, session in enumerate(sessions):
            if over:
                with anyio.CancelScope(deadline=began + over * number / len(sessions)):
                    await idle.wait()
            session.drain(self._goodbye, grace)
        if not grace:
            self.cut_short()
        await idle.wait()

    def cut_short(self) -> None:
        """End a drain that is in progress at once."""
        if self._admission.closed:
            for session in list(self.sessions.values()):
                session.cut_short(self._goodbye)
            self.pages.cut_short()


def _summary(session: Session) -> ConnectionSummary:
    """How a connection went."""
    came, went = session.transport.traffic
    return ConnectionSummary(
        session.plan.template,
        session.end,
        session.announced,
        session.ending.refused,
        session.received,
        session.outbox.sent,
        came,
        went,
        session.outbox.dropped,
        session.duration,
        session.transport.dials,
    )
