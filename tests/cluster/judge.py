"""Who has got what, of what was acknowledged: lost, twice, out of order, and what was told."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import add

SLACK = 20
"""Messages that may come before the peer is told that something is missing before them."""


@dataclass
class Count:
    """What was seen, in deliveries.

    Attributes:
        lost: those that are missing, and nobody was told.
        told: those that are missing, and the peer knows that something is missing there.
        twice: those that came again.
        disorder: those that came before an earlier one of the same publisher.
    """

    lost: int = 0
    told: int = 0
    twice: int = 0
    disorder: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(*map(add, self.values, other.values))

    @property
    def values(self) -> tuple[int, int, int, int]:
        return self.lost, self.told, self.twice, self.disorder

    @property
    def wrong(self) -> int:
        """What must not happen."""
        return self.lost + self.twice + self.disorder


def judge(
    publisher: int,
    said: Sequence[int],
    maybe: Collection[int],
    heard: Sequence[tuple[int, int]],
    breaks: Sequence[tuple[int, int]],
) -> Count:
    """Judge what one peer has got of one publisher.

    Args:
        publisher: the publisher.
        said: the numbers that it was told to be published, ascending.
        maybe: those for which it got an error, or no answer. They may have come, or not.
        heard: all that the peer has got, of all publishers.
        breaks: where in it the peer knows that something may be missing.
    """
    came = [(at, number) for at, (by, number) in enumerate(heard) if by == publisher]
    sure = [number for _, number in came if number not in maybe]
    count = Count(twice=len(sure) - len(set(sure)))
    count.disorder = sum(a > b for a, b in itertools.pairwise(sure))
    all_numbers = {number for _, number in came}
    places: dict[int, int] = {}  # of those that came in order
    numbers: list[int] = []
    for at, number in came:
        if not numbers or number > numbers[-1]:
            numbers.append(number)
            places[number] = at
    for number in said:
        if number in all_numbers:
            continue
        index = bisect_left(numbers, number)
        before = places[numbers[index - 1]] + 1 if index else 0
        behind = places[numbers[index]] if index < len(numbers) else len(heard)
        if any(start <= behind + SLACK and end >= before for start, end in breaks):
            count.told += 1
        else:
            count.lost += 1
    return count
