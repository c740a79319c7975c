"""The broker of a single process: delivers at once, keeps history in memory."""

from __future__ import annotations

import heapq
import os
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable

import anyio

from wsflow.brokers.base import BrokerListener, Mark, Replay
from wsflow.messages.events import Envelope, Event, TopicOptions

MAX_STREAMS = 10_000
"""The most topics whose history is kept; beyond it, the least recently used history is dropped."""


class _Stream:
    """The history of one topic. Its epoch distinguishes its ids from those of a lost history."""

    def __init__(self) -> None:
        self.epoch = os.urandom(4).hex()
        self.last = 0
        self.events: deque[tuple[float, Event]] = deque()

    def add(self, envelope: Envelope, options: TopicOptions) -> Event:
        self.last += 1
        event = Event(str(Mark(self.epoch, (self.last,))), envelope)
        self.events.append((anyio.current_time(), event))
        while len(self.events) > options.history:
            self.events.popleft()
        return event

    def after(self, id: str, max_age: float) -> Replay:
        oldest = anyio.current_time() - max_age if max_age else float("-inf")
        while self.events and self.events[0][0] < oldest:
            self.events.popleft()
        mark = Mark.parse(id)
        if mark is None or mark.epoch != self.epoch:
            return Replay(False, [])
        missed = self.last - mark.order[0]
        if not 0 <= missed <= len(self.events):
            return Replay(False, [])
        return Replay(True, [event for _, event in list(self.events)[len(self.events) - missed :]])


class MemoryBroker:
    """Carries topics within one process.

    Args:
        listener: what it delivers to.
    """

    processes = ()

    def __init__(self, listener: BrokerListener) -> None:
        self._listener = listener
        self._streams: OrderedDict[str, _Stream] = OrderedDict()
        self._options: dict[str, TopicOptions] = {}
        self._claimed: set[str] = set()
        self._kept: list[tuple[float, str]] = []  # claimed names by their time, a heap
        self.counters = Counter(published=0, lost=0, reconnected=0)

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    def subscribe(self, topic: str, options: TopicOptions) -> None:
        self._options[topic] = options

    async def subscribed(self, topic: str) -> None:
        """Returns at once: what is published is delivered from the start."""

    def unsubscribe(self, topic: str) -> None:
        self._options.pop(topic, None)

    async def publish(self, topic: str, envelope: Envelope, options: TopicOptions) -> str:
        self.counters["published"] += 1
        if options.history:
            stream = self._streams.setdefault(topic, _Stream())
            self._streams.move_to_end(topic)
            if len(self._streams) > MAX_STREAMS:
                self._streams.popitem(last=False)
            event = stream.add(envelope, options)
        else:
            event = Event("", envelope)
        self._listener.deliver(topic, event)
        return event.id

    async def replay(self, topic: str, after: str, begin: Callable[[], None]) -> Replay:
        begin()
        stream, options = self._streams.get(topic), self._options.get(topic)
        if stream is None or options is None:
            return Replay(False, [])
        return stream.after(after, options.max_age)

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
