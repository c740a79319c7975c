"""Replays from a history at a server: read once for all, in pages, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from wsflow.brokers import recent, replays
from wsflow.brokers.base import Mark, OvertakenError
from wsflow.brokers.engine import ConnectionLostError, NoAnswerError, Stamp, Stored
from wsflow.brokers.feed import Feed
from wsflow.brokers.recent import Recent, Total
from wsflow.brokers.replays import READS, Replays, StoredReplay
from wsflow.brokers.wire import pack, unpack
from wsflow.errors import BrokerError
from wsflow.messages.events import Envelope, Event, TopicOptions

DATA = pack(Envelope({}), "p", 1, again=False)
CLEARED = pack(Envelope({}, clears=True), "p", 1, again=False)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    with anyio.fail_after(10):
        yield


def at(number: int, epoch: str = "a") -> Mark:
    return Mark(epoch, (number,) if number else ())


class Server:
    """A broker with a history of the numbers from ``first`` on, to be read page by page."""

    def __init__(self, last: int = 100, *, page: int = 30) -> None:
        self.first = 1
        self.last = last
        self.page = page
        self.reads: list[tuple[int, int]] = []
        self.reading = self.most = 0
        self.failing: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.given_up = 0
        self.garbage: set[int] = set()
        self.gaps: set[int] = set()
        self.latest_reads = 0
        self.clears: set[int] = set()
        self.told: list[str] = []
        self.connecting: Callable[[], None] = lambda: None

    async def connection(self) -> Any:
        self.connecting()
        return self

    def give_up(self, connection: Any) -> None:
        self.given_up += 1

    def unreadable(self, where: str, why: object) -> None:
        self.told.append(where)

    async def is_read(self, pages: int = 1) -> None:
        """Wait until so many pages are being read."""
        while self.reading < pages:
            await asyncio.sleep(0)

    async def read(self, topic: str, options: TopicOptions, after: Mark, upto: Mark) -> Stored:
        start = after.order[0] if after.order else 0
        self.reads.append((start, upto.order[0]))
        self.reading += 1
        self.most = max(self.most, self.reading)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.reading -= 1
        if self.failing:
            raise self.failing.pop(0)
        complete = start >= self.first
        complete = complete and start not in self.gaps
        there = range(max(start + 1, self.first), upto.order[0] + 1)
        numbers = [number for number in there if number not in self.gaps][: self.page]
        data = dict.fromkeys(self.garbage, b"?") | dict.fromkeys(self.clears, CLEARED)
        entries = [(at(number, upto.epoch), data.get(number, DATA)) for number in numbers]
        end = upto if not numbers or numbers[-1] == upto.order[0] else at(numbers[-1], upto.epoch)
        return Stored(complete, entries, end)

    async def latest(
        self, topic: str, options: TopicOptions, upto: Mark, count: int
    ) -> list[tuple[Mark, bytes]]:
        self.latest_reads += 1
        await self.gate.wait()
        await asyncio.sleep(0)
        if self.failing:
            raise self.failing.pop(0)
        numbers = [*range(self.first, upto.order[0] + 1)][-count:]
        return [(at(number), CLEARED if number in self.clears else DATA) for number in numbers]


def feed_of(server: Server, total: Total | None = None, topic: str = "t") -> Feed:
    options = TopicOptions(history=1000)
    kept = Recent(options, total or Total())

    def passes(topic: str, mark: Mark, data: bytes) -> Event:
        return Event(str(mark), unpack(data).envelope)

    def ignore(*_: Any) -> None: ...

    feed = Feed(topic, options, kept, passes, ignore, ignore, ignore)
    feed.position = at(server.last)
    feed.live.set()
    return feed


def hear(feed: Feed, data: bytes = DATA) -> int:
    """The next event comes."""
    assert feed.position is not None
    last = feed.position.order[0]
    feed.take(Stamp(at(last + 1), (last,)), data)
    return last + 1


async def taken(replay: StoredReplay) -> list[int]:
    """All that a replay has."""
    numbers: list[int] = []
    while True:
        more = asyncio.Event()
        events = replay.take(more.set)
        if events is None:
            await more.wait()
        elif not events:
            return numbers
        else:
            numbers += [int(each.id.rpartition("-")[2]) for each in events]


async def test_a_page_serves_all_who_wait() -> None:
    server = Server()
    feed, reader = feed_of(server), Replays(server)
    found = await asyncio.gather(*(reader.find(feed, at(10 + i)) for i in range(20)))
    assert found == [at(10 + i) for i in range(20)]
    assert server.reads == [(10, 100)]
    crowd = [StoredReplay(reader, feed, at(10 + i % 20), True) for i in range(200)]
    everything = await asyncio.gather(*map(taken, crowd))
    assert everything == [[*range(11 + i % 20, 101)] for i in range(200)]
    assert server.reads == [(10, 100), (40, 100), (70, 100)]


@pytest.mark.parametrize("count", [1, 30, 90, 500])
async def test_the_latest_events_are_read_once_for_all_who_want_them(count: int) -> None:
    """Also where the history has not as many, and while others come."""
    server = Server()
    server.first = 11
    feed, reader = feed_of(server), Replays(server)
    connection: Any = server
    server.gate.clear()
    asking = [asyncio.ensure_future(reader.latest(connection, feed, count)) for _ in range(50)]
    await asyncio.sleep(0)
    assert hear(feed) == 101
    server.gate.set()
    for index, (place, found) in enumerate(await asyncio.gather(*asking)):
        upto = 101 if index else 100
        first = max(upto - count + 1, 11)
        replay = StoredReplay(reader, feed, place, False, found)
        assert (await taken(replay))[: count + 1] == [*range(first, 102)][: count + 1]
    assert server.latest_reads == 1
    assert server.reads == []
    small, _ = await reader.latest(connection, feed, 1)
    assert small == at(100)
    assert server.latest_reads == 1


async def test_the_latest_events_that_are_not_there() -> None:
    server = Server()
    feed, reader = feed_of(server), Replays(server)
    connection: Any = server
    server.failing = [BrokerError("no room")]
    with pytest.raises(BrokerError, match="no room"):
        await reader.latest(connection, feed, 5)
    server.first = 101  # all have expired
    place, found = await reader.latest(connection, feed, 5)
    assert (place, [*found.events]) == (at(100), [])
    reads = server.latest_reads
    assert (await reader.latest(connection, feed, 5))[0] == at(100)
    assert server.latest_reads == reads  # that is known by now
    feed = feed_of(server)
    server.first, server.clears = 1, {98}
    place, found = await reader.latest(connection, feed, 5)
    assert [each.id for each in found.events] == ["a-99", "a-100"]
    assert place == at(98)
    reads = server.latest_reads
    assert (await reader.latest(connection, feed, 5)) == (place, found)
    assert server.latest_reads == reads
    feed.position = Mark("a")
    assert (await reader.latest(connection, feed, 5))[0] == Mark("a")


async def test_what_comes_while_a_page_is_read() -> None:
    server = Server()
    feed, reader = feed_of(server), Replays(server)
    server.gate.clear()
    replay = StoredReplay(reader, feed, at(80), True)
    taking = asyncio.ensure_future(taken(replay))
    await server.is_read()
    new = [hear(feed) for _ in range(100)]
    server.gate.set()
    assert await taking == [*range(81, 101), *new]
    assert server.reads == [(80, 100)]


async def test_few_pages_are_read_at_a_time() -> None:
    server = Server()
    reader, total = Replays(server), Total()
    feeds = [feed_of(server, total, f"t{number}") for number in range(20)]
    await asyncio.gather(*(reader.find(feed, at(50)) for feed in feeds))
    assert server.most == READS
    assert len(server.reads) == 20


@pytest.mark.parametrize("room", [1, 20_000])
async def test_with_hardly_any_memory_it_goes_on(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "RECENT_BYTES", room)
    server = Server()
    total = Total()
    feeds = [feed_of(server, total, f"t{number}") for number in range(5)]
    reader = Replays(server)
    crowd = [StoredReplay(reader, feed, at(10 + i), True) for feed in feeds for i in range(20)]
    everything = await asyncio.gather(*map(taken, crowd))
    assert everything == [[*range(11 + i, 101)] for _ in feeds for i in range(20)]
    assert total._bytes < max(room, 40_000)


async def test_a_connection_that_is_lost_while_it_reads() -> None:
    server = Server()
    feed, reader = feed_of(server), Replays(server)
    server.failing = [ConnectionLostError("gone")] * 3
    assert await taken(StoredReplay(reader, feed, at(90), True)) == [*range(91, 101)]
    assert server.given_up == 3


async def test_a_history_that_is_not_answered_for_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replays, "RETRY", 0.0)
    server = Server()
    reader, total = Replays(server), Total()
    feeds = [feed_of(server, total, f"t{number}") for number in range(READS + 1)]
    server.failing = [NoAnswerError("silence")] * 50
    crowd = [StoredReplay(reader, feed, at(90), True) for feed in feeds]
    everything = await asyncio.gather(*map(taken, crowd))
    assert everything == [[*range(91, 101)]] * len(feeds)


async def test_a_history_that_cannot_be_read() -> None:
    server = Server()
    feed, reader = feed_of(server), Replays(server)
    server.failing = [BrokerError("no")]
    finding = asyncio.ensure_future(reader.find(feed, at(20)))
    replay = StoredReplay(reader, feed, at(10), True)
    with pytest.raises(BrokerError, match="no"):
        await taken(replay)
    assert await finding == at(20)  # a refusal is of the place that was read
    server.failing = [BrokerError("no")]
    with pytest.raises(BrokerError, match="no"):
        await reader.find(feed, at(5))


async def test_a_history_that_does_not_go_back_so_far() -> None:
    server = Server()
    server.first = 50
    feed, reader = feed_of(server), Replays(server)
    found = await asyncio.gather(*(reader.find(feed, at(number)) for number in (10, 49, 50, 60)))
    assert found == [None, None, at(50), at(60)]
    assert await reader.find(feed, at(11)) is None
    assert server.reads == [(10, 100), (11, 49)]
    for known in (True, False):
        replay = StoredReplay(reader, feed, at(40), True)
        with pytest.raises(OvertakenError):
            await taken(replay)
        assert await taken(replay) == [*range(50, 101)]
        if known:
            feed.recent.clear()


@pytest.mark.parametrize("kept", [True, False])
async def test_a_place_that_is_no_event_hurts_nobody_else(kept: bool) -> None:
    """As of another topic in the same stream, or a forged one."""
    server = Server()
    server.gaps = {17, 50}
    feed, reader = feed_of(server), Replays(server)
    replay = StoredReplay(reader, feed, at(5), True)
    assert await reader.find(feed, at(50)) is None
    if not kept:
        feed.recent.clear()
    found = await asyncio.gather(*(reader.find(feed, at(number)) for number in (5, 17, 16, 49)))
    assert found == [at(5), at(17), at(16), at(49)]  # behind the last of them nothing is missing
    assert await taken(replay) == [n for n in range(6, 101) if n not in server.gaps]


async def test_who_asks_for_more_while_a_place_is_read_that_is_no_event() -> None:
    """What was read says nothing of what is before it."""
    server = Server()
    server.gaps = {50}
    feed, reader = feed_of(server), Replays(server)
    server.gate.clear()
    forged = asyncio.ensure_future(reader.find(feed, at(50)))
    await server.is_read()
    earlier = asyncio.ensure_future(reader.find(feed, at(20)))
    await asyncio.sleep(0)
    server.gate.set()
    assert await forged is None
    assert await earlier == at(20)


async def test_an_empty_history() -> None:
    server = Server(page=0)
    server.first = 1000
    feed, reader = feed_of(server), Replays(server)
    assert await reader.find(feed, at(40)) is None
    assert await reader.find(feed, at(100)) == at(100)
    replay = StoredReplay(reader, feed, at(40), True)
    with pytest.raises(OvertakenError):
        await taken(replay)
    assert await taken(replay) == []


async def test_what_cannot_be_read_is_told_and_left_out() -> None:
    server = Server()
    server.garbage = {92, 100}
    feed, reader = feed_of(server), Replays(server)
    expected = [n for n in range(91, 100) if n != 92]
    assert await taken(StoredReplay(reader, feed, at(90), True)) == expected
    assert server.told == ["the history of topic 't'"] * 2
    server.garbage = {*range(91, 101)}
    feed.recent.clear()
    assert await taken(StoredReplay(reader, feed, at(90), True)) == []


@pytest.mark.parametrize("known", [True, False])
async def test_a_history_that_is_begun_anew(known: bool) -> None:
    server = Server()
    feed, reader = feed_of(server), Replays(server)
    replay = StoredReplay(reader, feed, at(40) if known else Mark(), known)
    if known:
        server.gate.clear()
        more = asyncio.Event()
        assert replay.take(more.set) is None
        await server.is_read()
        feed.recent.clear()
        feed.position = at(5, "b")
        server.gate.set()
        await more.wait()
        with pytest.raises(OvertakenError):
            replay.take(lambda: None)
    else:  # there was no history at all
        feed.position = at(5, "b")
    assert await taken(replay) == [1, 2, 3, 4, 5]


async def test_a_history_that_is_begun_anew_while_there_is_no_connection() -> None:
    server = Server()
    feed, reader = feed_of(server), Replays(server)

    def anew() -> None:
        feed.recent.clear()
        feed.position = at(5, "b")

    server.connecting = anew
    assert await reader.find(feed, at(40)) is None
    assert server.reads == []


async def test_what_comes_while_there_is_no_room_to_read() -> None:
    """It is not read any more."""
    server = Server()
    reader, total = Replays(server), Total()
    feeds = [feed_of(server, total, f"t{number}") for number in range(READS + 1)]
    server.gate.clear()
    finding = [asyncio.ensure_future(reader.find(feed, at(99))) for feed in feeds]
    await server.is_read(READS)
    feeds[-1].recent.read((98,), (100,), [])
    server.gate.set()
    assert await asyncio.gather(*finding) == [at(99)] * len(feeds)
    assert len(server.reads) == READS


async def test_a_history_whose_end_is_lost() -> None:
    server = Server()
    feed, reader = feed_of(server), Replays(server)
    server.gate.clear()
    replay = StoredReplay(reader, feed, at(40), True)
    taking = asyncio.ensure_future(taken(replay))
    await server.is_read()
    feed.recent.clear()
    feed.position = at(30)
    server.gate.set()
    assert await taking == []


async def test_what_is_removed_while_it_is_read() -> None:
    """The page comes too late, and is not kept."""
    server = Server()
    feed, reader = feed_of(server), Replays(server)
    server.gate.clear()
    replay = StoredReplay(reader, feed, at(50), True)
    taking = asyncio.ensure_future(taken(replay))
    finding = asyncio.ensure_future(reader.find(feed, at(60)))
    await server.is_read()
    assert hear(feed, CLEARED) == 101
    assert hear(feed) == 102
    server.gate.set()
    assert await taking == [102]
    assert await finding is None
    assert await reader.find(feed, at(100)) is None
    assert await reader.find(feed, at(101)) == at(101)
    assert server.reads == [(50, 100)]
    assert feed.recent.next(()) == (101,)  # nothing of before is kept


async def test_what_is_removed_between_two_portions() -> None:
    server = Server(page=10)
    feed, reader = feed_of(server), Replays(server)
    ready = asyncio.Event()
    behind, waiting = (StoredReplay(reader, feed, at(50), True) for _ in range(2))
    assert behind.take(ready.set) is None
    assert waiting.take(ready.set) is None
    await ready.wait()
    assert len(behind.take(ready.set) or ()) == 10
    hear(feed, CLEARED)
    hear(feed)
    for each in (behind, waiting):  # this one has been told, and has not taken it yet
        assert await taken(each) == [102]
    assert server.reads == [(50, 100)]
    assert feed.recent.next(()) == (101,)


async def test_a_removal_that_is_read_before_it_is_heard() -> None:
    """What was removed may still be there, or not."""
    for first in (1, 90):
        server = Server()
        server.first = first
        server.clears = {90}
        feed, reader = feed_of(server), Replays(server)
        replay = StoredReplay(reader, feed, at(80), True)
        assert await taken(replay) == [*range(91, 101)]
        assert await reader.find(feed, at(85)) is None
        everything = StoredReplay(reader, feed, Mark("a"), False)
        assert await taken(everything) == [*range(91, 101)]


async def test_a_topic_that_is_left_while_it_is_read() -> None:
    server = Server()
    feed, reader = feed_of(server), Replays(server)
    server.gate.clear()
    more = asyncio.Event()
    assert StoredReplay(reader, feed, at(40), True).take(more.set) is None
    await server.is_read()
    feed.stop()
    server.gate.set()
    await more.wait()
    while reader._tasks:
        await asyncio.sleep(0)
    assert not feed.recent._runs


async def test_who_asks_again_while_it_is_read_is_told_once() -> None:
    server = Server()
    feed, reader = feed_of(server), Replays(server)
    told: list[int] = []
    replay = StoredReplay(reader, feed, at(90), True)
    assert replay.take(lambda: told.append(1)) is None
    assert replay.take(lambda: told.append(2)) is None
    while not told:
        await asyncio.sleep(0)
    assert told == [2]
    assert await taken(replay) == [*range(91, 101)]


async def test_nothing_is_read_after_the_end() -> None:
    server = Server()
    feed, reader = feed_of(server), Replays(server)
    server.gate.clear()
    finding = asyncio.ensure_future(reader.find(feed, at(40)))
    await server.is_read()
    await reader.stop()
    assert not reader._tasks
    finding.cancel()
    await reader.stop()
    assert replays.READS == 4
