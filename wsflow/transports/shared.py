"""The shared state of the transports of one event loop."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import Protocol, final

from wsflow.tasks.detached import on_trio

READ_BYTES = 3 * 1024
"""The most bytes that are read from one socket before others get their turn."""


class Writer(Protocol):
    """An object that has buffered bytes."""

    def flush(self) -> None:
        """Write the buffered bytes."""


@final
class Shared:
    """The shared state of the transports of one event loop.

    Attributes:
        loop: the event loop.
        buffer: the buffer for all reads; each read is copied out of it at once.
        from_loop: whether the loop itself calls them, and no task is current meanwhile. On Trio a
            task has it turn.
        greedy: whether the loop keeps reading from one socket as long as that fills the buffer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.from_loop = not on_trio()
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.greedy = not isinstance(loop, asyncio.BaseEventLoop)  # as libuv does
        self._writers: list[Writer] = []
        self._date = (0, "")

    @property
    def date(self) -> str:
        """The time of the day as HTTP writes it (RFC 9110 §5.6.7), formatted once a second."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True))
        return self._date[1]

    def flush_later(self, writer: Writer) -> None:
        """Call its ``flush`` at the end of this iteration of the event loop."""
        if not self._writers:
            self.loop.call_soon(self._flush)
        self._writers.append(writer)

    def _flush(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.flush()
