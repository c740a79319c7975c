"""The broker of a single process: delivers at once, keeps history in memory.

What is kept has bounds: events, bytes and seconds per topic, and bytes for all topics together.
What is too old is forgotten whenever anything uses the broker, of whatever topic; there is no task
and no timer for it.
"""

from __future__ import annotations

import heapq
import logging
import os
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import final

import anyio

from wsflow.brokers.base import (
    PORTION,
    PORTION_BYTES,
    BrokerListener,
    Mark,
    Nothing,
    OvertakenError,
    Page,
    Replay,
    read_replay,
)
from wsflow.limits import HISTORY_TOTAL
from wsflow.log import Log
from wsflow.messages.events import Envelope, Event, TopicOptions

log = Log("wsflow.broker")

MAX_STREAMS = 10_000
"""The most topics whose history is kept; beyond it, the least recently used history is dropped."""


OVERHEAD = 512
"""Bytes that an event counts for, beside its payloads."""


class _Stream:
    """The history of one topic. Its epoch distinguishes its ids from those of a lost history."""

    def __init__(self) -> None:
        self.epoch = os.urandom(4).hex()
        self.last = 0
        self.cleared = 0  # the number before which all were removed
        self.max_age = 0.0
        self.idle = 0.0
        self.events: deque[tuple[float, int, Event]] = deque()
        self.bytes = 0

    def add(self, envelope: Envelope, options: TopicOptions) -> Event:
        self.last += 1
        event = Event(str(Mark(self.epoch, (self.last,))), envelope)
        size = _size(envelope)
        self.max_age, self.idle = options.max_age, options.idle
        self.events.append((anyio.current_time(), size, event))
        self.bytes += size
        most = options.history_bytes
        while len(self.events) > options.history or (most and self.bytes > most):
            self.drop()
        return event

    def drop(self) -> int:
        """Drop the oldest event. Returns its bytes."""
        _, size, _ = self.events.popleft()
        self.bytes -= size
        return size

    def clear(self) -> None:
        """Remove all events. The place behind them is nobody's: who has seen the last one has seen
        what is removed."""
        self.events.clear()
        self.bytes = 0
        self.last += 1
        self.cleared = self.last

    @property
    def due(self) -> float:
        """When the oldest event is too old, or all are, since none has followed."""
        if not self.events:
            return float("inf")
        limits = ((self.events[0], self.max_age), (self.events[-1], self.idle))
        return min((event[0] + limit for event, limit in limits if limit), default=float("inf"))

    @property
    def first(self) -> int:
        """The number before that of the oldest event."""
        return self.last - len(self.events)

    def place(self, id: str) -> int | None:
        """The number of an event after which nothing is missing; None if that is not known."""
        mark = Mark.parse(id)
        if mark is None or mark.epoch != self.epoch or not self.first <= mark.order[0] <= self.last:
            return None
        return mark.order[0]

    def portion(self, after: int) -> list[Event]:
        """The next events after a number."""
        portion: list[Event] = []
        size = 0
        for i in range(after - self.first, len(self.events)):
            portion.append(self.events[i][2])
            size += self.events[i][1]
            if len(portion) == PORTION or size >= PORTION_BYTES:
                break
        return portion


@final
class _Replay:
    """What a member has missed of a history.

    Args:
        broker: where it is kept.
        topic: the topic's name.
        stream: the history.
        after: the number of the event after which it begins.
        recovered: whether nothing is missing before that.
    """

    def __init__(
        self, broker: MemoryBroker, topic: str, stream: _Stream, after: int, recovered: bool
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._stream: _Stream | None = stream
        self._after = after
        self.recovered = recovered
        self.cleared = 0

    def take(self, ready: Callable[[], None]) -> Sequence[Event]:
        there = self._broker.stream(self._topic)
        if there is not self._stream:  # that was dropped, for want of room
            lost, self._stream = self._stream is not None, there
            self._after = there.first if there is not None else 0
            if lost:
                raise OvertakenError
        if there is None:
            return ()
        if self._after < there.cleared:
            self._after = there.cleared
            self.cleared += 1
        if self._after < there.first:
            self._after = there.first
            raise OvertakenError
        events = there.portion(self._after)
        self._after += len(events)
        return events


def _size(envelope: Envelope) -> int:
    """The bytes that an event needs: with an id in it, its payloads are kept with and without."""
    copies = 1 if envelope.id_token is None else 2
    return OVERHEAD + copies * sum(len(each.payload) for each in envelope.payloads.values())


class MemoryBroker:
    """Carries topics within one process.

    Args:
        listener: what it delivers to.
        history_bytes: most bytes of all histories together; beyond that the topic that has not been
            used for longest loses its oldest events. 0 for no limit.
    """

    processes = ()
    connected = True

    def __init__(self, listener: BrokerListener, history_bytes: int = HISTORY_TOTAL) -> None:
        self._listener = listener
        self._history_bytes = history_bytes
        self._bytes = 0
        # By topic, the one that has not been used for longest first: all, and those with events.
        self._streams: OrderedDict[str, _Stream] = OrderedDict()
        self._filled: OrderedDict[str, _Stream] = OrderedDict()
        self._due: list[tuple[float, str]] = []  # when to look for old events; a heap
        self._awaited: set[str] = set()  # the topics in it
        self._options: dict[str, TopicOptions] = {}
        self._claimed: set[str] = set()
        self._kept: list[tuple[float, str]] = []  # claimed names by their time, a heap
        self.counters = Counter(published=0, lost=0, reconnected=0, history_dropped=0)

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    def subscribe(self, topic: str, options: TopicOptions) -> None:
        self._forget_old()
        self._options[topic] = options

    async def subscribed(self, topic: str) -> None:
        """Returns at once: what is published is delivered from the start."""

    def unsubscribe(self, topic: str) -> None:
        self._forget_old()
        self._options.pop(topic, None)

    async def publish(self, topic: str, envelope: Envelope, options: TopicOptions) -> str:
        self.counters["published"] += 1
        self._forget_old()
        event = self._keep(topic, envelope, options) if options.history else Event("", envelope)
        self._listener.deliver(topic, event)
        return event.id

    def declare(self, template: str, options: TopicOptions) -> None:
        """Does nothing: nobody asks."""

    async def replay(self, topic: str, after: str, last: int = 0) -> Replay:
        stream = self.stream(topic)
        if stream is None or topic not in self._options:
            return Nothing()
        self._use(topic, stream)
        place = stream.place(after) if after else max(stream.last - last, stream.first)
        recovered = bool(after) and place is not None
        return _Replay(self, topic, stream, stream.last if place is None else place, recovered)

    async def read(self, topic: str, after: str, limit: int) -> Page:
        replay = await self.replay(topic, after, 0 if after else limit)
        return await read_replay(replay, limit, lambda waits: waits)  # for nothing

    async def clear(self, topic: str, options: TopicOptions) -> None:
        stream = self.stream(topic)
        if stream is not None:
            self._bytes -= stream.bytes
            stream.clear()
            self._filled.pop(topic, None)

    def stream(self, topic: str) -> _Stream | None:
        """The history of a topic, without what is too old; None if there is none."""
        self._forget_old()
        return self._streams.get(topic)

    # -- history

    def _keep(self, topic: str, envelope: Envelope, options: TopicOptions) -> Event:
        """Add an event to its topic's history, and make room for it."""
        stream = self._streams.get(topic)
        if stream is None:
            stream = self._streams[topic] = _Stream()
        before = stream.bytes
        event = stream.add(envelope, options)
        self._bytes += stream.bytes - before
        self._use(topic, stream)
        self._watch(topic, stream)
        if len(self._streams) > MAX_STREAMS:
            self._drop_stream()
        while self._history_bytes and self._bytes > self._history_bytes:
            self._drop_oldest()
        return event

    def _use(self, topic: str, stream: _Stream) -> None:
        """It is the topic that was used last."""
        self._streams.move_to_end(topic)
        self._filled.pop(topic, None)
        if stream.events:
            self._filled[topic] = stream

    def _drop_stream(self) -> None:
        """Forget the topic that has not been used for longest."""
        topic, stream = self._streams.popitem(last=False)
        self._filled.pop(topic, None)
        self._bytes -= stream.bytes
        self.counters["history_dropped"] += len(stream.events)

    def _drop_oldest(self) -> None:
        """Drop the oldest event of the topic that has not been used for longest."""
        topic, stream = next(iter(self._filled.items()))
        self._bytes -= stream.drop()
        if not stream.events:
            del self._filled[topic]
        self.counters["history_dropped"] += 1
        log.often(
            logging.WARNING,
            "the histories of all topics are larger than history_total_bytes, %d: the oldest event "
            "of topic %r is dropped",
            self._history_bytes,
            topic,
        )

    def _watch(self, topic: str, stream: _Stream) -> None:
        """See to it that its oldest event is forgotten when it is too old."""
        if topic not in self._awaited and stream.due < float("inf"):
            self._awaited.add(topic)
            heapq.heappush(self._due, (stream.due, topic))

    def _forget_old(self) -> None:
        """Forget the events of all topics that are too old."""
        while self._due and self._due[0][0] < (now := anyio.current_time()):
            _, topic = heapq.heappop(self._due)
            self._awaited.discard(topic)
            stream = self._streams.get(topic)
            if stream is None:
                continue  # it was forgotten as a whole
            while stream.due < now:
                self._bytes -= stream.drop()
            if not stream.events:
                self._filled.pop(topic, None)
            self._watch(topic, stream)

    async def claim(self, name: str, seconds: float) -> bool:
        now = anyio.current_time()
        while self._kept and self._kept[0][0] <= now:
            self._claimed.discard(heapq.heappop(self._kept)[1])
        if name in self._claimed:
            return False
        self._claimed.add(name)
        heapq.heappush(self._kept, (now + seconds, name))
        return True

    def tell(self, process: str, note: bytes) -> None:
        """Does nothing: there are no other processes."""

    async def settled(self, answers: Callable[[], Awaitable[None]]) -> None:
        """Returns at once: there are no other processes."""
