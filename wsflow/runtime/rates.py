"""Rate limits: what connections, clients and users have used of them.

Each limit is a token bucket, kept as one number, as in the generic cell rate algorithm: the time at
which the bucket will be full again. A message moves it by the interval of the rate. A message comes
too early if it would move it further ahead than the burst allows. A limit whose time has passed is
as good as new, and need not be remembered.

What connections share is kept by ``SharedRates``, which also tells the other processes of the app
what it has used, and counts what they tell. So each process lets through what no other has told it
to be used up: together they exceed a limit by at most what all let through within ``INTERVAL``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping
from heapq import nsmallest
from itertools import islice
from typing import Annotated, Any, final

import anyio
import msgspec

from wsflow.errors import Reject
from wsflow.messages.events import UNREADABLE
from wsflow.request import Request
from wsflow.tasks.waiting import Clock, Timer
from wsflow.topics.channels import Channels
from wsflow.wiring.plan import AppPlan, RatePlan

INTERVAL = 0.25
"""Seconds between two notes to the other processes."""
MOST = 100_000
"""The most limits of clients and users that are remembered; beyond it, those that are nearest to
being full again are forgotten."""
SWEEP = 1000
"""How many are remembered before those that are full again are looked for."""
BATCH = 1000
"""How many entries one note has."""
INEXACT = 0.001
"""How many messages a count may be off, since sums of floats are not exact."""

Key = tuple[str, str]
"""The name of a limit, and whose it is."""

MOST_COUNTED = 1_000_000
Count = Annotated[int, msgspec.Meta(ge=1, le=MOST_COUNTED)]


class Used(msgspec.Struct, tag="used", array_like=True, frozen=True):
    """How many messages the sending process has counted since its last note."""

    entries: list[tuple[str, str, Count]]


class Level(msgspec.Struct, tag="level", array_like=True, frozen=True):
    """How many messages are counted in all, for a process that has not heard of them."""

    entries: list[tuple[str, str, Count]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Used | Level).decode


def until(rate: RatePlan, full: float, now: float) -> float:
    """Seconds until a message may come; 0 if it may come now.

    Args:
        rate: the limit.
        full: when it is full again.
        now: the time.
    """
    seconds = full - now - (rate.burst - 1) * rate.interval
    return seconds if seconds > rate.interval * INEXACT else 0.0


def spend(used: MutableMapping[Any, float], key: Any, seconds: float, now: float) -> None:
    """Count messages that need ``seconds`` at their rate."""
    used[key] = max(used.get(key, now), now) + seconds


def client_of(request: Request) -> str:
    """The client, as limits count it; those without an address count as one."""
    return request.client.network if request.client is not None else ""


def client_key(request: Request) -> str:
    """Whose limit it is: a client's."""
    return f"client {client_of(request)}"


def user_key(user: str) -> str:
    """Whose limit it is: a user's."""
    return f"user {user}"


def count_down(counts: Counter[str], name: str) -> None:
    """Count one less, and forget what has none left."""
    counts[name] -= 1
    if not counts[name]:
        del counts[name]


def retry_after(seconds: float) -> tuple[str, str]:
    """The header that says when to try again (RFC 9110 §10.2.3): in whole seconds, at least 1.
    What a clock's rounding adds is no second more."""
    return "Retry-After", str(max(1, math.ceil(round(seconds, 3))))


@final
class SharedRates:
    """The limits per client and per user, of all connections of the process.

    Args:
        plan: the app, with its limits.
        channels: the way to the other processes.

    Attributes:
        used: by limit and client or user, when it is full again.
    """

    def __init__(self, plan: AppPlan, channels: Channels) -> None:
        self._limits = plan.shared_limits
        self._broker = channels.broker
        self.used: dict[Key, float] = {}
        self._sweep_at = SWEEP
        self._to_tell: Counter[Key] = Counter()
        self._timer: Timer | None = None
        if self._limits:
            channels.usage = self

    def until(self, rate: RatePlan, who: str, now: float) -> float:
        """Seconds until a message of that client or user may come."""
        return until(rate, self.used.get((rate.name, who), now), now)

    def spend(self, rate: RatePlan, who: str, now: float, clock: Clock) -> None:
        """Count a message, here and in the other processes. All connections have the same clock,
        the event loop's."""
        key = rate.name, who
        spend(self.used, key, rate.interval, now)
        if len(self.used) >= self._sweep_at:
            self._sweep(now)
        if self._broker.processes:
            self._to_tell[key] += 1
            if self._timer is None:
                self._timer = clock.after(INTERVAL, self.tell)

    def check(self, limits: Iterable[RatePlan], who: str, now: float) -> None:
        """Check that a client or a user may open another connection: each limit has room for a
        message.

        Raises:
            Reject: one of these limits is used up.
        """
        seconds = max((self.until(each, who, now) for each in limits), default=0.0)
        if seconds:
            raise Reject(429, headers=[retry_after(seconds)])

    def _sweep(self, now: float) -> None:
        """Forget what is full again; and if there is too much, what will be so first."""
        self.used = {key: full for key, full in self.used.items() if full > now}
        if len(self.used) >= MOST:
            for key in nsmallest(MOST // 10, self.used, key=self.used.__getitem__):
                del self.used[key]
        self._sweep_at = min(max(SWEEP, 2 * len(self.used)), MOST)

    # -- between processes

    def tell(self) -> None:
        """Tell the others what was used since the last time."""
        counted, self._to_tell, self._timer = self._to_tell, Counter(), None
        for entries in _batches(counted.items()):
            self._broker.tell("", _encode(Used(entries)))

    def stop(self) -> None:
        """Tell the others what they have not heard, since nothing follows."""
        if self._timer is not None:
            self._timer.cancel()
            self.tell()

    def appeared(self, process: str) -> None:
        """Tell a process that may know nothing what is used."""
        now = anyio.current_time()
        counted = (
            (key, math.ceil((full - now) / self._limits[key[0]].interval - INEXACT))
            for key, full in self.used.items()
        )
        for entries in _batches((key, count) for key, count in counted if count > 0):
            self._broker.tell(process, _encode(Level(entries)))

    def heard(self, note: bytes) -> bool:
        """A note from another process has come. Returns whether it is about this."""
        try:
            told = _decode(note)
        except UNREADABLE:
            return False
        now = anyio.current_time()
        for name, who, count in told.entries:
            rate = self._limits.get(name)
            if rate is None:
                continue  # of another version of the app
            if isinstance(told, Used):
                spend(self.used, (name, who), count * rate.interval, now)
            else:
                full = now + count * rate.interval
                self.used[name, who] = max(self.used.get((name, who), full), full)
        if len(self.used) >= self._sweep_at:
            self._sweep(now)
        return True


def _batches(counted: Iterable[tuple[Key, int]]) -> Iterator[list[tuple[str, str, int]]]:
    """Entries of notes, for each limit that was counted."""
    entries = ((*key, min(count, MOST_COUNTED)) for key, count in counted)
    while batch := list(islice(entries, BATCH)):
        yield batch
