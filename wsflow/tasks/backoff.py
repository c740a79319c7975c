"""How long to wait before trying again."""

from __future__ import annotations

import random
from collections.abc import Iterator


def back_off(first: float = 0.1, most: float = 5.0) -> Iterator[float]:
    """Seconds to wait before each attempt: exponential, with full jitter.

    Args:
        first: the most before the first attempt; it doubles with each.
        most: the most at all.
    """
    while True:
        yield random.uniform(0, first)
        first = min(most, 2 * first)
