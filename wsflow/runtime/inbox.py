"""What has been received and waits for its consumer: bounded in messages and bytes, in lanes.

Consumers one at a time share the lane that the host serves. A consumer with concurrency, and one
that iterates its messages, have a lane of their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable
from operator import attrgetter
from typing import Any, NamedTuple, final

import anyio

from wsflow.runtime.limits import Limits
from wsflow.transports.base import Transport
from wsflow.wiring.plan import ConsumerPlan


class Item(NamedTuple):
    """A decoded message, whose it is, how many bytes it came in, and the key it is kept by."""

    consumer: ConsumerPlan
    message: Any
    size: int
    key: Hashable = None


@final
class Inbox:
    """Counts what waits in all lanes; pauses reading while that is too much.

    Args:
        limits: how many messages may wait, and how many bytes of them.
        transport: whose reading is paused.
    """

    def __init__(self, limits: Limits, transport: Transport) -> None:
        self._messages = limits.inbox_messages
        self._bytes = limits.inbox_bytes
        self._transport = transport
        self._paused = False
        self._waiting = 0
        self._waiting_bytes = 0
        self.closed = False
        self.lanes: list[Lane] = []

    @property
    def waiting(self) -> bool:
        """Whether some message has not been taken yet."""
        return self._waiting > 0

    def added(self, size: int) -> None:
        self._waiting += 1
        self._waiting_bytes += size
        full = self._waiting >= self._messages or self._waiting_bytes >= self._bytes
        if full and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def taken(self, size: int) -> None:
        self._waiting -= 1
        self._waiting_bytes -= size
        if (
            self._paused
            and not self.closed
            and self._waiting <= self._messages // 2
            and self._waiting_bytes <= self._bytes // 2
        ):
            self._paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Nothing more will come: who waits for a message is to go on."""
        self.closed = True
        for lane in self.lanes:
            lane.wake()


class Lane:
    """Messages in the order in which they came."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.queue: deque[Item] = deque()
        self._more: anyio.Event | None = None
        inbox.lanes.append(self)

    def put(self, item: Item) -> None:
        self.queue.append(item)
        self.inbox.added(item.size)
        self.wake()

    def take(self) -> Item:
        item = self.queue.popleft()
        self.inbox.taken(item.size)
        return item

    def wake(self) -> None:
        if self._more is not None:
            self._more.set()

    async def more(self) -> None:
        """Wait for a message, or for the inbox to close."""
        self._more = anyio.Event()
        await self._more.wait()

    async def messages(self) -> AsyncGenerator[Any, None]:
        """The messages, until the inbox is closed and empty."""
        while True:
            while self.queue:
                yield self.take().message
            if self.inbox.closed:
                return
            await self.more()


@final
class KeyedLane(Lane):
    """The lane of a consumer with concurrency: equal keys one at a time, in order.

    Attributes:
        consumer: whose lane.
        running: slots in use.
    """

    def __init__(self, inbox: Inbox, consumer: ConsumerPlan) -> None:
        super().__init__(inbox)
        self.consumer = consumer
        self.running = 0
        key = consumer.handler.key
        self._key: Callable[[Any], Hashable] | None = attrgetter(key) if key else None
        self._behind: dict[Hashable, deque[Item]] = {}  # behind a busy key, by key

    def put(self, item: Item) -> None:
        if self._key is not None:
            key = self._key(item.message)
            if key in self._behind:
                self._behind[key].append(item._replace(key=key))
                self.inbox.added(item.size)
                return
            self._behind[key] = deque()
            item = item._replace(key=key)
        super().put(item)

    def release(self, item: Item) -> None:
        """The message has been handled: the next one of its key is ready."""
        if self._key is None:
            return
        behind = self._behind[item.key]
        if behind:
            self.queue.append(behind.popleft())
        else:
            del self._behind[item.key]

    @property
    def free(self) -> bool:
        return self.running < self.consumer.handler.concurrency

    @property
    def empty(self) -> bool:
        return not self.queue and not self._behind
