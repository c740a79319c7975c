"""Coroutines that are begun in a waiting task's place."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any

import anyio
import pytest

from wsflow.tasks import detached
from wsflow.tasks.detached import READY, Begun, detach, signal, start_task

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@coroutine
def one_after_another() -> Generator[Any, Any, None]:
    while True:
        yield from (yield READY)


def begin(work: Coroutine[Any, Any, Any]) -> Begun | None:
    steps = one_after_another()
    next(steps)
    yielded = steps.send(work)
    return None if yielded is READY else Begun(steps, yielded)


class Host:
    """A detached task that waits, and goes on with what is begun in its place."""

    def __init__(self) -> None:
        self.waiting = signal()
        self.begun: Begun | None = None
        self.outcome: Any = None
        self.over = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        self.task = asyncio.current_task()
        cancelled = None
        try:
            await self.waiting
        except asyncio.CancelledError as exc:
            cancelled = exc
        try:
            assert self.begun is not None
            await self.begun.finish(cancelled)
        except BaseException as exc:
            self.outcome = exc
        self.over.set()


@pytest.fixture
async def host(anyio_backend: object) -> Host:
    host = Host()
    host.detached = detach(host.run, name="host")  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    return host


async def in_place(host: Any, run: Any) -> None:
    """From the event loop, where no task is current, as a transport reports."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def callback() -> None:
        host.begun = host.detached.within(begin, run())
        done.set_result(None)

    loop.call_soon(callback)
    await done


async def test_it_is_the_task_and_its_context_all_the_way(host: Host) -> None:
    seen: list[Any] = []

    async def work() -> str:
        seen.append(asyncio.current_task())
        with anyio.move_on_after(0.01):
            await anyio.sleep_forever()
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        seen.append(asyncio.current_task())
        return "ignored"

    await in_place(host, work)
    host.waiting.set()
    host.waiting.set()  # again changes nothing
    await host.over.wait()
    assert host.outcome is None
    assert seen == [host.task, host.task]


async def test_what_never_waits_is_over_at_once(host: Host) -> None:
    async def work() -> None: ...

    await in_place(host, work)
    assert host.begun is None
    assert host.task is not None
    host.task.cancel()


async def test_a_cancellation_in_between_reaches_what_is_waited_for(host: Host) -> None:
    inner: list[asyncio.Task[None]] = []

    async def work() -> None:
        inner.append(asyncio.create_task(asyncio.sleep(1000)))
        await inner[0]

    await in_place(host, work)
    assert host.task is not None
    host.task.cancel("why")
    await host.over.wait()
    assert isinstance(host.outcome, asyncio.CancelledError)
    assert inner[0].cancelled()


async def test_a_cancellation_in_between_reaches_who_only_gives_way(host: Host) -> None:
    @coroutine
    def give_way() -> Any:
        yield

    said: list[str] = []

    async def work() -> None:
        try:
            await give_way()
        except asyncio.CancelledError as exc:
            await asyncio.sleep(0)
            said.append(str(exc))

    await in_place(host, work)
    assert host.task is not None
    host.task.cancel("why")
    await host.over.wait()
    assert (host.outcome, said) == (None, ["why"])


async def test_a_cancellation_of_what_is_over_by_then(host: Host) -> None:
    """The future is done, and cannot be cancelled any more: the coroutine hears of it itself."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> str:
        return await future

    await in_place(host, work)
    future.set_result("done")
    assert host.task is not None
    host.task.cancel()
    await host.over.wait()
    assert isinstance(host.outcome, asyncio.CancelledError)


async def test_errors_go_both_ways(host: Host) -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        try:
            await future
        except LookupError as exc:
            raise ValueError from exc

    await in_place(host, work)
    host.waiting.set()
    await asyncio.sleep(0)
    future.set_exception(KeyError())
    await host.over.wait()
    assert isinstance(host.outcome, ValueError)


def eager_factory(kind: Any) -> Any:
    """As ``asyncio.create_eager_task_factory``, which Python 3.11 does not have."""

    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        raise AssertionError(f"{kind} would begin at once")

    return factory


async def test_a_task_does_not_begin_before_its_starter_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        factory = asyncio.eager_task_factory
    else:
        factory = eager_factory(asyncio.Task)
        monkeypatch.setattr(detached, "_EAGER", factory.__code__)
    ran: list[str] = []

    async def run() -> None:
        ran.append(asyncio.current_task().get_name())  # type: ignore[union-attr]

    loop.set_task_factory(factory)
    try:
        task = start_task(run(), name="later")
        over = asyncio.Event()

        async def live() -> None:
            await run()
            over.set()

        detach(live, name="detached")
    finally:
        loop.set_task_factory(None)
    assert ran == []
    await task
    await over.wait()
    assert ran == ["later", "detached"]
