"""Standard error: nobody waits for the one who reads it, and what is lost is said."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import pytest

from wsflow.output import BATCH, Output


class Stream(io.StringIO):
    """A stream without a descriptor, which may be stuck.

    Attributes:
        reading: whether it is read; while it is not, a write waits.
        stuck: set while a write waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reading = threading.Event()
        self.reading.set()
        self.stuck = threading.Event()

    def write(self, text: str) -> int:
        if not self.reading.is_set():
            self.stuck.set()
            assert self.reading.wait(20)
        return super().write(text)


def replaced(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """Standard error as such a stream."""
    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_lines_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = replaced(monkeypatch)
    output = Output()
    for number in range(5 * BATCH + 1):
        output.put(str(number))
    output.drain(20)
    assert stream.getvalue().split() == [str(number) for number in range(5 * BATCH + 1)]


def hold(output: Output, stream: Stream) -> None:
    """Have the thread wait in a write."""
    stream.reading.clear()
    output.put("first")
    assert stream.stuck.wait(20)


def test_what_is_over_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = replaced(monkeypatch)
    output = Output(lines=10)
    hold(output, stream)
    for number in range(50):
        output.put(str(number))
    stream.reading.set()
    output.drain(20)
    assert stream.getvalue().split("\n") == [
        "first",
        *map(str, range(9)),
        "wsflow: 41 lines were dropped: they were not read in time",
        "",
    ]


def test_there_is_room_again_when_half_of_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a line that says how many were dropped stands for many."""
    stream = replaced(monkeypatch)
    output = Output(lines=10)
    hold(output, stream)
    with output._changed:  # the thread cannot go on
        for number in range(11):
            output.put(str(number))  # 9 of them have room
        for left in (9, 8, 7, 6, 5):
            output._length -= len(output._waiting.pop()[1])
            assert len(output._waiting) == left
            output.put("no")
        assert output._dropped == 7
        output._length -= len(output._waiting.pop()[1])
        output.put("yes")
    stream.reading.set()
    output.drain(20)
    assert stream.getvalue().split("\n") == [
        *("first", "0", "1", "2"),
        "wsflow: 7 lines were dropped: they were not read in time",
        *("yes", ""),
    ]


def test_long_lines_are_dropped_by_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = replaced(monkeypatch)
    output = Output(length=100)
    hold(output, stream)
    for text in ("x" * 200, "x" * 30, "x" * 60, "y" * 90):
        output.put(text)
    stream.reading.set()
    output.drain(20)
    assert stream.getvalue().splitlines() == [
        "first",
        "wsflow: 1 lines were dropped: they were not read in time",
        "x" * 30,
        "wsflow: 2 lines were dropped: they were not read in time",
    ]


def test_waiting_for_the_end_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = replaced(monkeypatch)
    output = Output()
    hold(output, stream)
    output.drain(0.01)
    began = time.monotonic()
    output.drain(100)  # nothing was written since: it would be in vain, too
    assert time.monotonic() - began < 50
    assert not stream.getvalue()
    stream.reading.set()
    output.put("more")
    while not output._written:
        time.sleep(0.001)
    output.drain(20)
    assert stream.getvalue() == "first\nmore\n"


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("no space left")


def test_a_stream_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    output, good = Output(), Stream()
    for stream in (None, Broken(), good):
        monkeypatch.setattr(sys, "stderr", stream)
        output.put("line")
    output.drain(20)
    assert good.getvalue() == "line\n"


def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter ends, or there are too many: nothing is raised, and it is tried again."""
    stream = replaced(monkeypatch)

    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    output = Output()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        output.put("one")
    output.put("two")
    output.drain(20)
    assert stream.getvalue() == "one\ntwo\n"


@contextmanager
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, TextIO]]:
    """Standard error as a pipe: its reading end."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "__stderr__", stream)
        yield reading, stream


def read(reading: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(reading, 65536)
    return data


@pytest.mark.parametrize("blocking", [True, False])
def test_a_pipe_that_is_full(blocking: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is lost or cut while there is room, also if another process has made it
    non-blocking."""
    with pipe(monkeypatch) as (reading, stream):
        os.set_blocking(stream.fileno(), blocking)
        output = Output()
        lines = [f"{number} {'x' * 1000} ä" for number in range(500)]  # of 64 KiB in a pipe
        for line in lines:
            output.put(line)
        output.drain(0.05)
        assert output._waiting
        expected = "".join(f"{line}\n" for line in lines).encode("ascii", "backslashreplace")
        assert read(reading, len(expected)) == expected
        output.drain(20)
        assert not output._waiting


def test_a_pipe_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pipe(monkeypatch) as (reading, _):
        output = Output()
        os.dup2(os.open(os.devnull, os.O_RDONLY), reading)  # the last reader is gone
        output.put("lost")
        output.drain(20)
        assert not output._waiting


def test_finalizers_may_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is safe where the same thread is within ``put``."""
    stream = replaced(monkeypatch)
    output = Output()

    class Text(str):
        def __len__(self) -> int:
            output.put("inner")
            return super().__len__()

    text: Any = Text("outer")
    output.put(text)
    output.drain(20)
    assert sorted(set(stream.getvalue().split())) == ["inner", "outer"]
