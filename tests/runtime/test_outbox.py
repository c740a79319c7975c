"""The one way out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio.lowlevel
import pytest

from wsflow import Call, Connection, Disconnected, Registry, Router, Topic
from wsflow.messages.codec import JSON
from wsflow.runtime.outbox import Outbox
from wsflow.testing import connect


class Wire:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, payload: bytes, text: bool, raw: bool) -> bool:
        self.sent.append(payload)
        return False


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_is_cancelled_when_he_has_his_turn_passes_it_on() -> None:
    wire: Any = Wire()
    outbox = Outbox(wire, JSON, 1000, lambda _topic: None)
    outbox.open()
    outbox.pause()
    tasks = [asyncio.create_task(outbox.send(name)) for name in (b"a", b"b")]
    drained = asyncio.create_task(outbox.drained())
    await asyncio.sleep(0)
    outbox.resume()
    tasks[0].cancel()
    await asyncio.gather(*tasks, drained, return_exceptions=True)
    assert wire.sent == [b"b"]
    await outbox.send(b"c")
    assert wire.sent == [b"b", b"c"]


class Add(Call[int], tag="add"):
    a: int = 1


def apps() -> dict[str, Router]:
    """For each way in which a message may leave, an app in which a Call takes it."""
    found: dict[str, Router] = {}

    def app(name: str) -> Router:
        found[name] = Router("/")
        return found[name]

    at_once = app("returned at once")

    @at_once.consumer
    async def returns(message: str) -> Any:
        return Add()

    later = app("returned later")

    @later.consumer
    async def returns_later(message: str) -> Any:
        await anyio.lowlevel.checkpoint()
        return Add()

    yielded = app("yielded by a consumer")

    @yielded.consumer
    async def yields(message: str) -> AsyncIterator[Any]:
        yield Add()

    streamed = app("yielded by a stream consumer")

    @streamed.consumer
    async def streams(messages: AsyncIterator[str]) -> AsyncIterator[Any]:
        async for _ in messages:
            yield Add()

    produced = app("yielded by a producer")

    @produced.producer
    async def produces() -> AsyncIterator[Any]:
        yield Add()

    polled = app("returned by a producer")

    @polled.producer
    async def polls() -> Any:
        return Add()

    handled = app("returned by on_error")

    @handled.consumer
    async def fails(message: str) -> None:
        raise KeyError

    @handled.on_error
    async def answers(error: KeyError) -> Any:
        return Add()

    sent = app("sent")

    @sent.consumer
    async def sends(message: str, connection: Connection) -> None:
        await connection.send(Add())

    published = app("published")

    @published.consumer
    async def publishes(message: str, topic: Annotated[Topic[Any], "all"]) -> None:
        await topic.publish(Add())

    broadcast = app("broadcast")

    @broadcast.consumer
    async def broadcasts(message: str, registry: Registry) -> None:
        await registry.broadcast(Add())

    concurrent = app("returned by a concurrent consumer")

    @concurrent.consumer(concurrency=2)
    async def works(message: str) -> Any:
        return Add()

    return found


@pytest.mark.parametrize("way", apps())
async def test_a_call_without_its_number_leaves_by_no_way(way: str) -> None:
    async with connect(apps()[way]) as peer:
        if "producer" not in way:
            await peer.send("x")
        end = await peer.wait_closed()
        assert end.code == 1011
        assert isinstance(end.error, TypeError)
        assert str(end.error) == "Add expects an answer: send it with call(…) or stream(…)"
        with pytest.raises(Disconnected):
            await peer.receive()


def test_many_classes_do_not_pile_up() -> None:
    for number in range(3000):
        JSON.pack(type(f"Dict{number}", (dict,), {})())
    assert len(JSON._sendable) <= 1025
