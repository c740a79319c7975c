"""The broker of a single process: delivers at once, keeps history in memory."""

from __future__ import annotations

import os
from collections import OrderedDict, deque

from wsflow.brokers.base import Deliver, Envelope, Event, Replay

MAX_STREAMS = 10_000
"""Topics whose history is kept; beyond it, the one whose last event is oldest is forgotten."""


class _Stream:
    """The history of one topic. Its epoch tells its ids from those of a stream that was lost."""

    def __init__(self) -> None:
        self.epoch = os.urandom(4).hex()
        self.last = 0
        self.events: deque[Event] = deque()

    def add(self, envelope: Envelope, history: int) -> Event:
        self.last += 1
        event = Event(f"{self.epoch}-{self.last}", envelope)
        self.events.append(event)
        while len(self.events) > history:
            self.events.popleft()
        return event

    def after(self, id: str) -> Replay:
        epoch, _, number = id.partition("-")
        if epoch != self.epoch or not (number.isascii() and number.isdecimal()):
            return Replay(False, [])
        missed = self.last - int(number[:20])
        if not 0 <= missed <= len(self.events):
            return Replay(False, [])
        return Replay(True, list(self.events)[len(self.events) - missed :])


class MemoryBroker:
    """Carries topics within one process."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._streams: OrderedDict[str, _Stream] = OrderedDict()

    async def publish(self, topic: str, envelope: Envelope, history: int) -> str:
        if history:
            stream = self._streams.setdefault(topic, _Stream())
            self._streams.move_to_end(topic)
            if len(self._streams) > MAX_STREAMS:
                self._streams.popitem(last=False)
            event = stream.add(envelope, history)
        else:
            event = Event("", envelope)
        self._deliver(topic, event)
        return event.id

    async def replay(self, topic: str, after: str) -> Replay:
        stream = self._streams.get(topic)
        return stream.after(after) if stream else Replay(False, [])

    def subscribe(self, topic: str) -> None:
        """Nothing to do: there is no other process."""

    def unsubscribe(self, topic: str) -> None:
        """Nothing to do: there is no other process."""
