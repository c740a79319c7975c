"""One connection's life.

One task, the host, enters the scope functions, dispatches messages and tears down. Producers,
stream consumers and concurrent consumers are its children. The first to finish ends the connection;
the others are cancelled and awaited.

The host starts when there is something for it to do: a path without ``on_connect`` and producers
rests without one until its first message. While the host waits, messages are handled where they
are read, in its place and as itself (``Detached.within``); it goes on with what has to wait.

What holds at every point where a task can be cancelled:

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

import os
from collections.abc import Mapping, Sequence
from typing import Any, final

import anyio

from wsflow.calls import EXPECT_ANSWERS
from wsflow.channels import Listener, Membership
from wsflow.connection import Connection, End
from wsflow.declare.router import Handler
from wsflow.detached import Detached, detach
from wsflow.request import Request
from wsflow.runtime import ends
from wsflow.runtime.calls import Calls
from wsflow.runtime.children import Children
from wsflow.runtime.dialling import Dialling
from wsflow.runtime.ending import Ending
from wsflow.runtime.environment import Surroundings
from wsflow.runtime.home import Home
from wsflow.runtime.inbox import Inbox
from wsflow.runtime.outbox import Outbox
from wsflow.runtime.report import Report
from wsflow.runtime.scopes import Step, Within
from wsflow.runtime.waiting import Over, Watch
from wsflow.runtime.work import Work
from wsflow.transports.base import Transport
from wsflow.transports.frames import Found
from wsflow.wiring.plan import RouteDetails
from wsflow.wiring.sources import Source


@final
class Session(Ending):
    """One connection: what its transport reports to, and what its handlers' asking reaches.

    Attributes:
        received: how many messages have come.
        over: set when nothing of it is left.
        duration: seconds from the request to the end.
    """

    # fmt: off
    __slots__ = (
        "_children", "_details", "_due", "_environment", "_goodbye", "_host",
        "_in", "_inbox", "_ready", "_released", "_resting", "_scope",
        "_serving", "_started", "_told_opened", "_transport", "_watch",
        "codec", "connection", "duration", "id", "listeners", "memberships",
        "over", "plan", "received", "subprotocol",
    )
    # fmt: on

    def __init__(
        self,
        home: Home,
        details: RouteDetails,
        request: Request,
        transport: Transport,
        read: Mapping[Source, Any],
        dialling: Dialling | None = None,
    ) -> None:
        limits = home.limits
        self.plan = details.plan
        self.received = 0
        self.id = os.urandom(8).hex()
        super().__init__(Report(self.id, self.plan.template))
        self.subprotocol = self.plan.select_subprotocol(request.subprotocols)
        self.codec = self.plan.codec(self.subprotocol)
        self.memberships: dict[str, Membership] = {}
        self.listeners: dict[Listener, None] = {}
        self.connection = Connection(self.id, request, self)
        self.duration = 0.0
        self.over = Over()
        self.outbox = Outbox(transport, limits.backlog_bytes, self.lagging)
        self._home = home
        self._started = transport.now()
        self._details = details
        self._transport = transport
        self._watch = Watch(transport)
        # What scope functions provide; a connection that has none shares the app's.
        values = dict(home.values) if self.plan.on_connect else home.values
        self._environment = Surroundings(home.directory, values, read, self)
        self._environment.connection = self.connection
        if dialling is not None:
            self._environment.opening = dialling.opening
        self._children = Children(detach, self.left)
        self._inbox = Inbox(limits, transport, self._overflown)
        self._work = Work(
            self.plan,
            self.codec,
            self._inbox,
            self.outbox,
            self._children,
            self,
            dialling.seen if dialling is not None else None,
        )
        self._host: Detached | None = None
        self._resting = False  # there is no host yet, and no need of one
        self._dialling = Over() if transport.dials else None
        self._told_opened = dialling.opened if dialling is not None else None
        self._scope: anyio.CancelScope | None = None  # what ``_stop`` cancels of the host
        self._in: Handler | None = None  # the scope function that the host is in
        self._serving = False
        self._goodbye: End | None = None  # how a drain ends
        self._due: float | None = None  # when it must have ended
        self._ready = False  # every on_connect function has set up
        self._released = False

    @property
    def transport(self) -> Transport:
        """Its end of the wire."""
        return self._transport

    @property
    def was_open(self) -> bool:
        """Whether the handshake is done, or was."""
        return self.accepted and self._dialling is None

    @property
    def running(self) -> list[str]:
        """The handlers that are at work."""
        host = [str(each) for each in (self._in, self._work.doing) if each is not None]
        return host + self._children.names

    # -- what the transport reports; there may be no current task

    def opened(self, subprotocol: str | None) -> None:
        if self._dialling is None or self._told_opened is None or self.end is not None:
            return  # it has ended meanwhile
        self.subprotocol = subprotocol
        self.codec = self.plan.codec(subprotocol)
        self._work.speak(self.codec)
        dialling, self._dialling = self._dialling, None
        self._home.directory.add(self.connection, self)
        self.outbox.open()
        dialling.set()
        self._told_opened()

    def pause_writing(self) -> None:
        self.outbox.pause()

    def resume_writing(self) -> None:
        self.outbox.resume()

    def messages_received(self, messages: Sequence[Found]) -> int:
        if self._work.ready and self._host is not None:
            count = self._host.within(self._work.receive, messages)
        else:
            count = self._work.receive(messages)
            if self._resting and self._work.busy:
                self._serving = True
                self._start_host()
        self.received += count
        return count

    def peer_closed(self, code: int, reason: str) -> None:
        self._peer_left(End("peer", code, reason))

    def peer_vanished(self) -> None:
        self._peer_left(End("vanished", 1006))

    def _peer_left(self, end: End) -> None:
        if self.end is not None:
            return
        self.end = end
        self.outbox.drop()
        self._lose(end)
        # A client may hear all of it, message and close, before its host has woken to serve.
        waking = self._ready and self.was_open and not (self._resting or self._stopping)
        if self._serving or waking:
            self._drain(self._home.limits.close_timeout)
        else:
            self._stop()

    # -- what handlers and topics ask for

    @property
    def calls(self) -> Calls:
        return self._work.calls

    def urge(self, message: object) -> None:
        """Send now what is small and cannot wait."""
        self.outbox.urge(*self.codec.pack(message))

    async def send(self, message: object) -> None:
        if isinstance(message, EXPECT_ANSWERS):
            name = type(message).__name__
            raise TypeError(f"{name} expects an answer: ask with call(…) or stream(…)")
        packed = self.codec.pack(message)
        self._accept()
        if self._dialling is not None:
            await self._dialling.wait()
            packed = self.codec.pack(message)  # in the codec that was agreed on
        await self.outbox.send(*packed)

    def post(self, message: object) -> bool:
        """Send now if that needs no waiting; whether it was sent. For who does not go on long."""
        outbox = self.outbox
        if not outbox.clear:
            return False
        outbox.sent += 1
        self._transport.send(*self.codec.pack(message))
        return True

    # -- ending

    def drain(self, goodbye: End, seconds: float) -> None:
        """Read no more, let consumers finish what was received, then end with ``goodbye``."""
        if goodbye.cause == "restart" and self.end is None and not self.accepted:
            self._goodbye = goodbye  # it was let in: it is told so, and then to come again
        elif not self._serving:
            self.finish(goodbye)
        else:
            self._goodbye = goodbye
            self._work.end_streams()
            if not self._inbox.expecting:
                self._transport.pause_reading()
            if not self._stopping:
                self._drain(seconds)

    def cut_short(self) -> None:
        """Wait no longer for a drain: end now, and say so if that cuts something off."""
        if self._work.busy:
            self.report.cut_off(self.running)
        self.finish(self._goodbye or End("shutdown", 1001))

    def _drain(self, seconds: float) -> None:
        """Let consumers finish, for so many seconds; a later call can only shorten that."""
        due = self._transport.now() + seconds
        if self._due is not None and self._due <= due:
            return
        self._due = due
        self._inbox.close()
        self._children.cancel("producer")
        self._watch.set(seconds, self._drained_too_long)

    def _drained_too_long(self) -> None:
        self.report.cut_off(self.running)
        if self.end is None and self._goodbye is not None:
            self.finish(self._goodbye)
        self._stop()

    def _stop(self) -> None:
        """Cancel all that runs. The host goes on to tear down."""
        if self._stopping:
            return
        self._stopping = True
        self._inbox.close()
        if self._resting:
            self._end_at_rest()
            return
        self._watch.set(self._home.limits.close_timeout, self._give_up)
        if self._scope is not None:
            self._scope.cancel()
        self._children.cancel()

    def _give_up(self) -> None:
        """Somebody swallows his cancellation: the connection ends without him."""
        self.report.stuck(self.running, self._home.limits.close_timeout)
        self._children.abandon()
        self._give_up_set_up()
        self._release()

    # -- the host

    def start(self) -> None:
        """Begin. The host starts when there is something for it to do."""
        if self._details.needs_host:
            self._start_host()
        else:
            self._resting = self._ready = True
            self._accept()

    def _start_host(self) -> None:
        self._resting = False
        self._host = detach(
            self._run, name=f"wsflow {self.plan.template}", context=self._home.context.copy()
        )

    def _end_at_rest(self) -> None:
        """It ends and has no host, which only farewells need."""
        if self.plan.on_disconnect and self._dialling is None:
            self._start_host()
        else:
            self._resting = False
            self._release()

    async def _run(self) -> None:
        try:
            if self._details.needs_task_group:
                self._environment.task_group = await self._children.open_group()
            if self.plan.on_connect:
                await self._connect(0)
            else:
                self._ready = True
                await self._serve()
        except BaseException as exc:
            self.left("connecting", exc)
            await self._wind_down()
        finally:
            self._in = None
            self._release()

    async def _connect(self, index: int) -> None:
        """Serve within the ``on_connect`` functions from ``index`` on. Raises nothing."""
        if index == len(self.plan.on_connect):
            self._ready = True
        if self._ready or self._stopping:
            await self._serve()
        else:
            plan = self.plan.on_connect[index]
            limits = self._home.limits
            within = Within(
                limits.open_timeout,
                limits.close_timeout,
                self._scope_failed,
                self._entering,
                self._leaving,
            )

            async def inner(value: Any) -> None:
                if not self._stopping:
                    self._watch.clear()
                self._environment.values[plan.handler] = value
                await self._connect(index + 1)

            if not await within.run(plan, plan.call.bind(self._environment), inner):
                await self._wind_down()

    def _entering(self, scope: anyio.CancelScope, handler: Handler) -> None:
        self._scope = scope
        self._in = handler
        limits = self._home.limits
        self._watch.set(limits.open_timeout + limits.close_timeout, self._give_up)

    def _leaving(self, handler: Handler) -> None:
        self._in = handler
        # The function has its own limit; this is for one that swallows it.
        self._watch.set(2 * self._home.limits.close_timeout, self._give_up)

    def _scope_failed(self, handler: Handler, exc: BaseException, step: Step, late: bool) -> None:
        self._scope = None
        if not ends.is_cancellation(exc):
            self.left(str(handler), exc)
        elif late or step == "tear down":
            why = f"took too long to {step}" if late else f"was cancelled in its {step}"
            self.report.scope(handler, why)
            self._give_up_set_up()
        else:
            self._cancelled(str(handler))

    def _accept(self) -> None:
        """Answer the handshake, once."""
        if self.accepted or self.end is not None:
            return
        self.accepted = True
        self._transport.accept(self.subprotocol)
        if self._dialling is None:
            self._home.directory.add(self.connection, self)
            self.outbox.open()

    async def _serve(self) -> None:
        """The connection is open: run everything together, until the first has finished.

        Raises nothing. If it is to stop already, nothing runs.
        """
        if self._stopping:
            await self._wind_down()
            return
        with anyio.CancelScope() as scope:
            self._scope = scope
            self._in = None
            try:
                self._accept()
                if self._dialling is not None:
                    await self._dialling.wait()
                if self._goodbye is not None and not self._serving:
                    self.finish(self._goodbye)
                if not self._stopping:
                    await self._do_work()
            except BaseException as exc:
                self.left(str(self._work.doing or "the session"), exc)
            self._serving = False
            self._scope = None
        await self._wind_down()

    async def _do_work(self) -> None:
        self._serving = True
        self._work.start(self._environment)
        await self._work.consume(eager=self._transport.from_loop)
        if self._goodbye is not None:
            await self.outbox.drained()
            self.finish(self._goodbye)

    async def _wind_down(self) -> None:
        """Stop all tasks, leave all topics, say farewell. Raises nothing."""
        self._in = self._work.doing = None
        self._stop()
        await self._children.reap()
        self._home.directory.channels.leave_all(self)
        if self._ready and self._dialling is None:
            for call in self.plan.on_disconnect:
                limit = anyio.current_time() + self._home.limits.close_timeout
                scope = anyio.CancelScope(deadline=limit, shield=True)
                self._watch.set(2 * self._home.limits.close_timeout, self._give_up)
                bound = call.bind(self._environment)
                self._children.start(str(call.handler), "farewell", bound, scope)
                await self._children.reap()
                if scope.cancelled_caught:
                    self.report.scope(call.handler, "took too long")

    def _release(self) -> None:
        """Hold the invariants: nobody knows the connection any more, and the peer is told."""
        if self._released:
            return
        self._released = True
        self.duration = self._transport.now() - self._started
        end = self.end = self.end or End("shutdown", 1001)
        if self._provisional and end.error is not None:
            self.report.error("the connection", end.error)
        self._home.directory.channels.leave_all(self)
        self._home.directory.forget(self.id)
        if end.cause not in ("peer", "vanished"):
            self.outbox.refuse(end)
        self._watch.stop()
        if not self._transport.dials:
            self.accepted = ends.tell(
                self._transport, end, self.accepted, self.subprotocol, self._rejection
            )
        elif end.cause not in ("peer", "vanished"):
            self._transport.close(*ends.sendable(end))
        self._home.ended(self.id)
        self.over.set()

    async def join(self) -> None:
        """Wait for the end. Cancelling it asks the session to stop, and waits on."""
        try:
            await self.over.wait()
        except BaseException:
            self.finish(End("shutdown", 1001))
            await self.over.wait_through()
            raise
