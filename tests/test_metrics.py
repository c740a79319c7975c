"""Numbers of several processes, added up."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from wsflow.metrics import BOUNDS, Family, Histogram, Report, add_up, counted, family


@given(st.lists(st.integers(0, 2**70), max_size=30))
def test_a_histogram(taken: list[int]) -> None:
    histogram = Histogram()
    for each in taken:
        histogram.add(each)
    *counts, count, seconds = histogram.buckets
    assert count == len(taken)
    assert seconds == sum(taken) / 1e9
    for bound, number in zip(BOUNDS, counts, strict=True):
        assert number == sum(each < bound * 1e9 for each in taken)


def processes() -> list[list[Family]]:
    return [
        [
            family("opened", "counter", "Opened.", ("route",), [(("/a",), 2), (("/b",), 1)]),
            family("open", "gauge", "Open.", ("route",), [(("/a",), 1)]),
            family("connected", "lowest", "Connected.", (), [((), 1)]),
            family("took", "histogram", "Took.", (), [((), [1, 2, 0.5])]),
        ],
        [
            family("opened", "counter", "Opened.", ("route",), [(("/a",), 3), (("/c",), 4)]),
            family("open", "gauge", "Open.", ("route",), [(("/a",), 5)]),
            family("connected", "lowest", "Connected.", (), [((), 0)]),
            family("took", "histogram", "Took.", (), [((), [0, 1, 0.25])]),
            family("lost", "counter", "Lost.", (), [((), 1)]),
        ],
    ]


def test_several_processes() -> None:
    one, two = processes()
    total = {each.name: each.values for each in add_up([one, two])}
    assert total == {
        "opened": {("/a",): [5], ("/b",): [1], ("/c",): [4]},
        "open": {("/a",): [6]},
        "connected": {(): [0]},
        "took": {(): [1, 3, 0.75]},
        "lost": {(): [1]},
    }
    assert [one, two] == processes()  # they are not changed
    assert add_up([]) == []


def test_one_that_has_ended() -> None:
    """What it has counted stays, and what it was is no more."""
    assert [each.name for each in counted(processes()[1])] == ["opened", "took", "lost"]


def test_a_report_as_bytes() -> None:
    report = Report(["it stops"], processes()[0])
    sent = msgspec.msgpack.encode(report)
    assert msgspec.msgpack.decode(sent, type=Report) == report
