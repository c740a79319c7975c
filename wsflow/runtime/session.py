"""One connection's life.

One task, the host, enters the scope functions, dispatches messages and tears down. Producers,
stream consumers and concurrent consumers are its children. The first to finish ends the connection;
the others are cancelled and awaited.

The host starts when there is something for it to do: a path without ``on_connect`` and producers
rests without one until its first message. While the host waits, messages are handled where they
are read, in its place and as itself (``Detached.within``); it goes on with what has to wait.

A connection goes through the phases of ``NEXT``, and back never. What holds at every point where a
task can be cancelled:

- the close frame goes out at most once;
- after the end no task of the connection lives, no registry and no topic knows it;
- every scope function that was entered is left in the task that entered it, the host;
- no exception is lost: it reaches ``on_error``, or the log with its traceback;
- nobody but the transport reads.

The host is never handed out; others ``join`` it. Steps that hold an invariant are synchronous and
idempotent (``_release``): nothing can pierce them. A native cancellation of the host can interrupt
an await of a user's tear-down, and every later step still runs. Handlers that swallow their
cancellation are given up by a timer (``_give_up``): their task may outlive the connection.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol, final

import anyio

from wsflow.connection import Connection
from wsflow.declare.router import Handler
from wsflow.end import End
from wsflow.errors import Close, ConnectError
from wsflow.limits import Limits
from wsflow.messages.codec import BadMessage, Codec
from wsflow.opening import Opening
from wsflow.request import Request
from wsflow.runtime.calls import Calls
from wsflow.runtime.dispatch import Dispatcher
from wsflow.runtime.ending import (
    OVERFLOWN,
    PEER_LEFT,
    SHUTDOWN,
    SLOW,
    VANISHED,
    Ending,
    end_of_bad_message,
    end_of_protocol_error,
    end_of_refusal,
    is_cancellation,
)
from wsflow.runtime.inbox import Inbox
from wsflow.runtime.outbox import Outbox
from wsflow.runtime.scopes import Nest, Step
from wsflow.tasks.children import Children
from wsflow.tasks.detached import Detached, detach
from wsflow.tasks.waiting import Latch, Timer
from wsflow.topics.channels import Membership
from wsflow.topics.registry import Directory
from wsflow.transports.base import Transport
from wsflow.transports.frames import Found
from wsflow.wiring.environment import Environment
from wsflow.wiring.plan import RoutePlan
from wsflow.wiring.sources import Source


class Phase(enum.IntEnum):
    """Where a connection stands."""

    CONNECTING = 1  # on_connect functions set up
    READY = 2  # all have; a client waits for the answer to its opening request
    RESTING = 3  # it is open, and has no host: no message has come yet
    OPEN = 4  # consumers and producers run
    DRAINING = 5  # nothing more comes; consumers finish what was received
    STOPPING = 6  # all is cancelled, and tears down
    OVER = 7  # nothing of it is left

    __hash__ = int.__hash__  # an enum's own is many times as slow


CONNECTING, READY, RESTING, OPEN, DRAINING, STOPPING, OVER = Phase

NEXT: Mapping[Phase, Sequence[Phase]] = {
    CONNECTING: (READY, STOPPING),
    READY: (RESTING, OPEN, STOPPING),
    RESTING: (OPEN, STOPPING),
    OPEN: (DRAINING, STOPPING),
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
    def ended(self, session: Session) -> None: ...
    def fail(self, exc: BaseException) -> None: ...


@dataclass(frozen=True, slots=True)
class Dialling:
    """What the session of a client has beside.

    Attributes:
        opening: its opening request.
        seen: is called with what is handled, and its event id.
        opened: is called when it is open.
    """

    opening: Opening
    seen: Callable[[Any, str], None]
    opened: Callable[[], None]


@final
class Session:
    """One connection: what its transport reports to, and what its handlers' asking reaches.

    Attributes:
        ending: how it ends, and what went wrong.
        phase: where it stands.
        accepted: whether the handshake has been answered with 101, or begun by a client.
        received: how many messages have come.
        over: set when nothing of it is left.
        duration: seconds from the request to the end.
    """

    # fmt: off
    __slots__ = (
        "_answered", "_app", "_children", "_dialling", "_dispatcher", "_due", "_environment",
        "_goodbye", "_host", "_in", "_inbox", "_scope", "_started", "_timer", "accepted",
        "connection", "duration", "ending", "id", "listeners", "memberships", "outbox", "over",
        "phase", "plan", "received", "subprotocol", "transport",
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
        self.duration = 0.0
        self.over = Latch()
        self.connection = Connection(self.id, request, self)
        self.memberships: dict[str, Membership] = {}
        self.listeners: dict[Any, None] = {}
        self.subprotocol = plan.select_subprotocol(request.subprotocols)
        codec = plan.codec(self.subprotocol)
        self.outbox = Outbox(transport, codec, limits.backlog_bytes, self.lagging)
        self._app = app
        self._dialling = dialling
        self._answered = Latch() if transport.dials else None  # a client's handshake, until it is
        self._started = transport.now()
        self._timer: Timer | None = None  # of what takes too long
        # What scope functions provide; a connection that has none shares the app's.
        values = dict(app.values) if plan.on_connect else app.values
        opening = dialling.opening if dialling is not None else None
        self._environment = Environment(app.directory, values, read, self, self.connection, opening)
        self._children = Children(detach, self.left)
        self._inbox = Inbox(limits, transport, self._overflown)
        seen = dialling.seen if dialling is not None else None
        self._dispatcher = Dispatcher(
            plan, self._environment, self._inbox, self.outbox, self._children, self, seen
        )
        self._host: Detached | None = None
        self._scope: anyio.CancelScope | None = None  # what ``_stop`` cancels of the host
        self._in: Handler | None = None  # the scope function that the host is in
        self._goodbye: End | None = None  # how a drain ends
        self._due: float | None = None  # when it must have ended

    @property
    def end(self) -> End | None:
        """How it ended; None while it is open."""
        return self.ending.end

    @property
    def codec(self) -> Codec:
        """How its messages are written."""
        return self.outbox.codec

    @property
    def was_open(self) -> bool:
        """Whether the handshake is done, or was."""
        return self.accepted and self._answered is None

    @property
    def stopping(self) -> bool:
        """Whether nothing more of it is to begin."""
        return self.phase >= STOPPING

    @property
    def running(self) -> list[str]:
        """The handlers that are at work."""
        host = [str(each) for each in (self._in, self._dispatcher.doing) if each is not None]
        return host + self._children.names

    @property
    def calls(self) -> Calls:
        """Its calls, in both directions."""
        return self._dispatcher.calls

    def _enter(self, phase: Phase) -> None:
        assert phase in NEXT[self.phase], f"{self.phase.name} is not followed by {phase.name}"
        self.phase = phase

    # -- what the transport reports; there may be no current task

    def opened(self, subprotocol: str | None) -> None:
        answered, dialling = self._answered, self._dialling
        if answered is None or dialling is None or self.ending.end is not None:
            return  # it has ended meanwhile
        self._answered = None
        self.subprotocol = subprotocol
        self._dispatcher.speak(self.plan.codec(subprotocol))
        self._app.directory.add(self.connection, self)
        self.outbox.open()
        if self.phase is READY:
            self._open()
        answered.set()
        dialling.opened()

    def refused(self, error: ConnectError) -> None:
        self.finish(end_of_refusal(error))

    def pause_writing(self) -> None:
        self.outbox.pause()

    def resume_writing(self) -> None:
        self.outbox.resume()

    def messages_received(self, messages: Sequence[Found]) -> int:
        dispatcher = self._dispatcher
        if dispatcher.ready and self._host is not None:
            count = self._host.within(dispatcher.receive, messages)
        else:
            count = dispatcher.receive(messages)
            if self.phase is RESTING and dispatcher.busy:
                self._enter(OPEN)
                self._start_host()
        self.received += count
        return count

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

    # -- what handlers, topics and the dispatcher ask for

    async def send(self, message: object) -> None:
        if not self.was_open:
            self.codec.pack(message)  # what cannot be sent does not answer the handshake
            self._accept()
            if self._answered is not None:
                await self._answered.wait()  # the codec is agreed on only then
        await self.outbox.send(message)

    def close(self, code: int, reason: str) -> None:
        try:
            closing: Exception = Close(code, reason)
        except ValueError as exc:
            closing = exc
        self.left("Connection.close", closing)

    def lagging(self, what: str) -> None:
        if self.ending.end is None:
            self._app.directory.channels.counters["closed"] += 1
        self.finish(SLOW)

    def refuse(self, bad: BadMessage) -> None:
        """The peer sent what cannot be decoded, or what it may not."""
        if bad.__cause__ is not None:
            self.ending.note("decoding a message", bad.__cause__)
        self.finish(end_of_bad_message(bad))

    def call_failed(self, what: object, exc: BaseException) -> None:
        """A call could not be answered: that is between the two ends of the call."""
        self.ending.failed(what, exc)

    def _overflown(self) -> None:
        self.finish(OVERFLOWN)

    # -- ending

    def finish(self, end: End) -> None:
        """End the connection now, unless it has ended."""
        self.ending.settle(end)
        self._stop()

    def left(self, what: object, exc: BaseException) -> None:
        """Anything at all has left a function of the connection."""
        if not isinstance(exc, Exception):
            if is_cancellation(exc):
                self._cancelled(what)
                return
            self._app.fail(exc)  # SystemExit and its like are not ours to keep
        if self.ending.raised(what, exc, accepted=self.accepted):
            self._stop()

    def _cancelled(self, what: object) -> None:
        """A task was cancelled, and not by us."""
        if self.ending.end is None and not self.stopping:
            self.ending.cancelled(what)
            self._stop()

    def drain(self, goodbye: End, seconds: float) -> None:
        """Read no more, let consumers finish what was received, then end with ``goodbye``."""
        if goodbye.cause == "restart" and self.ending.end is None and not self.accepted:
            self._goodbye = goodbye  # it was let in: it is told so, and then to come again
        elif self.phase not in (OPEN, DRAINING):
            self.finish(goodbye)
        else:
            self._goodbye = goodbye
            self._dispatcher.end_streams()
            if not self._inbox.expecting:
                self.transport.pause_reading()
            self._drain(seconds)

    def cut_short(self) -> None:
        """Wait no longer for a drain: end now, and say so if that cuts something off."""
        if self._dispatcher.busy:
            self.ending.cut_off(self.running)
        self.finish(self._goodbye or SHUTDOWN)

    def _drain(self, seconds: float) -> None:
        """Let consumers finish, for so many seconds; a later call can only shorten that."""
        due = self.transport.now() + seconds
        if self._due is not None and self._due <= due:
            return
        self._due = due
        if self.phase is OPEN:
            self._enter(DRAINING)
            self._inbox.close()
            self._children.cancel("producer")
        self._expect_within(seconds, self._drained_too_long)

    def _drained_too_long(self) -> None:
        self.ending.cut_off(self.running)
        self.finish(self._goodbye or SHUTDOWN)

    def _stop(self) -> None:
        """Cancel all that runs. The host goes on to tear down."""
        if self.phase >= STOPPING:
            return
        has_host = self.phase is not RESTING and (self.phase is not READY or self.plan.needs_host)
        self._enter(STOPPING)
        end = self.ending.end or self.ending.settle(SHUTDOWN)
        if end.cause not in PEER_LEFT:
            self.outbox.refuse(end)
            self._lose(end)
        self._inbox.closed = True  # who waits for a message is cancelled
        if not has_host:
            self._end_at_rest()
            return
        self._expect_within(self._app.limits.close_timeout, self._give_up)
        if self._scope is not None:
            self._scope.cancel()
        if self._children.tasks:
            self._children.cancel()

    def _expect_within(self, seconds: float, late: Callable[[], None] | None) -> None:
        """Call ``late`` in so many seconds, in place of what was to be called before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if late is not None and self.phase is not OVER:
            self._timer = self.transport.after(seconds, late)

    def _lose(self, end: End) -> None:
        """Nothing more will come from the other end."""
        self._dispatcher.lost(end)
        if self._answered is not None:
            self._answered.set()

    def _give_up(self) -> None:
        """A handler swallows its cancellation: the connection ends without it."""
        self.ending.stuck(self.running, self._app.limits.close_timeout)
        self._children.abandon()
        self.ending.reject(503, accepted=self.accepted)
        self._stop()
        self._release()

    # -- the host

    def start(self) -> None:
        """Begin. The host starts when there is something for it to do."""
        if self.plan.needs_host:
            self._start_host()
        else:
            self._enter(READY)
            self._accept()

    def _start_host(self) -> None:
        self._host = detach(
            self._run, name=f"wsflow {self.plan.template}", context=self._app.context.copy()
        )

    def _end_at_rest(self) -> None:
        """It ends and has no host, which only farewells need."""
        if self.plan.on_disconnect and self._answered is None:
            self._start_host()
        else:
            self._release()

    async def _run(self) -> None:
        limits, scopes = self._app.limits, self.plan.on_connect
        try:
            if self.plan.needs_task_group:
                self._environment.task_group = await self._children.open_group()
            if scopes:
                times = limits.open_timeout, limits.close_timeout
                await Nest(scopes, self._environment, *times, self).run(self._live)
            else:
                await self._live(True)
        except BaseException as exc:
            self.left("connecting", exc)
            await self._wind_down(connected=False)
        finally:
            self._in = None
            self._stop()
            self._release()

    def entering(self, handler: Handler, scope: anyio.CancelScope) -> None:
        self._scope = scope
        self._in = handler
        limits = self._app.limits
        self._expect_within(limits.open_timeout + limits.close_timeout, self._give_up)

    def entered(self, handler: Handler) -> None:
        if not self.stopping:
            self._expect_within(0, None)

    def leaving(self, handler: Handler) -> None:
        self._in = handler
        # The function has its own limit; this is for one that swallows it.
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
        if self.accepted or self.ending.end is not None:
            return
        self.accepted = True
        self.transport.accept(self.subprotocol)
        if self._answered is None:
            self._app.directory.add(self.connection, self)
            self.outbox.open()
            if self.phase is READY:
                self._open()

    def _open(self) -> None:
        """All have set up, and the handshake is done."""
        self._enter(OPEN if self.plan.needs_host else RESTING)

    async def _live(self, connected: bool) -> None:
        """Live within the ``on_connect`` functions, as long as the connection is open.

        Args:
            connected: whether all have set up. If not, nothing runs.
        """
        if connected and not self.stopping:
            await self._serve()
        await self._wind_down(connected=connected)

    async def _serve(self) -> None:
        """Run everything together, until the first has finished. Raises nothing."""
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
                if not self.stopping:
                    self._dispatcher.start()
                    await self._dispatcher.consume(eager=self.transport.from_loop)
                    if self._goodbye is not None:
                        await self.outbox.drained()
                        self.finish(self._goodbye)
            except BaseException as exc:
                self.left(self._dispatcher.doing or "the session", exc)
            self._scope = None

    async def _wind_down(self, *, connected: bool) -> None:
        """Stop all tasks, leave all topics, say farewell. Raises nothing."""
        self._in = self._dispatcher.doing = None
        self._stop()
        if self._children.tasks:
            await self._children.reap()
        self._leave_topics()
        if connected and self._answered is None:
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
        """Hold the invariants: nobody knows the connection any more, and the peer is told."""
        if self.phase is OVER:
            return
        self._enter(OVER)
        self.duration = self.transport.now() - self._started
        self.ending.confirm()
        self._leave_topics()
        self._app.directory.connections.pop(self.id, None)
        if self._timer is not None:
            self._timer.cancel()
        self.accepted = self.ending.tell(self.transport, self.accepted, self.subprotocol)
        self._app.ended(self)
        self.over.set()

    async def join(self) -> None:
        """Wait for the end. Cancelling it asks the session to stop, and waits on."""
        try:
            await self.over.wait()
        except BaseException:
            self.finish(SHUTDOWN)
            await self.over.wait_shielded()
            raise
