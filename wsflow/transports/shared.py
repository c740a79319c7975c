"""What the transports of one event loop share."""

from __future__ import annotations

import asyncio
from typing import Protocol, final

READ_BYTES = 3 * 1024
"""The most that is read from one socket before others get their turn."""


class Writer(Protocol):
    """Something that has bytes to write."""

    def flush(self) -> None:
        """Write them."""


@final
class Shared:
    """What the transports of one event loop have in common.

    Attributes:
        loop: the event loop.
        buffer: what they read into, one after the other; nothing stays in it.
        greedy: whether the loop goes on reading one socket as long as that fills the buffer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.greedy = not isinstance(loop, asyncio.BaseEventLoop)  # as libuv does
        self._writers: list[Writer] = []

    def flush_later(self, writer: Writer) -> None:
        """Have it write when this turn of the event loop ends."""
        if not self._writers:
            self.loop.call_soon(self._flush)
        self._writers.append(writer)

    def _flush(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.flush()
