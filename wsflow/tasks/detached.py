"""Tasks that belong to no scope: no caller's cancellation reaches them, and they can be abandoned.

A connection's host belongs to no caller. A task group could not be left while one of its tasks
swallows its cancellation; a detached task can be abandoned.

On asyncio, the next work of a detached task can be started while the task waits: a coroutine is
stepped in its place, with it as the current task and in its context, which is indistinguishable
for the coroutine. If the coroutine suspends, the task continues it. That saves one iteration of the
event loop per message.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.tasks import _enter_task, _leave_task  # for alternative task implementations
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from types import coroutine as coroutine_of
from typing import Any, Protocol, TypeVar, cast, final

import anyio
import anyio.lowlevel

A = TypeVar("A")
T = TypeVar("T")

_running: set[asyncio.Task[None]] = set()  # the event loop has only weak references to tasks
_has_ended = _running.discard  # looked up once: each task would keep its own


_EAGER = getattr(getattr(asyncio, "eager_task_factory", None), "__code__", object())
"""The code of the factories of ``asyncio.create_eager_task_factory``, from Python 3.12 on."""


def start_task(
    coroutine: Coroutine[Any, Any, T],
    loop: asyncio.AbstractEventLoop | None = None,
    **options: Any,
) -> asyncio.Task[T]:
    """Start an asyncio task, whose first step is in a later iteration of the event loop: of the
    running one, unless another one is given.

    That holds also where tasks begin at once (``asyncio.eager_task_factory``): who starts a task
    has to have it before it runs.
    """
    loop = loop or asyncio.get_running_loop()
    factory = loop.get_task_factory()
    if getattr(factory, "__code__", None) is _EAGER:
        make: Any = cast(Any, factory).__closure__[0].cell_contents
        task: asyncio.Task[T] = make(coroutine, loop=loop, **options)
        return task
    return loop.create_task(coroutine, **options)


@final
class Detached:
    """An asyncio task, in whose place code can run while it waits."""

    __slots__ = ("_loop", "_run", "_task")

    def __init__(self, task: asyncio.Task[None], context: Context) -> None:
        self._task = task
        self._run = context.run
        self._loop = task.get_loop()

    def within(self, call: Callable[[A], T], argument: A) -> T:
        """Call a function as the task. Must be called from the event loop, without a current
        task."""
        loop, task, run = self._loop, self._task, self._run
        _enter_task(loop, task)
        try:
            return run(call, argument)
        finally:
            _leave_task(loop, task)


@coroutine_of
def telling(work: Coroutine[Any, Any, T], suspends: Callable[[], object]) -> Generator[Any, Any, T]:
    """Run a coroutine; ``suspends`` is called each time that it suspends, and when it ends."""
    try:
        yielded = work.send(None)
        while True:
            suspends()
            try:
                value = yield yielded
            except BaseException as exc:
                yielded = work.throw(exc)
            else:
                yielded = work.send(value)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        suspends()


def detach(
    run: Callable[[], Coroutine[Any, Any, None]], /, *, name: str, context: Context | None = None
) -> Detached | None:
    """Start a task, on asyncio or as a system task of Trio.

    Needs a running event loop, and no current task. ``run`` must not raise.

    Args:
        run: the function of the task.
        name: the name of the task.
        context: its context; by default a copy of the current one.

    Returns:
        The task, to run code in its place; None on Trio, where that is not possible.
    """
    context = copy_context() if context is None else context
    if on_trio():
        sys.modules["trio"].lowlevel.spawn_system_task(run, name=name, context=context)
        return None
    task = start_task(run(), name=name, context=context)
    _running.add(task)
    task.add_done_callback(_has_ended)
    return Detached(task, context)


def on_trio() -> bool:
    """Whether Trio runs here."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


class Signal(Protocol):
    """Is set once, and awaited by one task. Lighter than an event on asyncio."""

    def set(self) -> None: ...
    def __await__(self) -> Generator[Any, Any, object]: ...


@final
class _FutureSignal:
    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def __await__(self) -> Generator[Any, Any, None]:
        return self._future.__await__()


@final
class _EventSignal:
    __slots__ = ("_event", "set")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self.set = self._event.set

    def __await__(self) -> Generator[Any, Any, None]:
        return self._event.wait().__await__()


def signal() -> Signal:
    """A new signal, for a task of this event loop."""
    return _EventSignal() if on_trio() else _FutureSignal()


async def checkpoint() -> None:
    """Let other tasks run; a cancellation is delivered here.

    A replacement for anyio's, which makes a system call each time to find the current backend.
    """
    if on_trio():
        await anyio.lowlevel.checkpoint()
    else:
        await _give_way()


@coroutine_of
def _give_way() -> Generator[None, None, None]:
    yield


READY = object()
"""Yielded by a generator that does work in a task's place, where it takes the next item.

One generator does it all: no coroutine is created for each item, and none raises ``StopIteration``
where it finishes. These cost a good part of what a short handler does.
"""


@final
class Begun:
    """Work that was begun in a task's place and has suspended. The task must finish it.

    Args:
        steps: a generator that does the work, and yields ``READY`` where that is done.
        yielded: what it has yielded.
    """

    __slots__ = ("_steps", "_yielded")

    def __init__(self, steps: Generator[Any, Any, None], yielded: Any) -> None:
        self._steps = steps
        self._yielded = yielded

    @coroutine_of
    def finish(self, cancelled: BaseException | None = None) -> Generator[Any, Any, None]:
        """Do the work to its end.

        Args:
            cancelled: the task's cancellation, if it came before the task could continue the work.
                It is delivered to what the work waits for, as usual.
        """
        steps, yielded = self._steps, self._yielded
        if cancelled is not None:
            message = cancelled.args[0] if cancelled.args else None
            if yielded is None or not yielded.cancel(msg=message):
                yielded = steps.throw(cancelled)
        while yielded is not READY:
            try:
                value = yield yielded
            except BaseException as exc:
                yielded = steps.throw(exc)
            else:
                yielded = steps.send(value)
