"""The memory that received messages of all connections take once they are decoded."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Protocol, final

from wsflow.log import Log

log = Log("wsflow")


class Waiting(Protocol):
    """A connection whose message waits for memory."""

    def granted(self, size: int) -> None:
        """It has the memory that it waited for. Called in any task, or where there is none."""


@final
class Memory:
    """Bounds what the messages of all connections take, in bytes, about.

    A large message is decoded once the others have left room for it, in the order in which they
    came: one alone always may. Small ones are only counted while they wait for their consumers.

    Args:
        most: bytes of large messages that may be decoded at a time; 0 for no limit.
        counters: counts messages that had to wait, as ``deferred``.

    Attributes:
        small: bytes of the small messages that wait for their consumers.
    """

    def __init__(self, most: int, counters: Counter[str]) -> None:
        self._most = most
        self._counters = counters
        self._large = 0
        self._queue: dict[Waiting, int] = {}
        self.small = 0

    @property
    def scarce(self) -> bool:
        """Whether so many small messages wait that each connection should have one at most."""
        return 0 < self._most < self.small

    def take(self, who: Waiting, size: int) -> bool:
        """Take memory for a large message, at once if there is room for it. Else ``who`` is granted
        it later. Returns whether it was taken."""
        if not self._queue and self._fits(size):
            self._large += size
            return True
        self._queue[who] = size
        self._counters["deferred"] += 1
        log.often(
            logging.WARNING,
            "a message that takes about %d bytes once it is decoded waits until others are "
            "handled, which take %d: inbox_total_bytes is %d",
            size,
            self._large,
            self._most,
        )
        return False

    def grant(self, who: Waiting) -> None:
        """Grant it what it waits for, beyond the limit. Without effect if it does not wait."""
        size = self._queue.pop(who, None)
        if size is not None:
            self._large += size
            who.granted(size)
            self._grant()

    def take_more(self, size: int) -> None:
        """Take memory beyond the limit."""
        self._large += size

    def give_back(self, size: int) -> None:
        """Large messages were handled, or dropped."""
        self._large -= size
        self._grant()

    def leave(self, who: Waiting) -> None:
        """It does not wait any more. Idempotent."""
        self._queue.pop(who, None)
        self._grant()

    def _fits(self, size: int) -> bool:
        return not (self._most and self._large) or self._large + size <= self._most

    def _grant(self) -> None:
        while self._queue:
            who, size = next(iter(self._queue.items()))
            if not self._fits(size):
                return
            del self._queue[who]
            self._large += size
            who.granted(size)
