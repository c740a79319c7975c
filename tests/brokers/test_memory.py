"""The broker of one process."""

from __future__ import annotations

import anyio
import pytest

from wsflow.brokers import memory
from wsflow.brokers.base import Replay
from wsflow.brokers.memory import MemoryBroker
from wsflow.messages.events import Envelope, Event, TopicOptions


class Heard:
    """A process's side, as far as a broker of one process needs it."""

    def __init__(self) -> None:
        self.delivered: list[tuple[str, Event]] = []

    def deliver(self, topic: str, event: Event) -> None:
        self.delivered.append((topic, event))


async def replay(broker: MemoryBroker, topic: str, after: str) -> Replay:
    return await broker.replay(topic, after, lambda: None)


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


class TestOnAMockClock:
    @pytest.fixture
    def anyio_backend(self, mock_clock: object) -> object:
        return mock_clock

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
        assert [len(each.events) for each in replays] == [2, 1, 0]
        await anyio.sleep(30)
        replays = [await replay(broker, "a", id) for id in ids]
        assert [each.recovered for each in replays] == [False, True, True]
