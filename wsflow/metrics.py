"""What is measured: families of numbers, as Prometheus has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, final

import msgspec

Kind = Literal["counter", "gauge", "lowest", "histogram"]
"""``lowest`` is a gauge of which the lowest counts where there are several processes."""

Number = int | float
Labels = tuple[str, ...]

_LENGTHS = tuple(range(14, 36, 2))
BOUNDS = tuple(2**length / 1e9 for length in _LENGTHS)
"""The upper bounds of a histogram's buckets, in seconds: from 16 µs to 17 s, each four times the
one before."""


@final
class Histogram:
    """How often something took how long.

    Attributes:
        counts: by the binary length of the nanoseconds.
        total: nanoseconds.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * 80
        self.total = 0

    def add(self, nanoseconds: int) -> None:
        self.counts[nanoseconds.bit_length()] += 1
        self.total += nanoseconds

    @property
    def buckets(self) -> list[Number]:
        """How many took up to each of ``BOUNDS``, how many there are, and the seconds of all."""
        return [
            *(sum(self.counts[: length + 1]) for length in _LENGTHS),
            sum(self.counts),
            self.total / 1e9,
        ]


class Family(msgspec.Struct, array_like=True):
    """Numbers of one kind.

    Attributes:
        name: its name; that of a counter without ``_total``.
        kind: what it is.
        help: one line for who reads it.
        labels: the names of the labels.
        values: a number for each combination of labels. A histogram has several: see
            ``Histogram.buckets``.
    """

    name: str
    kind: Kind
    help: str
    labels: Labels
    values: dict[Labels, list[Number]]


class Report(msgspec.Struct, array_like=True):
    """How one process is.

    Attributes:
        unready: why no connections should be sent there; empty if they should.
        families: what it has measured.
    """

    unready: list[str]
    families: list[Family]


Measured = Sequence[Family] | None
"""What is measured; None if it cannot be had now."""


def family(
    name: str,
    kind: Kind,
    help: str,
    labels: Labels = (),
    values: Iterable[tuple[Labels, Number | list[Number]]] = (),
) -> Family:
    """A family, of numbers that are not in lists yet."""
    found = {each: value if isinstance(value, list) else [value] for each, value in values}
    return Family(name, kind, help, labels, found)


def add_up(snapshots: Iterable[Sequence[Family]]) -> list[Family]:
    """The families of several processes as one. What has only been counted in some is not lost."""
    found: dict[str, Family] = {}
    for snapshot in snapshots:
        for each in snapshot:
            sum = found.get(each.name)
            if sum is None:
                found[each.name] = Family(
                    each.name, each.kind, each.help, each.labels, dict(each.values)
                )
                continue
            for labels, numbers in each.values.items():
                there = sum.values.get(labels)
                if there is None:
                    sum.values[labels] = numbers
                elif each.kind == "lowest":
                    sum.values[labels] = [min(there[0], numbers[0])]
                else:
                    sum.values[labels] = [
                        one + two for one, two in zip(there, numbers, strict=True)
                    ]
    return list(found.values())


def counted(snapshot: Sequence[Family]) -> list[Family]:
    """What stays true of a process that has ended: what it has counted."""
    return [each for each in snapshot if each.kind in ("counter", "histogram")]
