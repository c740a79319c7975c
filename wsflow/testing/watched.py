"""An app whose scope functions, wire and broker are watched, and can fail."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, final

import anyio
from anyio.lowlevel import checkpoint

from wsflow.brokers.base import Broker
from wsflow.declare.router import Handler
from wsflow.errors import BrokerError
from wsflow.messages.encoded import EncodedMessage
from wsflow.runtime.session import Session
from wsflow.tasks.waiting import Timer
from wsflow.testing.virtual import Machine, Tracked
from wsflow.transports.base import OneByOne
from wsflow.transports.frames import Found
from wsflow.transports.memory import MemoryTransport
from wsflow.wiring.environment import Environment
from wsflow.wiring.invocation import Bound, Invocation, MessageValues
from wsflow.wiring.plan import AppPlan, RoutePlan, ScopePlan
from wsflow.wiring.routes import RouteTable

BROKEN: Final = "the broker is gone: the sweep has taken it away"


# -- functions


@dataclass(eq=False)
class Call:
    """One call of a scope function, or of an ``on_disconnect`` function.

    Attributes:
        handler: the function.
        task: the task that has entered it.
        complete: whether it has set up; of a plain function, whether it has returned.
        ended: how often it has ended.
        left_by: the task in which it ended.
        cut: what cancelled it when nothing may, before its time was over.
    """

    handler: Handler
    task: Tracked | None
    complete: bool = False
    ended: int = 0
    left_by: Tracked | None = None
    cut: BaseException | None = None


@dataclass(eq=False)
class Calls:
    """Watches the calls of functions.

    Attributes:
        machine: the event loop that runs.
        tear_down_limit: seconds that a tear-down may take.
        seen: the calls, in order.
    """

    machine: Machine
    tear_down_limit: float
    seen: list[Call] = field(default_factory=list)

    def begin(self, handler: Handler) -> Call:
        call = Call(handler, self.machine.current)
        self.seen.append(call)
        return call

    def ended(self, call: Call, began: float, exc: BaseException | None) -> None:
        call.ended += 1
        call.left_by = self.machine.current
        lasts = call.handler.kind != "on_message"  # which is cancelled with its handler
        in_time = anyio.current_time() - began < self.tear_down_limit
        if lasts and in_time and isinstance(exc, anyio.get_cancelled_exc_class()):
            call.cut = exc

    def watch(self, handler: Handler, value: Any) -> Any:
        """What is called instead: ``value`` is a generator, or a coroutine."""
        if hasattr(value, "__anext__"):
            return Watched(value, self.begin(handler), self)
        return self._finish(self.begin(handler), value)

    async def _finish(self, call: Call, running: Awaitable[Any]) -> Any:
        began, raised = anyio.current_time(), None
        try:
            value = await running
            call.complete = True
            return value
        except BaseException as exc:
            raised = exc
            raise
        finally:
            self.ended(call, began if call.handler.kind == "on_disconnect" else -math.inf, raised)
            raised = None  # its traceback holds this frame


@final
class Watched:
    """A scope function's generator: what is done with it is noted."""

    def __init__(self, generator: AsyncGenerator[Any, None], call: Call, calls: Calls) -> None:
        self._generator = generator
        self._call = call
        self._calls = calls

    async def __anext__(self) -> Any:
        return await self._step(anext(self._generator))

    async def athrow(self, exc: BaseException) -> Any:
        return await self._step(self._generator.athrow(exc))

    async def aclose(self) -> None:
        await self._generator.aclose()
        self._calls.ended(self._call, -math.inf, None)

    async def _step(self, step: Awaitable[Any]) -> Any:
        call, began = self._call, anyio.current_time()
        try:
            value = await step
        except BaseException as exc:
            self._calls.ended(call, began if call.complete else -math.inf, exc)
            raise
        call.complete = True
        return value


@dataclass(frozen=True, slots=True)
class WatchedInvocation(Invocation):
    """An invocation whose calls are watched."""

    watch: Callable[[Handler, Any], Any] = field(kw_only=True)

    def bind(self, environment: Environment, *, leads: bool = False) -> Bound:
        return self._watched(Invocation.bind(self, environment, leads=leads))

    def bind_each(self, environment: Environment) -> Callable[[MessageValues], Bound]:
        fill = Invocation.bind_each(self, environment)
        return lambda values: self._watched(fill(values))

    def _watched(self, bound: Bound) -> Bound:
        return lambda *leading: self.watch(self.handler, bound(*leading))


def watched(plan: AppPlan, watch: Callable[[Handler, Any], Any]) -> AppPlan:
    """The same plan, with its scope functions and ``on_disconnect`` functions watched."""

    def call(each: Invocation) -> Invocation:
        return WatchedInvocation(
            each.handler, each.positional, each.keywords, each.names, each.guards, watch=watch
        )

    def scope(each: ScopePlan) -> ScopePlan:
        return replace(each, invocation=call(each.invocation))

    routes: RouteTable[RoutePlan] = RouteTable()
    for route in plan.routes:
        routes.add(
            route.template,
            replace(
                route,
                on_connect=tuple(map(scope, route.on_connect)),
                on_message=tuple(map(scope, route.on_message)),
                on_disconnect=tuple(map(call, route.on_disconnect)),
            ),
        )
    return replace(plan, routes=routes)


# -- the wire


@final
class Wire(OneByOne):
    """The wire between a session and the transport in memory: the Transport of the one, and the
    Receiver of the other.

    Args:
        machine: the event loop that runs.
        from_loop: whether it reports from the event loop, as sockets do, where no task is current.
        patience: seconds after which what the peer has sent no longer keeps its leaving back.
        gap: called when a handler that was begun in the host's place waits for the host to continue
            it.

    Attributes:
        transport: the transport in memory.
        session: the session, once it has begun.
        told: the close frames and rejections that the session has sent, in order.
        unlike: what the session must not have done.
        failing: whether the next message that is sent loses the wire.
        failed: whether one has.
    """

    dials = False

    def __init__(
        self, machine: Machine, from_loop: bool, patience: float, gap: Callable[[], object]
    ) -> None:
        self.from_loop = from_loop
        self.transport: MemoryTransport
        self.session: Session
        self.told: list[str] = []
        self.unlike: list[str] = []
        self.failing = self.failed = False
        self._machine = machine
        self._patience = patience
        self._gap = gap
        self._last: Callable[[], None] | None = None
        self._paused = False
        self._arrived: deque[Found] = deque()

    # -- as a transport

    @property
    def traffic(self) -> tuple[int, int]:
        return self.transport.traffic

    def now(self) -> float:
        return asyncio.get_running_loop().time() if self.from_loop else self.transport.now()

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        if self.from_loop:
            return asyncio.get_running_loop().call_later(seconds, call)
        return self.transport.after(seconds, call)

    def accept(self, subprotocol: str | None) -> None:
        self.transport.accept(subprotocol)

    def reject(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        self.told.append(f"{status}")
        self.transport.reject(status, headers, body)

    def send(self, payload: bytes, text: bool, raw: bool) -> bool:
        self.share(EncodedMessage(payload, text, raw))
        return False

    def share(self, message: EncodedMessage) -> None:
        if not self.failing:
            self.transport.share(message)
        elif not self.failed:
            self.failed = True
            self._machine.later(self.transport.peer_vanish)

    def close(self, code: int, reason: str) -> None:
        self.told.append(f"{code} {reason}".strip())
        self.transport.close(code, reason)

    def pause_reading(self, *, briefly: bool = False) -> None:
        self._paused = self._paused or not briefly
        self.transport.pause_reading(briefly=briefly)

    def resume_reading(self) -> None:
        self._paused = False
        self.transport.resume_reading()
        self._soon(self._report)

    # -- as a receiver

    def opened(self, subprotocol: str | None) -> None:
        """Does nothing: it dials nobody."""

    def refused(self, error: BaseException) -> None:
        """Does nothing: it dials nobody."""

    def messages_received(self, messages: Sequence[Found]) -> int:
        self._arrived.extend(messages)
        self._soon(self._report)
        return len(messages)

    def peer_closed(self, code: int, reason: str) -> None:
        self._soon(lambda session: self._left(partial(session.peer_closed, code, reason)))

    def peer_vanished(self) -> None:
        self._soon(lambda session: self._left(session.peer_vanished))

    def peer_failed(self, code: int, reason: str) -> None:
        self._soon(lambda session: session.peer_failed(code, reason))

    def pause_writing(self) -> None:
        self.session.pause_writing()

    def resume_writing(self) -> None:
        self.session.resume_writing()

    def _soon(self, report: Callable[[Session], object]) -> None:
        """Report now, or from the event loop."""
        if self.from_loop:
            asyncio.get_running_loop().call_soon(report, self.session)
        else:
            report(self.session)

    def _report(self, session: Session) -> None:
        """Report the messages that have come, while they are taken."""
        while self._arrived and not self._paused:
            message = self._arrived.popleft()
            in_place = session._dispatcher.ready
            session.messages_received([message])
            if in_place and not session._dispatcher.ready:
                self._gap()
        if not self._arrived and self._last is not None:
            self._leave()

    def _left(self, report: Callable[[], None]) -> None:
        """The peer has left: that is reported after what came before, or when that takes long."""
        self._last = report
        if not self._arrived:
            self._leave()
        else:
            self.after(self._patience, self._leave)

    def _leave(self) -> None:
        """Report that the peer has left. Producers are cancelled at once."""
        report, self._last = self._last, None
        if report is None:
            return
        report()
        self.unlike += [
            f"{child.name} was not cancelled when the peer left"
            for child in self.session._children.tasks
            if child.role == "producer" and not child.scope.cancel_called
        ]


# -- the broker


@final
class Outage:
    """Stands before a broker: each operation takes a turn of the event loop, as over a network, and
    fails while the broker is gone.

    Args:
        broker: the broker, whose operations are replaced.
        patience: seconds after which an operation fails.

    Attributes:
        gone: whether it is gone.
        noticed: whether an operation has failed because of that.
    """

    OPERATIONS = ("publish", "subscribed", "replay", "settled")

    def __init__(self, broker: Broker, patience: float) -> None:
        self.gone = self.noticed = False
        self._patience = patience
        for name in self.OPERATIONS:
            setattr(broker, name, self._before(getattr(broker, name)))

    def _before(self, operation: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def operate(*arguments: Any) -> Any:
            await checkpoint()
            if self.gone:
                self.noticed = True
                await anyio.sleep(self._patience)
                raise BrokerError(BROKEN)
            return await operation(*arguments)

        return operate
