"""An event loop of asyncio that Trio carries: for sockets, and for clients that know asyncio only.

Its selector is one file descriptor, which Trio watches beside all others. Whenever something has
come there, a callback waits or a timer is due, a system task of Trio has the event loop turn once.
So all of it runs in Trio's thread, on Trio's clock, and nothing needs a lock.

There is one for each run of Trio. It is made when it is first asked for, and outlives all other
tasks. What runs in tasks of asyncio is told that this is asyncio, all else that this is Trio.

Loaded on Trio only, since it needs ``trio``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import selectors
import signal
from asyncio import events
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextvars import Context
from typing import Any, NoReturn, TypeVar, TypeVarTuple, cast, final

import outcome
import sniffio
import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@final
class CarriedLoop(asyncio.SelectorEventLoop):
    """The event loop. Its methods may be called from Trio's tasks, and none of them waits.

    Args:
        selector: its selector, which is a file descriptor.
    """

    _ready: Any  # what asyncio.BaseEventLoop has to do: callbacks,
    _scheduled: list[asyncio.TimerHandle]  # and timers, a heap

    def __init__(self, selector: Any) -> None:
        self._watched: int = selector.fileno()
        self._resting = trio.lowlevel.ParkingLot()
        self._clock = trio.lowlevel.current_clock()
        self._pause = trio.CancelScope()  # until the next timer is due
        self._handled: dict[int, Any] = {}  # signals, and what has handled them before
        self._lives = [trio.CancelScope(shield=True), trio.CancelScope(shield=True)]
        super().__init__(selector)
        self.set_task_factory(cast(Any, _task))

    def start(self) -> None:
        """Begin to turn."""
        for run in (self._watch, self._keep_time, self._until_the_end):
            trio.lowlevel.spawn_system_task(run, name="wsflow event loop")

    # -- when it turns

    async def _watch(self) -> None:
        """Turn whenever something has come."""
        with self._lives[0]:
            while True:
                await trio.lowlevel.wait_readable(self._watched)
                self._turn()

    async def _keep_time(self) -> None:
        """Turn whenever a callback waits, or a timer is due."""
        with self._lives[1]:
            while True:
                with trio.CancelScope(deadline=self._due()) as self._pause:
                    while True:
                        if self._ready:
                            await trio.lowlevel.checkpoint()
                        else:
                            await self._resting.park()
                        self._turn()
                self._turn()

    def _turn(self) -> None:
        """Do what is to be done now."""
        outer = events._get_running_loop()  # of a program in which Trio is a guest
        events._set_running_loop(None)
        try:
            self.stop()  # after one turn
            self.run_forever()
        finally:
            events._set_running_loop(outer)
        if self._ready:  # called by a thread, whose wake-up this turn has taken
            self._resting.unpark()
        self._pause.deadline = self._due()

    def _due(self) -> float:
        return self._scheduled[0].when() if self._scheduled else math.inf

    def time(self) -> float:
        return self._clock.current_time()  # in any thread

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        if self._resting:
            self._resting.unpark()
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = super().call_at(when, callback, *args, context=context)
        if when < self._pause.deadline:
            self._pause.deadline = when
        return timer

    # -- signals: Trio has the descriptor that they are written to

    def add_signal_handler(self, sig: int, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        before = signal.signal(sig, lambda *_: self.call_soon_threadsafe(callback, *args))
        self._handled.setdefault(sig, before)

    def remove_signal_handler(self, sig: int) -> bool:
        signal.signal(sig, self._handled.pop(sig))
        return True

    # -- from Trio to asyncio, and back

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Call what is asyncio's, as long as the block runs, which must not wait."""
        outer = events._get_running_loop()
        events._set_running_loop(self)
        try:
            with _told("asyncio"):
                yield
        finally:
            events._set_running_loop(outer)

    @contextlib.contextmanager
    def left(self) -> Iterator[None]:
        """The same for what is Trio's, called from a task of asyncio."""
        with _told("trio"):
            yield

    async def run(self, call: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run a coroutine of asyncio in a task, and wait for it.

        If this is cancelled, so is the task, and what that does counts: a task that has finished
        nevertheless has done so.
        """
        caller = trio.lowlevel.current_task()
        cancelled: list[trio.lowlevel.RaiseCancelT] = []

        def cancel(raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            cancelled.append(raise_cancel)
            task.cancel()
            return trio.lowlevel.Abort.FAILED

        def done(task: asyncio.Task[T]) -> None:
            end: Callable[[], T] = task.result
            if task.cancelled():
                end = cancelled[0] if cancelled else _cancelled_by_others
            trio.lowlevel.reschedule(caller, outcome.capture(end))

        task = self.create_task(call(*args))
        task.add_done_callback(done)
        return cast(T, await trio.lowlevel.wait_task_rescheduled(cancel))

    # -- its end

    async def _until_the_end(self) -> None:
        """Turn as long as other tasks may need it, and no longer."""
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await _until_left(3)  # its own
                await self.run(self._wind_up)
                for life in self._lives:
                    life.cancel()
                await _until_left(1)
            self.close()

    async def _wind_up(self) -> None:
        """End all other tasks of asyncio, as ``asyncio.run`` does."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.shutdown_asyncgens()


_LOOP: trio.lowlevel.RunVar[CarriedLoop] = trio.lowlevel.RunVar("wsflow event loop")


def carried_loop() -> CarriedLoop:
    """The event loop of this run of Trio.

    Raises:
        RuntimeError: the system has no selector that is a file descriptor.
    """
    try:
        return _LOOP.get()
    except LookupError:
        loop = CarriedLoop(_selector())
        _LOOP.set(loop)
        loop.start()
        return loop


def _selector() -> Any:
    selector = selectors.DefaultSelector()
    if not hasattr(selector, "fileno"):
        raise RuntimeError(
            "wsflow needs epoll or kqueue for sockets and brokers on Trio, and this system has "
            "neither: run it on asyncio"
        )
    return selector


class _Exits(trio.abc.Instrument):
    """Tells whenever a task has ended."""

    def __init__(self) -> None:
        self.lot = trio.lowlevel.ParkingLot()

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self.lot.unpark()


async def _until_left(count: int) -> None:
    """Wait until there are no more than so many of Trio's system tasks, this one included."""
    nursery = trio.lowlevel.current_task().parent_nursery
    assert nursery is not None
    exits = _Exits()
    trio.lowlevel.add_instrument(exits)
    while len(nursery.child_tasks) > count:
        await exits.lot.park()
    trio.lowlevel.remove_instrument(exits)


def _cancelled_by_others() -> NoReturn:
    raise RuntimeError("a task of asyncio was cancelled from outside")


@contextlib.contextmanager
def _told(library: str) -> Iterator[None]:
    """Have anyio and others find this library, as long as the block runs."""
    before, sniffio.thread_local.name = sniffio.thread_local.name, library
    try:
        yield
    finally:
        sniffio.thread_local.name = before


class _Steps(Coroutine[Any, Any, T]):
    """A coroutine, at each step of which this is asyncio."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine

    def send(self, value: Any) -> Any:
        with _told("asyncio"):
            return self._coroutine.send(value)

    def throw(self, *exception: Any) -> Any:
        with _told("asyncio"):
            return self._coroutine.throw(*exception)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        """What it is called, and where it is: for those who look at its task."""
        return getattr(self._coroutine, name)


def _task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], **options: Any
) -> asyncio.Task[T]:
    return asyncio.Task(_Steps(coroutine), loop=loop, **options)
