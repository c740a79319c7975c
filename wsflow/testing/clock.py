"""The time of an event loop in the hands of a test."""

from __future__ import annotations

import asyncio
import importlib
import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, final

from wsflow.tasks.detached import on_trio
from wsflow.testing.idle import asyncios_own, only_waiting, wait_idle

BUSY = 10.0
"""Seconds of the processor's time without a rest, after which time moves all the same: else no
timeout could end a test in which something never rests."""

TICK = 0.01
"""Seconds by which it then moves with each iteration of the event loop."""

RESTS = 5.0
"""Seconds of the processor's time within which all must come to rest after a timer."""

EXACT = 1e-6
"""Seconds by which the sum of many short times may miss that of a few long ones."""


def take_time(
    loop: Any, now: Callable[[], float], waits: Callable[[float | None], float | None]
) -> Callable[[], None]:
    """Have an event loop of asyncio read its time from a function, and ask another one before it
    waits for its sockets.

    Args:
        loop: the event loop; one of asyncio's own.
        now: its time.
        waits: called when no socket is ready, with how many seconds the event loop would wait: 0 if
            something is ready, None if no timer is set. Returns how long it really waits.

    Returns:
        What lets the event loop wait as usual again. Its time stays.
    """
    selector = loop._selector
    look = selector.select

    def select(timeout: float | None = None) -> Any:
        events = look(0)
        if not events and (timeout := waits(timeout)) != 0:
            events = look(timeout)
        return events

    loop.time = now
    selector.select = select

    def give_back() -> None:
        del selector.select

    return give_back


class _Time(Protocol):
    """The time of a running event loop."""

    def begin(self) -> None:
        """Take it.

        Raises:
            RuntimeError: that is not possible here.
        """

    def end(self) -> None:
        """Let it run as before."""

    def now(self) -> float:
        """Seconds."""

    def due(self) -> float:
        """When the next timer is due; ``inf`` if none is set."""

    def move(self, to: float) -> None:
        """It is ``to`` now, or stays what it is if that is later."""


@final
class FakeClock:
    """Has time pass only when a test says so, or when nothing else is left to do::

        async with FakeClock() as clock, connect(app, "/chat") as ada:
            await clock.advance(60)
            assert (await ada.wait_closed()).code == 1011

    It is the time of the event loop, from which all of wsflow's timeouts and pauses are taken, and
    those of asyncio, anyio and Trio; ``time.time()`` and ``time.monotonic()`` are not changed.
    While something can go on, time stands still. When all tasks wait and a timer is set, time jumps
    to that at once: a ``receive`` for which nothing comes fails without waiting. In memory only: a
    socket, a thread or a real broker is not waited for, and its answer may come after a timeout has
    passed.

    On asyncio it works on asyncio's own event loop. On Trio the run needs a
    ``trio.testing.MockClock``, which it drives. On leaving, time passes as before; it does not go
    back.
    """

    def __init__(self) -> None:
        self._loop: _Time | None = None
        self._start = 0.0
        self._time: float | None = None
        self._advancing = False

    async def __aenter__(self) -> FakeClock:
        """Take the time.

        Raises:
            RuntimeError: the event loop does not let it be taken, or it is fake already.
        """
        loop: _Time = _OnTrio() if on_trio() else _OnAsyncio()
        loop.begin()
        self._loop = loop
        self._start = loop.now()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        loop = self._entered("__aexit__")
        self._time, self._loop = self.time, None
        loop.end()

    @property
    def time(self) -> float:
        """Seconds since it was entered, to the microsecond; once it was left, until then.

        Raises:
            RuntimeError: it was not entered.
        """
        if self._loop is None and self._time is not None:
            return self._time
        return round(self._entered("time").now() - self._start, 6)

    async def advance(self, seconds: float) -> None:
        """Let so much time pass: from timer to timer, in their order. Before and after each, all
        that can go on does so until it waits again, as ``idle()`` has it.

        Raises:
            ValueError: ``seconds`` is negative, or no number of seconds.
            AssertionError: something does not come to rest.
            RuntimeError: it was not entered; or another task advances it at this moment.
        """
        loop = self._entered("advance()")
        if not 0 <= seconds < math.inf:
            raise ValueError(f"advance({seconds!r}): pass how many seconds pass, 0 or more")
        if self._advancing:
            raise RuntimeError("another task advances this clock: let one task alone do that")
        self._advancing = True
        try:
            await self._to(loop, loop.now() + seconds)
        finally:
            self._advancing = False

    @staticmethod
    async def _to(loop: _Time, target: float) -> None:
        await wait_idle(RESTS)
        while (due := loop.due()) <= target + EXACT:
            loop.move(due)
            await wait_idle(RESTS)
        loop.move(target)
        await wait_idle(RESTS)

    def _entered(self, what: str) -> _Time:
        if self._loop is None:
            raise RuntimeError(f"{what} needs a clock that runs: async with FakeClock() as clock")
        return self._loop


class _Busy:
    """Notices that an event loop has not come to rest for long."""

    def __init__(self) -> None:
        self._rested = time.thread_time()

    def tick(self, rests: bool) -> float:
        """By how much time moves in this iteration of the event loop.

        Args:
            rests: whether nothing is ready.
        """
        now = time.thread_time()
        if rests:
            self._rested = now
        return TICK if now - self._rested > BUSY else 0.0


@final
class _OnAsyncio:
    def __init__(self) -> None:
        self._loop = asyncios_own("FakeClock")
        self._busy = _Busy()

    def begin(self) -> None:
        loop = self._loop
        if "select" in vars(loop._selector):
            raise RuntimeError(
                "the time of this event loop is a fake one already: one FakeClock is enough, and "
                "sweep_cancellation has its own"
            )
        self._before = loop.time, loop._clock_resolution
        self._now: float = loop.time()
        self._give_back = take_time(loop, self.now, self._waits)
        self.move(self._now)

    def end(self) -> None:
        loop = self._loop
        self._give_back()
        real, loop._clock_resolution = self._before
        ahead = max(self._now - real(), 0.0)
        loop.time = (lambda: real() + ahead) if ahead else real

    def now(self) -> float:
        return self._now

    def due(self) -> float:
        timers: list[asyncio.TimerHandle] = self._loop._scheduled  # a heap
        ahead = timers if timers and timers[0].cancelled() else timers[:1]
        return min((each.when() for each in ahead if not each.cancelled()), default=math.inf)

    def move(self, to: float) -> None:
        self._now = max(self._now, to)
        # What is due now is due, and nothing else: time stands still until that has run.
        self._loop._clock_resolution = math.ulp(self._now)

    def _waits(self, timeout: float | None) -> float | None:
        rests = only_waiting(self._loop) and self.due() > self._now
        self.move(self._now + self._busy.tick(rests))
        if not timeout:
            return timeout
        self.move(self.due())
        return 0


@final
class _OnTrio:
    def __init__(self) -> None:
        self._trio = importlib.import_module("trio")
        self._clock = self._trio.lowlevel.current_clock()
        self._busy = _Busy()

    def begin(self) -> None:
        if not isinstance(self._clock, importlib.import_module("trio.testing").MockClock):
            raise RuntimeError(
                "on Trio, FakeClock needs a run with a clock that it can drive: trio.run(…, "
                "clock=trio.testing.MockClock(autojump_threshold=0)); with anyio's pytest plugin, "
                'return ("trio", {"clock": MockClock(autojump_threshold=0)}) from the fixture '
                "anyio_backend"
            )
        self._before = self._clock.rate, self._clock.autojump_threshold
        self._clock.rate, self._clock.autojump_threshold = 0, 0
        self._trio.lowlevel.add_instrument(self)

    def end(self) -> None:
        self._trio.lowlevel.remove_instrument(self)
        self._clock.rate, self._clock.autojump_threshold = self._before

    def now(self) -> float:
        now: float = self._clock.current_time()
        return now

    def due(self) -> float:
        left: float = self._trio.lowlevel.current_statistics().seconds_to_next_deadline
        return self.now() + left

    def move(self, to: float) -> None:
        self._clock.jump(max(to - self.now(), 0))

    def before_io_wait(self, _timeout: float) -> None:
        """As an instrument: what is ready is known before Trio waits."""
        rests = not self._trio.lowlevel.current_statistics().tasks_runnable
        self._clock.jump(self._busy.tick(rests))
