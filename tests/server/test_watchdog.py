"""Which handler blocks the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import pdb
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.loops import anyio_backend as anyio_backend
from wsflow import log
from wsflow.server import Settings, watchdog
from wsflow.server.exits import Exit
from wsflow.server.process import runner
from wsflow.server.watchdog import watching
from wsflow.tasks.loops import event_loop
from wsflow.tasks.waiting import Latch

LONGEST = 0.05


@contextlib.contextmanager
def watched(longest: float = LONGEST) -> Iterator[Latch]:
    told = Latch()
    with watching(event_loop(), longest, told.set):
        yield told


def block(until: Callable[[], bool]) -> None:
    while not until():
        time.sleep(0.001)


@pytest.fixture
def noticed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], bool]:
    """Whether the watchdog has seen that the loop is blocked, and has nothing more to look at.
    What blocks the loop until then is long enough, also where its thread gets to run late."""
    monkeypatch.setattr(watchdog, "AGAIN", 0.01)
    return lambda: "the event loop is blocked since" in caplog.text


def a_slow_query(until: threading.Event) -> None:
    until.wait()


async def a_blocking_handler(until: threading.Event) -> None:
    a_slow_query(until)


async def test_it_names_who_blocks(
    caplog: pytest.LogCaptureFixture, noticed: Callable[[], bool]
) -> None:
    released = threading.Event()
    with watched() as told:
        threading.Thread(target=lambda: (block(noticed), released.set())).start()
        await a_blocking_handler(released)
        with anyio.fail_after(10):
            await told.wait()
        while "the event loop was blocked for" not in caplog.text:
            await anyio.sleep(0.001)
    assert "test_it_names_who_blocks" in caplog.text  # the outermost function
    assert "in Condition.wait (" in caplog.text  # and the innermost
    assert "anyio.to_thread.run_sync" in caplog.text


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_many_short_calls_are_not_blamed(
    loop: Any, caplog: pytest.LogCaptureFixture, noticed: Callable[[], bool]
) -> None:
    """Each of them runs when it is looked, and none is the reason."""
    caplog.set_level("DEBUG")

    async def main() -> Exit:
        for _ in range(10_000):
            event_loop().call_soon(lambda: noticed() or time.sleep(LONGEST / 20))
        with watched() as told:
            with anyio.fail_after(10):
                await told.wait()
            while "the event loop was blocked for" not in caplog.text:  # by the thread
                await anyio.sleep(0.001)
        return Exit.STOPPED

    runner(Settings(loop=loop))(main)
    assert "by no single function of the app" in caplog.text
    assert not [each for each in caplog.records if each.levelname == "WARNING"]


async def test_it_says_so_while_it_goes_on(
    caplog: pytest.LogCaptureFixture, noticed: Callable[[], bool]
) -> None:
    with watched():
        block(noticed)
    assert "test_it_says_so_while_it_goes_on (" in caplog.text


def passed(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


def debugging(until: Callable[[], bool]) -> None:
    """What a debugger does in the place where it waits."""
    block(until)


debugging.__code__ = debugging.__code__.replace(co_filename=pdb.__file__)


@pytest.mark.parametrize("busy_before", [False, True])
async def test_what_is_looked_at_in_a_debugger(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    noticed: Callable[[], bool],
    busy_before: bool,
) -> None:
    """It blocks the loop for as long as one likes, and that is no news."""
    looked = threading.Semaphore(0)
    debugged = watchdog._debugged

    def seen(frame: Any) -> bool:
        result = debugged(frame)
        if result:
            looked.release()
        return result

    monkeypatch.setattr(watchdog, "_debugged", seen)
    with watched() as told:
        await anyio.lowlevel.checkpoint()
        if busy_before:
            block(noticed)
        debugging(lambda: looked.acquire(blocking=False))
        caplog.clear()
        log._often.clear()
        debugging(passed(4 * LONGEST))
        turned = Latch()
        event_loop().call_soon_threadsafe(turned.set)
        await turned.wait()
        assert "blocked" not in caplog.text
        block(noticed)
        with anyio.fail_after(10):
            await told.wait()  # that was no debugger
            while "the event loop was blocked for" not in caplog.text:
                await anyio.sleep(0.001)
    assert caplog.text.count("was blocked") == 1


async def test_a_loop_that_never_turns_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was closed: the watchdog ends, too."""
    monkeypatch.setattr(watchdog, "AGAIN", 0.01)
    told: list[int] = []
    dog = watchdog._Watchdog(event_loop(), 0.01, lambda: told.append(1))
    dog.stop.set()
    await anyio.to_thread.run_sync(dog._watch)
    assert not told


async def test_a_process_that_was_stopped(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens to run as it goes on has not blocked the loop all the time."""
    looked = threading.Event()
    call = watchdog._call

    def looks(frame: Any) -> Any:
        looked.set()
        return call(frame)

    monkeypatch.setattr(watchdog, "_call", looks)
    longest = 2
    dog = watchdog._Watchdog(event_loop(), longest, lambda: None)
    dog._due -= 100
    thread = threading.Thread(target=dog._watch)
    thread.start()
    event_loop().call_soon(dog.turn)
    a_slow_query(looked)
    block(passed(0.3 * longest))
    await anyio.to_thread.run_sync(thread.join)
    dog.stop.set()
    assert "blocked" not in caplog.text


async def test_a_loop_that_waits_is_not_blocked(caplog: pytest.LogCaptureFixture) -> None:
    with watched() as told:
        await anyio.sleep(3 * LONGEST)
    assert not told.is_set
    assert "blocked" not in caplog.text


async def test_nothing_is_watched_without_a_limit() -> None:
    before = threading.active_count()
    with watched(0):
        assert threading.active_count() == before


def test_a_loop_that_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever its thread does then blocks nothing, and the watchdog ends."""
    loop = asyncio.new_event_loop()
    before = {*threading.enumerate()}
    with watching(loop, 0.01, lambda: None):
        loop.close()
        for thread in {*threading.enumerate()} - before:
            thread.join(10)
            assert not thread.is_alive()
    assert "blocked" not in caplog.text


@pytest.mark.parametrize("folder", [Path(watchdog.__file__).parents[1], watchdog._LIBRARIES[0]])
def test_a_folder_whose_name_begins_as_that_of_a_library(folder: Path) -> None:
    """What is in it is the app's."""
    found: list[tuple[bool, str]] = []

    def own() -> None:
        found.append(watchdog._place(sys._getframe()))

    own.__code__ = own.__code__.replace(co_filename=f"{folder}_app/mine.py")
    thread = threading.Thread(target=own)  # called by a library only
    thread.start()
    thread.join()
    assert f"own ({folder}_app/mine.py:" in found[0][1]


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
