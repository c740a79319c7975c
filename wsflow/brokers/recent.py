"""The events of histories that this process has: what it has heard, and what it has read lately.

Who comes back gets from here what he has missed. A history is read at the server only for what is
not here, and once for all who wait for it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, final

from wsflow.brokers.base import PORTION, PORTION_BYTES
from wsflow.brokers.engine import loop_time
from wsflow.messages.events import Event, TopicOptions

RECENT_BYTES = 32 * 1024 * 1024
"""Bytes of events that are kept for all topics together."""

FRESH = 1.0
"""Seconds for which an event that was read is kept, at most, on a topic with ``max_age`` or
``idle``: when it was published is not known."""

OVERHEAD = 512
"""Bytes that an event counts for, beside its message."""

COPIES = 3
"""How often a message may be there."""

Order = tuple[int, ...]


class Known(NamedTuple):
    """An event of a history.

    Attributes:
        order: its place.
        event: the event.
        size: the bytes of its message.
    """

    order: Order
    event: Event
    size: int

    @property
    def counts(self) -> int:
        """The bytes that it counts for: as it has come, with its id, and as it is sent."""
        return COPIES * self.size + OVERHEAD


class Portion(NamedTuple):
    """The next events of a history.

    Attributes:
        events: oldest first.
        upto: the place up to which these are all.
    """

    events: Sequence[Event]
    upto: Order


@final
class Run:
    """All events after one place of a history, up to another.

    Attributes:
        after: the place before the first one.
        upto: the last place that is known.
        events: the events.
        size: the bytes that they count for.
        until: the time until which the first one may be replayed.
    """

    __slots__ = ("_orders", "_sizes", "after", "events", "size", "until", "upto")

    def __init__(self, after: Order, until: float) -> None:
        self.after = self.upto = after
        self.until = until
        self._orders: list[Order] = []
        self._sizes: list[int] = []
        self.events: list[Event] = []
        self.size = OVERHEAD

    def add(self, known: Known) -> None:
        self.upto = known.order
        self._orders.append(known.order)
        self._sizes.append(known.size)
        self.events.append(known.event)
        self.size += known.counts

    def portion(self, order: Order) -> Portion:
        """The next events after a place."""
        start = end = bisect_right(self._orders, order)
        size = 0
        while end < len(self.events) and (
            end == start or (end - start < PORTION and size < PORTION_BYTES)
        ):
            size += self._sizes[end]
            end += 1
        upto = self._orders[end - 1] if end < len(self.events) else self.upto
        return Portion(self.events[start:end], upto)

    def has(self, order: Order) -> bool:
        """Whether it has what comes after a place."""
        return self.after <= order < self.upto

    def before(self, count: int) -> Order:
        """The place before its last events, ``count`` or all of them."""
        return self._orders[-count - 1] if count < len(self._orders) else self.after


@final
class Recent:
    """The events of one topic that this process has.

    Args:
        options: the topic's.
        total: bounds the bytes of all topics.

    Attributes:
        beginning: a place before which the history has nothing; None if none is known.
    """

    __slots__ = ("_afters", "_count", "_lifetime", "_most", "_runs", "_total", "beginning")

    def __init__(self, options: TopicOptions, total: Total) -> None:
        self._most = options.history
        self._lifetime = options.lifetime
        self._total = total
        self.beginning: Order | None = None
        self._runs: list[Run] = []  # in order; they do not overlap
        self._afters: list[Order] = []  # of these
        self._count = 0  # events in these

    def portion(self, order: Order) -> Portion | None:
        """The next events after a place; None if they are not here."""
        at = bisect_right(self._afters, order) - 1
        if at < 0 or not (run := self._runs[at]).has(order):
            return None
        if run.until < self._total.clock():
            self._total.drop(run)
            return None
        self._total.used(run)
        return run.portion(order)

    def last(self, count: int, upto: Order) -> tuple[Order, Portion] | None:
        """The place before the last events of a history that ends at ``upto``, and the first of
        them; None if they are not all here."""
        for run in reversed(self._runs):
            if run.upto != upto or run.until < self._total.clock():
                return None
            if len(run.events) >= count or run.after == self.beginning:
                self._total.used(run)
                order = run.before(count)
                return order, run.portion(order)
            count -= len(run.events)
            upto = run.after
        if upto == self.beginning:
            return upto, Portion((), upto)
        return None

    def next(self, order: Order) -> Order | None:
        """The place after a place from which on events are here."""
        at = bisect_right(self._afters, order)
        return self._afters[at] if at < len(self._afters) else None

    def heard(self, after: Order, known: Known) -> None:
        """The event that follows on a place has come."""
        run = self._runs[-1] if self._runs else None
        if (
            run is None
            or run.upto != after
            or len(run.events) >= PORTION
            or run.size >= PORTION_BYTES
        ):
            run = self._insert(
                len(self._runs), Run(after, self._total.clock() + (self._lifetime or float("inf")))
            )
        run.add(known)
        self._count += 1
        self._total.grown(run, known.counts)
        while self._runs and self._count - len(self._runs[0].events) >= self._most:
            self._total.drop(self._runs[0])

    def read(self, after: Order, upto: Order, events: Iterable[Known]) -> Run:
        """These are all events after one place, up to another. Returns them, without those that are
        here already."""
        following = self.next(after)
        run = Run(after, self._total.clock() + (min(self._lifetime, FRESH) or float("inf")))
        for known in events:
            if following is None or known.order <= following:
                run.add(known)
        run.upto = upto if following is None else min(upto, following)
        at = bisect_right(self._afters, after)
        if run.has(after) and not (at and self._runs[at - 1].has(after)):
            self._count += len(run.events)
            self._insert(at, run)
        return run

    def _insert(self, at: int, run: Run) -> Run:
        self._runs.insert(at, run)
        self._afters.insert(at, run.after)
        self._total.add(run, self)
        return run

    def remove(self, run: Run) -> None:
        """Forget a run."""
        at = self._runs.index(run)
        del self._runs[at], self._afters[at]
        self._count -= len(run.events)

    def clear(self) -> None:
        """Forget all."""
        self.beginning = None
        for run in list(self._runs):
            self._total.drop(run)


@final
class Total:
    """Bounds the bytes of all topics' events: what was not replayed for longest goes first. What
    has just come stays, whatever it takes.

    Args:
        clock: tells the time, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = loop_time) -> None:
        self.clock = clock
        self._bytes = 0
        self._owners: OrderedDict[Run, Recent] = OrderedDict()

    def used(self, run: Run) -> None:
        self._owners.move_to_end(run)

    def add(self, run: Run, owner: Recent) -> None:
        self._owners[run] = owner
        self.grown(run, run.size)

    def grown(self, run: Run, size: int) -> None:
        self._bytes += size
        while self._bytes > RECENT_BYTES and len(self._owners) > 1:
            self.drop(next(iter(self._owners)))

    def drop(self, run: Run) -> None:
        self._bytes -= run.size
        self._owners.pop(run).remove(run)
