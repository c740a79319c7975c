"""Deadlines of what is to be received."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, final

import anyio

from wsflow.tasks.detached import checkpoint

LOOK = 0.001
"""Seconds in which an event loop reads what has come. uvloop counts in milliseconds."""

LOOKS = 2048
"""How often a deadline looks again because something has come. Each is a read or more that fills
the buffer: together they are as much as a kernel buffers for a socket (6 MiB on Linux)."""

SHORT = 64
"""How many looks a read takes that does not fill the buffer. Over TLS more may lie behind it, once
in 256 KiB. Else that was all, and a peer that sends byte after byte gains nothing by it."""


async def look() -> None:
    """Wait until what has come is read: somebody's time is over."""
    await anyio.sleep(LOOK)
    await checkpoint()  # Trio wakes who sleeps and who reads together, in any order


class Reading(Protocol):
    """What reads.

    Attributes:
        reads: grows whenever it reads something, or goes on to read.
        full: whether the last time filled the buffer, so that there may be more.
    """

    @property
    def reads(self) -> int: ...
    @property
    def full(self) -> bool: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...


@final
class Deadline:
    """A timer that looks at what has come before it says that it is late.

    What it waits for may lie in the socket's buffer: uvloop runs timers before it reads, and the
    process may have been stopped, or its event loop blocked.

    Args:
        of: what reads.
        seconds: until then.
        late: called if it was not cancelled, once nothing more comes.
    """

    __slots__ = ("_late", "_looks", "_of", "_timer")

    def __init__(self, of: Reading, seconds: float, late: Callable[[], None]) -> None:
        self._of = of
        self._late = late
        self._looks = LOOKS
        self._timer = of.loop.call_later(seconds, self._look)

    def cancel(self) -> None:
        """It was met. Idempotent."""
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._of.loop.call_later(LOOK, self._looked, self._of.reads)

    def _looked(self, reads: int) -> None:
        if reads != self._of.reads and self._looks > 0:
            self._looks -= 1 if self._of.full else SHORT
            self._look()
        else:
            self._late()
