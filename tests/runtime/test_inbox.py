"""When reading pauses, and when it goes on: messages and bytes, calls and rates."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import msgspec
import pytest

from wsflow import Router
from wsflow.limits import Limits
from wsflow.runtime.inbox import Inbox, Item, KeyedLane, Lane, StreamLane
from wsflow.runtime.memory import Memory
from wsflow.wiring.compile import compile_app

LIMITS = Limits(inbox_messages=10, inbox_bytes=100, inbox_hard_messages=20, inbox_hard_bytes=200)


class Wire:
    """A transport that remembers whether it reads."""

    def __init__(self) -> None:
        self.reading = True
        self.overflown = False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def after(self, seconds: float, call: Any) -> None:
        self.due = call

    def overflow(self) -> None:
        self.overflown = True


def inbox_of(wire: Wire) -> Inbox:
    return Inbox(LIMITS, Memory(0, Counter()), cast(Any, wire), wire.overflow)


def test_memory_that_comes_too_late() -> None:
    """The connection has ended between the grant and the turn of the event loop that it takes."""
    memory, wire = Memory(10, Counter()), Wire()
    one, two = (Inbox(LIMITS, memory, cast(Any, wire), wire.overflow) for _ in range(2))
    granted: list[int] = []
    assert one.take_memory(10, granted.append, answers=False)
    assert not two.take_memory(10, granted.append, answers=False)
    one.discard()
    two.discard()
    wire.due()
    assert granted == []
    assert memory.take(one, 10)


@pytest.mark.parametrize("renewal", [False, True])
@pytest.mark.parametrize("waiting", [0, 1])
def test_scarce_memory_pauses_reading_only_while_something_waits(
    waiting: int, renewal: bool
) -> None:
    """What pauses reading also has it go on: with nothing to take, nothing would."""
    memory, wire = Memory(10, Counter()), Wire()
    other, inbox = (Inbox(LIMITS, memory, cast(Any, wire), wire.overflow) for _ in range(2))
    other.added(11)
    wire.reading = True
    if renewal:
        inbox.expect_renewal(True)
    else:
        inbox.expect()
    for _ in range(waiting):
        inbox.added(1)
    if renewal:
        inbox.expect_renewal(False)
    else:
        inbox.expected()
    assert wire.reading is not bool(waiting)
    for _ in range(waiting):
        inbox.taken(1)
    assert wire.reading


def test_what_a_stream_leaves_does_not_count() -> None:
    """Its consumer may still take it in its clean-up, and does not give back twice."""
    memory, wire = Memory(10, Counter()), Wire()
    inbox = Inbox(LIMITS, memory, cast(Any, wire), wire.overflow)
    lane = StreamLane(inbox)
    for size in (1, 20):
        lane.put(Item(cast(Any, None), "left", size))
    assert (memory.small, memory.scarce) == (21, True)
    inbox.discard()
    assert (memory.small, memory.scarce) == (0, False)
    assert lane.take().message == "left"
    assert memory.small == 0


# Of 10 messages and of 100 bytes: so many messages, of so many bytes each.
FULL = {"messages": (10, 1), "bytes": (1, 100), "both": (10, 10)}
NOT_YET = {"messages": (9, 1), "bytes": (1, 99), "both": (9, 11)}


@pytest.mark.parametrize("of", FULL)
def test_reading_pauses_at_each_limit(of: str) -> None:
    for (count, size), reading in [(NOT_YET[of], True), (FULL[of], False)]:
        wire = Wire()
        inbox = inbox_of(wire)
        for _ in range(count):
            inbox.added(size)
        assert (wire.reading, inbox.full) == (reading, not reading)


@pytest.mark.parametrize(
    ("sizes", "left"),
    [
        ([1] * 10, 5),  # half of the messages
        ([60, 40], 1),  # half of the bytes, the first one taken
        ([20] * 5, 2),
        ([45, 5, 5, 45], 2),  # 55 are too many
        ([1] * 9 + [51, 50], 1),  # 101 bytes; messages are no hindrance long before
        ([95] + [1] * 9, 5),  # bytes are none after the first one
    ],
)
def test_reading_goes_on_at_half_of_both(sizes: list[int], left: int) -> None:
    wire = Wire()
    inbox = inbox_of(wire)
    for size in sizes:
        inbox.added(size)
    assert not wire.reading
    waiting = list(sizes)
    while not wire.reading:
        inbox.taken(waiting.pop(0))
    assert len(waiting) == left
    for size in waiting:
        inbox.taken(size)
    assert not inbox.waiting
    inbox.added(99)  # nothing of the bytes has stayed
    assert wire.reading
    inbox.added(1)
    assert not wire.reading


@pytest.mark.parametrize(("most", "size"), [(20, 1), (2, 100)])
def test_a_pending_call_keeps_reading_open_up_to_the_hard_limits(most: int, size: int) -> None:
    wire = Wire()
    inbox = inbox_of(wire)
    inbox.expect()
    for _ in range(most):
        inbox.added(size)
    assert (wire.reading, wire.overflown) == (True, False)
    inbox.added(1)
    assert wire.overflown


def test_reading_pauses_when_the_last_call_has_ended() -> None:
    wire = Wire()
    inbox = inbox_of(wire)
    inbox.added(100)
    for _ in range(2):
        inbox.expect()
        assert wire.reading
    inbox.expected()
    assert wire.reading
    inbox.expected()
    assert (wire.reading, inbox.full, inbox.expecting) == (False, True, 0)
    inbox.taken(100)
    assert wire.reading


def test_a_rate_limit_holds_reading_whatever_else_ends() -> None:
    wire = Wire()
    inbox = inbox_of(wire)
    inbox.added(100)
    inbox.slow()
    inbox.expect()
    inbox.expected()
    inbox.taken(100)
    assert not wire.reading
    inbox.added(100)
    inbox.quicken()
    assert not wire.reading  # too much waits
    inbox.taken(100)
    assert wire.reading


class Work(msgspec.Struct):
    key: str


def test_what_waits_behind_its_key_counts_until_it_is_dropped() -> None:
    app = Router("/")

    @app.consumer(concurrency=2, key="key")
    async def work(message: Work) -> None: ...

    (plan,) = compile_app(app).routes
    (consumer,) = plan.consumers
    wire = Wire()
    inbox = inbox_of(wire)
    shared, keyed = Lane(inbox), KeyedLane(inbox, consumer)
    shared.put(Item(consumer, "first", 10))
    for _ in range(3):
        keyed.put(Item(consumer, Work("same"), 30))
    assert not wire.reading
    inbox.discard()
    assert (inbox.waiting, inbox._waiting_bytes) == (False, 0)
