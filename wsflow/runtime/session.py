"""The lifecycle of one connection.

One task, the host, enters the scope functions, dispatches messages and tears down. Producers,
consumers that iterate their messages and consumers with concurrency are its children. The first to
finish ends the connection; the others are cancelled and awaited.

The host starts when it is needed: a connection on a path without ``on_connect`` functions and
producers has no host until its first message. While the host waits, messages are handled where they
are read, in its place and as the current task (``Detached.within``); the host continues handlers
that have to wait.

A connection goes through the phases of ``NEXT``, never backwards. Invariants at every point where a
task can be cancelled:

- the close frame is sent at most once;
- after the end no task of the connection runs, and it is in no registry and no topic;
- every scope function that was entered is left in the task that entered it, the host;
- no exception is lost: it is handled by ``on_error``, or logged with its traceback;
- only the transport reads from the socket.

The host is never handed out; other tasks ``join`` it. Steps that keep an invariant are synchronous
and idempotent (``_release``), so that no cancellation can interrupt them. A native cancellation of
the host can interrupt an await in a tear-down, and every later step still runs. A timer abandons
handlers that swallow their cancellation (``_give_up``): their task may outlive the connection.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, final

import anyio

from wsflow.connection import Connection, check_user
from wsflow.credential import EXPIRED, Credential
from wsflow.declare.router import Handler
from wsflow.end import End
from wsflow.errors import Close, ConnectError, Disconnected, Reject, leaves, unwrap
from wsflow.limits import Limits
from wsflow.messages.calls import Auth
from wsflow.messages.codec import BadMessage, BoundCodec
from wsflow.observer import Observers
from wsflow.opening import Opening
from wsflow.request import Request
from wsflow.runtime.calls import Calls
from wsflow.runtime.credentials import Ask, Held, Renewing
from wsflow.runtime.dispatch import Dispatcher
from wsflow.runtime.ending import (
    OVERFLOWN,
    PEER_LEFT,
    SHUTDOWN,
    SLOW,
    VANISHED,
    Ending,
    end_of,
    end_of_bad_message,
    end_of_protocol_error,
    end_of_refusal,
    is_cancellation,
)
from wsflow.runtime.inbox import Inbox
from wsflow.runtime.memory import Memory
from wsflow.runtime.outbox import Outbox
from wsflow.runtime.rates import SharedRates
from wsflow.runtime.scopes import Nest, Step
from wsflow.runtime.throttle import Throttle
from wsflow.runtime.turns import Turns
from wsflow.tasks.children import Children, Run
from wsflow.tasks.detached import Detached, detach
from wsflow.tasks.waiting import Latch, Timer
from wsflow.topics.channels import Membership
from wsflow.topics.registry import Directory
from wsflow.transports.base import Transport
from wsflow.transports.deadline import look
from wsflow.transports.frames import Found
from wsflow.wiring.environment import Environment
from wsflow.wiring.plan import RoutePlan
from wsflow.wiring.sources import Source


class Phase(enum.IntEnum):
    """The phase of a connection."""

    CONNECTING = 1  # on_connect functions set up
    READY = 2  # all have set up; a client waits for the answer to its opening request
    RESTING = 3  # open, without a host: no message has come yet; producers may run
    OPEN = 4  # consumers and producers run
    DRAINING = 5  # no more messages are taken; consumers finish what was received
    STOPPING = 6  # all tasks are cancelled, and the scope functions tear down
    OVER = 7  # ended

    __hash__ = int.__hash__  # an enum's own is many times slower


CONNECTING, READY, RESTING, OPEN, DRAINING, STOPPING, OVER = Phase

NEXT: Mapping[Phase, Sequence[Phase]] = {
    CONNECTING: (READY, STOPPING),
    READY: (RESTING, OPEN, STOPPING),
    RESTING: (OPEN, STOPPING),
    OPEN: (RESTING, DRAINING, STOPPING),
    DRAINING: (STOPPING,),
    STOPPING: (OVER,),
    OVER: (),
}
"""What may follow each phase."""


class Owner(Protocol):
    """The app, as its sessions see it."""

    @property
    def limits(self) -> Limits: ...
    @property
    def directory(self) -> Directory: ...
    @property
    def context(self) -> Context: ...
    @property
    def values(self) -> dict[Handler, Any]: ...
    @property
    def rates(self) -> SharedRates: ...
    @property
    def memory(self) -> Memory: ...
    @property
    def turns(self) -> Turns: ...
    @property
    def observers(self) -> Observers: ...
    def ignored(self, template: str, tag: object) -> None: ...
    def identified(self, user: str) -> None: ...
    def opened(self, session: Session) -> None: ...
    def forget(self, session: Session) -> None: ...
    def ended(self, session: Session) -> None: ...
    def fail(self, exc: BaseException) -> None: ...


@dataclass(frozen=True, slots=True)
class Dialling:
    """What the session of a client has in addition.

    Attributes:
        opening: its opening request.
        seen: called with each message that is handled, and its event id.
        opened: called when the connection is open.
        ask: returns a credential, to renew that of the connection; None if there is none.
    """

    opening: Opening
    seen: Callable[[Any, str], None]
    opened: Callable[[], None]
    ask: Ask | None = None


@dataclass(slots=True)
class _First:
    """The first message, while it has to be a credential.

    Attributes:
        came: set when it has come.
        token: its token; None if it is another message.
    """

    came: Latch = field(default_factory=Latch)
    token: str | None = None


@final
class Session:
    """One connection: the receiver of its transport, and the driver of its ``Connection``.

    Attributes:
        ending: how it ends, and its errors.
        phase: the current phase.
        accepted: whether the handshake was answered with 101, or was begun by a client.
        announced: whether the registry knows it, and its peer may be sent something.
        received: how many messages were received.
        begun: how many users had been disconnected when it began.
        user: the name of its user; None without one.
        over: set when it has ended and all is released.
        duration: seconds from the opening request to the end.
    """

    # fmt: off
    __slots__ = (
        "_answered", "_app", "_children", "_context", "_credential", "_dialling", "_dispatcher",
        "_due", "_echo", "_environment", "_first", "_goodbye", "_has_rested", "_host", "_in",
        "_inbox", "_scope", "_started", "_throttle", "_timer", "accepted", "announced", "begun",
        "connection", "duration", "ending", "id", "listeners", "memberships", "outbox", "over",
        "phase", "plan", "received", "subprotocol", "transport", "user",
    )
    # fmt: on

    def __init__(
        self,
        app: Owner,
        plan: RoutePlan,
        request: Request,
        transport: Transport,
        read: Mapping[Source, Any],
        dialling: Dialling | None = None,
    ) -> None:
        limits = app.limits
        self.id = os.urandom(8).hex()
        self.plan = plan
        self.transport = transport
        self.ending = Ending(self.id, plan.template)
        self.phase = CONNECTING
        self.accepted = False
        self.received = 0
        self.begun = app.directory.channels.users.disconnected
        self.user: str | None = None
        self.duration = 0.0
        self.over = Latch()
        self.connection = Connection(self.id, request, self)
        self.memberships: dict[str, Membership] = {}
        self.listeners: dict[Any, None] = {}
        self.subprotocol = plan.select_subprotocol(request.subprotocols)
        codec = plan.codec(self.subprotocol)
        self.outbox = Outbox(
            transport, codec, limits.backlog_bytes, self.lagging, app.turns, limits.write_buffer
        )
        self._app = app
        self._dialling = dialling
        self._answered = Latch() if transport.dials else None  # a client's handshake, until it is
        self._started = transport.now()
        self._timer: Timer | None = None  # the timeout of the current step
        # The values of scope functions; a connection whose functions give none shares the app's.
        values = dict(app.values) if plan.gives_values else app.values
        opening = dialling.opening if dialling is not None else None
        self._environment = Environment(app.directory, values, read, self, self.connection, opening)
        self._children = Children(detach, self.left)
        self._inbox = Inbox(limits, app.memory, transport, self._overflown)
        counters = app.directory.channels.counters
        self._throttle = (
            Throttle(plan, app.rates, counters, transport, self.connection, self._inbox, self)
            if plan.limits
            else None
        )
        seen = dialling.seen if dialling is not None else None
        self._dispatcher = Dispatcher(
            plan,
            self._environment,
            self._inbox,
            self.outbox,
            self._children,
            self,
            app.observers,
            self._throttle,
            seen,
        )
        self._context: Context | None = None  # with what observers have set, if there are any
        self.announced = False
        self._echo: str | None = None  # the subprotocol of the answer, if none is negotiated
        self._first: _First | None = None  # the first message, while it has to be a credential
        self._credential: Held | Renewing | None = None
        if dialling is not None and dialling.ask is not None:
            self._credential = Renewing(self, transport, dialling.ask, limits.open_timeout)
        self._host: Detached | None = None
        self._has_rested = False  # after a host has set up, and started the producers
        self._scope: anyio.CancelScope | None = None  # the part of the host that ``_stop`` cancels
        self._in: Handler | None = None  # the scope function that the host is running
        self._goodbye: End | None = None  # the end after a drain
        self._due: float | None = None  # the deadline of a drain

    @property
    def end(self) -> End | None:
        """How it ended; None while it is open."""
        return self.ending.end

    @property
    def codec(self) -> BoundCodec:
        """How its messages are encoded."""
        return self.outbox.codec

    @property
    def was_open(self) -> bool:
        """Whether the handshake has been completed."""
        return self.accepted and self._answered is None

    @property
    def stopping(self) -> bool:
        """Whether nothing more may start on it."""
        return self.phase >= STOPPING

    @property
    def age(self) -> float:
        """Seconds since the opening request."""
        return self.transport.now() - self._started

    @property
    def running(self) -> list[str]:
        """The names of the handlers that run."""
        host = [str(each) for each in (self._in, self._dispatcher.doing) if each is not None]
        return host + self._children.names

    @property
    def calls(self) -> Calls:
        """Its calls, in both directions."""
        return self._dispatcher.calls

    def _enter(self, phase: Phase) -> None:
        assert phase in NEXT[self.phase], f"{self.phase.name} is not followed by {phase.name}"
        self.phase = phase

    # -- reports of the transport; there may be no current task

    def opened(self, subprotocol: str | None) -> None:
        answered, dialling = self._answered, self._dialling
        if answered is None or dialling is None or self.ending.end is not None:
            return  # it has ended meanwhile
        self._answered = None
        self.subprotocol = subprotocol
        self._dispatcher.speak(self.plan.codec(subprotocol))
        self._announce()
        if self.phase is READY:
            self._open()
        answered.set()
        dialling.opened()

    def refused(self, error: BaseException) -> None:
        if isinstance(error, ConnectError):
            self.finish(end_of_refusal(error))
        elif self.ending.end is None:  # else it was told to stop
            self.left("connecting", error)

    def pause_writing(self) -> None:
        self.outbox.pause()

    def resume_writing(self) -> None:
        self.outbox.resume()

    def messages_received(self, messages: Sequence[Found]) -> int:
        if self._first is not None:
            return self._take_first(self._first, messages)
        dispatcher = self._dispatcher
        if dispatcher.ready and self._host is not None:
            count = self._host.within(dispatcher.receive, messages)
        else:
            count = self._receive(messages)
        self.received += count
        return count

    def _receive(self, messages: Sequence[Found]) -> int:
        """Take messages that no host waits for. At rest only up to the one that needs it: what
        comes behind, the end of the connection too, is reported again once the host runs."""
        if self.phase is not RESTING:
            return self._dispatcher.receive(messages)
        for count, each in enumerate(messages, start=1):
            self._dispatcher.receive((each,))
            if self._dispatcher.busy:
                self._need_host()
            if self.phase is OPEN:  # a renewal needs the host, too
                self.transport.pause_reading(briefly=True)
                return count
        return len(messages)

    def peer_closed(self, code: int, reason: str) -> None:
        self._peer_left(End("peer", code, reason))

    def peer_vanished(self) -> None:
        self._peer_left(VANISHED)

    def peer_failed(self, code: int, reason: str) -> None:
        self.finish(end_of_protocol_error(code, reason))

    def _peer_left(self, end: End) -> None:
        if self.ending.end is not None:
            return
        self.ending.settle(end)
        self.outbox.drop()
        self._lose(end)
        if self.phase in (OPEN, DRAINING):
            self._drain(self._app.limits.close_timeout)
        else:
            self._stop()

    # -- requests of handlers, topics and the dispatcher

    async def send(self, message: object) -> None:
        if not self.announced:
            self.codec.pack(message)  # if it cannot be encoded, the handshake is not accepted
            self._accept()
            if self._answered is not None:
                await self._answered.wait()  # the codec is negotiated only then
        await self.outbox.send(message)

    def identify(self, user: str) -> None:
        check_user(user)
        if self.ending.end is not None:
            raise Disconnected(self.ending.end)
        if self.announced or self.phase is not CONNECTING:
            raise RuntimeError(
                "the connection is open already: call identify in an on_connect function, before "
                "its yield and before anything is sent"
            )
        if self.user not in (None, user):
            raise RuntimeError(f"the user of this connection is {self.user!r} already")
        if self.user is None:
            self._app.identified(user)
            self.user = user
            closing = self._app.directory.channels.users.add(self)
            if closing is not None:  # the user has logged out, as it were, since it has begun
                self.close(closing.code, closing.reason)
                raise Disconnected(self.ending.end)

    def close(self, code: int, reason: str) -> None:
        try:
            closing: Exception = Close(code, reason)
        except (TypeError, ValueError) as exc:
            closing = exc
        self.left("Connection.close", closing)

    def lagging(self, what: str) -> None:
        if self.ending.end is None:
            self._app.directory.channels.counters["closed"] += 1
        self.finish(SLOW)

    def refuse(self, bad: BadMessage) -> None:
        """The peer has sent a message that is not accepted, or a hook has failed on it."""
        if bad.code == 1011 and bad.__cause__ is not None:
            self.left("dec_hook", bad.__cause__)
            return
        if bad.__cause__ is not None:
            self.ending.note("decoding a message", bad.__cause__)
        elif bad.code == 1007:
            self.ending.invalid(bad)
        self.finish(end_of_bad_message(bad))

    def ignored(self, tag: object) -> None:
        self._app.ignored(self.plan.template, tag)

    def call_failed(self, what: object, exc: BaseException) -> None:
        """A consumer failed to answer a call. The connection stays open."""
        self.ending.failed(what, exc)

    def _overflown(self) -> None:
        self.finish(OVERFLOWN)

    # -- credentials

    def set_credential(self, credential: Credential) -> None:
        if self.transport.dials:
            raise RuntimeError("set_credential: it is a server that a credential is shown to")
        held = self._credential
        if not isinstance(held, Held):
            codecs = {codec.subprotocol for codec in self.plan.codecs}
            speaks = not codecs.isdisjoint(self.connection.request.subprotocols)
            held = Held(self, self.transport, self._app.limits.open_timeout, speaks=speaks)
            self._credential = held
        if self.phase >= DRAINING:
            held.stop()
        held.hold(credential)
        if self.announced:
            held.tell()

    async def ask_credential(self) -> str:
        scope = self._scope
        if self.phase is not CONNECTING or self.accepted or self.transport.dials or scope is None:
            raise RuntimeError(
                "ask_credential: the first message can be a credential only if an on_connect "
                "function of a server asks for it, before the handshake is accepted"
            )
        limits = self._app.limits
        scope.deadline += limits.open_timeout
        self._expect_within(2 * limits.open_timeout + limits.close_timeout, self._give_up)
        self._first = first = _First()
        self._shake()
        with anyio.move_on_after(limits.open_timeout):
            await first.came.wait()
        if not first.came.is_set:
            await look()  # it may have come and not be read yet
        self._first = None
        if first.token is None:
            other = "the first message is no credential"
            raise Close(EXPIRED, other if first.came.is_set else "no credential has come in time")
        self._credential = Held(self, self.transport, limits.open_timeout, speaks=True)
        return first.token

    def _take_first(self, first: _First, messages: Sequence[Found]) -> int:
        """The first message has come, which has to be a credential."""
        self._first = None
        data, text, _ = messages[0]
        if bool(text) is self.codec.text:
            try:
                first.token = self.codec.decoder(self.plan.call_frames[Auth])(data).token or None
            except Exception:
                first.token = None  # another message
        first.came.set()
        self.received += 1
        return 1 + (self.messages_received(messages[1:]) if len(messages) > 1 else 0)

    def echo(self, subprotocol: str) -> None:
        self._echo = subprotocol

    def credential_received(self, frame: Auth) -> None:
        """The peer has sent a credential, or how long it is valid."""
        if self._credential is not None:
            self._credential.received(frame)

    def errand(self, name: str, run: Run, scope: anyio.CancelScope) -> None:
        self._need_host()
        self._children.start(name, "renewal", run, scope)

    def expect_renewal(self, overdue: bool) -> None:
        self._inbox.expect_renewal(overdue)

    def replace(self, old: object, new: object) -> None:
        values = self._environment.values
        for scope in self.plan.on_connect:  # the app's are those of others, too
            if scope.handler in values and values[scope.handler] is old:
                values[scope.handler] = new
        self._dispatcher.rebind()

    def tell(self, frame: type, **fields: object) -> None:
        if self._dispatcher.has_frames:
            self.outbox.urge(self.plan.call_frames[frame](**fields))

    def _keep_no_more(self) -> None:
        """The credential no longer matters: the connection ends for another reason."""
        if self._credential is not None:
            self._credential.stop()

    # -- ending

    def finish(self, end: End) -> None:
        """End the connection now, unless it has ended."""
        self.ending.settle(end)
        self._stop()

    def left(self, what: object, exc: BaseException) -> None:
        """A function of the connection has raised ``exc``, of whatever kind."""
        if not isinstance(exc, Exception):
            if is_cancellation(exc):
                self._cancelled(what)
                return
            self._app.fail(exc)  # SystemExit and KeyboardInterrupt end the app
        if self.ending.raised(what, exc, accepted=self.accepted):
            self._stop()

    def _cancelled(self, what: object) -> None:
        """A task was cancelled, and not by this session."""
        if self.ending.end is None and not self.stopping:
            self.ending.cancelled(what)
            self._stop()

    def drain(self, goodbye: End, seconds: float) -> None:
        """Take no more messages, let consumers finish what was received, then end with
        ``goodbye``."""
        if self._children.tasks or not self.outbox.clear:
            self._need_host()  # which ends it once what was sent is written
        if goodbye.cause == "restart" and self.ending.end is None and not self.accepted:
            self._goodbye = goodbye  # the handshake is accepted first, then 1012 is sent
        elif self.phase not in (OPEN, DRAINING):
            self.finish(goodbye)
        else:
            self._goodbye = goodbye
            self._keep_no_more()
            self._dispatcher.wind_up()
            if not self._inbox.expecting:
                self.transport.pause_reading()
            self._drain(seconds)

    def cut_short(self, goodbye: End) -> None:
        """End now with ``goodbye``, without waiting for a drain; handlers that this cancels are
        logged."""
        if self._dispatcher.busy:
            self.ending.cut_off(self.running)
        self.finish(self._goodbye or goodbye)

    def _drain(self, seconds: float) -> None:
        """Let consumers finish for at most ``seconds``; a later call can only shorten that."""
        due = self.transport.now() + seconds
        if self._due is not None and self._due <= due:
            return
        self._due = due
        if self.phase is OPEN:
            self._enter(DRAINING)
            self._inbox.close()
            self._keep_no_more()
            self._children.cancel("producer", "renewal")
        self._expect_within(seconds, self._drained_too_long)

    def _drained_too_long(self) -> None:
        self.ending.cut_off(self.running)
        self.finish(self._goodbye or SHUTDOWN)

    def _stop(self) -> None:
        """Cancel all tasks. The host then tears down."""
        if self.phase >= STOPPING:
            return
        has_host = self.phase is not RESTING and (self.phase is not READY or self.plan.needs_host)
        self._enter(STOPPING)
        end = self.ending.end or self.ending.settle(SHUTDOWN)
        if end.cause not in PEER_LEFT:
            self.outbox.refuse(end)
            self._lose(end)
        self._inbox.discard()  # tasks that wait for a message are cancelled
        self._children.close()
        self._keep_no_more()
        if not has_host:
            self._end_at_rest()
            return
        self._expect_within(self._app.limits.close_timeout, self._give_up)
        if self._scope is not None:
            self._scope.cancel()

    def _expect_within(self, seconds: float, late: Callable[[], None] | None) -> None:
        """Call ``late`` in ``seconds``, instead of an earlier call; None for no call."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if late is not None and self.phase is not OVER:
            self._timer = self.transport.after(seconds, late)

    def _lose(self, end: End) -> None:
        """The connection is lost or ended: fail pending calls and a pending handshake."""
        self._dispatcher.lost(end)
        if self._answered is not None:
            self._answered.set()

    def _give_up(self) -> None:
        """A handler swallows its cancellation: end the connection without waiting for it."""
        self.ending.stuck(self.running, self._app.limits.close_timeout)
        self._children.abandon()
        self.ending.reject(503, accepted=self.accepted)
        self._stop()
        self._release()

    # -- the host

    def start(self) -> None:
        """Begin. The host starts when it is needed."""
        observers = self._app.observers
        if observers.begins:
            self._context = self._app.context.copy()
            dialled = self.transport.dials
            self._context.run(observers.begun, self.connection, self.plan.template, dialled)
            if self._dialling is not None:
                self._dialling.opening.headers.update(self._context.run(observers.carry))
        if self.plan.needs_host:
            self._start_host()
        else:
            self._enter(READY)
            self._accept()

    def _start_host(self) -> None:
        context = self._context = self._context or self._app.context.copy()
        self._host = detach(self._run, name=f"wsflow {self.plan.template}", context=context)

    def _need_host(self) -> None:
        """Start the host, if the connection is at rest."""
        if self.phase is RESTING:
            self._enter(OPEN)
            self._start_host()

    def _end_at_rest(self) -> None:
        """End without a host, after the last producer; start one if there are ``on_disconnect``
        functions to run."""
        if self._children.tasks:
            self._expect_within(self._app.limits.close_timeout, self._give_up)
        if self.plan.on_disconnect and self._answered is None:
            self._start_host()
        elif self._children.tasks:
            # Not in the last of these tasks, but once it is over.
            self._children.when_gone(partial(self.transport.after, 0, self._release))
        else:
            self._release()

    async def _run(self) -> None:
        limits, scopes = self._app.limits, self.plan.on_connect
        try:
            if self.plan.needs_task_group:
                self._environment.task_group = await self._children.open_group()
            if scopes and not self._has_rested:
                times = limits.open_timeout, limits.close_timeout
                await Nest(scopes, self._environment, *times, self).run(self._live)
            else:
                await self._live(True)
        except BaseException as exc:
            self.left("connecting", exc)
            await self._wind_down(connected=False)
        finally:
            self._in = None
            if self.phase is RESTING:
                self._host = None
            else:
                self._stop()
                self._release()

    def entering(self, handler: Handler, scope: anyio.CancelScope) -> None:
        self._scope = scope
        self._in = handler
        limits = self._app.limits
        self._expect_within(limits.open_timeout + limits.close_timeout, self._give_up)

    async def recover(self, exc: Exception) -> BaseException | None:
        """Have ``on_error`` handle what an ``on_connect`` function raised. The connection ends in
        any case: its value is missing."""
        if not leaves(exc):
            return exc
        try:
            await self._dispatcher.recover(exc, answer=self.accepted)
        except BaseException as left:
            return left
        self.finish(end_of(unwrap(exc), accepted=self.accepted))
        return None

    def entered(self, handler: Handler) -> None:
        if not self.stopping:
            self._expect_within(0, None)

    def leaving(self, handler: Handler) -> None:
        self._in = handler
        # The function has its own timeout; this one is for a function that swallows it.
        self._expect_within(2 * self._app.limits.close_timeout, self._give_up)

    def failed(self, handler: Handler, exc: BaseException, step: Step, late: bool) -> None:
        self._scope = None
        if not is_cancellation(exc):
            self.left(handler, exc)
        elif late or step == "tear down":
            why = f"took too long to {step}" if late else f"was cancelled in its {step}"
            self.ending.scope_cancelled(handler, why)
            self.ending.reject(503, accepted=self.accepted)
            self._stop()
        else:
            self._cancelled(handler)

    def _accept(self) -> None:
        """Answer the handshake, once."""
        if not self.accepted and self.ending.end is None and self._throttle is not None:
            try:
                self._throttle.check()
            except Reject as refusal:
                self.left("the rate limit", refusal)
                return
        self._shake()
        if self.ending.end is None and self._answered is None and not self.announced:
            self._announce()
            if self.phase is READY:
                self._open()

    def _shake(self) -> None:
        if not self.accepted and self.ending.end is None:
            self.accepted = True
            self.transport.accept(self.subprotocol or self._echo)

    def _announce(self) -> None:
        """The connection is open: the registry may know it, and messages may be sent."""
        self.announced = True
        self._app.directory.add(self.connection, self)
        self.outbox.open()
        self._app.opened(self)
        if isinstance(self._credential, Held):
            self._credential.tell()

    def _open(self) -> None:
        """All functions have set up, and the handshake is completed."""
        self._enter(OPEN if self.plan.needs_host else RESTING)

    async def _live(self, connected: bool) -> None:
        """Serve within the ``on_connect`` functions, as long as the connection is open.

        Args:
            connected: whether all have set up. If not, no other function runs.
        """
        if connected and not self.stopping:
            await self._serve()
        if self.phase is not RESTING:
            await self._wind_down(connected=connected)

    async def _serve(self) -> None:
        """Run consumers and producers, until the first has finished, or nothing is left to do until
        a message comes. Raises nothing."""
        with anyio.CancelScope() as scope:
            self._scope = scope
            self._in = None
            try:
                if self.phase is CONNECTING:
                    self._enter(READY)
                    if self.was_open:
                        self._open()
                    self._accept()
                if self._answered is not None:
                    await self._answered.wait()
                if self._goodbye is not None and self.phase is OPEN:
                    self.finish(self._goodbye)
                if not (self.stopping or self._has_rested):
                    self._dispatcher.start()
                if self._may_rest():
                    self._has_rested = True
                    self._enter(RESTING)
                elif not self.stopping:
                    self._read_on()
                    await self._dispatcher.consume(eager=self.transport.from_loop)
                    if self._goodbye is not None:
                        await self.outbox.drained()
                        self.finish(self._goodbye)
            except BaseException as exc:
                self.left(self._dispatcher.doing or "the session", exc)
            self._scope = None

    def _read_on(self) -> None:
        """Take what is held behind the first message, unless something else is against it."""
        if not self._inbox.full and (self.phase is OPEN or self._inbox.expecting):
            self.transport.resume_reading()

    def _may_rest(self) -> bool:
        return (
            self.plan.rests
            and self.phase is OPEN
            and not (self._has_rested or self.transport.dials or self._dispatcher.busy)
        )

    async def _wind_down(self, *, connected: bool) -> None:
        """Stop all tasks, leave all topics, run ``on_disconnect`` functions. Raises nothing."""
        self._in = self._dispatcher.doing = None
        self._stop()
        if self._children.tasks:
            await self._children.reap()
        self._leave_topics()
        if connected and self._answered is None and self.plan.on_disconnect:
            self._children = Children(detach, self.left)  # the others' are closed
            for call in self.plan.on_disconnect:
                limit = anyio.current_time() + self._app.limits.close_timeout
                scope = anyio.CancelScope(deadline=limit, shield=True)
                self._expect_within(2 * self._app.limits.close_timeout, self._give_up)
                bound = call.bind(self._environment)
                self._children.start(str(call.handler), "farewell", bound, scope)
                await self._children.reap()
                if scope.cancelled_caught:
                    self.ending.scope_cancelled(call.handler, "took too long")

    def _leave_topics(self) -> None:
        if self.memberships or self.listeners:
            self._app.directory.channels.leave_all(self)

    def _release(self) -> None:
        """Keep the invariants: remove the connection from the app, the registry and topics, and
        send the end to the peer. Raises nothing; what the app must forget is forgotten first."""
        if self.phase is OVER:
            return
        self._enter(OVER)
        self._app.forget(self)
        self.over.set()
        if self._timer is not None:
            self._timer.cancel()
        self.duration = self.age
        self.ending.confirm()
        for step in (self._leave_topics, self._tell):
            try:
                step()
            except Exception as exc:
                self.ending.failed("the release of the connection", exc)
        self._app.ended(self)

    def _tell(self) -> None:
        """Send the end to the peer."""
        offered = self.connection.request.subprotocols
        self.accepted = self.ending.tell(
            self.transport, self.accepted, self.subprotocol or self._echo, offered
        )

    async def join(self) -> None:
        """Wait for the end. Cancelling it stops the session, and still waits for its end."""
        try:
            await self.over.wait()
        except BaseException:
            self.finish(SHUTDOWN)
            await self.over.wait_shielded()
            raise
