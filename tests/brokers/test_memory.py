"""The broker of one process."""

from __future__ import annotations

import pytest

from wsflow.brokers import memory
from wsflow.brokers.base import Envelope, Event
from wsflow.brokers.memory import MemoryBroker


async def test_the_topic_that_is_quiet_longest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "MAX_STREAMS", 2)
    delivered: list[tuple[str, Event]] = []
    broker = MemoryBroker(lambda topic, event: delivered.append((topic, event)))
    envelope = Envelope({})
    first = await broker.publish("a", envelope, 1)
    await broker.publish("b", envelope, 1)
    await broker.publish("a", envelope, 2)
    await broker.publish("c", envelope, 1)
    assert (await broker.replay("a", first)).recovered
    assert not (await broker.replay("b", "x-1")).recovered
    assert [topic for topic, _ in delivered] == ["a", "b", "a", "c"]
    assert await broker.publish("plain", envelope, 0) == ""
