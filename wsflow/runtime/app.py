"""An app that runs: its lifespans, its connections, who is let in, and how all of it stops."""

from __future__ import annotations

import contextvars
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, final
from urllib.parse import urlsplit

import anyio
from websockets.datastructures import Headers

from wsflow.brokers.base import Broker, Receiver
from wsflow.brokers.memory import MemoryBroker
from wsflow.channels import Channels
from wsflow.connection import End
from wsflow.declare.router import Handler
from wsflow.detached import detach
from wsflow.errors import Reject
from wsflow.registry import Directory
from wsflow.request import Request
from wsflow.runtime import ends
from wsflow.runtime.access import log_connection, log_refusal
from wsflow.runtime.children import Children, Run, unwrap
from wsflow.runtime.dialling import Dialling
from wsflow.runtime.environment import Surroundings
from wsflow.runtime.limits import Limits
from wsflow.runtime.scopes import Step, Within
from wsflow.runtime.session import Session
from wsflow.transports.base import Transport
from wsflow.wiring.plan import AppPlan, RouteDetails
from wsflow.wiring.sources import APP_TASK_GROUP, Source

log = logging.getLogger("wsflow")


class Prepared(NamedTuple):
    """What a client does with a URI: its path, the request, and what was read from that."""

    details: RouteDetails
    request: Request
    read: Mapping[Source, Any]


@final
class App:
    """Serves the connections of one process.

    Attributes:
        sessions: the connections that are not over, by id.
        stopping: set when the app must stop, because a task of its own has failed.
        left_behind: what did not end although it was cancelled, by name.
        context: where connections run: what lifespans set is there for them.
        overran: whether, in stopping, a connection was cut off because its time was over.
    """

    def __init__(
        self, plan: AppPlan, limits: Limits, broker: Callable[[Receiver], Broker] = MemoryBroker
    ) -> None:
        self.plan = plan
        self.limits = limits
        self.directory = Directory(
            Channels(broker, plan.presence_type), declared=plan.declared_topic, codecs=plan.codecs
        )
        self.values: dict[Handler, Any] = {}
        self.sessions: dict[str, Session] = {}
        self.overran = False
        self.stopping = anyio.Event()
        self._error: BaseException | None = None
        self._closed = False
        self._clients: Counter[str] = Counter()
        self.left_behind: list[str] = []
        self._setting_up: anyio.CancelScope | None = None
        self._aborted = False
        self.context = contextvars.copy_context()
        self._idle: anyio.Event | None = None
        self._children = Children(detach, self._child_failed)
        self._environment = Surroundings(self.directory, self.values)

    # -- running

    async def run(self, serve: Run) -> None:
        """Connect to the broker and enter the lifespans, ``serve``, end what connections are left,
        then go back.

        It is shielded: ``serve`` returning is what ends it, and ``abort_start`` before that.

        Raises:
            Exception: what failed: the broker, a lifespan, a task of the injected TaskGroup,
                ``serve``.
        """
        with anyio.CancelScope(shield=True):
            try:
                await self._connect_and_live(serve)
            except BaseException as exc:
                self.fail(exc)
            finally:
                await self.directory.channels.broker.stop()
        if self._error is not None:
            raise self._error

    async def _connect_and_live(self, serve: Run) -> None:
        with anyio.CancelScope() as scope:
            self._setting_up = scope
            await self.directory.channels.start()
        self._setting_up = None
        if scope.cancelled_caught:
            return
        if any(APP_TASK_GROUP in plan.call.sources for plan in self.plan.lifespans):
            self._environment.task_group = await self._children.open_group()
        await self._live(0, serve)

    def abort_start(self) -> None:
        """Stop connecting to the broker and setting up the lifespans. Later it changes nothing."""
        if self._setting_up is not None:
            self._aborted = True
            self._setting_up.cancel()

    async def _live(self, index: int, serve: Run) -> None:
        """Serve within the ``lifespan`` functions from ``index`` on. Raises nothing."""
        if index == len(self.plan.lifespans):
            await self._serve(serve)
            return
        plan = self.plan.lifespans[index]

        def entering(scope: anyio.CancelScope, _handler: Handler) -> None:
            self._setting_up = scope

        async def inner(value: Any) -> None:
            self._setting_up = None
            self.values[plan.handler] = value
            await self._live(index + 1, serve)

        within = Within(float("inf"), float("inf"), self._lifespan_failed, entering, _ignore)
        if not await within.run(plan, plan.call.bind(self._environment), inner):
            self._setting_up = None
            await self._stop_tasks()

    async def _serve(self, serve: Run) -> None:
        self.context = contextvars.copy_context()  # what lifespans set is there for handlers
        try:
            await serve()
        except BaseException as exc:
            self.fail(exc)
        await self.drain(0)
        await self._stop_tasks()

    async def _stop_tasks(self) -> None:
        self._children.cancel()
        self.left_behind += await self._children.reap_within(self.limits.close_timeout)

    def _lifespan_failed(
        self, handler: Handler, exc: BaseException, step: Step, late: bool
    ) -> None:
        if ends.is_cancellation(exc) and (self._aborted or self._error is not None):
            return
        log.error("%s (%s) failed to %s", handler, handler.where, step)
        self.fail(exc)

    def _child_failed(self, name: str, exc: BaseException) -> None:
        log.error("%s failed: the app stops", name, exc_info=exc)
        self.fail(unwrap(exc))

    def fail(self, exc: BaseException) -> None:
        """The app cannot go on. The first failure is raised by ``run``, the others are logged."""
        if self._error is None:
            self._error = exc
        else:
            log.error("while stopping", exc_info=exc)
        self.stopping.set()
        if self._setting_up is not None:
            self._setting_up.cancel()

    # -- letting in

    def open(self, request: Request, transport: Transport) -> Session | None:
        """Begin a connection, or answer why not. Needs no current task."""
        try:
            session = self._admit(request, transport)
        except Reject as refusal:
            body = refusal.body or ends.phrase(refusal.status)
            log_refusal(request.path, request.client, refusal.status)
            transport.reject(refusal.status, refusal.headers, body.encode())
            return None
        self._start(session, request)
        return session

    def prepare(self, uri: str, headers: Headers) -> Prepared:
        """What a client does at a URI: its path for that; one at ``/`` alone goes anywhere.

        Raises:
            ValueError: none of its paths is for that URI, or the URI lacks what they need.
        """
        parts = urlsplit(uri)
        request = Request.parse(f"{parts.path or '/'}?{parts.query}", headers)
        found = self.plan.routes.match(request.path)
        if found is None:
            known = [each.plan.template for each in self.plan.routes]
            if known != ["/"]:
                raise ValueError(
                    f"the client has no path for {request.path}: it has {', '.join(known)}"
                )
            found = next(iter(self.plan.routes)), {}
        details, params = found
        request = request.at(params)
        try:
            return Prepared(details, request, _read(details, request))
        except Reject as exc:
            raise ValueError(f"{uri}: {exc.body.strip()}") from None

    def dial(self, prepared: Prepared, transport: Transport, dialling: Dialling) -> Session:
        """Begin a connection of a client."""
        details, request, read = prepared
        session = Session(self, details, request, transport, read, dialling)
        self._start(session, request)
        return session

    def _start(self, session: Session, request: Request) -> None:
        self.sessions[session.id] = session
        self._clients[_host(request)] += 1
        session.start()

    def _admit(self, request: Request, transport: Transport) -> Session:
        if self._closed:
            raise Reject(503)
        found = self.plan.routes.match(request.path)
        if found is None:
            raise Reject(404)
        details, params = found
        self._check_origin(request)
        most = self.limits.max_connections
        if most and len(self.sessions) >= most:
            raise Reject(503)
        per_client = self.limits.max_connections_per_client
        if per_client and self._clients[_host(request)] >= per_client:
            raise Reject(503)
        request = request.at(params)
        return Session(self, details, request, transport, _read(details, request))

    def _check_origin(self, request: Request) -> None:
        """Refuse pages of other sites (cross-site WebSocket hijacking, RFC 6455 §10.2)."""
        origins = request.headers.get_all("Origin")
        if not origins or "*" in self.limits.origin:
            return
        allowed = origins[0] in self.limits.origin or _same_host(
            origins[0], request.headers.get_all("Host")
        )
        if len(origins) > 1 or not allowed:
            log.warning(
                "refused a connection to %s from a page of %s; to allow it: --origin %s",
                request.path,
                origins[0],
                origins[0],
            )
            raise Reject(403)

    # -- ending

    def ended(self, id: str) -> None:
        """A session is over."""
        session = self.sessions.pop(id)
        client = _host(session.connection.request)
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]
        self.left_behind += session.report.left_behind
        self.overran = self.overran or (self._closed and session.report.overran)
        if not session.transport.dials:
            log_connection(session)
        if self._idle is not None and not self.sessions:
            self._idle.set()

    async def drain(self, grace: float, *, restart: bool = False) -> None:
        """Let no one in, and end all connections: 1001, or 1012 on a restart.

        Consumers finish and answer what was received, for at most ``grace`` seconds; then they are
        cancelled, and named in the log. Returns when every connection is over.
        """
        self._closed = True
        goodbye = End("restart", 1012) if restart else End("shutdown", 1001)
        for session in list(self.sessions.values()):
            session.drain(goodbye, grace)
        if not grace:
            self.cut_short()
        if self.sessions:
            self._idle = self._idle or anyio.Event()
            await self._idle.wait()

    def cut_short(self) -> None:
        """Wait no longer for a drain that is under way."""
        if self._closed:
            for session in list(self.sessions.values()):
                session.cut_short()


def _read(details: RouteDetails, request: Request) -> Mapping[Source, Any]:
    """What functions ask of the opening request, converted.

    Raises:
        Reject: something is missing, or of another type.
    """
    return {source: source.convert(request) for source in details.request_sources}


def _ignore(*_: object) -> None:
    """A lifespan's steps have no limit and are not named."""


def _host(request: Request) -> str:
    return request.client.host if request.client else ""


_PORTS: Mapping[str, int] = {"http": 80, "https": 443}


def _same_host(origin: str, hosts: list[str]) -> bool:
    """Whether an Origin (RFC 6454 §7) names the host that was asked."""
    try:
        page = urlsplit(origin)
        default = _PORTS[page.scheme]
        asked = urlsplit(f"//{hosts[0]}")
        return page.hostname == asked.hostname and (page.port or default) == (asked.port or default)
    except (LookupError, ValueError):
        return False
