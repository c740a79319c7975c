"""One topic with history, as this process hears it: what has come, and whether anything is missing.

Each event says which one was before it. As long as one follows the other, events go straight on.
When one does not, or the connection was lost in between, what is missing is read from the history,
and live events wait: no gap, nothing twice, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import final

from wsflow.brokers.base import Mark
from wsflow.brokers.engine import EngineConnection, Stamp
from wsflow.messages.events import TopicOptions


@final
class Feed:
    """What this process hears of one topic.

    Args:
        topic: its name.
        options: its history.
        passes: takes each event, in order.
        recovers: is called when somebody must run ``recover``.
        lost: is told when events are gone for good.

    Attributes:
        position: the last event that was taken; None until it is known where to begin.
        gap: the place of the last event before which the history is known to lack some.
        live: set while events go straight on.
    """

    __slots__ = (
        "_held",
        "_lost",
        "_passes",
        "_recovering",
        "_recovers",
        "gap",
        "live",
        "options",
        "position",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        options: TopicOptions,
        passes: Callable[[str, Mark, bytes], None],
        recovers: Callable[[str], None],
        lost: Callable[[str], None],
    ) -> None:
        self.topic = topic
        self.options = options
        self.position: Mark | None = None
        self.gap = Mark()
        self.live = asyncio.Event()
        self._passes = passes
        self._recovers = recovers
        self._lost = lost
        self._held: list[tuple[Stamp, bytes]] = []
        self._recovering = False

    def stop(self) -> None:
        """Nobody wants to hear it any more, whatever is still being read."""
        self._passes = _nobody

    def catch_up(self) -> None:
        """Something may be missing: live events wait until ``recover`` has run."""
        self.live.clear()
        self._recovers(self.topic)

    def behind(self, mark: Mark) -> bool:
        """Whether somebody has seen more of this history than has come here."""
        position = self.position
        return position is None or (mark.epoch == position.epoch and mark.order > position.order)

    def goes_back_to(self, mark: Mark) -> bool:
        """Whether nothing is known to be missing between a place and the last event taken."""
        assert self.position is not None
        if mark.epoch != self.position.epoch or self.behind(mark):
            return False
        return mark.epoch != self.gap.epoch or mark.order > self.gap.order

    def take(self, stamp: Stamp, data: bytes) -> None:
        """A live event has come."""
        if not self.live.is_set():
            self._held.append((stamp, data))
        elif self._begun_anew(stamp) or not self._take_next(stamp, data):
            self._held.append((stamp, data))
            self.catch_up()

    def _begun_anew(self, stamp: Stamp) -> bool:
        """Whether it is the first of a history, and not later than what was there before."""
        assert self.position is not None
        return not stamp.previous and stamp.mark.order <= self.position.order

    def _take_next(self, stamp: Stamp, data: bytes) -> bool:
        """Take an event, unless it has been taken. False if something may be before it."""
        assert self.position is not None
        mark, previous = stamp
        epoch, order = self.position
        if (epoch and mark.epoch != epoch) or previous > order:
            return False
        if mark.order > order:
            self._pass(mark, data)
        return True

    def _pass(self, mark: Mark, data: bytes) -> None:
        self.position = mark
        self._passes(self.topic, mark, data)

    async def recover(self, connection: EngineConnection) -> None:
        """Take what is missing, then go live. One at a time: a second call leaves it to the first.

        Raises:
            ConnectionLostError: then it must run again, on another connection.
            BrokerError: the history cannot be used.
        """
        if self._recovering:
            return
        self._recovering = True
        try:
            while not self.live.is_set():
                last = await connection.last(self.topic, self.options)
                if self.position is None:
                    self.position = last  # it begins here: what was before is not for its members
                else:
                    await self._read(connection, self.position, last)
                if self._let_go():
                    self.live.set()
        finally:
            self._recovering = False

    async def _read(self, connection: EngineConnection, position: Mark, last: Mark) -> None:
        """Take all events up to ``last``."""
        if position.epoch and position.epoch != last.epoch:
            self._lost(f"the history of topic {self.topic!r} was lost at the broker")
            position = self.position = Mark(last.epoch)
        if last.order < position.order and last.order:  # without any, they were too old
            self.gap, self.position = position, last
            self._lost(f"the end of the history of topic {self.topic!r} was lost at the broker")
        if last.order <= position.order:
            return
        complete, entries = await connection.read(self.topic, self.options, position, last)
        if position.order and not complete:
            self.gap = position
            self._lost(
                f"topic {self.topic!r} may have lost events: its history does not go back enough"
            )
        for mark, data in entries:
            self._pass(mark, data)
        self.position = last  # the entry itself may be gone by now

    def _let_go(self) -> bool:
        """Take what was held. False if something is missing again."""
        held, self._held = self._held, []
        for index, (stamp, data) in enumerate(held):
            if not self._take_next(stamp, data):
                self._held = held[index:]
                return False
        return True


def _nobody(topic: str, mark: Mark, data: bytes) -> None:
    """Stands where nobody listens any more."""
