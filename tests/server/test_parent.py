"""The supervisor, as a worker sees it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.loops import anyio_backend  # noqa: F401
from wsflow.metrics import Measured, Report, family
from wsflow.server import parent as module
from wsflow.server.assignment import ALIVE, AT_ONCE, HAND_OVER, REPORT, REPORTED, SERVING
from wsflow.server.parent import Parent
from wsflow.server.reports import SUM, read, write
from wsflow.tasks.loops import event_loop
from wsflow.tasks.waiting import Condition


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


class Told:
    """What was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._more = Condition()

    def note(self, call: str) -> None:
        self.calls.append(call)
        self._more.notify_all()

    async def until(self, *calls: str) -> None:
        with anyio.fail_after(10):
            await self._more.wait_for(lambda: self.calls == list(calls))


def followed(parent: Parent, told: Told, report: Report = Report([], [])):  # noqa: B008  # type: ignore[no-untyped-def]
    return parent.followed(
        event_loop(),
        hand_over=lambda: told.note("hand over"),
        at_once=lambda: told.note("at once"),
        gone=lambda: told.note("gone"),
        report=lambda: report,
    )


async def test_it_does_what_it_is_told(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ours, theirs = pair
    told = Told()
    with followed(Parent(theirs, 0.0, tmp_path), told):
        ours.send(HAND_OVER)
        await told.until("hand over")
        ours.send(AT_ONCE)
        await told.until("hand over", "at once")
        ours.send(HAND_OVER + AT_ONCE)
        await told.until("hand over", "at once", "hand over", "at once")
    ours.send(AT_ONCE)
    await anyio.sleep(0.01)
    assert len(told.calls) == 4


@pytest.mark.parametrize("unread", [False, True])
async def test_it_is_gone(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path, unread: bool
) -> None:
    ours, theirs = pair
    told = Told()
    parent = Parent(theirs, 1.0, tmp_path)
    with followed(parent, told):
        if unread:  # then the end is a reset
            parent.serves()
        ours.close()
        await told.until("gone")
        parent.serves()


async def test_it_hears_that_the_loop_turns(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ours, theirs = pair
    ours.settimeout(10)
    parent = Parent(theirs, 0.1, tmp_path)
    with followed(parent, Told()):
        assert ours.getblocking()
        parent.serves()
        said = await anyio.to_thread.run_sync(ours.recv, 2)
        assert said == SERVING + b"\n"
        for _ in range(3):
            assert await anyio.to_thread.run_sync(ours.recv, 1) == ALIVE
    await anyio.sleep(0.02)
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        while ours.recv(1):
            pass
    await anyio.sleep(0.05)
    with pytest.raises(BlockingIOError):
        ours.recv(1)


async def test_it_wants_no_signs_of_life(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ours, theirs = pair
    with followed(Parent(theirs, 0.0, tmp_path), Told()):
        Parent(theirs, 0.0, tmp_path).serves()
        assert ours.recv(10) == SERVING + b"\n"
        Parent(theirs, 0.0, tmp_path).serves("wsflow connect ws://ä/")
        assert ours.recv(100).decode() == "+wsflow connect ws://ä/\n"


async def test_one_that_does_not_read_keeps_nobody(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ours, theirs = pair
    told = Told()
    with followed(Parent(theirs, 0.001, tmp_path), told):
        with pytest.raises(BlockingIOError):
            while True:
                theirs.send(b"x" * 1024)
        Parent(theirs, 0.0, tmp_path).serves()
        ours.send(HAND_OVER)
        await told.until("hand over")


async def test_it_reports(pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    """When it is told to, and at its end."""
    ours, theirs = pair
    ours.settimeout(10)
    report = Report(["it stops"], [family("x", "counter", "X.", (), [((), 1)])])
    own = tmp_path / str(os.getpid())
    with followed(Parent(theirs, 0.0, tmp_path), Told(), report):
        assert read(own) is None
        ours.send(REPORT)
        assert await anyio.to_thread.run_sync(ours.recv, 10) == REPORTED
        assert read(own) == report
        own.unlink()
    assert read(own) == report


async def test_what_all_have_measured(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for once, for all who want to know; and one that does not come is not waited for
    for ever."""
    ours, theirs = pair
    ours.settimeout(10)
    total = Report([], [family("x", "counter", "X.", (), [((), 5)])])
    parent, got = Parent(theirs, 0.0, tmp_path), Told()

    def take(measured: Measured) -> None:
        got.note("none" if measured is None else " ".join(each.name for each in measured))

    told = Told()
    with followed(parent, told):
        parent.measured(take)
        parent.measured(take)
        assert await anyio.to_thread.run_sync(ours.recv, 10) == REPORT
        write(tmp_path / SUM, total)
        ours.send(REPORTED)
        await got.until("x", "x")
        assert parent._late.cancelled()  # who asks next is not answered by that
        monkeypatch.setattr(module, "PATIENCE", 0.01)
        parent.measured(take)
        await got.until("x", "x", "none")
        ours.send(REPORTED)  # too late: nobody waits
        monkeypatch.setattr(module, "PATIENCE", 10)
        ours.send(HAND_OVER)
        await told.until("hand over")
        (tmp_path / SUM).unlink()
        parent.measured(take)
        ours.send(REPORTED)
        await got.until("x", "x", "none", "none")


async def test_a_report_that_cannot_be_written(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = pair
    told = Told()
    with followed(Parent(theirs, 0.0, tmp_path / "none"), told):
        ours.send(REPORT)
        ours.send(HAND_OVER)
        await told.until("hand over")
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    assert "what is measured cannot be passed on" in caplog.text


@pytest.mark.parametrize("longest", [7.0, 1e300])
@pytest.mark.parametrize("does", ["imports", "serves"])
async def test_it_takes_this_process_along(
    pair: tuple[socket.socket, socket.socket],
    does: str,
    longest: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever that does; but a drain that it has begun has its time."""
    ours, theirs = pair
    exits, waits = [], []
    left = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: (exits.append(code), left.set()))
    monkeypatch.setattr(time, "sleep", waits.append)
    parent, told = Parent(theirs, 0.0, tmp_path), Told()
    parent.end_with_it(longest)
    if does == "serves":
        with followed(parent, told):
            ours.send(HAND_OVER)
            await told.until("hand over")
            assert not exits
            ours.close()
            await told.until("hand over", "gone")
    ours.close()
    assert await anyio.to_thread.run_sync(left.wait, 10)
    assert exits == [1]
    assert waits == ([min(longest, threading.TIMEOUT_MAX)] if does == "serves" else [])
