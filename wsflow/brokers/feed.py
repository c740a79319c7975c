"""The events of one topic with history in this process: in order, without gaps or duplicates.

Each event names the event before it. As long as they are consecutive, live events are delivered at
once. When there is a gap, or the connection was lost in between, the missing events are read from
the history, and live events wait. One that does not follow from the history, however often that is
read, is no event of it, and is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import final

from wsflow.brokers.base import Mark, before
from wsflow.brokers.engine import EngineConnection, Stamp
from wsflow.brokers.recent import Known, Recent
from wsflow.errors import BrokerError
from wsflow.messages.events import Event, TopicOptions

LOOKS = 2
"""How often the history is read before an event that does not follow from it is dropped."""


@final
class Feed:
    """Receives the events of one topic.

    Args:
        topic: its name.
        options: its history.
        recent: keeps what has come.
        passes: called with each event, in order; returns None if it cannot be read.
        recovers: called with the topic's name when ``recover`` must be run.
        lost: called with the topic's name and what has happened when events are lost.
        alien: called with where and why when something is dropped that is no event of the history.

    Attributes:
        position: the last event that was taken; None until the first position is known.
        gap: the place of the last event before which events are known to be missing.
        cleared: the place before which all events were removed.
        live: set while live events are delivered at once.
        looking: held by who reads the latest events: those who wait for it find them here.
        recent: the events of the history that are here.
        stopped: whether no more events are delivered.
    """

    __slots__ = (
        "_alien",
        "_held",
        "_lost",
        "_passes",
        "_recovering",
        "_recovers",
        "_refused",
        "cleared",
        "gap",
        "live",
        "looking",
        "options",
        "position",
        "recent",
        "stopped",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        options: TopicOptions,
        recent: Recent,
        passes: Callable[[str, Mark, bytes], Event | None],
        recovers: Callable[[str], None],
        lost: Callable[[str, str], None],
        alien: Callable[[str, object], None],
    ) -> None:
        self.topic = topic
        self.options = options
        self.recent = recent
        self.position: Mark | None = None
        self.gap = self.cleared = Mark()
        self.live = asyncio.Event()
        self.looking = asyncio.Lock()
        self._passes = passes
        self._recovers = recovers
        self._lost = lost
        self._alien = alien
        self._held: list[tuple[Stamp, bytes]] = []
        self._recovering = False
        self.stopped = False
        self._refused = False  # it is tried again when the next event comes

    def stop(self) -> None:
        """Deliver no more events, even if the history is still being read."""
        self._passes = _nobody
        self.stopped = True
        self.recent.clear()

    def catch_up(self) -> None:
        """Events may be missing: live events wait until ``recover`` has run."""
        self.live.clear()
        self._recovers(self.topic)

    def behind(self, mark: Mark) -> bool:
        """Whether a mark in the same history is later than what has come here."""
        position = self.position
        return position is None or (mark.epoch == position.epoch and mark.order > position.order)

    def lacks(self, last: Mark) -> bool:
        """Whether the last event of the history has not come here."""
        known = self.position.epoch if self.position is not None else ""
        if not known:
            return bool(last.order)
        return self.behind(last) or bool(last.epoch and last.epoch != known)

    def goes_back_to(self, mark: Mark) -> bool:
        """Whether no events are known to be missing between a mark and the last event taken."""
        assert self.position is not None
        if mark.epoch != self.position.epoch or self.behind(mark):
            return False
        if self.is_cleared(mark):
            return False
        return mark.epoch != self.gap.epoch or mark.order > self.gap.order

    def take(self, stamp: Stamp, data: bytes) -> None:
        """A live event has come."""
        if not self.live.is_set():
            self._held.append((stamp, data))
            if self._refused:
                self._refused = False
                self._recovers(self.topic)
        elif self._begun_anew(stamp) or not self._take_next(stamp, data):
            self._held.append((stamp, data))
            self.catch_up()

    def _begun_anew(self, stamp: Stamp) -> bool:
        """Whether it is the first event of a history, and not later than the last event taken."""
        assert self.position is not None
        return not stamp.previous and stamp.mark.order <= self.position.order

    def _take_next(self, stamp: Stamp, data: bytes) -> bool:
        """Deliver an event, unless it was delivered. Returns False if there may be a gap before
        it."""
        assert self.position is not None
        mark, previous = stamp
        epoch, order = self.position
        if (epoch and mark.epoch != epoch) or previous > order:
            return False
        if mark.order > order:
            self._pass(mark, data)
        return True

    def _pass(self, mark: Mark, data: bytes) -> None:
        assert self.position is not None
        after, self.position = self.position.order, mark
        event = self._passes(self.topic, mark, data)
        if event is not None and event.envelope.clears:
            self.clear(mark)
        elif event is not None:
            self.recent.heard(after, Known(mark.order, event, len(data)))

    def clear(self, mark: Mark) -> None:
        """All events before a place were removed: nobody is to get them any more."""
        if not self.is_cleared(mark):
            self.cleared = mark
            self.recent.clear()
            self.recent.beginning = mark.order

    def is_cleared(self, mark: Mark) -> bool:
        """Whether what follows on a place was removed."""
        return mark.epoch == self.cleared.epoch and mark.order < self.cleared.order

    async def recover(self, connection: EngineConnection) -> None:
        """Read the missing events, then go live. A call during another one returns at once.

        Raises:
            ConnectionLostError: it must run again, on another connection.
            BrokerError: the history cannot be used. What waits is dropped.
        """
        if self._recovering:
            return
        self._recovering = True
        looks = 0
        known: list[tuple[Stamp, bytes]] = []
        try:
            while not self.live.is_set():
                if not looks:
                    known = list(self._held)
                last = await connection.last(self.topic, self.options)
                if self.position is None:
                    self.position = last  # its members receive what comes after this
                else:
                    await self._read(connection, self.position, last)
                looks = (looks + 1) % LOOKS
                if self._let_go() or (not looks and self._drop(known)):
                    self.live.set()
        except BrokerError:
            self._held.clear()
            self._refused = True
            raise
        finally:
            self._recovering = False

    async def _read(self, connection: EngineConnection, position: Mark, last: Mark) -> None:
        """Read and deliver all events up to ``last``."""
        if position.epoch and position.epoch != last.epoch:
            position = self._miss(Mark(last.epoch), "its history was lost at the broker")
        if last.order < position.order and last.order:  # an empty history has expired
            self.gap = position
            self._miss(last, "the end of its history was lost at the broker")
            return
        while last.order > position.order:
            complete, entries, upto = await connection.read(
                self.topic, self.options, position, last
            )
            if position.order and not complete:
                self.gap = position
                self._miss(
                    Mark(last.epoch, before(entries[0][0].order)) if entries else upto,
                    "it may have lost events: its history does not reach back far enough",
                )
            for mark, data in entries:
                self._pass(mark, data)
            if upto.order <= position.order:
                raise BrokerError(f"the history of topic {self.topic!r} cannot be read to its end")
            self.position = position = upto  # the entry itself may have expired by now

    def _miss(self, position: Mark, what: str) -> Mark:
        """Events were lost. Returns the place from which on there are some."""
        self.recent.clear()
        self.position = position
        self._lost(self.topic, what)
        return position

    def _let_go(self) -> bool:
        """Deliver the events that have waited. Returns False if there is a gap again."""
        held, self._held = self._held, []
        for index, (stamp, data) in enumerate(held):
            if not self._take_next(stamp, data):
                self._held = held[index:]
                return False
        return True

    def _drop(self, known: list[tuple[Stamp, bytes]]) -> bool:
        """Drop the events that have waited since before the history was read, and do not follow
        from it. Returns False if there may be a gap before others."""
        old = {id(each) for each in known}
        held, self._held = self._held, []
        for each in held:
            if id(each) not in old:
                self._held.append(each)
            elif not self._take_next(*each):
                self._alien(f"topic {self.topic!r}", "it does not follow from the history")
        return self._let_go()


def _nobody(topic: str, mark: Mark, data: bytes) -> None:
    """Takes the events of a feed that was stopped. Nobody has them."""
