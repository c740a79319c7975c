"""Which handler blocks the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from tests.loops import anyio_backend as anyio_backend
from wsflow.server import watchdog
from wsflow.server.watchdog import watching

LONGEST = 0.05


@contextlib.contextmanager
def watched(longest: float = LONGEST) -> Iterator[asyncio.Event]:
    told = asyncio.Event()
    with watching(asyncio.get_running_loop(), longest, told.set):
        yield told


def block(until: Callable[[], bool]) -> None:
    while not until():
        time.sleep(0.001)


def a_slow_query(until: threading.Event) -> None:
    until.wait()


async def a_blocking_handler(until: threading.Event) -> None:
    a_slow_query(until)


async def test_it_names_who_blocks(caplog: pytest.LogCaptureFixture) -> None:
    released = threading.Event()
    threading.Timer(4 * LONGEST, released.set).start()
    with watched() as told:
        await a_blocking_handler(released)
        await asyncio.wait_for(told.wait(), 10)
        while "the event loop was blocked for 0." not in caplog.text:
            await asyncio.sleep(0.001)
    assert "test_it_names_who_blocks" in caplog.text  # the outermost function
    assert "in Condition.wait (" in caplog.text  # and the innermost
    assert "anyio.to_thread.run_sync" in caplog.text


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_many_short_calls_are_not_blamed(factory: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Each of them runs when it is looked, and none is the reason."""
    caplog.set_level("DEBUG")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop = time.monotonic() + 3 * LONGEST
        with watched() as told:
            await asyncio.sleep(0)
            for _ in range(1000):
                loop.call_soon(lambda: time.monotonic() < stop and time.sleep(LONGEST / 20))
            await asyncio.wait_for(told.wait(), 10)
            while "the event loop was blocked for" not in caplog.text:  # by the thread
                await asyncio.sleep(0.001)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert "by no single function of the app" in caplog.text
    assert not [each for each in caplog.records if each.levelname == "WARNING"]


async def test_it_says_so_while_it_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "AGAIN", 0.01)
    with watched():
        block(lambda: "the event loop is blocked since 0 s: " in caplog.text)


async def test_a_loop_that_never_turns_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was closed: the watchdog ends, too."""
    monkeypatch.setattr(watchdog, "AGAIN", 0.01)
    told: list[int] = []
    dog = watchdog._Watchdog(asyncio.get_running_loop(), 0.01, lambda: told.append(1))
    dog.stop.set()
    await asyncio.to_thread(dog._watch)
    assert not told


async def test_a_loop_that_waits_is_not_blocked(caplog: pytest.LogCaptureFixture) -> None:
    with watched() as told:
        await asyncio.sleep(3 * LONGEST)
    assert not told.is_set()
    assert "blocked" not in caplog.text


async def test_nothing_is_watched_without_a_limit() -> None:
    before = threading.active_count()
    with watched(0):
        assert threading.active_count() == before


def test_a_loop_that_is_closed() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    before = {*threading.enumerate()}
    with watching(loop, 0.01, lambda: None):
        for thread in {*threading.enumerate()} - before:
            thread.join(10)
            assert not thread.is_alive()


def test_what_a_loop_does() -> None:
    assert watchdog._place(None) == (False, "")
    frame = sys._getframe()
    busy, place = watchdog._place(frame)
    assert busy
    assert "test_what_a_loop_does" in place or "<module>" in place

    def within_the_library() -> tuple[bool, str]:
        return watchdog._place(sys._getframe())

    code = within_the_library.__code__
    ours = code.replace(co_filename=watchdog.__file__)
    within_the_library.__code__ = ours
    assert within_the_library()[0]
