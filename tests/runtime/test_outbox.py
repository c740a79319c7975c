"""The one way out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from types import SimpleNamespace
from typing import Annotated, Any, Literal, cast

import anyio
import anyio.lowlevel
import pytest

from wsflow import BrokerError, Call, Connection, Disconnected, Registry, Router, Topic
from wsflow.brokers.base import PORTION, OvertakenError
from wsflow.end import End
from wsflow.messages.codec import JSON
from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.events import Envelope, Event, TopicOptions
from wsflow.runtime.outbox import MAX_URGENT, Outbox
from wsflow.runtime.turns import Turns
from wsflow.testing import connect
from wsflow.topics.channels import Membership
from wsflow.topics.type import TopicType


class Wire:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.due: list[Callable[[], None]] = []

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self.due.append(call)

    def run(self) -> int:
        """Run what is due now. Returns how much that was."""
        due, self.due = self.due, []
        for call in due:
            call()
        return len(due)

    def send(self, payload: bytes, text: bool, raw: bool) -> bool:
        self.sent.append(payload)
        return False

    def share(self, message: EncodedMessage) -> None:
        self.sent.append(message.payload)


def opened(
    wire: Wire, backlog_bytes: int = 1000, lagging: Callable[[str], None] = lambda topic: None
) -> Outbox:
    outbox = Outbox(cast(Any, wire), JSON, backlog_bytes, lagging, Turns())
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
    kind = TopicType((object,), options, (JSON,))
    channel = SimpleNamespace(name="news", options=options, type=kind, lose=lost.append)
    lagged: list[str] = []
    errors: list[object] = []
    subscriber = SimpleNamespace(
        id="me",
        outbox=outbox,
        codec=JSON,
        memberships={},
        lagged=lagged,
        lagging=lagged.append,
        errors=errors,
        left=lambda what, exc: errors.append(what),
    )
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


# -- replays


class Missed:
    """A replay whose portions a test gives."""

    recovered = True

    def __init__(self, *portions: Any) -> None:
        self.portions = list(portions)
        self.ready: Callable[[], None] = lambda: None

    def take(self, ready: Callable[[], None]) -> Any:
        self.ready = ready
        portion = self.portions.pop(0)
        if isinstance(portion, Exception):
            raise portion
        return portion


def events(*texts: str, exclude: Collection[str] = ()) -> list[Event]:
    return [
        Event(text, Envelope({"json": EncodedMessage(text.encode(), True)}, frozenset(exclude)))
        for text in texts
    ]


def joined(outbox: Outbox, *portions: Any, when_full: Any = "close") -> tuple[Any, Missed]:
    """A member that replays."""
    to: Any
    to, lost = member(outbox, when_full)
    to.subscriber.memberships[to.channel.name] = to
    missed = Missed(*portions)
    to.replay(missed)
    to.subscriber.lost = lost
    return to, missed


def test_a_replay_goes_before_what_handlers_send_and_not_before_other_topics() -> None:
    wire = Wire()
    outbox = opened(wire)
    other, _ = member(outbox)
    joined(outbox, events("1", "2"), events("3"), [])
    assert not outbox.clear
    assert not outbox.reply("handler")
    outbox.deliver(other, EncodedMessage(b"other", True))
    assert wire.sent == [b"other"]
    assert wire.run() == 1
    assert wire.sent == [b"other", b"1", b"2", b"3"]
    assert outbox.clear
    assert wire.run() == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_senders_wait_for_a_replay() -> None:
    wire = Wire()
    outbox = opened(wire)
    _, missed = joined(outbox, events("1"), None, events("2"), [])
    sends = [asyncio.create_task(outbox.send(f"s{number}")) for number in range(3)]
    drained = asyncio.create_task(outbox.drained())
    await asyncio.sleep(0)
    sends[1].cancel()
    wire.run()
    await asyncio.sleep(0)
    assert wire.sent == [b"1"]
    assert wire.run() == 0  # it waits until more is read
    missed.ready()
    wire.run()
    with anyio.fail_after(2):
        await asyncio.wait([*sends, drained])
    assert wire.sent == [b"1", b"2", b"s0", b"s2"]


def test_a_replay_waits_for_room() -> None:
    wire = Wire()
    outbox = opened(wire)
    to, _ = joined(outbox, events("1"), events("2"), [])
    outbox.pause()
    assert wire.run() == 1
    assert wire.sent == []
    outbox.deliver(member(outbox)[0], message(3))  # waits, and goes first
    outbox.resume()
    wire.run()
    assert wire.sent == [message(3).payload, b"1", b"2"]
    assert to.replaying is None


def test_what_comes_meanwhile_is_in_the_replay() -> None:
    wire = Wire()
    outbox = opened(wire)
    to, missed = joined(outbox, events("1"), None)
    wire.run()
    (live,) = events("2")
    to.receive(live)  # it will be taken
    missed.portions += [[live], []]
    missed.ready()
    wire.run()
    to.receive(*events("3"))
    assert wire.sent == [b"1", b"2", b"3"]


def test_a_replay_leaves_out_what_excludes_its_connection_or_cannot_be_read() -> None:
    wire = Wire()
    outbox = opened(wire)
    to: Any
    to, _ = member(outbox)
    unread: list[Any] = []
    to.channel.unreadable = unread.append
    to.subscriber.memberships[to.channel.name] = to
    excluded = events("2", exclude=[to.subscriber.id])
    to.replay(Missed([*events("1"), *excluded, Event("x", Envelope({})), *events("3")], []))
    wire.run()
    assert wire.sent == [b"1", b"3"]
    assert len(unread) == 1


@pytest.mark.parametrize("when_full", ["close", "drop_oldest", "drop_newest", "latest"])
def test_a_replay_that_the_history_overtakes(when_full: str) -> None:
    wire = Wire()
    outbox = opened(wire)
    to, _ = joined(outbox, events("1"), OvertakenError(), events("7"), [], when_full=when_full)
    wire.run()
    assert len(to.subscriber.lost) == 1
    assert to.subscriber.lagged == (["news"] if when_full == "close" else [])
    assert wire.sent == ([b"1"] if when_full == "close" else [b"1", b"7"])
    assert outbox.clear


def test_a_replay_that_fails() -> None:
    wire = Wire()
    outbox = opened(wire)
    to, _ = joined(outbox, events("1"), BrokerError("no"))
    wire.run()
    assert to.subscriber.errors == ["the replay of topic 'news'"]
    assert outbox.clear


@pytest.mark.parametrize("end", ["drop", "refuse"])
def test_a_connection_ends_while_it_replays(end: str) -> None:
    wire = Wire()
    outbox = opened(wire)
    to, missed = joined(outbox, None, events("1"), [])
    wire.run()
    outbox.drop() if end == "drop" else outbox.refuse(End("closed", 1000))
    missed.ready()
    assert wire.run() == 0
    assert to.replaying is None
    assert wire.sent == []


def test_a_member_leaves_while_it_replays() -> None:
    wire = Wire()
    outbox = opened(wire)
    to, _ = joined(outbox, events("1"), [])
    to.replaying = None  # as leaving does
    joined(outbox, events("2"), [])
    wire.run()
    assert wire.sent == [b"2"]
    del to.subscriber.memberships[to.channel.name]
    to.replay(Missed(events("3"), []))
    wire.run()
    assert wire.sent == [b"2"]


def test_what_is_in_no_history_passes_a_replay() -> None:
    wire = Wire()
    outbox = opened(wire)
    to, _ = joined(outbox, events("1"), None)
    wire.run()
    to.receive(Event("", events("2")[0].envelope))
    assert wire.sent == [b"1", b"2"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_waits_behind_a_replay_goes_on_when_its_topic_is_left() -> None:
    wire = Wire()
    outbox = opened(wire)
    to, _ = joined(outbox, None)
    wire.run()
    sending = asyncio.create_task(outbox.send("s"))
    await asyncio.sleep(0)
    to.replaying = None
    outbox.flush()  # as leaving does
    wire.run()
    with anyio.fail_after(2):
        await sending
    assert wire.sent == [b"s"]


def test_before_the_handshake_is_accepted_nothing_is_taken() -> None:
    wire = Wire()
    outbox = Outbox(cast(Any, wire), JSON, 1000, lambda topic: None, Turns())
    joined(outbox, events("1"), [])
    assert wire.run() == 0
    outbox.open()
    wire.run()
    assert wire.sent == [b"1"]


def test_replays_take_turns() -> None:
    turns = Turns()
    wires = [Wire() for _ in range(3)]
    for number, wire in enumerate(wires):
        outbox = Outbox(cast(Any, wire), JSON, 1000, lambda topic: None, turns)
        outbox.open()
        joined(outbox, *[events(str(number)) for _ in range(PORTION + 1)], [])
    counts = []
    while any(wire.run() for wire in wires):
        counts.append([len(wire.sent) for wire in wires])
    each = PORTION
    assert counts[:4] == [[each, 0, 0], [each, each, 0], [each] * 3, [each + 1, each, each]]
    assert counts[-1] == [each + 1] * 3


def test_a_turn_that_fails_stops_no_other() -> None:
    class Failing:
        def replay_on(self) -> None:
            raise ZeroDivisionError

    turns, wire = Turns(), Wire()
    outbox = Outbox(cast(Any, wire), JSON, 1000, lambda topic: None, turns)
    outbox.open()
    turns.want(Failing(), cast(Any, wire))
    joined(outbox, events("1"), [])
    with pytest.raises(ZeroDivisionError):
        wire.run()
    wire.run()
    assert wire.sent == [b"1"]


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
