"""The rows of the scoreboard, in their order."""

from __future__ import annotations

from collections.abc import Sequence

from tests.hardening import (
    test_autobahn,
    test_bombs,
    test_broadcast,
    test_brokers,
    test_closing,
    test_idle,
    test_keepalive,
    test_limits,
    test_machine,
    test_malformed,
    test_origins,
    test_proxies,
    test_secrets,
    test_shutdown,
    test_soak,
    test_stalls,
)
from tests.hardening.board import Row

SWEEP = Row(
    2,
    "`wsflow.testing.sweep_cancellation(app, scenario)`, public: users get it too",
    "every suspension × 7 faults × asyncio and Trio",
    "≥ 2,000 points, 0 violations; of ten planted bugs ten found",
    where="tests/testing/test_sweep.py",
)
RATES = Row(
    10,
    "rate limits",
    "10× over",
    "as set; others unaffected",
    where="tests/hardening/test_rates.py",
)
"""A row without checks is not measured here yet: its module is to have a ``ROW`` like the others,
which stands here then."""

ROWS: Sequence[Row] = (
    test_autobahn.ROW,
    SWEEP,
    test_machine.ROW,
    test_malformed.ROW,
    test_origins.ROW,
    test_bombs.ROW,
    test_limits.ROW,
    test_broadcast.ROW,
    test_keepalive.ROW,
    RATES,
    test_shutdown.ROW,
    test_closing.ROW,
    test_stalls.ROW,
    test_brokers.ROW,
    test_proxies.ROW,
    test_idle.ROW,
    test_soak.ROW,
    test_secrets.ROW,
)
