"""Exponential back-off."""

from __future__ import annotations

import random
from collections.abc import Iterator


def back_off(initial: float = 0.1, longest: float = 5.0) -> Iterator[float]:
    """Seconds to wait before each attempt: exponential, with full jitter.

    Args:
        initial: the longest wait before the first attempt; it doubles with each attempt.
        longest: the upper limit of all waits.
    """
    while True:
        yield random.uniform(0, initial)
        initial = min(longest, 2 * initial)
