"""Rate limits: from their declarations to plans."""

from __future__ import annotations

import re
from typing import get_args

from wsflow.declare.router import Per, RateLimit, WhenOver
from wsflow.wiring.plan import RatePlan

SECONDS = {"s": 1, "min": 60, "h": 3600}

_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|min|h)", re.ASCII)


def rate_problem(limit: RateLimit) -> tuple[str, str] | None:
    """Why there cannot be such a limit, and the fix; None if there can."""
    rate, burst = limit.rate, limit.burst
    if rate is None and limit != RateLimit():
        name = next(name for name, value in vars(limit).items() if value != vars(RateLimit())[name])
        return f"{name} is set, and there is no rate.", f"add rate=…, or remove {name}."
    if rate is not None and not (isinstance(rate, str) and _RATE.fullmatch(rate)):
        return (
            f"rate is {rate!r}.",
            'write a number of messages per second, minute or hour: "20/s", "20/min" or "20/h".',
        )
    if burst is not None and (type(burst) is not int or burst < 1):
        return f"burst is {burst!r}.", "use an integer of at least 1."
    if limit.when_over not in get_args(WhenOver):
        return f"when_over is {limit.when_over!r}.", 'use "close", "slow" or "drop".'
    if limit.per not in get_args(Per):
        return f"per is {limit.per!r}.", 'use "connection", "client" or "user".'
    return None


def rate_plan(limit: RateLimit, name: str) -> RatePlan | None:
    """The plan of a limit without a problem; None if there is no limit."""
    found = _RATE.fullmatch(limit.rate) if isinstance(limit.rate, str) else None
    if found is None:
        return None
    count, seconds = int(found[1]), SECONDS[found[2]]
    burst = limit.burst or max(1, count // seconds)
    return RatePlan(name, seconds / count, burst, limit.when_over, limit.per)
