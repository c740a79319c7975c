"""The broker of one process."""

from __future__ import annotations

from typing import Annotated

import anyio
import pytest

from tests.clocks import InFakeTime
from wsflow import Query, Router, Topic, TopicName
from wsflow.brokers import memory
from wsflow.brokers.base import PORTION, OvertakenError, Replay
from wsflow.brokers.memory import MemoryBroker
from wsflow.limits import HISTORY_TOTAL, Limits
from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.events import Envelope, Event, TopicOptions
from wsflow.testing import serve_in_memory


class Heard:
    """A process's side, as far as a broker of one process needs it."""

    def __init__(self) -> None:
        self.delivered: list[tuple[str, Event]] = []

    def deliver(self, topic: str, event: Event) -> None:
        self.delivered.append((topic, event))


async def replay(broker: MemoryBroker, topic: str, after: str) -> Replay:
    return await broker.replay(topic, after)


def taken(replay: Replay) -> list[Event]:
    """All that a replay has."""
    found: list[Event] = []
    while portion := replay.take(lambda: None):
        assert len(portion) <= PORTION
        found += portion
    return found


async def test_the_topic_that_is_quiet_longest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "MAX_STREAMS", 2)
    heard = Heard()
    broker = MemoryBroker(heard)  # type: ignore[arg-type]
    envelope, kept = Envelope({}), TopicOptions(history=1)
    for topic in "ab":
        broker.subscribe(topic, kept)
    first = await broker.publish("a", envelope, kept)
    lost = await broker.publish("b", envelope, kept)
    await broker.publish("a", envelope, kept)
    await broker.publish("c", envelope, kept)
    assert (await replay(broker, "a", first)).recovered
    assert not (await replay(broker, "b", lost)).recovered
    assert [topic for topic, _ in heard.delivered] == ["a", "b", "a", "c"]
    assert await broker.publish("plain", envelope, TopicOptions()) == ""


def of(size: int, token: str | None = None) -> Envelope:
    return Envelope({"json": EncodedMessage(b"x" * size, True, False)}, id_token=token)


async def test_the_bytes_of_a_topic_are_bounded() -> None:
    broker = MemoryBroker(Heard())  # type: ignore[arg-type]
    kept = TopicOptions(history=1000, history_bytes=3 * (1000 + memory.OVERHEAD))
    broker.subscribe("a", kept)
    ids = [await broker.publish("a", of(1000), kept) for _ in range(10)]
    replays = [await replay(broker, "a", id) for id in ids[5:]]
    assert [each.recovered for each in replays] == [False, True, True, True, True]
    assert len(taken(replays[1])) == 3
    assert broker._bytes == kept.history_bytes
    with_id = await broker.publish("a", of(1000, token="t"), kept)  # kept with its id, and without
    assert broker._bytes == memory.OVERHEAD + 2000 + memory.OVERHEAD + 1000
    last = await broker.publish("a", of(10_000), kept)  # larger than all that is kept
    assert broker._bytes == 0
    assert not (await replay(broker, "a", with_id)).recovered
    latest = await replay(broker, "a", last)
    assert (latest.recovered, taken(latest)) == (True, [])
    unbound = TopicOptions(history=1000, history_bytes=0)
    for _ in range(20):
        await broker.publish("b", of(2_000_000), unbound)
    assert broker._bytes == 20 * (2_000_000 + memory.OVERHEAD)
    assert broker.counters["history_dropped"] == 0


async def test_a_replay_has_what_comes_meanwhile() -> None:
    heard = Heard()
    broker = MemoryBroker(heard)  # type: ignore[arg-type]
    kept = TopicOptions(history=1000)
    broker.subscribe("a", kept)
    ids = [await broker.publish("a", of(10), kept) for _ in range(PORTION + 1)]
    late = await replay(broker, "a", ids[0])
    assert len(late.take(lambda: None) or ()) == PORTION
    more = [await broker.publish("a", of(10), kept) for _ in range(2 * PORTION)]
    assert [each.id for each in taken(late)] == more
    last = await broker.publish("a", of(10), kept)
    assert [each.id for each in taken(late)] == [last]


async def test_a_topic_of_which_nothing_is_kept() -> None:
    broker = MemoryBroker(Heard())  # type: ignore[arg-type]
    broker.subscribe("a", TopicOptions(history=1))
    nothing = await replay(broker, "a", "abc-1")
    assert (nothing.recovered, taken(nothing)) == (False, [])


async def test_large_events_are_replayed_one_by_one() -> None:
    broker = MemoryBroker(Heard())  # type: ignore[arg-type]
    kept = TopicOptions(history=10)
    broker.subscribe("a", kept)
    ids = [await broker.publish("a", of(100_000), kept) for _ in range(3)]
    late = await replay(broker, "a", ids[0])
    for id in ids[1:]:
        assert [each.id for each in late.take(lambda: None) or ()] == [id]


async def test_a_history_that_overtakes_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = MemoryBroker(Heard())  # type: ignore[arg-type]
    kept = TopicOptions(history=3)
    broker.subscribe("a", kept)
    first = await broker.publish("a", of(10), kept)
    ids = [await broker.publish("a", of(10), kept) for _ in range(3)]
    late = await replay(broker, "a", first)
    ids += [await broker.publish("a", of(10), kept) for _ in range(2)]
    with pytest.raises(OvertakenError):
        late.take(lambda: None)
    assert [each.id for each in taken(late)] == ids[2:]
    monkeypatch.setattr(memory, "MAX_STREAMS", 1)
    await broker.publish("b", of(10), kept)  # the history as a whole goes
    with pytest.raises(OvertakenError):
        late.take(lambda: None)
    assert taken(late) == []
    new = [await broker.publish("a", of(10), kept) for _ in range(2)]
    assert [each.id for each in taken(late)] == new
    await broker.publish("b", of(10), kept)
    await broker.publish("a", of(10), kept)
    newer = [await broker.publish("a", of(10), kept) for _ in range(2)]
    with pytest.raises(OvertakenError):
        late.take(lambda: None)
    assert [each.id for each in taken(late)][-2:] == newer


async def test_the_bytes_of_all_topics_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    size = 1000 + memory.OVERHEAD
    broker = MemoryBroker(Heard(), history_bytes=6 * size)  # type: ignore[arg-type]
    kept = TopicOptions(history=3)
    ids: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    for topic in ids:
        broker.subscribe(topic, kept)
    for topic in "ab":
        ids[topic] += [await broker.publish(topic, of(1000), kept) for _ in range(3)]
    assert (await replay(broker, "a", ids["a"][0])).recovered  # it is used: b goes first
    ids["c"] = [await broker.publish("c", of(1000), kept) for _ in range(2)]
    assert broker._bytes == 6 * size
    assert broker.counters["history_dropped"] == 2
    found = {
        topic: [(await replay(broker, topic, id)).recovered for id in each]
        for topic, each in ids.items()
    }
    assert found == {"a": [True] * 3, "b": [False, True, True], "c": [True] * 2}
    for number in range(100):
        await broker.publish(f"other {number}", of(1000), kept)
        assert broker._bytes <= 6 * size
    assert len(broker._filled) == 6
    assert broker.counters["history_dropped"] == 102
    assert caplog.text.count("are larger than history_total_bytes") == 1
    unbound = MemoryBroker(Heard(), history_bytes=0)  # type: ignore[arg-type]
    for number in range(3):
        await unbound.publish(f"{number}", of(HISTORY_TOTAL // 2), kept)
    assert unbound.counters["history_dropped"] == 0


async def test_the_limit_is_that_of_the_app() -> None:
    Kept = Annotated[Topic[str], TopicName("kept.{room}", history=1000)]
    app = Router("/{room}")
    told: list[bool] = []

    @app.on_connect
    async def enter(kept: Kept, after: Annotated[str, Query()] = "") -> None:
        told.append((await kept.join(after=after)).recovered)

    @app.consumer
    async def publish(message: str, kept: Kept) -> str:
        return await kept.publish(message)

    limits = Limits(history_total_bytes=100_000)
    async with serve_in_memory(app, limits=limits) as server:
        async with server.connect("/a") as ada, server.connect("/b") as bob:
            await ada.send("first")
            first = [await ada.receive() for _ in range(2)]  # itself, and its id
            await ada.send("second")
            await ada.receive()
            for _ in range(10):
                await bob.send("x" * 20_000)
                await bob.receive()
                await bob.receive()
            assert server.registry.counters()["history_dropped"] == 8
            id = next(each for each in first if each != "first")
            async with server.connect(f"/a?after={id}") as late:
                await late.receive_nothing(within=0.02)
            assert not told[-1]


async def test_a_history_that_is_cleared_while_it_is_replayed() -> None:
    broker = MemoryBroker(Heard())  # type: ignore[arg-type]
    kept = TopicOptions(history=1000)
    broker.subscribe("a", kept)
    ids = [await broker.publish("a", of(1000), kept) for _ in range(200)]
    begun, not_begun = await replay(broker, "a", ids[0]), await replay(broker, "a", ids[0])
    assert 1 < len(begun.take(lambda: None) or ()) < 100
    await broker.clear("a", kept)
    await broker.clear("none", kept)
    assert (broker._bytes, dict(broker._filled)) == (0, {})
    last = await broker.publish("a", of(1), kept)
    for each in (begun, not_begun):
        assert [event.id for event in taken(each)] == [last]
    assert broker.counters["history_dropped"] == 0
    assert not (await replay(broker, "a", ids[-1])).recovered
    assert (await replay(broker, "a", last)).recovered


class TestInFakeTime(InFakeTime):
    async def test_events_that_are_too_old_are_forgotten(self) -> None:
        broker = MemoryBroker(Heard())  # type: ignore[arg-type]
        kept = TopicOptions(history=10, max_age=60)
        broker.subscribe("a", kept)
        ids = []
        for _ in range(3):
            ids.append(await broker.publish("a", Envelope({}), kept))
            await anyio.sleep(25)
        replays = [await replay(broker, "a", id) for id in ids]
        assert [each.recovered for each in replays] == [True, True, True]
        assert [len(taken(each)) for each in replays] == [2, 1, 0]
        await anyio.sleep(30)
        replays = [await replay(broker, "a", id) for id in ids]
        assert [each.recovered for each in replays] == [False, True, True]

    async def test_memory_is_free_when_all_have_left_and_nobody_publishes(self) -> None:
        broker = MemoryBroker(Heard())  # type: ignore[arg-type]
        brief, long = TopicOptions(history=10, max_age=60), TopicOptions(history=10, max_age=600)
        forever = TopicOptions(history=10)
        for number in range(100):
            await broker.publish(f"room {number}", of(1000), brief)
            await broker.publish(f"room {number}", of(1000), brief)
        await broker.publish("long", of(1000), long)
        last = await broker.publish("forever", of(1000), forever)
        assert len(broker._due) == 101
        await anyio.sleep(61)
        broker.subscribe("elsewhere", TopicOptions())
        assert broker._bytes == 2 * (1000 + memory.OVERHEAD)
        assert list(broker._filled) == ["long", "forever"]
        assert len(broker._due) == 1
        await anyio.sleep(600)
        broker.unsubscribe("elsewhere")
        assert broker._due == []
        assert list(broker._filled) == ["forever"]
        broker.subscribe("forever", forever)
        assert (await replay(broker, "forever", last)).recovered

    async def test_a_topic_that_was_forgotten_as_a_whole_is_not_looked_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory, "MAX_STREAMS", 1)
        broker = MemoryBroker(Heard())  # type: ignore[arg-type]
        brief = TopicOptions(history=10, max_age=60)
        await broker.publish("a", of(1000), brief)
        await broker.publish("b", of(1000), brief)
        assert broker.counters["history_dropped"] == 1
        assert broker._bytes == 1000 + memory.OVERHEAD
        await anyio.sleep(61)
        broker.subscribe("c", brief)
        assert (broker._bytes, broker._due, dict(broker._filled)) == (0, [], {})

    async def test_what_is_idle_is_forgotten_as_a_whole(self) -> None:
        broker = MemoryBroker(Heard())  # type: ignore[arg-type]
        brief = TopicOptions(history=10, idle=60)
        both = TopicOptions(history=10, idle=60, max_age=20)
        broker.subscribe("a", brief)
        ids = []
        for _ in range(3):
            ids.append(await broker.publish("a", of(1000), brief))
            await broker.publish("b", of(1000), both)
            await anyio.sleep(50)
        assert len(taken(await replay(broker, "a", ids[0]))) == 2
        await anyio.sleep(11)
        assert not (await replay(broker, "a", ids[0])).recovered
        assert (await replay(broker, "a", ids[2])).recovered
        assert (broker._bytes, broker._due, dict(broker._filled)) == (0, [], {})
        ids.append(await broker.publish("a", of(1000), brief))
        assert len(taken(await replay(broker, "a", ids[2]))) == 1
