"""Blocking calls in threads."""

from __future__ import annotations

import asyncio
import threading

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.loops import anyio_backend as anyio_backend
from wsflow.tasks.threads import Stuck, Threads


async def test_what_a_call_returns_and_raises() -> None:
    threads = Threads(1)
    assert await threads.run(threading.current_thread) is not threading.current_thread()

    def fail() -> None:
        raise MemoryError

    for _ in range(3):
        with pytest.raises(MemoryError):
            await threads.run(fail)


async def test_so_many_at_a_time() -> None:
    threads, go = Threads(2), threading.Event()
    most = running = 0

    def call() -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        go.wait(10)
        running -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(threads.run, call)
        while most < 2:
            await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        go.set()
    assert most == 2


async def test_calls_that_do_not_return() -> None:
    """They count as long as their threads live, and hold up nobody who can be told so."""
    threads, go = Threads(2), threading.Event()
    begun = threading.Semaphore(0)
    scopes = [anyio.CancelScope() for _ in range(3)]
    told: list[str] = []

    def hang() -> str:
        begun.release()
        go.wait(10)
        return "late"

    async def run(scope: anyio.CancelScope) -> None:
        with scope:
            told.append(await threads.run(hang))

    async with anyio.create_task_group() as tasks:
        for scope in scopes[:2]:
            tasks.start_soon(run, scope)
            await anyio.to_thread.run_sync(begun.acquire)
        tasks.start_soon(run, scopes[2])
        await anyio.wait_all_tasks_blocked()
        scopes[0].cancel()
        waiting = anyio.CancelScope()
        tasks.start_soon(run, waiting)
        await anyio.wait_all_tasks_blocked()
        scopes[1].cancel()
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Stuck):
            await threads.run(hang)
        scopes[2].cancel()  # it has no thread yet
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert told == ["late"]
    both = threading.Barrier(2)
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(threads.run, both.wait)
    assert not threads._given_up


async def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(1)

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            await threads.run(bool)
    assert await threads.run(bool) is False


def test_a_call_that_returns_when_the_event_loop_is_closed(
    recwarn: pytest.WarningsRecorder,
) -> None:
    go, begun = threading.Event(), threading.Event()
    errors: list[object] = []

    def hang() -> None:
        begun.set()
        go.wait(10)

    async def give_up() -> None:
        call = asyncio.ensure_future(Threads(1).run(hang))
        while not begun.is_set():
            await asyncio.sleep(0)
        call.cancel()

    before = set(threading.enumerate())
    threading.excepthook, hook = errors.append, threading.excepthook
    try:
        asyncio.run(give_up())
        (thread,) = set(threading.enumerate()) - before
        assert thread.daemon
        go.set()
        thread.join(10)
    finally:
        threading.excepthook = hook
    assert not errors
