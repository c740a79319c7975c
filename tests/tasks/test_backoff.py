"""How long to wait before trying again."""

from __future__ import annotations

import itertools

from wsflow.tasks.backoff import back_off


def test_it_doubles_up_to_a_bound_and_is_spread() -> None:
    rounds = [list(itertools.islice(back_off(0.1, 5.0), 10)) for _ in range(300)]
    for index, seconds in enumerate(zip(*rounds, strict=True)):
        most = min(5.0, 0.1 * 2**index)
        assert 0 <= min(seconds) < 0.1 * most
        assert 0.9 * most < max(seconds) <= most
