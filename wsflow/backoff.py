"""How long to wait before trying again."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator


def back_off(first: float = 0.1, most: float = 5.0) -> Iterator[float]:
    """Seconds to wait before each attempt: exponential, with full jitter.

    Args:
        first: the most before the first attempt; it doubles with each.
        most: the most at all.
    """
    for attempt in itertools.count():
        yield random.uniform(0, min(most, first * 2 ** min(attempt, 30)))
