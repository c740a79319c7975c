"""A row of the scoreboard, its checks, and what they have reached.

A check is a function of a ``Scale`` that returns an ``Outcome``. It does the same at each scale,
only less of it. All that is random in it comes from the seed of the scale.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
SEED = "SCOREBOARD_SEED"
"""The variable of the environment that has the seed: for a run like an earlier one."""


class UnavailableError(Exception):
    """A check needs what is not on this machine; the message says what."""


@dataclass(frozen=True)
class Scale:
    """How much a check does.

    Attributes:
        whole: whether it does what the row asks for, or less of it.
        seed: what is random follows from it.
    """

    whole: bool = False
    seed: int = 0

    def of(self, quick: T, whole: T) -> T:
        """What to use at this scale."""
        return whole if self.whole else quick

    def random(self) -> random.Random:
        """A generator that begins with the seed."""
        return random.Random(self.seed)

    @property
    def name(self) -> str:
        return "whole" if self.whole else "quick"


def scale(whole: bool, seed: int | None = None) -> Scale:
    """A scale with this seed, or the one in the environment. Without both, the quick form has
    always the same one, and the whole form another one each time."""
    if seed is None and SEED in os.environ:
        seed = int(os.environ[SEED])
    if seed is None:
        seed = random.SystemRandom().randrange(2**32) if whole else 1
    return Scale(whole, seed)


@dataclass
class Outcome:
    """What a check has reached.

    Attributes:
        figures: in a few words, with numbers and units.
        wrong: what is not as it must be, each with what is needed to see it again.
    """

    figures: str = ""
    wrong: list[str] = field(default_factory=list)

    def expect(self, condition: object, wrong: str) -> None:
        """Note what is wrong, if the condition does not hold."""
        if not condition:
            self.wrong.append(wrong)

    @property
    def reached(self) -> bool:
        return not self.wrong


@dataclass(frozen=True)
class Check:
    """A part of a row.

    Attributes:
        name: what is tried.
        measure: tries it.
        fault: what is known to be wrong with wsflow, and makes the check fail.
        only_whole: the fault shows only at the whole scale.
    """

    name: str
    measure: Callable[[Scale], Outcome]
    fault: str = ""
    only_whole: bool = False

    def fails(self, scale: Scale) -> bool:
        """Whether it is known to fail."""
        return bool(self.fault) and (scale.whole or not self.only_whole)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        number: its number.
        test: what is tried.
        load: how much of it.
        target: what must be reached.
        checks: its parts.
    """

    number: int
    test: str
    load: str
    target: str
    checks: Sequence[Check]


def both_forms(row: Row) -> tuple[Any, Any]:
    """The tests of a row's checks, quick and whole. A check with a known fault has to fail: so it
    is noticed when the fault is mended."""
    return _test(row, Scale()), pytest.mark.hardening(_test(row, Scale(whole=True)))


def _test(row: Row, size: Scale) -> Any:
    cases = []
    for check in row.checks:
        faults = [pytest.mark.xfail(strict=True, reason=check.fault)] * check.fails(size)
        cases.append(pytest.param(check, id=check.name.replace(" ", "-"), marks=faults))

    @pytest.mark.no_cover  # its lines are covered by others, and it is four times as slow
    @pytest.mark.long
    @pytest.mark.parametrize("check", cases)
    def test(check: Check) -> None:
        of = scale(size.whole)
        began = time.monotonic()
        try:
            outcome = check.measure(of)
        except UnavailableError as exc:
            pytest.skip(str(exc))
        print(f"{check.name}: {outcome.figures} ({time.monotonic() - began:.1f} s)")
        wrong = "\n  ".join(outcome.wrong[:20])
        assert not wrong, f"seed {of.seed}: set {SEED}={of.seed} to see it again\n  {wrong}"

    return test
