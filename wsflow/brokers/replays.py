"""Replays of histories at a server: who has missed events gets them as he takes them.

Most take what this process has already (``Recent``). The rest is read in pages, one at a time for
each topic and few at a time in all, and each page serves all who wait for it. So a crowd that comes
back costs the server one read of each history, and this process bounded memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, final

from wsflow.brokers.base import Mark, OvertakenError, before
from wsflow.brokers.engine import (
    RETRY,
    ConnectionLostError,
    EngineConnection,
    NoAnswerError,
    settle,
)
from wsflow.brokers.feed import Feed
from wsflow.brokers.recent import Known, Order, Portion
from wsflow.brokers.wire import unpack
from wsflow.errors import BrokerError
from wsflow.log import Log
from wsflow.messages.events import Event, UnreadableError
from wsflow.tasks.detached import start_task

log = Log("wsflow.broker")

READS = 4
"""Pages that are read at a time."""


class Server(Protocol):
    """The broker, as its replays see it."""

    async def connection(self) -> EngineConnection:
        """Wait for a connection."""

    def give_up(self, connection: EngineConnection | None) -> None:
        """The connection is lost."""

    def unreadable(self, where: str, why: object) -> None:
        """An event cannot be read."""


class Waiting(Protocol):
    """Who waits for a part of a history."""

    @property
    def place(self) -> Mark:
        """The place after which it begins."""

    def found(self, result: Portion | BrokerError | None) -> None:
        """The part that was read, the reason why it cannot be, or None if the history does not have
        it any more."""


@final
class Replays:
    """Reads what replays need.

    Args:
        server: has the connection.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._room = asyncio.Semaphore(READS)
        self._waiting: dict[Feed, list[Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Read no more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def want(self, feed: Feed, waiting: Waiting) -> None:
        """Read what somebody waits for."""
        if feed in self._waiting:
            self._waiting[feed].append(waiting)
            return
        self._waiting[feed] = [waiting]
        task = start_task(self._serve(feed), name="wsflow replay")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def find(self, feed: Feed, mark: Mark) -> Mark | None:
        """A place in a history, if all events after it are there; else None.

        Raises:
            BrokerError: the history cannot be read.
        """
        if not feed.goes_back_to(mark):
            return None
        if mark != feed.position and feed.recent.portion(mark.order) is None:
            finding = _Finding(mark)
            self.want(feed, finding)
            if not await finding.done or not feed.goes_back_to(mark):
                return None
        return mark

    async def latest(
        self, connection: EngineConnection, feed: Feed, count: int
    ) -> tuple[Mark, Portion]:
        """The place before the latest events, at most ``count``, and the first of them.

        Raises:
            ConnectionLostError, BrokerError: they cannot be read.
        """
        async with feed.looking:
            upto = feed.position
            assert upto is not None
            nothing = upto, Portion((), upto.order)
            count = min(count, feed.options.history)
            if not upto.order or not count:
                return nothing
            if (found := feed.recent.last(count, upto.order)) is not None:
                return Mark(upto.epoch, found[0]), found[1]
            async with self._room:
                entries = await connection.latest(feed.topic, feed.options, upto, count)
            there = feed.position
            if there is None or there.epoch != upto.epoch:
                return nothing
            known = self.known(feed, entries)
            if not known:
                feed.recent.beginning = upto.order
                return nothing
            order, cleared = before(known[0].order), feed.cleared
            if cleared.epoch == upto.epoch and entries[0][0].order <= cleared.order <= order:
                order = cleared.order
            run = feed.recent.read(order, upto.order, known)
            if len(entries) < count:
                feed.recent.beginning = order
            return Mark(upto.epoch, order), run.portion(order)

    async def _serve(self, feed: Feed) -> None:
        """Read one page after the other, as long as somebody waits."""
        try:
            while self._look(feed):
                try:
                    async with self._room:
                        if self._look(feed):
                            await self._read(feed)
                except NoAnswerError as exc:
                    log.often(logging.WARNING, "a replay of topic %r waits: %s", feed.topic, exc)
                    await asyncio.sleep(RETRY)
        finally:
            del self._waiting[feed]

    def _look(self, feed: Feed) -> bool:
        """Give each what he waits for, if it is here. Returns whether somebody waits still."""
        waiting, self._waiting[feed] = self._waiting[feed], []
        for each in waiting:
            place, position = each.place, feed.position
            here = position is not None and place.epoch == position.epoch and not feed.stopped
            if not here:
                each.found(None)
            elif feed.is_cleared(place):
                each.found(Portion((), place.order))  # it looks again, and sees that
            elif position is not None and place.order >= position.order:
                each.found(Portion((), place.order))
            elif (portion := feed.recent.portion(place.order)) is not None:
                each.found(portion)
            else:
                self._waiting[feed].append(each)
        return bool(self._waiting[feed])

    async def _read(self, feed: Feed) -> None:
        """Read a page that begins with what is wanted first. It is kept at least until they have
        looked for it."""
        start = min(each.place for each in self._waiting[feed])
        connection = await self._server.connection()
        upto = feed.position
        if upto is None or upto.epoch != start.epoch:
            return
        following = feed.recent.next(start.order)
        if following is not None:
            upto = Mark(upto.epoch, min(following, upto.order))
        try:
            complete, entries, end = await connection.read(feed.topic, feed.options, start, upto)
        except ConnectionLostError:
            self._server.give_up(connection)
        except NoAnswerError:
            raise
        except BrokerError as exc:
            self._tell(feed, exc, start.order)
        else:
            position = feed.position
            if not feed.stopped and position is not None and position.epoch == start.epoch:
                self._keep(feed, start, complete, entries, end if end.order > start.order else upto)

    def _keep(
        self,
        feed: Feed,
        start: Mark,
        complete: bool,
        entries: Sequence[tuple[Mark, bytes]],
        end: Mark,
    ) -> None:
        """A page was read: keep it. Who waits for what is not in the history any more is told; also
        who has named a place in it where there was no event."""
        known = self.known(feed, entries)
        if feed.is_cleared(start):
            return
        first = entries[0][0].order if entries else end.order
        after = start.order if complete else before(first) if entries else end.order
        run = feed.recent.read(after, end.order, known)
        if not start.order:
            self._tell(feed, run.portion(after), ())
        elif not complete:
            places = {each.place.order for each in self._waiting[feed]}
            self._tell(feed, None, *(each for each in places if start.order <= each < first))

    def _tell(self, feed: Feed, found: Portion | BrokerError | None, *places: Order) -> None:
        """Tell those who wait at some places."""
        waiting, self._waiting[feed] = self._waiting[feed], []
        for each in waiting:
            if each.place.order in places:
                each.found(found)
            else:
                self._waiting[feed].append(each)

    def known(self, feed: Feed, entries: Iterable[tuple[Mark, bytes]]) -> Sequence[Known]:
        """The events of a part of a history; those that were removed meanwhile are not among
        them."""
        known: list[Known] = []
        for mark, data in entries:
            try:
                event = Event(str(mark), unpack(data).envelope)
            except UnreadableError as exc:
                self._server.unreadable(f"the history of topic {feed.topic!r}", exc)
                continue
            if event.envelope.clears:
                known.clear()
                feed.clear(mark)
            else:
                known.append(Known(mark.order, event, len(data)))
        return known


@final
class _Finding:
    """Waits until it is known whether a history goes back to a place."""

    def __init__(self, place: Mark) -> None:
        self.place = place
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def found(self, result: Portion | BrokerError | None) -> None:
        settle(self.done, result if isinstance(result, BrokerError) else result is not None)


@final
class StoredReplay:
    """What a member has missed of a history.

    Args:
        replays: reads what is not here.
        feed: the topic.
        place: after which it begins.
        recovered: whether nothing is missing before that.
        found: its first events, if they are known.

    Attributes:
        place: the last place that was taken.
        recovered: whether nothing is missing before the first one.
        cleared: how often the history was cleared meanwhile.
    """

    def __init__(
        self,
        replays: Replays,
        feed: Feed,
        place: Mark,
        recovered: bool,
        found: Portion | None = None,
    ) -> None:
        self._replays = replays
        self._feed = feed
        self._ready: Callable[[], None] | None = None  # while it waits
        self._found: Portion | BrokerError | None = found
        self._lost = False
        self.place = place
        self.recovered = recovered
        self.cleared = 0

    def found(self, result: Portion | BrokerError | None) -> None:
        self._found, self._lost = result, result is None
        ready, self._ready = self._ready, None
        assert ready is not None, "it waits for this"
        ready()

    def take(self, ready: Callable[[], None]) -> Sequence[Event] | None:
        feed, recent = self._feed, self._feed.recent
        if self._ready is not None:
            self._ready = ready
            return None
        found, self._found = self._found, None
        if isinstance(found, BrokerError):
            raise found
        lost, self._lost = self._lost, False
        if feed.is_cleared(self.place):
            self.place, found, lost = feed.cleared, None, False
            self.cleared += 1
        if lost and feed.position is not None and feed.position.epoch == self.place.epoch:
            self.place = Mark(self.place.epoch)  # it goes on with what is left
            raise OvertakenError
        while True:
            if found is not None:
                self.place = Mark(self.place.epoch, found.upto)
                if found.events:
                    return found.events
            position = feed.position
            assert position is not None
            if self.place.epoch != position.epoch:
                lost, self.place = bool(self.place.epoch), Mark(position.epoch)
                if lost:
                    raise OvertakenError
            if self.place.order >= position.order:
                return ()
            found = recent.portion(self.place.order)
            if found is None:
                self._ready = ready
                self._replays.want(feed, self)
                return None
