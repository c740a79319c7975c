"""Standard error of a command. What is written there never waits for the one who reads it.

A terminal that is stopped, or a pipe that nobody reads, must not stop a server. So lines are
queued, and a daemon thread writes them, directly to the file descriptor: no lock of a stream is
held while it waits. ``logging.handlers.QueueListener`` cannot do this: its ``stop`` waits without a
limit, and its handler holds its lock while it writes, so that ``logging.shutdown`` waits for it.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections import deque
from itertools import islice
from typing import TextIO, final

MAX_LINES = 10_000
MAX_LENGTH = 8 * 2**20
"""The most lines and characters that wait to be written; further lines are dropped."""

AT_THE_END = 1.0
"""Seconds that a process waits at its end for what is still to be written."""

BATCH = 100
"""Lines that are written at once."""


@final
class Output:
    """Lines on their way to ``sys.stderr``.

    Safe to use from all threads, from finalizers and signal handlers.

    Args:
        lines: the most lines that wait.
        length: the most characters that wait.
    """

    def __init__(self, lines: int = MAX_LINES, length: int = MAX_LENGTH) -> None:
        self._most = lines, length
        self._changed = threading.Condition(threading.RLock())
        self._waiting: deque[tuple[TextIO, str]] = deque()
        self._length = 0  # of those that wait
        self._dropped = 0
        self._written = 0  # how many, in all
        self._stuck = -1  # how many there were when ``drain`` waited in vain
        self._thread: threading.Thread | None = None

    def put(self, text: str) -> None:
        """Write a text and the end of the line. Does not wait, and does not raise.

        What there is no room for is dropped. As soon as half of the room is free again, a line says
        how many were dropped.
        """
        stream = sys.stderr
        if stream is None:  # a process without standard error
            return
        with self._changed:
            share = 2 if self._dropped else 1
            lines, length = (each // share for each in self._most)
            if len(self._waiting) >= lines or self._length + len(text) > length:
                self._dropped += 1
                return
            self._tell_dropped(stream)
            self._append(stream, text)
            if self._thread is None or not self._thread.is_alive():  # of a forked process, too
                with contextlib.suppress(RuntimeError):  # the interpreter ends
                    self._thread = threading.Thread(
                        target=self._write_all, name="wsflow stderr", daemon=True
                    )
                    self._thread.start()
            self._changed.notify_all()

    def drain(self, seconds: float = AT_THE_END) -> None:
        """Wait until all is written, for at most so many seconds; if nothing was written since that
        was in vain, not again."""
        until = time.monotonic() + seconds
        with self._changed:
            while self._waiting and self._written != self._stuck:
                left = until - time.monotonic()
                if left <= 0:
                    self._stuck = self._written
                else:
                    self._changed.wait(left)

    def _append(self, stream: TextIO, text: str) -> None:
        self._waiting.append((stream, f"{text}\n"))
        self._length += len(text) + 1

    def _tell_dropped(self, stream: TextIO) -> None:
        if self._dropped:
            number, self._dropped = self._dropped, 0
            self._append(stream, f"wsflow: {number} lines were dropped: they were not read in time")

    # -- the thread

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                stream = self._waiting[0][0]
                batch = [text for to, text in islice(self._waiting, BATCH) if to is stream]
                batch = batch if len(batch) == min(BATCH, len(self._waiting)) else batch[:1]
            _write(stream, "".join(batch))
            with self._changed:
                for text in batch:  # they count as waiting until they are written
                    self._waiting.popleft()
                    self._length -= len(text)
                self._written += len(batch)
                if not self._waiting:
                    self._tell_dropped(stream)
                self._changed.notify_all()


def _write(stream: TextIO, text: str) -> None:
    """Write a text, however long that takes. It is lost if it cannot be written."""
    with contextlib.suppress(Exception):  # the pipe is closed, the disk is full
        if stream is not sys.__stderr__:  # replaced: it need not have a descriptor
            stream.write(text)
            stream.flush()
            return
        data = text.encode(stream.encoding, "backslashreplace")
        while data:
            try:
                data = data[os.write(stream.fileno(), data) :]
            except BlockingIOError:  # another process has made it non-blocking
                select.select([], [stream], [])


stderr = Output()
"""The one of this process."""
