"""Received messages that wait for their consumers, in lanes; bounded in messages and bytes.

Consumers without concurrency share the lane that the host serves. A consumer with concurrency, and
one that iterates its messages, have lanes of their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple, final

from wsflow.limits import Limits
from wsflow.messages.weight import HEAVY
from wsflow.runtime.memory import Memory
from wsflow.tasks.detached import Signal, checkpoint, signal
from wsflow.tasks.waiting import EMPTY
from wsflow.transports.base import Transport
from wsflow.wiring.plan import ConsumerPlan


class Item(NamedTuple):
    """A decoded message, its consumer, its ``weight``, the memory to give back once it is handled,
    the key that keeps its order, and what decodes it once more, if it is to wait for its rate limit
    without that memory."""

    consumer: ConsumerPlan
    message: Any
    size: int
    memory: int = 0
    key: Hashable = None
    again: Callable[[], Any] | None = None


@final
class Inbox:
    """Counts the messages that wait in all lanes, and pauses reading above a limit (backpressure).

    While a call is pending, or the renewal of a credential that has ended, reading does not pause,
    since what is expected comes after the messages that were sent before it. Then a hard limit
    applies. While a message waits for its rate limit it pauses all the same, since that ends by
    itself, but not for a renewal: without that the connection ends.

    A message that is heavy once it is decoded waits until there is memory for it, one of those of
    all connections; then reading pauses, too.

    Args:
        limits: how many messages may wait, and how many bytes of them.
        memory: what the messages of all connections take.
        transport: the transport whose reading is paused.
        overflown: called when more than the hard limit waits.

    Attributes:
        full: whether reading is paused, because too much waits or the peer is slowed.
        held: whether a message waits for memory.
        closed: whether no more messages will come.
        ended: whether no more handlers start.
        expecting: how many calls are pending, in both directions, and renewals.
        lanes: where the messages wait.
    """

    __slots__ = (
        "_close_later",
        "_limits",
        "_memory",
        "_memory_taken",
        "_overdue",
        "_overflown",
        "_slowed",
        "_small",
        "_transport",
        "_waiting",
        "_waiting_bytes",
        "closed",
        "ended",
        "expecting",
        "full",
        "held",
        "lanes",
    )

    def __init__(
        self,
        limits: Limits,
        memory: Memory,
        transport: Transport,
        overflown: Callable[[], None],
    ) -> None:
        self._limits = limits
        self._memory = memory
        self._memory_taken = 0  # by messages that are not handled yet
        self.held: Callable[[int], None] | None = None
        self._close_later = False
        self._transport = transport
        self._overflown = overflown
        self.expecting = 0
        self.full = False
        self._slowed = False
        self._overdue = False  # the renewal of a credential
        self._waiting = 0
        self._waiting_bytes = 0
        self._small = 0  # bytes of them that the memory counts
        self.closed = False
        self.ended = False
        self.lanes: list[Lane] = []

    @property
    def waiting(self) -> bool:
        """Whether there is a message that was not taken yet."""
        return self._waiting > 0

    def added(self, size: int) -> None:
        self._waiting += 1
        self._waiting_bytes += size
        if size <= HEAVY:
            self._small += size
            self._memory.small += size
        self._check()

    def _check(self) -> None:
        limits = self._limits
        if (
            self._waiting < limits.inbox_messages
            and self._waiting_bytes < limits.inbox_bytes
            and not (self._waiting and self._memory.scarce)
        ):
            return
        if self.expecting:
            too_many = self._waiting > limits.inbox_hard_messages
            if too_many or self._waiting_bytes > limits.inbox_hard_bytes:
                self._overflown()
        else:
            self._pause()

    def _pause(self) -> None:
        self.full = True
        self._transport.pause_reading()

    def _resume(self) -> None:
        """Read on, unless something else is against it."""
        if self.full and self.held is None and (self._overdue or not self._slowed):
            self.full = False
            self._transport.resume_reading()

    def slow(self) -> None:
        """A message waits for its rate limit: read no further one."""
        self._slowed = True
        if not self._overdue:
            self._pause()

    def quicken(self) -> None:
        """No message waits for its rate limit any more."""
        self._slowed = False
        if self.expecting or self._has_room():
            self._resume()

    def _has_room(self) -> bool:
        """Whether enough was taken to read on."""
        limits = self._limits
        return (
            not self.closed
            and self._waiting <= (0 if self._memory.scarce else limits.inbox_messages // 2)
            and self._waiting_bytes <= limits.inbox_bytes // 2
        )

    def taken(self, size: int) -> None:
        self._waiting -= 1
        self._waiting_bytes -= size
        if size <= HEAVY and not self.ended:
            self._small -= size
            self._memory.small -= size
        if self.full and self._has_room():
            self._resume()

    def expect(self) -> None:
        """A call is pending: reading must not pause."""
        self.expecting += 1
        if self.full and not self.closed:
            self._resume()

    def expected(self) -> None:
        """It is not pending any more."""
        self.expecting -= 1
        if not self.expecting and not self.closed:
            self._check()

    def expect_renewal(self, overdue: bool) -> None:
        """A credential has ended, and its renewal may still come; or no longer."""
        self._overdue = overdue
        if overdue:
            self.expect()
            self._memory.grant(self)
        else:
            if self._slowed and not self.closed:
                self._pause()
            self.expected()

    def take_memory(self, size: int, granted: Callable[[int], None], *, answers: bool) -> bool:
        """Take memory for a message before it is decoded. If there is none, reading pauses until
        ``granted`` is called with the size.

        A handler that waits for an answer of its peer may get it in any case, if what it handles
        has taken memory itself: others might wait for that. So may the renewal of a credential that
        has ended come, which may be behind the message.

        Args:
            size: how much.
            granted: called when there is memory.
            answers: whether a call to the peer is pending.

        Returns:
            Whether there is.
        """
        if self.ended:
            return False  # nobody takes it any more
        if self._overdue or (answers and self._memory_taken):
            self._memory.take_more(size)
        elif not self._memory.take(self, size):
            self.held = granted
            self._pause()
            return False
        self._memory_taken += size
        return True

    def granted(self, size: int) -> None:
        self._memory_taken += size
        self._transport.after(0, partial(self._go_on, size))  # not in a task of another connection

    def _go_on(self, size: int) -> None:
        granted, self.held = self.held, None
        if granted is not None:
            granted(size)
        if self._close_later:
            self.close()
        elif self.full and (self.expecting or self._has_room()):
            self._resume()

    def handled(self, memory: int) -> None:
        """A message that has taken memory was handled, or dropped."""
        if memory and not self.ended:
            self._memory_taken -= memory
            self._memory.give_back(memory)

    def close(self) -> None:
        """No more messages will come: wake all tasks that wait for one."""
        if self.held is not None:
            self._close_later = True
            return
        self.closed = True
        if self._slowed:
            self.quicken()
        for lane in self.lanes:
            lane.wake()

    def discard(self) -> None:
        """The connection has ended: drop the messages whose handlers have not started. A consumer
        that iterates its messages is cancelled first, and may take the rest in its clean-up."""
        self.closed = self.ended = True
        for lane in self.lanes:
            lane.discard()
        if self.held is not None:
            self.held = None
            self._memory.leave(self)
        self._memory.small -= self._small
        self._small = 0
        memory, self._memory_taken = self._memory_taken, 0
        self._memory.give_back(memory)


class Lane:
    """Messages in the order in which they were received, each for a handler of its own."""

    __slots__ = ("_more", "inbox", "queue")

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.queue: deque[Item] = EMPTY
        self._more: Signal | None = None
        inbox.lanes.append(self)

    def put(self, item: Item) -> None:
        if self.queue is EMPTY:
            self.queue = deque()
        self.queue.append(item)
        self.inbox.added(item.size)
        self.wake()

    def take(self) -> Item:
        item = self.queue.popleft()
        self.inbox.taken(item.size)
        return item

    def release(self, item: Item) -> None:
        """A message was handled."""
        self.inbox.handled(item.memory)

    def discard(self) -> None:
        """Drop all messages."""
        while self.queue:
            self.take()

    def wake(self) -> None:
        if self._more is not None:
            self._more.set()

    def more(self) -> Signal:
        """A signal to await a message, or the closing of the inbox. For one task at a time."""
        self._more = more = signal()
        return more


@final
class StreamLane(Lane):
    """The lane of a consumer that iterates its messages."""

    __slots__ = ()

    def discard(self) -> None:
        """Without effect: the consumer may take the messages in its clean-up."""

    async def messages(self, taken: Callable[[Any], None]) -> AsyncGenerator[Any, None]:
        """Iterate the messages, until the inbox is closed and empty; ``taken`` is called with
        each."""
        while True:
            while self.queue:
                if self.inbox.ended:
                    await checkpoint()  # the consumer's cancellation comes first
                item = self.take()
                taken(item.message)
                yield item.message
                self.release(item)
                del item
            if self.inbox.closed:
                return
            await self.more()


@final
class KeyedLane(Lane):
    """The lane of a consumer with concurrency: messages with equal keys one at a time, in order.

    Attributes:
        running: slots in use.
    """

    __slots__ = ("_behind", "_key", "_slots", "running")

    def __init__(self, inbox: Inbox, consumer: ConsumerPlan) -> None:
        super().__init__(inbox)
        self.running = 0
        self._slots = consumer.concurrency
        key = consumer.handler.key
        if key and consumer.calls:
            key = f"message.{key}"
        self._key: Callable[[Any], Hashable] | None = attrgetter(key) if key else None
        self._behind: dict[Hashable, deque[Item]] = {}  # waiting for a busy key, by key

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
        """A message was handled: the next one with its key is ready."""
        super().release(item)
        if self._key is None:
            return
        behind = self._behind[item.key]
        if behind:
            self.queue.append(behind.popleft())
        else:
            del self._behind[item.key]

    def discard(self) -> None:
        super().discard()
        for behind in self._behind.values():
            while behind:
                self.inbox.taken(behind.popleft().size)

    @property
    def free(self) -> bool:
        return self.running < self._slots

    @property
    def empty(self) -> bool:
        return not self.queue and not self._behind
