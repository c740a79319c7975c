"""The one way out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Annotated, Any, Literal, cast

import anyio
import anyio.lowlevel
import pytest

from wsflow import Call, Connection, Disconnected, Registry, Router, Topic
from wsflow.messages.codec import JSON
from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.events import TopicOptions
from wsflow.runtime.outbox import MAX_URGENT, Outbox
from wsflow.testing import connect
from wsflow.topics.channels import Membership


class Wire:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, payload: bytes, text: bool, raw: bool) -> bool:
        self.sent.append(payload)
        return False

    def share(self, message: EncodedMessage) -> None:
        self.sent.append(message.payload)


def opened(
    wire: Wire, backlog_bytes: int = 1000, lagging: Callable[[str], None] = lambda topic: None
) -> Outbox:
    outbox = Outbox(cast(Any, wire), JSON, backlog_bytes, lagging)
    outbox.open()
    return outbox


# -- turns

CANCELLED = {
    "with a turn": (True, True),
    "while waiting": (False, True),
    "with a turn, draining": (True, False),
    "while waiting, draining": (False, False),
}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("when", CANCELLED)
async def test_who_is_cancelled_passes_the_turn_on(when: str) -> None:
    granted, sends = CANCELLED[when]
    wire = Wire()
    outbox = opened(wire)
    outbox.pause()
    first = asyncio.create_task(outbox.send(b"a") if sends else outbox.drained())
    second = asyncio.create_task(outbox.send(b"b"))
    drained = asyncio.create_task(outbox.drained())
    await asyncio.sleep(0)
    if granted:
        outbox.resume()
    first.cancel()
    with anyio.fail_after(2):
        await asyncio.wait([first])
        outbox.resume()
        await asyncio.wait([second, drained])
        assert first.cancelled()
        assert wire.sent == [b"b"]
        await outbox.send(b"c")
    assert wire.sent == [b"b", b"c"]
    assert outbox.clear
    assert outbox._order == deque()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_turns_come_in_order_and_each_is_given_back() -> None:
    wire = Wire()
    outbox = opened(wire)
    outbox.pause()
    tasks = [asyncio.create_task(outbox.send(b"%d" % number)) for number in range(5)]
    tasks.insert(3, asyncio.create_task(outbox.drained()))
    await asyncio.sleep(0)
    outbox.resume()
    with anyio.fail_after(2):
        await asyncio.wait(tasks)
    assert wire.sent == [b"0", b"1", b"2", b"3", b"4"]
    assert outbox.clear


# -- bytes

Policy = Literal["close", "drop_oldest", "drop_newest", "latest"]


def member(
    outbox: Outbox, when_full: Policy = "drop_newest", backlog: int = 100
) -> tuple[Membership, list[Membership]]:
    lost: list[Membership] = []
    options = TopicOptions(backlog=backlog, when_full=when_full)
    channel = SimpleNamespace(name="news", options=options, lose=lost.append)
    subscriber = SimpleNamespace(outbox=outbox, codec=JSON)
    return Membership(cast(Any, channel), cast(Any, subscriber), None), lost


def message(size: int) -> EncodedMessage:
    return EncodedMessage(bytes(size), False)


def test_the_backlog_counts_bytes_over_all_topics_and_gives_them_back() -> None:
    wire = Wire()
    outbox = opened(wire, backlog_bytes=100)
    (one, lost), (other, lost_too) = member(outbox), member(outbox)
    for _ in range(3):
        outbox.pause()
        outbox.deliver(one, message(60))
        outbox.deliver(other, message(40))
        assert not lost
        outbox.deliver(one, message(1))
        outbox.deliver(other, message(1))
        assert (len(lost), len(lost_too)) == (1, 1)
        outbox.resume()
        assert outbox.clear
        lost.clear()
        lost_too.clear()
    assert [len(each) for each in wire.sent] == [60, 40] * 3


@pytest.mark.parametrize("backlog", [3, 100])
def test_a_replay_counts_neither_in_messages_nor_in_bytes(backlog: int) -> None:
    wire = Wire()
    outbox = opened(wire, backlog_bytes=100)
    to, lost = member(outbox, backlog=backlog)
    outbox.pause()
    for _ in range(10):
        outbox.deliver(to, message(50), replayed=True)
    for size in (50, 49, 1):
        outbox.deliver(to, message(size))
    assert not lost
    outbox.deliver(to, message(1))
    assert len(lost) == 1
    outbox.resume()
    assert [len(each) for each in wire.sent] == [50] * 11 + [49, 1]
    outbox.pause()  # all was given back, once
    outbox.deliver(to, message(100))
    outbox.deliver(to, message(1))
    assert len(lost) == 2


def test_dropping_the_oldest_makes_room_in_bytes() -> None:
    wire = Wire()
    outbox = opened(wire, backlog_bytes=100)
    to, lost = member(outbox, "drop_oldest")
    outbox.pause()
    for size in (10, 40, 50, 49):
        outbox.deliver(to, message(size))
    assert len(lost) == 2  # 10 would not have been enough
    outbox.resume()
    assert [len(each) for each in wire.sent] == [50, 49]


async def test_urgent_bytes_count_while_the_buffer_is_full() -> None:
    wire, told = Wire(), list[str]()
    outbox = opened(wire, lagging=told.append)
    half = bytes(MAX_URGENT // 2)
    for _ in range(5):
        outbox.urge(half)  # there is room
    for _ in range(2):
        outbox.pause()
        outbox.urge(half)
        outbox.urge(half)
        assert not told
        outbox.resume()
    outbox.pause()
    outbox.urge(half)
    outbox.urge(half)
    outbox.urge(b"x")
    assert told == ["calls"]
    assert len(wire.sent) == 11


# -- ways out


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
