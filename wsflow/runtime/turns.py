"""The replays of all connections take turns, so that nobody else waits for them.

However many peers come back at once, each iteration of the event loop sends a part of one replay.
"""

from __future__ import annotations

from typing import Protocol, final

from wsflow.tasks.waiting import Clock


class Replaying(Protocol):
    """A connection that has a replay to send."""

    def replay_on(self) -> None:
        """Send a part of it."""


@final
class Turns:
    """Who sends a part of a replay next."""

    def __init__(self) -> None:
        self._waiting: dict[Replaying, Clock] = {}
        self._running = False

    def want(self, who: Replaying, clock: Clock) -> None:
        """Have a connection send a part of its replay when it is its turn. Idempotent."""
        self._waiting[who] = clock
        if not self._running:
            self._running = True
            clock.after(0, self._next)

    def _next(self) -> None:
        who = next(iter(self._waiting))
        del self._waiting[who]
        try:
            who.replay_on()
        finally:
            self._running = False
            if self._waiting:
                self.want(*next(iter(self._waiting.items())))
