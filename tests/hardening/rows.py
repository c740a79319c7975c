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
    test_rates,
    test_secrets,
    test_shutdown,
    test_soak,
    test_stalls,
    test_sweep,
)
from tests.hardening.board import Row

ROWS: Sequence[Row] = (
    test_autobahn.ROW,
    test_sweep.ROW,
    test_machine.ROW,
    test_malformed.ROW,
    test_origins.ROW,
    test_bombs.ROW,
    test_limits.ROW,
    test_broadcast.ROW,
    test_keepalive.ROW,
    test_rates.ROW,
    test_shutdown.ROW,
    test_closing.ROW,
    test_stalls.ROW,
    test_brokers.ROW,
    test_proxies.ROW,
    test_idle.ROW,
    test_soak.ROW,
    test_secrets.ROW,
)
