"""Event loops in virtual time, which report each suspension of a connection's tasks.

The clock jumps to the next timer when nothing else is to do. A run in which nothing is ready and no
timer is set fails at once, and so does one that never comes to rest: ``StuckError``. On asyncio a
task factory counts the suspensions; on Trio an instrument does.
"""

from __future__ import annotations

import abc
import asyncio
import ctypes
import functools
import gc
import importlib
import inspect
import math
import os
import sys
import sysconfig
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from types import CodeType, FrameType
from typing import Any, Protocol, final
from weakref import WeakKeyDictionary

from wsflow.tasks.detached import Begun, telling
from wsflow.testing.clock import take_time

Main = Callable[[], Coroutine[Any, Any, None]]

MOST_STEPS = 20_000
"""The most iterations of the event loop in one run; one that needs more never comes to rest."""

BUSY = 500
"""Iterations in which something was ready all the time, after which the clock moves all the same:
otherwise no timer could end a task that swallows its cancellation."""

TICK = 0.01
"""Seconds by which it then moves with each iteration."""

HOST = "wsflow /"
"""How the name of a connection's host begins."""

APART = ("wsflow timer",)
"""Tasks that a connection's task starts, and that are not the connection's."""


class StuckError(BaseException):
    """A run cannot go on, or goes on for ever. The text says what each task waits for."""


class Tracked:
    """A task of a run.

    Args:
        task: the task itself.
        name: returns its name; an asyncio task gets it after its start.
        coroutine: what it runs.
        parent: the task that has started it.

    Attributes:
        task: the task itself; None once it has ended.
        coroutine: what it runs; None once it has ended.
        origin: the place in the user's code that has started it; "" if there is none.
        waits_for: the future that it waits for, on asyncio.
    """

    def __init__(
        self, task: Any, name: Callable[[], str], coroutine: Any, parent: Tracked | None
    ) -> None:
        self.task = task
        self.coroutine = coroutine
        self.waits_for: Any = None
        self._inherits = parent is not None and parent.counted
        self._name = name
        self.origin = _origin(sys._getframe(1)) if self._inherits else ""

    @functools.cached_property
    def name(self) -> str:
        return self._name()

    @functools.cached_property
    def counted(self) -> bool:
        """Whether it is a task of a connection, or was started by one."""
        return (self._inherits and self.name not in APART) or self.is_host

    @functools.cached_property
    def is_host(self) -> bool:
        return self.name.startswith(HOST)

    @functools.cached_property
    def runs_handlers(self) -> bool:
        """Whether it is one of the session's own tasks, and no task of the user's."""
        code = getattr(self.coroutine, "cr_code", None)
        return self.counted and code is not None and code.co_filename.startswith(_WSFLOW)

    @property
    def alive(self) -> bool:
        return self.task is not None

    def over(self) -> None:
        """It has ended: nothing of it is kept but its name."""
        self._name = self.name.__str__
        self.task = self.coroutine = self.waits_for = None

    def __str__(self) -> str:
        return f"{self.name}, started at {self.origin}" if self.origin else self.name


class Observer(Protocol):
    """What a machine reports to."""

    def suspended(self, task: Tracked) -> BaseException | None:
        """A counted task has suspended. An exception that is returned is raised at that await."""


class Machine(Protocol):
    """Runs one event loop in virtual time.

    Attributes:
        tasks: the tasks that run, in the order in which they were started.
        unretrieved: errors that nobody has seen, as the event loop reports them.
        stuck: why the run could not go on; "" if it could.
    """

    tasks: dict[Tracked, None]
    unretrieved: list[str]
    stuck: str

    def run(self, main: Main) -> None:
        """Run ``main``.

        Raises:
            StuckError: it cannot go on, or goes on for ever.
        """

    def later(self, call: Callable[[], object]) -> None:
        """Call a function in a later step, from a task that is not counted."""

    def throwable(self, task: Tracked) -> bool:
        """Whether an exception can be raised at the await at which ``task`` was suspended."""

    @property
    def current(self) -> Tracked | None:
        """The task that is running."""


class _Tasks(abc.ABC):
    """What both machines do alike."""

    def __init__(self, observer: Observer) -> None:
        self.tasks: dict[Tracked, None] = {}
        self.unretrieved: list[str] = []
        self.stuck = ""
        self._observer = observer
        self._tracked: WeakKeyDictionary[Any, Tracked] = WeakKeyDictionary()
        self._now = 1000.0
        self._steps = 0
        self._busy = 0

    def _add(self, task: Any, name: Callable[[], str], coroutine: Any) -> Tracked:
        tracked = self._tracked[task] = Tracked(task, name, coroutine, self.current)
        self.tasks[tracked] = None
        return tracked

    @property
    @abc.abstractmethod
    def current(self) -> Tracked | None:
        """The task that is running."""

    def _over(self, tracked: Tracked) -> None:
        self.tasks.pop(tracked, None)
        tracked.over()

    def _abandon(self, coroutine_of: Callable[[Any], Any]) -> None:
        """Keep what does not end, for good: to close it, or to free it, would run its code outside
        of an event loop, where a handler that swallows its cancellation may loop without end."""
        for each in list(self.tasks):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(coroutine_of(each.task)))
            self._over(each)

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise self._fail(f"{MOST_STEPS} iterations of the event loop, and no end: a livelock")

    def _was_busy(self) -> None:
        """Something is ready: time stands still, unless that goes on for long."""
        self._busy += 1
        if self._busy > BUSY:
            self._now += TICK

    def _deadlock(self) -> StuckError:
        return self._fail(
            "nothing is ready and no timer is set: a deadlock (or a wait for a thread or a socket, "
            "for which virtual time has no room: replace what waits)"
        )

    def _fail(self, why: str) -> StuckError:
        """The run is stuck: say what each task waits for."""
        stacks = (f"  {each}: {where(each.coroutine)}" for each in self.tasks)
        self.stuck = "\n".join([why, *stacks])
        return StuckError(self.stuck)


# -- asyncio


@final
class AsyncioMachine(_Tasks):
    """Runs an asyncio event loop in virtual time."""

    def run(self, main: Main) -> None:
        loop = self._loop = asyncio.SelectorEventLoop()
        take_time(loop, self.time, self._waits)
        loop.set_exception_handler(self._unhandled)
        loop.set_task_factory(self._start)
        try:
            loop.run_until_complete(main())
        finally:
            self._clear(loop)
            loop.close()

    def later(self, call: Callable[[], object]) -> None:
        async def live() -> None:
            call()

        self._injection = asyncio.Task(live())  # not by the factory: it is not tracked

    def throwable(self, task: Tracked) -> bool:
        return True

    @property
    def current(self) -> Tracked | None:
        task = asyncio.current_task(self._loop)
        return self._tracked.get(task) if task is not None else None

    def _waits(self, timeout: float | None) -> float:
        """The loop would wait for events, and there are none. It does not wait."""
        self._step()
        if timeout is None:
            raise self._deadlock()
        if timeout:
            self._busy = 0
            self._now += timeout
        else:
            self._was_busy()
        return 0.0

    def time(self) -> float:
        return self._now

    def _start(self, loop: Any, coroutine: Any, **options: Any) -> Any:
        live = _Counted(coroutine)
        task: asyncio.Task[Any] = asyncio.Task(live.run(), loop=loop, **options)
        tracked = self._add(task, task.get_name, coroutine)

        def suspended(awaited: Any) -> BaseException | None:
            if not tracked.counted:
                return None
            tracked.waits_for = awaited
            return self._observer.suspended(tracked)

        def over(_task: object = None) -> None:
            self._over(tracked)
            coroutine.close()  # of one that was cancelled before its first step

        live.suspended, live.over = suspended, over
        task.add_done_callback(over)
        return task

    def _unhandled(self, _loop: object, context: dict[str, Any]) -> None:
        exc = context.get("exception")
        about = context.get("task") or context.get("future") or context.get("handle")
        text = f"{context['message']}: {exc!r}" if exc is not None else context["message"]
        self.unretrieved.append(f"{text} ({about!r})" if about is not None else text)

    def _clear(self, loop: asyncio.AbstractEventLoop) -> None:
        """End what is left, by force if need be."""
        self._steps = 0
        for _ in range(10):
            for each in self.tasks:
                each.task.cancel()
            with suppress(StuckError):
                loop.call_soon(loop.stop)
                loop.run_forever()
        with suppress(StuckError):
            loop.run_until_complete(loop.shutdown_asyncgens())
        for each in self.tasks:
            each.task._log_destroy_pending = False
        self._abandon(lambda task: task.get_coro())


class _Counted:
    """A coroutine whose every suspension is reported."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.suspended: Callable[[Any], BaseException | None] = lambda _awaited: None
        self.over: Callable[[], None] = lambda: None

    async def run(self) -> Any:
        try:
            return await self
        finally:
            self.over()

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self._coroutine
        step: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731
        while True:
            try:
                awaited = step()
            except StopIteration as stop:
                return stop.value
            raised = self.suspended(awaited)
            if raised is None:
                try:
                    value = yield awaited
                except BaseException as exc:
                    raised = exc
            step = _sender(coroutine, value) if raised is None else _thrower(coroutine, raised)
            raised = None  # its traceback holds this frame


def _thrower(coroutine: Coroutine[Any, Any, Any], exc: BaseException) -> Callable[[], Any]:
    return lambda: coroutine.throw(exc)


def _sender(coroutine: Coroutine[Any, Any, Any], value: Any) -> Callable[[], Any]:
    return lambda: coroutine.send(value)


# -- Trio


@final
class TrioMachine(_Tasks):
    """Runs Trio in virtual time. It is its own clock, and an instrument."""

    def __init__(self, observer: Observer) -> None:
        super().__init__(observer)
        self._trio: Any = importlib.import_module("trio")
        self._looked = False

    def run(self, main: Main) -> None:
        # The order in which Trio runs tasks is random; here it is the same each time.
        importlib.import_module("trio._core._run")._r.seed(0)
        try:
            self._trio.run(main, clock=_Clock(self), instruments=[self])
        except self._trio.TrioInternalError as exc:
            if not self.stuck:
                self.unretrieved.append(f"a task has crashed: {exc.__cause__!r}")
        self._abandon(lambda task: task.coro)
        if self.stuck:
            raise StuckError(self.stuck)  # anew: the first one holds all that has run

    def later(self, call: Callable[[], object]) -> None:
        self._trio.lowlevel.current_trio_token().run_sync_soon(call)

    def throwable(self, task: Tracked) -> bool:
        return task.task._abort_func is not None

    @property
    def current(self) -> Tracked | None:
        try:
            task = self._trio.lowlevel.current_task()
        except RuntimeError:
            return None
        return self._tracked.get(task)

    # -- as an instrument

    def task_spawned(self, task: Any) -> None:
        self._add(task, lambda: task.name, task.coro)

    def task_exited(self, task: Any) -> None:
        self._over(self._tracked[task])

    def before_task_step(self, task: Any) -> None:
        self._looked = False

    def after_task_step(self, task: Any) -> None:
        tracked = self._tracked[task]
        if tracked.counted and tracked.alive:
            raised = self._observer.suspended(tracked)
            if raised is not None:
                task._attempt_abort(_raiser(raised))

    def before_io_wait(self, timeout: float) -> None:
        with suppress(StuckError):  # an instrument cannot end the run; the clock can
            self._step()
        self._was_busy()

    # -- as a clock

    def time(self) -> float:
        if self.stuck:
            raise StuckError(self.stuck)
        return self._now

    def jump(self, deadline: float) -> None:
        """Nothing is ready, and the next timer is due at ``deadline``."""
        self._busy = 0
        if not self._looked:
            self._looked = True  # what was put in by ``later`` comes first
        elif deadline == math.inf:
            raise self._deadlock()
        else:
            self._now = max(self._now, deadline)


@dataclass
class _Clock:
    machine: TrioMachine

    def start_clock(self) -> None:
        """It stands still."""

    def current_time(self) -> float:
        return self.machine.time()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        self.machine.jump(deadline)
        return 0.0


def _raiser(exc: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise exc

    return fail


MACHINES: dict[str, Callable[[Observer], Machine]] = {
    "asyncio": AsyncioMachine,
    "trio": TrioMachine,
}


# -- places in code

_WSFLOW = os.path.dirname(os.path.dirname(__file__)) + os.sep
_STANDARD = sysconfig.get_paths()["stdlib"] + os.sep
_SITES = ("site-packages", "dist-packages")
_LIBRARIES = (
    _WSFLOW,
    *(
        os.path.dirname(spec.origin) + os.sep
        for spec in map(find_spec, ("anyio", "trio"))
        if spec is not None and spec.origin is not None
    ),
)


def frames(coroutine: Any) -> Iterator[FrameType]:
    """The frames of a suspended coroutine, outermost first."""
    while coroutine is not None:
        for kind in ("cr", "ag", "gi"):
            if hasattr(coroutine, f"{kind}_frame"):
                frame = getattr(coroutine, f"{kind}_frame")
                inner = getattr(coroutine, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
                break
        else:
            frame, inner = None, _behind(coroutine)
        if frame is not None:
            yield frame
            if frame.f_code in _DRIVEN:
                inner = frame.f_locals[_DRIVEN[frame.f_code]]
        coroutine = inner


_DRIVEN: Mapping[CodeType, str] = {
    inspect.unwrap(Begun.finish).__code__: "steps",
    inspect.unwrap(telling).__code__: "work",
}
"""The functions that drive a coroutine themselves, and what they call it."""


def _behind(awaited: Any) -> Any:
    """The coroutine or generator in an awaitable of the interpreter's, as ``anext`` makes them."""
    for each in gc.get_referents(awaited):
        if inspect.isasyncgen(each) or inspect.iscoroutine(each) or inspect.isgenerator(each):
            return each
    return None


def is_users(frame: FrameType) -> bool:
    """Whether it is neither wsflow's, nor anyio's, nor Trio's, nor of the standard library."""
    name = frame.f_code.co_filename
    if name.startswith(("<frozen", *_LIBRARIES)):
        return False
    return not name.startswith(_STANDARD) or any(site in name for site in _SITES)


def is_own(frame: FrameType) -> bool:
    """Whether it is wsflow's."""
    return frame.f_code.co_filename.startswith(_WSFLOW)


def where(coroutine: Any) -> str:
    """The innermost place at which a coroutine waits: in the user's code, else in wsflow's."""
    found = list(frames(coroutine))
    for mine in (is_users, is_own, bool):
        for frame in reversed(found):
            if mine(frame):
                return place(frame)
    return "its first step"


def place(frame: FrameType) -> str:
    """The file, line and function of a frame."""
    code = frame.f_code
    file = os.path.relpath(code.co_filename)
    name = code.co_qualname.split("<locals>.")[-1]
    return f"{code.co_filename if file.startswith('..') else file}:{frame.f_lineno} {name}"


def _origin(frame: FrameType | None) -> str:
    """The place in the user's code that is running now; "" if there is none."""
    while frame is not None and not _is_loops(frame):
        if is_users(frame):
            return place(frame)
        frame = frame.f_back
    return ""


def _is_loops(frame: FrameType) -> bool:
    """Whether it is the event loop's, which has called what is running."""
    return frame.f_code is _DRIVES or frame.f_code.co_name in ("_run_once", "unrolled_run")


_DRIVES: CodeType = _Counted.__await__.__code__


def raisable(coroutine: Any) -> bool:
    """Whether the user's code waits for something that is not wsflow's, and may raise."""
    for frame in reversed(list(frames(coroutine))):
        if is_users(frame):
            return True
        if is_own(frame) or frame.f_code.co_name in ("__aexit__", "aclose"):
            return False
    return False
