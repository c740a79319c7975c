"""An event loop of asyncio, on Trio."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import signal
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
import sniffio
import trio
import trio.testing

from wsflow.tasks.carried import CarriedLoop, _Steps, carried_loop


@pytest.fixture(params=["trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
async def loop(anyio_backend: object) -> CarriedLoop:
    return carried_loop()


def library() -> str:
    return sniffio.current_async_library()


async def called(schedule: Callable[[Callable[[], None]], object]) -> None:
    """Wait until what is scheduled is called."""
    done = trio.Event()
    schedule(done.set)
    with trio.fail_after(5):
        await done.wait()


async def test_callbacks_and_timers(loop: CarriedLoop) -> None:
    await called(loop.call_soon)
    began = loop.time()
    await called(lambda call: loop.call_later(0.02, call))
    assert loop.time() - began >= 0.02
    later = loop.call_later(60, lambda: None)
    await called(lambda call: loop.call_later(0.001, call))  # an earlier one
    last = loop.call_later(120, lambda: None)
    await called(lambda call: loop.call_soon(loop.call_soon, call))  # in two turns
    later.cancel()
    last.cancel()


async def test_from_another_thread(loop: CarriedLoop) -> None:
    times: list[float] = []
    await called(
        lambda call: threading.Thread(
            target=lambda: (times.append(loop.time()), loop.call_soon_threadsafe(call))
        ).start()
    )
    assert times[0] <= loop.time()


@pytest.mark.parametrize("turn", ["of what has come", "of what waits"])
async def test_from_another_thread_within_a_turn(loop: CarriedLoop, turn: str) -> None:
    """The wake-up that comes with a callback may be taken by the turn before the one that has it
    called. (A thread is slower than that, mostly; to call it in the loop's thread is the same.)"""
    await trio.testing.wait_all_tasks_blocked()
    schedule = loop.call_soon_threadsafe if turn == "of what has come" else loop.call_soon
    await called(lambda done: schedule(loop.call_soon_threadsafe, done))


def test_its_time_is_that_of_trio() -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)

    async def main() -> None:
        began = trio.current_time()
        await called_in_an_hour(carried_loop())
        assert trio.current_time() - began >= 3600

    async def called_in_an_hour(loop: CarriedLoop) -> None:
        done = trio.Event()
        loop.call_later(3600, done.set)
        await done.wait()

    trio.run(main, clock=clock)


async def test_a_coroutine_of_asyncio(loop: CarriedLoop) -> None:
    told: list[str] = []

    async def double(number: int) -> int:
        told.append(library())
        await asyncio.sleep(0)
        await anyio.sleep(0.001)
        told.append(library())
        loop.call_soon(lambda: told.append(library()))
        await asyncio.sleep(0.001)
        with loop.left():
            told.append(library())
        return 2 * number

    assert await loop.run(double, 4) == 8
    assert told == ["asyncio", "asyncio", "trio", "trio"]
    assert library() == "trio"


async def test_what_a_coroutine_raises(loop: CarriedLoop) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        await loop.run(fail)


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_cancellation_reaches_the_coroutine(loop: CarriedLoop, swallows: bool) -> None:
    """It is over with it; or has its result if it went on."""
    seen: list[str] = []

    async def wait() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)
            seen.append("cancelled")
            if not swallows:
                raise
        return "done"

    results: list[str] = []
    with trio.move_on_after(0.01) as scope:
        results.append(await loop.run(wait))
    assert seen == ["cancelled"]
    assert scope.cancelled_caught == (not swallows)
    assert results == ["done"] * swallows


async def test_a_coroutine_that_is_cancelled_by_others(loop: CarriedLoop) -> None:
    async def end() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    with pytest.raises(RuntimeError, match="a task of asyncio was cancelled from outside"):
        await loop.run(end)


async def test_what_is_called_at_once(loop: CarriedLoop) -> None:
    with loop.entered():
        assert asyncio.get_running_loop() is loop
        assert library() == "asyncio"
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()
    assert library() == "trio"


async def test_tasks_say_what_they_run(loop: CarriedLoop) -> None:
    async def nothing_much() -> int:
        await asyncio.sleep(60)
        return 1

    task = loop.create_task(nothing_much(), name="a name")
    assert "nothing_much" in repr(task)
    assert task.get_name() == "a name"
    task.cancel()  # before its first step
    await called(loop.call_soon)
    assert task.cancelled()

    async def one() -> int:
        return 1

    assert await _Steps(one()) == 1
    _Steps(one()).close()  # else it warns that nobody has awaited it


async def test_a_callback_that_raises(loop: CarriedLoop, caplog: pytest.LogCaptureFixture) -> None:
    loop.call_soon(lambda: 1 / 0)
    await called(loop.call_soon)
    assert "ZeroDivisionError" in caplog.text


def test_signals() -> None:
    """Also those that come while Trio waits for something else."""
    told: list[str] = []
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    async def main() -> None:
        loop = carried_loop()
        of_trio = signal.getsignal(signal.SIGINT)
        for each in (signal.SIGTERM, signal.SIGINT):
            await trio.testing.wait_all_tasks_blocked()
            come = trio.Event()
            loop.add_signal_handler(
                each, lambda name, come=come: (told.append(name), come.set()), each.name
            )
            await trio.to_thread.run_sync(os.kill, os.getpid(), each)
            with trio.fail_after(5):
                await come.wait()
            assert loop.remove_signal_handler(each)
        assert signal.getsignal(signal.SIGINT) is of_trio

    trio.run(main)
    assert told == ["SIGTERM", "SIGINT"]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_an_interrupt_is_for_the_program(recwarn: pytest.WarningsRecorder) -> None:
    """Whatever runs on the event loop when Ctrl-C is pressed."""
    ended: list[str] = []

    async def main() -> None:
        loop = carried_loop()
        try:
            loop.call_soon(signal.raise_signal, signal.SIGINT)
            await trio.sleep(10)
        finally:
            ended.append("main")

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert ended == ["main"]


def test_a_guest_of_asyncio() -> None:
    """Where Trio itself runs on an event loop of asyncio."""

    async def main() -> str:
        async def answer() -> str:
            await asyncio.sleep(0.001)
            return "from the inner loop"

        return await carried_loop().run(answer)

    async def host() -> Any:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        trio.lowlevel.start_guest_run(
            main,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=done.set_result,
        )
        outcome = await done
        assert asyncio.get_running_loop() is loop
        return outcome.unwrap()

    assert asyncio.run(host()) == "from the inner loop"


def test_a_system_without_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)

    async def main() -> None:
        with pytest.raises(RuntimeError, match="needs epoll or kqueue for sockets and brokers on"):
            carried_loop()

    trio.run(main)


def test_its_end() -> None:
    """Trio's other tasks have it as long as they run; tasks of asyncio are cancelled then."""
    seen: list[str] = []

    async def of_asyncio() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("asyncio")

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            seen.append("generator")

    async def first(generator: Any) -> None:
        await anext(generator)

    async def main() -> None:
        loop = carried_loop()
        generator = numbers()
        await loop.run(first, generator)
        kept.append(generator)
        kept.append(loop.create_task(of_asyncio()))

        async def outlives() -> None:
            with contextlib.suppress(trio.Cancelled):
                await trio.sleep(60)
            with trio.CancelScope(shield=True):
                await loop.run(asyncio.sleep, 0.001)
                await trio.sleep(0.001)
                await called(loop.call_soon)
            seen.append("system task")

        trio.lowlevel.spawn_system_task(outlives)
        await trio.testing.wait_all_tasks_blocked()
        loops.append(loop)

    kept: list[object] = []
    loops: list[CarriedLoop] = []
    trio.run(main)
    assert seen == ["system task", "asyncio", "generator"]
    assert loops[0].is_closed()
