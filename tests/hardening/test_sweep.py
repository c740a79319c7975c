"""Row 2: a fault at every await."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.hardening.board import Check, Outcome, Row, Scale, both_forms
from tests.testing.swept import SWEPT
from tests.testing.test_sweep import BUGS
from wsflow.testing import sweep_cancellation


def points(scale: Scale) -> Outcome:
    """Apps of every kind, swept."""
    outcome, swept = Outcome(), Counter[str]()
    for name in list(SWEPT)[: scale.of(2, None)]:
        app, scenario, limits = SWEPT[name]
        report = sweep_cancellation(app(), scenario, limits=limits, on_violation="report")
        swept[name] = report.points
        outcome.wrong += [f"{name}: {each}" for each in report.violations]
    outcome.figures = (
        f"{swept.total():,} points of {len(swept)} apps, {len(outcome.wrong)} violations"
    )
    outcome.expect(swept.total() >= scale.of(50, 2000), outcome.figures)
    return outcome


def planted_bugs(scale: Scale) -> Outcome:
    """Bugs put into wsflow, each with an app that shows it."""
    outcome, found = Outcome(), 0
    bugs = list(BUGS)[: scale.of(2, None)]
    for bug in bugs:
        plant, name, oracles = BUGS[bug]
        app, scenario, limits = SWEPT[name]
        with pytest.MonkeyPatch.context() as patch:
            plant(patch)
            report = sweep_cancellation(app(), scenario, limits=limits, on_violation="report")
        seen = {violation.oracle for violation in report.violations}
        outcome.expect(seen & oracles, f"not found: {bug}")
        found += bool(seen & oracles)
    outcome.figures = f"{found} of {len(bugs)} planted bugs found"
    return outcome


ROW = Row(
    2,
    "`wsflow.testing.sweep_cancellation(app, scenario)`, public: users get it too",
    "every suspension × 7 faults × asyncio and Trio",
    "≥ 2,000 points, 0 violations; of ten planted bugs ten found",
    [Check("points", points), Check("planted bugs", planted_bugs)],
)
test_quick, test_whole = both_forms(ROW)
