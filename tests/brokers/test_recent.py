"""The events of histories that a process has: never a gap, never one too many."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsflow.brokers import recent
from wsflow.brokers.base import PORTION, PORTION_BYTES, before
from wsflow.brokers.recent import Known, Order, Recent, Total
from wsflow.messages.events import Envelope, Event, TopicOptions

PLAIN = Envelope({})


def total() -> Total:
    return Total(lambda: 0.0)


def known(number: int, size: int = 10) -> Known:
    return Known((number,), Event(str(number), PLAIN), size)


def heard(kept: Recent, *numbers: int, size: int = 10) -> None:
    for number in numbers:
        kept.heard((number - 1,), known(number, size))


def all_after(kept: Recent, number: int) -> list[int]:
    """The events after a place, as far as they are here."""
    found: list[int] = []
    order: Order = (number,)
    while (portion := kept.portion(order)) is not None:
        found += [int(each.id) for each in portion.events]
        order = portion.upto
    return found


def test_what_was_heard_is_here() -> None:
    kept = Recent(TopicOptions(history=1000), total())
    heard(kept, *range(5, 200))
    assert kept.portion((3,)) is None  # nobody knows what is between 3 and 5
    assert all_after(kept, 4) == [*range(5, 200)]
    assert all_after(kept, 150) == [*range(151, 200)]
    assert kept.portion((199,)) is None
    portion = kept.portion((4,))
    assert portion is not None
    assert len(portion.events) == PORTION


def test_not_more_than_the_history_has() -> None:
    kept = Recent(TopicOptions(history=100), total())
    heard(kept, *range(1, 1000))
    there = all_after(kept, 899)
    assert there == [*range(900, 1000)]
    assert kept.portion((700,)) is None
    assert kept._count < 100 + PORTION


def test_a_portion_has_a_limit_in_bytes() -> None:
    kept = Recent(TopicOptions(history=100), total())
    heard(kept, 1, 2, 3, size=PORTION_BYTES - 1)
    kept.read((3,), (9,), [known(number, 30_000) for number in range(4, 10)])
    sizes = []
    order: Order = (0,)
    while (portion := kept.portion(order)) is not None:
        sizes.append(len(portion.events))
        order = portion.upto
    assert sizes == [1, 1, 1, 3, 3]


def test_what_was_read_fills_the_gap_before_what_was_heard() -> None:
    kept = Recent(TopicOptions(history=100), total())
    heard(kept, 8, 9)
    assert kept.next((2,)) == (7,)
    kept.read((2,), (9,), [known(4), known(6), known(7), known(8), known(9)])
    assert [run.upto for run in kept._runs] == [(7,), (9,)]
    assert all_after(kept, 2) == [4, 6, 7, 8, 9]
    assert all_after(kept, 5) == [6, 7, 8, 9]
    kept.read((0,), (2,), [])  # there is nothing
    assert all_after(kept, 0) == [4, 6, 7, 8, 9]


def test_the_last_events() -> None:
    kept = Recent(TopicOptions(history=1000), total())
    assert kept.last(1, (3,)) is None
    heard(kept, *range(4, 204))
    for count, place, first in [(1, 202, 203), (150, 53, 54), (200, 3, 4)]:
        found = kept.last(count, (203,))
        assert found is not None
        order, portion = found
        assert order == (place,)
        assert portion.events[0].id == f"{first}"
    assert kept.last(201, (203,)) is None
    kept.beginning = (3,)
    assert kept.last(201, (203,)) == kept.last(200, (203,))
    assert kept.last(1, (204,)) is None  # it is not here
    kept.clear()
    heard(kept, 4, 5)
    assert kept.last(5, (5,)) is None


def test_what_is_too_old_is_not_replayed() -> None:
    now = 100.0
    kept = Recent(TopicOptions(history=1000, max_age=10), Total(lambda: now))
    heard(kept, 1, 2)
    now = 105.0
    heard(kept, 3)
    kept.read((-1,), (0,), [known(0)])
    assert all_after(kept, -1) == [0, 1, 2, 3]
    now = 106.5
    assert kept.portion((-1,)) is None  # nobody knows how old it is
    assert all_after(kept, 0) == [1, 2, 3]
    now = 110.5
    assert kept.last(1, (3,)) is None
    assert kept.portion((0,)) is None
    assert kept.portion((2,)) is None  # it is read again, though it may be young enough


def test_all_topics_have_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "RECENT_BYTES", 400_000)
    total = Total(lambda: 0.0)
    topics = [Recent(TopicOptions(history=1000), total) for _ in range(3)]
    for kept in topics:
        heard(kept, *range(1, 201), size=1000 - recent.OVERHEAD)
    assert 300_000 < total._bytes <= 400_000
    assert topics[0].portion((0,)) is None  # it was not used for longest
    assert all_after(topics[2], 0) == [*range(1, 201)]
    topics[2].clear()
    assert topics[2].portion((0,)) is None
    heard(topics[1], 201, size=1_000_000)  # one alone is kept, whatever it takes
    assert all_after(topics[1], 200) == [201]
    assert len(total._owners) == 1


def test_what_was_replayed_stays_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "RECENT_BYTES", 200_000)
    kept = Recent(TopicOptions(history=1000), total())
    heard(kept, *range(1, 101), size=1000 - recent.OVERHEAD)
    for number in range(101, 300):
        assert kept.portion((0,)) is not None
        heard(kept, number, size=1000 - recent.OVERHEAD)
    assert kept.portion((70,)) is None


@pytest.mark.parametrize(
    ("order", "place"),
    [
        ((7,), (6,)),
        ((7, 3), (7, 2)),
        ((7, 0), (6, 2**64 - 1)),
        ((7, 0, 0), (6, 2**64 - 1, 2**64 - 1)),
        ((0,), (-1,)),
    ],
)
def test_the_place_before_an_event(order: Order, place: Order) -> None:
    assert before(order) == place
    assert before(order) < order


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("hear"), st.integers(1, 90)),
            st.tuples(st.just("read"), st.tuples(st.integers(0, 300), st.integers(1, 80))),
            st.tuples(st.just("jump"), st.integers(1, 5)),
            st.tuples(st.just("clear"), st.none()),
        ),
        max_size=40,
    ),
    st.sampled_from([10**9, 40_000]),
)
def test_whatever_was_heard_and_read(steps: list[Any], room: int) -> None:
    """What comes after any place is either not here, or all of it, in order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent, "RECENT_BYTES", room)
        total = Total(lambda: 0.0)
        kept = Recent(TopicOptions(history=200), total)
        at = 0
        for step, what in steps:
            if step == "hear":
                for _ in range(what):
                    at += 1
                    kept.heard((at - 1,), known(at))
            elif step == "jump":  # events that this process has not heard
                at += what
            elif step == "clear":
                kept.clear()
            else:
                start, length = what
                if start < at and kept.portion((start,)) is None:
                    following = kept.next((start,)) or (at,)
                    upto = min(start + length, at, *following)
                    page = [known(n) for n in range(start + 1, upto + 1)]
                    kept.read((start,), (upto,), page)
                    assert kept.portion((start,)) is not None
            for place in range(0, at, 7):
                portion = kept.portion((place,))
                if portion is not None:
                    numbers = [int(each.id) for each in portion.events]
                    assert numbers == [*range(place + 1, portion.upto[0] + 1)]
            assert sum(len(each.events) for each in kept._runs) == kept._count
            assert total._bytes == sum(each.size for each in total._owners)
            assert total._bytes <= room or len(total._owners) == 1
            assert {*kept._runs} == {*total._owners}
