"""The one way out."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection
from itertools import pairwise
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
from wsflow.observer import NOBODY
from wsflow.runtime.outbox import BURST_MESSAGES, MAX_URGENT, Outbox
from wsflow.runtime.turns import Turns
from wsflow.testing import connect
from wsflow.topics.channels import Channel, Membership
from wsflow.topics.type import TopicType
from wsflow.transports.base import OneByOne


class Wire(OneByOne):
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
    outbox = Outbox(cast(Any, wire), JSON, backlog_bytes, lagging, Turns(), 65536)
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
    channel = SimpleNamespace(
        name="news",
        options=options,
        encoded=kind.encoded,
        lose=lost.append,
        replayed=lambda: None,
    )
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


# -- items of a producer


def letters(outbox: Outbox, between: Callable[[], Any]) -> AsyncIterator[Any]:
    """Two items, and what the producer does between them."""

    async def produce() -> AsyncIterator[Any]:
        yield "a"
        done = between()
        if done is not None:
            await done
        yield "b"

    return produce()


BETWEEN: dict[str, Callable[[Outbox, Any], Any]] = {
    "a message of a topic": lambda outbox, to: outbox.deliver(to, EncodedMessage(b"x", True)),
    "what it sends itself": lambda outbox, to: outbox.send("x"),
    "an urgent message": lambda outbox, to: outbox.urge("x"),
    "a replay": lambda outbox, to: to.replay(Missed(events("x"), [])),
}


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_nothing_overtakes_an_item(between: Callable[[Outbox, Any], Any]) -> None:
    wire = Wire()
    outbox = opened(wire)
    to, _ = member(outbox)
    to.subscriber.memberships[to.channel.name] = to
    sending = asyncio.create_task(outbox.send_all(letters(outbox, lambda: between(outbox, to))))
    while not sending.done():
        wire.run()
        await asyncio.sleep(0)
    await sending
    assert wire.sent == [b"a", b"x", b"b"]
    assert outbox.clear
    assert outbox.sent == 3


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_yielded_is_written_when_the_producer_waits() -> None:
    wire = Wire()
    outbox = opened(wire)
    gate = asyncio.Event()
    sending = asyncio.create_task(outbox.send_all(letters(outbox, gate.wait)))
    await asyncio.sleep(0)
    assert wire.sent == [b"a"]
    assert outbox.clear
    assert outbox.reply("another")
    gate.set()
    await sending
    assert wire.sent == [b"a", b"another", b"b"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_has_waited_longer_goes_first() -> None:
    """Also if there was room when the producer began to wait."""
    wire = Wire()
    outbox = opened(wire)
    gate = asyncio.Event()
    sending = asyncio.create_task(outbox.send_all(letters(outbox, gate.wait)))
    await asyncio.sleep(0)
    outbox.pause()
    longer = asyncio.create_task(outbox.send("longer"))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.sleep(0.01)
    assert wire.sent == [b"a"]
    outbox.resume()
    await asyncio.gather(sending, longer)
    assert wire.sent == [b"a", b"longer", b"b"]


@pytest.mark.parametrize("producers", [2, 3])
async def test_producers_that_wait_together_take_turns(producers: int) -> None:
    """Each writes in its turn: none gives it up for the next one, and so on."""
    wire = Wire()
    outbox = opened(wire)
    outbox.pause()

    async def produce(name: str) -> AsyncIterator[str]:
        for number in range(3):
            yield f"{name}{number}"

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for name in "abc"[:producers]:
                tasks.start_soon(outbox.send_all, produce(name))
            await anyio.wait_all_tasks_blocked()
            outbox.resume()
    assert sorted(wire.sent) == [
        b"%c%d" % (name, n) for name in b"abc"[:producers] for n in (0, 1, 2)
    ]
    for name in b"abc"[:producers]:
        assert [each for each in wire.sent if each[0] == name] == [
            b"%c%d" % (name, n) for n in range(3)
        ]
    assert outbox.clear


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_no_item_is_requested_before_there_is_room() -> None:
    wire = Wire()
    outbox = opened(wire)
    outbox.pause()
    requested: list[str] = []

    async def produce() -> AsyncIterator[str]:
        for item in "ab":
            requested.append(item)
            yield item

    sending = asyncio.create_task(outbox.send_all(produce()))
    await asyncio.sleep(0.01)
    assert requested == []
    outbox.resume()
    await sending
    assert wire.sent == [b"a", b"b"]


@pytest.mark.parametrize(
    ("size", "write_buffer", "batch"),
    [(1, 65536, BURST_MESSAGES), (64, 65536, 128), (64, 1024, 2), (9000, 65536, 1), (1, 0, 1)],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_how_much_is_written_at_once(size: int, write_buffer: int, batch: int) -> None:
    batches: list[int] = []

    class Counting(Wire):
        def send_all(self, messages: Any) -> bool:
            batches.append(len(messages))
            return False

    outbox = Outbox(cast(Any, Counting()), JSON, 1000, lambda topic: None, Turns(), write_buffer)
    outbox.open()

    async def produce() -> AsyncIterator[bytes]:
        for _ in range(2 * batch):
            yield bytes(size)

    await outbox.send_all(produce())
    assert batches == [batch, batch]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_others_have_their_turn_between_items(full: bool) -> None:
    """After so many items, or at once if the transport has collected enough."""

    class Collecting(Wire):
        def send_all(self, messages: Any) -> bool:
            super().send_all(messages)
            return full

    wire = Collecting()
    outbox = opened(wire)

    async def produce() -> AsyncIterator[bytes]:
        while True:
            yield bytes(64)

    sending = asyncio.create_task(outbox.send_all(produce()))
    seen: list[int] = []
    for _ in range(5):
        await asyncio.sleep(0)
        seen.append(len(wire.sent))
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    most = 128 if full else BURST_MESSAGES
    assert [after - before for before, after in pairwise(seen)] == [most] * 4


@pytest.mark.parametrize("how", ["raises", "yields what cannot be sent", "ends", "is cancelled"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_was_yielded_is_written_however_the_producer_ends(how: str) -> None:
    wire = Wire()
    outbox = opened(wire)

    async def produce() -> AsyncIterator[Any]:
        yield "a"
        yield None
        yield "b"
        if how == "raises":
            raise KeyError
        if how == "yields what cannot be sent":
            yield Add()
        if how == "is cancelled":
            await asyncio.sleep(1000)

    sending = asyncio.create_task(outbox.send_all(produce()))
    for _ in range(5):
        await asyncio.sleep(0)
    sending.cancel()
    (outcome,) = await asyncio.gather(sending, return_exceptions=True)
    expected: dict[str, type] = {
        "raises": KeyError,
        "yields what cannot be sent": TypeError,
        "ends": type(None),
        "is cancelled": asyncio.CancelledError,
    }
    assert isinstance(outcome, expected[how])
    assert wire.sent == [b"a", b"b"]
    assert outbox.clear


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_producer_that_ends_the_connection() -> None:
    wire = Wire()
    outbox = opened(wire)
    end = End("app", 1000, "")
    with pytest.raises(Disconnected):
        await outbox.send_all(letters(outbox, lambda: outbox.refuse(end)))
    assert wire.sent == [b"a"]
    with pytest.raises(Disconnected):
        await outbox.send_all(letters(outbox, lambda: None))
    assert wire.sent == [b"a"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_items_for_a_peer_that_has_left_are_counted() -> None:
    wire = Wire()
    outbox = opened(wire)
    await outbox.send_all(letters(outbox, outbox.drop))
    assert (wire.sent, outbox.dropped) == ([b"a"], 1)
    await outbox.send_all(letters(outbox, lambda: None))
    assert (wire.sent, outbox.dropped) == ([b"a"], 3)


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


def channel_of(to: Any, unreadable: Callable[[str, Exception], None]) -> Channel:
    """The topic of a member, who is alone in it."""
    channels = SimpleNamespace(observers=NOBODY, unreadable=unreadable, counters=Counter())
    kind = TopicType((object,), to.channel.options, (JSON,))
    channel = Channel(cast(Any, channels), "news", kind)
    channel.members[to.subscriber.id] = to
    return channel


def publish(to: Any, event: Event) -> None:
    def unreadable(where: str, why: Exception) -> None:
        raise why

    channel_of(to, unreadable).receive(event)


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
    publish(to, live)  # it will be taken
    missed.portions += [[live], []]
    missed.ready()
    wire.run()
    publish(to, *events("3"))
    assert wire.sent == [b"1", b"2", b"3"]


def test_a_replay_leaves_out_what_excludes_its_connection_or_cannot_be_read() -> None:
    wire = Wire()
    outbox = opened(wire)
    to: Any
    to, _ = member(outbox)
    unread: list[Any] = []
    to.channel = channel_of(to, lambda where, why: unread.append(why))
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
    publish(to, Event("", events("2")[0].envelope))
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
    outbox = Outbox(cast(Any, wire), JSON, 1000, lambda topic: None, Turns(), 65536)
    joined(outbox, events("1"), [])
    assert wire.run() == 0
    outbox.open()
    wire.run()
    assert wire.sent == [b"1"]


def test_replays_take_turns() -> None:
    turns = Turns()
    wires = [Wire() for _ in range(3)]
    for number, wire in enumerate(wires):
        outbox = Outbox(cast(Any, wire), JSON, 1000, lambda topic: None, turns, 65536)
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
    outbox = Outbox(cast(Any, wire), JSON, 1000, lambda topic: None, turns, 65536)
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
    assert len(JSON._packings) <= 1025
