"""Tasks that belong to no scope: nobody's cancellation reaches them, and nobody must wait for them.

A connection's host belongs to no caller. A task group could not be left while one of its tasks
swallows its cancellation; these can be given up.

On asyncio, what a detached task is to do next can be begun while it waits: a coroutine is stepped
in its place, with it as the current task and in its context, so that nobody can tell the
difference. What has not finished by its first suspension is the task's to go on with. That saves a
turn of the loop for each message.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.tasks import _enter_task, _leave_task  # for those who run coroutines in other ways
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from types import coroutine as coroutine_of
from typing import Any, Protocol, TypeVar, final

import anyio
import anyio.lowlevel

T = TypeVar("T")

_running: set[asyncio.Task[None]] = set()  # the event loop itself holds its tasks weakly


@final
class Detached:
    """A task of asyncio, in whose place others can run while it waits."""

    __slots__ = ("_context", "_loop", "_task")

    def __init__(self, task: asyncio.Task[None], context: Context) -> None:
        self._task = task
        self._context = context
        self._loop = task.get_loop()

    def within(self, call: Callable[..., T], *args: Any) -> T:
        """Call as the task would. To be called from the event loop, where no task is current."""
        _enter_task(self._loop, self._task)
        try:
            return self._context.run(call, *args)
        finally:
            _leave_task(self._loop, self._task)


def detach(
    run: Callable[[], Coroutine[Any, Any, None]], /, *, name: str, context: Context | None = None
) -> Detached | None:
    """Start a task, on asyncio or as a system task of Trio.

    Needs a running event loop, and no current task. ``run`` must raise nothing.

    Args:
        run: what it does.
        name: what it is called.
        context: where it runs; a copy of the current context without one.

    Returns:
        The task, to run things in its place; None on Trio, where that cannot be.
    """
    context = context or copy_context()
    if _on_trio():
        sys.modules["trio"].lowlevel.spawn_system_task(run, name=name, context=context)
        return None
    task = asyncio.get_running_loop().create_task(run(), name=name, context=context)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return Detached(task, context)


def _on_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


class Signal(Protocol):
    """Awaited by one task until it is set, once. Lighter than an event where that can be."""

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
    return _EventSignal() if _on_trio() else _FutureSignal()


async def checkpoint() -> None:
    """Let other tasks have their turn; a cancellation is delivered here.

    As anyio's, which asks the system which process this is to find out which backend it runs on.
    """
    if _on_trio():
        await anyio.lowlevel.checkpoint()
    else:
        await _give_way()


@coroutine_of
def _give_way() -> Generator[None, None, None]:
    yield


@final
class Begun:
    """A coroutine that was begun in a task's place and has suspended. The task must finish it."""

    __slots__ = ("_coroutine", "_yielded")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], yielded: Any) -> None:
        self._coroutine = coroutine
        self._yielded = yielded

    @coroutine_of
    def finish(self, cancelled: BaseException | None = None) -> Generator[Any, Any, Any]:
        """Go on with it, to its end.

        Args:
            cancelled: the task's cancellation, if that came before its turn did. It reaches what
                the coroutine waits for, as ever.
        """
        coroutine, yielded = self._coroutine, self._yielded
        try:
            if cancelled is not None:
                message = cancelled.args[0] if cancelled.args else None
                if yielded is None or not yielded.cancel(msg=message):
                    yielded = coroutine.throw(cancelled)
            while True:
                try:
                    value = yield yielded
                except BaseException as exc:
                    yielded = coroutine.throw(exc)
                else:
                    yielded = coroutine.send(value)
        except StopIteration as done:
            return done.value


def begin(coroutine: Coroutine[Any, Any, Any]) -> Begun | None:
    """Run a coroutine up to its first suspension; None if it has finished.

    Raises:
        BaseException: what leaves the coroutine.
    """
    try:
        return Begun(coroutine, coroutine.send(None))
    except StopIteration:
        return None
