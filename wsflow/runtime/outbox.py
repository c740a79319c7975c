"""All messages that a connection sends.

The sender of a handler's message waits for room (backpressure). The publisher of a topic's message
does not wait: while the peer lags, the message is kept here, up to the topic's backlog; beyond that
the topic's policy applies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, final

import anyio

from wsflow.brokers.base import PORTION
from wsflow.end import End
from wsflow.errors import Disconnected
from wsflow.messages.codec import BoundCodec, Packed, TooLargeError
from wsflow.messages.encoded import EncodedMessage
from wsflow.runtime.turns import Turns
from wsflow.tasks.detached import checkpoint, on_trio, telling
from wsflow.tasks.waiting import EMPTY
from wsflow.topics.channels import Membership
from wsflow.transports.base import Transport

BURST_MESSAGES = 256
"""How many messages may be sent in a row before other tasks run. They run before that if the
transport has collected enough to write: 16 KiB."""

BATCH_BYTES = 8 * 1024
"""How many bytes of a producer's items are written at once, at most, and one item more. It is at
most an eighth of what the transport buffers, too."""

MAX_URGENT = 1024 * 1024
"""How many bytes are written to a full buffer before the peer is closed for not reading."""


@final
class Outbox:
    """Sends the messages of one connection.

    ``send`` and ``send_all`` wait for room; ``reply`` sends if it need not wait; ``urge``,
    ``deliver`` and ``replay`` never wait.

    Items of a producer are written in batches: what it has yielded is written when it waits, when
    the batch is full, and before anything else is written or the connection ends. Others run only
    while it waits, so that they never see a batch that has begun.

    Args:
        transport: what it writes to.
        codec: how messages are encoded.
        backlog_bytes: how many bytes of topics' messages may wait.
        lagging: called when the peer is too slow, with the name of what it does not read.
        turns: says when a part of a replay may be sent.
        write_buffer: how many bytes the transport buffers.

    Attributes:
        codec: how messages are encoded; a client's is negotiated in the handshake.
        clear: whether a message can be written at once, without overtaking others.
        sent: messages written. ``reply`` does not interrupt a burst: the number of replies is
            bounded by the number of messages that are read at once.
        dropped: messages that were dropped because the peer was lagging or had left.
    """

    __slots__ = (
        "_backlog_bytes",
        "_batch",
        "_batch_bytes",
        "_batching",
        "_behind",
        "_burst_ends",
        "_dropping",
        "_granted",
        "_lagging",
        "_open",
        "_order",
        "_paused",
        "_refusing",
        "_replays",
        "_transport",
        "_turns",
        "_urgent_bytes",
        "_waiting_bytes",
        "clear",
        "codec",
        "dropped",
        "sent",
    )

    def __init__(
        self,
        transport: Transport,
        codec: BoundCodec,
        backlog_bytes: int,
        lagging: Callable[[str], None],
        turns: Turns,
        write_buffer: int,
    ) -> None:
        self._transport = transport
        self.codec = codec
        self._backlog_bytes = backlog_bytes
        self._batch_bytes = min(BATCH_BYTES, write_buffer // 8)
        self._batch: list[Packed] = EMPTY  # items that were taken, and are not written yet
        self._batching = False  # whether items are taken
        self._lagging = lagging
        self._open = False
        self._paused = False
        self._dropping = False
        self._refusing: End | None = None
        self._turns = turns
        self._order: deque[Membership | anyio.Event] = EMPTY  # who sends next
        self._replays: deque[Membership] = EMPTY  # whose missed messages are sent next
        self._behind: deque[anyio.Event] = EMPTY  # senders that wait until these are sent
        self._granted = False  # a sender has its turn, and has not used it yet
        self._waiting_bytes = 0
        self._urgent_bytes = 0  # written since the buffer is full
        self._burst_ends = BURST_MESSAGES  # the value of ``sent`` at which other tasks run
        self.clear = False
        self.sent = 0
        self.dropped = 0

    # -- changes of state; synchronous

    def open(self) -> None:
        """The handshake is accepted: send what has waited."""
        self._open = True
        self.flush()

    def pause(self) -> None:
        """The transport's buffer is full."""
        self._paused = True
        self._urgent_bytes = 0
        self.clear = False

    def resume(self) -> None:
        """The transport's buffer has room again."""
        self._paused = False
        self.flush()

    def drop(self) -> None:
        """The peer has left: drop and count messages from now on."""
        self._end_batch()
        self._dropping = True
        self._discard()

    def refuse(self, end: End) -> None:
        """This side has ended the connection: sending raises from now on."""
        self._end_batch()
        self._refusing = end
        self.clear = False
        if self._order or self._replays:
            self._discard()

    def _discard(self) -> None:
        for turn in (*self._order, *self._replays, *self._behind):
            if isinstance(turn, Membership):
                self.dropped += len(turn.waiting)
                turn.forget()
            else:
                turn.set()
        self._order = self._replays = self._behind = EMPTY
        self.clear = False

    def _queue(self, turn: Membership | anyio.Event) -> None:
        if self._order is EMPTY:
            self._order = deque()
        self._order.append(turn)
        self.clear = False

    def _share(self, message: EncodedMessage) -> None:
        self.sent += 1
        self._transport.share(message)

    def flush(self) -> None:
        """Send what can be sent."""
        self._end_batch()
        while self._order and not self._paused and not self._granted:
            turn = self._order.popleft()
            if not isinstance(turn, Membership):
                self._granted = True
                turn.set()
                return
            turn.turns -= 1
            if turn.waiting:  # the policy may have taken it
                self._share(self._take(turn))
        if self._is_free():
            if self._replays:
                self._turns.want(self, self._transport)
            self.clear = not self._replays
        else:
            self.clear = False

    def _is_free(self) -> bool:
        """Whether nothing but missed messages stands before a message of a topic."""
        return (
            self._open
            and not (self._paused or self._order or self._granted)
            and not (self._dropping or self._refusing)
        )

    def _take(self, membership: Membership) -> EncodedMessage:
        """Take the oldest message that waits."""
        message = membership.waiting.popleft()
        self._waiting_bytes -= len(message.payload)
        return message

    # -- a handler's message

    async def send(self, message: object) -> None:
        """Write a message once there is room. If it is cancelled, the message was not written.

        Raises:
            Disconnected: this side has ended the connection.
            TypeError: the message cannot be sent.
        """
        packed = self.codec.pack(message)
        if self._batching:  # of the producer that sends this
            self._end_batch()
        its_turn = False
        while True:
            if not its_turn and self.sent >= self._burst_ends:
                self._burst_ends = self.sent + BURST_MESSAGES
                await checkpoint()
            elif self._refusing is not None:
                raise Disconnected(self._refusing)
            elif self._dropping or self.clear or its_turn:
                break
            else:
                await self._turn()
                its_turn = True
        if self._dropping:
            self.dropped += 1
            self._burst_ends -= 1
        else:
            self.sent += 1
            if self._transport.send(*packed):
                self._burst_ends = 0
        if its_turn:
            self._turn_is_over()

    def reply(self, message: object) -> bool:
        """Write the reply to a message that was read, if it need not wait.

        Returns:
            Whether it was written.

        Raises:
            TypeError: the message cannot be sent.
        """
        if not self.clear:
            return False
        payload, text, raw = self.codec.pack(message)
        self.sent += 1
        self._transport.send(payload, text, raw)
        return True

    async def send_all(self, items: AsyncIterator[Any]) -> None:
        """Write the items of a producer. They are requested when there is room for them
        (backpressure).

        Raises:
            Disconnected: this side has ended the connection.
            TypeError: an item cannot be sent.
        """
        more = True
        while more:
            await self._begin_batch()
            more = await telling(self._take_items(items), self._end_batch)

    async def _begin_batch(self) -> None:
        """Wait until an item may be requested. If nothing is before it then, it begins a batch;
        else it takes its turn, as other messages do. So do all items on Trio: there a batch could
        not be written where its task begins to wait, since nothing may wake the task there."""
        await self.drained()
        if self.sent >= self._burst_ends:
            self._burst_ends = self.sent + BURST_MESSAGES
            await checkpoint()
        if self._refusing is not None:
            raise Disconnected(self._refusing)
        if self.clear and not on_trio():
            self._batching = True
            self._batch = []
            self.clear = False

    async def _take_items(self, items: AsyncIterator[Any]) -> bool:
        """Take items while there is room for them. Returns whether there may be more."""
        batch, codec = self._batch, self.codec
        most, left = self._burst_ends - self.sent, self._batch_bytes
        kind: type | None = None
        async for item in items:
            if item is None:
                await checkpoint()
            elif self._batching:
                # The same as codec.pack, inlined for speed.
                if type(item) is not kind:
                    kind = type(item)
                    encode, text, raw = codec.packing(kind)
                try:
                    data = encode(item)
                except OverflowError as exc:
                    raise TooLargeError(codec.name, exc) from None
                batch.append((data, text, raw))
                left -= len(data)
                if left <= 0 or len(batch) >= most:
                    return True
            else:  # the producer has waited, or something else was written
                await self.send(item)
                return True
        return False

    def _end_batch(self) -> None:
        """Write the items that were taken. Nothing else comes before them."""
        if not self._batching:
            return
        self._batching = False
        batch, self._batch = self._batch, EMPTY
        if batch:
            self.sent += len(batch)
            if self._transport.send_all(batch):
                self._burst_ends = 0
        self.flush()

    def urge(self, message: object) -> None:
        """Write a small message now, ahead of senders that wait for room.

        A peer that causes many of them, and does not read, is closed as a slow peer (1013).
        """
        self._end_batch()
        if not self._open or self._dropping or self._refusing:
            return
        packed = self.codec.pack(message)
        if self._paused:
            self._urgent_bytes += len(packed[0])
        if self._urgent_bytes > MAX_URGENT:
            self._lagging("calls")
        else:
            self.sent += 1
            self._transport.send(*packed)

    async def drained(self) -> None:
        """Wait until what was sent so far has been written to the transport."""
        if not (self.clear or self._dropping or self._refusing):
            await self._turn()
            self._turn_is_over()

    async def _turn(self) -> None:
        """Wait for a turn, after all that waits now. No other message is written until
        ``_turn_is_over``."""
        turn = anyio.Event()
        if not self._replays:
            self._queue(turn)
        elif self._behind is EMPTY:
            self._behind = deque((turn,))
        else:
            self._behind.append(turn)
        self._burst_ends = self.sent + BURST_MESSAGES
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self._turn_is_over()
            else:
                (self._behind if turn in self._behind else self._order).remove(turn)
            raise

    def _turn_is_over(self) -> None:
        self._granted = False
        self.flush()

    # -- a topic's message; never waits

    def deliver(self, membership: Membership, message: EncodedMessage) -> None:
        """Write a topic's message, or keep it until there is room. It does not wait for what is
        replayed of other topics."""
        if self.clear or (self._replays and not membership.waiting and self._is_free()):
            # The same as _share, inlined for speed.
            self.sent += 1
            self._transport.share(message)
        elif self._batching:
            self._end_batch()
            self.deliver(membership, message)
        elif self._dropping or self._refusing is not None:
            self.dropped += 1
        elif self._fits(membership, message):
            self._keep(membership, message)
        else:
            self._overflow(membership, message)

    def replay(self, membership: Membership) -> None:
        """Write the messages that a member has missed, as there is room, before what is sent by
        handlers from now on. They are bounded by the topic's history, not by its backlog."""
        if self._replays is EMPTY:
            self._replays = deque()
        self._replays.append(membership)
        self.clear = False
        self.flush()

    def replay_on(self) -> None:
        """Write a part of what is replayed."""
        for _ in range(PORTION):
            if not (self._replays and self._is_free()):
                return
            message = self._replays[0].next(self.flush)
            if message is not None:
                self._share(message)
            elif self._replays and self._replays[0].replaying is None:
                self._replays.popleft()
                if not self._replays:
                    self._replays = EMPTY
                    for turn in self._behind:
                        self._queue(turn)
                    self._behind = EMPTY
                    break
            else:
                return  # until it is read
        self.flush()

    def _fits(self, membership: Membership, message: EncodedMessage) -> bool:
        return (
            len(membership.waiting) < membership.options.backlog
            and self._waiting_bytes + len(message.payload) <= self._backlog_bytes
        )

    def _keep(self, membership: Membership, message: EncodedMessage) -> None:
        self._waiting_bytes += len(message.payload)
        self._append(membership, message)

    def _append(self, membership: Membership, message: EncodedMessage) -> None:
        membership.wait(message)
        if membership.turns < len(membership.waiting):
            membership.turns += 1
            self._queue(membership)

    def _overflow(self, membership: Membership, message: EncodedMessage) -> None:
        policy = membership.options.when_full
        if policy == "close":
            self._lose(membership)
            self._lagging(membership.channel.name)
            return
        if policy == "latest":
            while membership.waiting:
                self._take(membership)
                self._lose(membership)
        while (
            policy == "drop_oldest" and membership.waiting and not self._fits(membership, message)
        ):
            self._take(membership)
            self._lose(membership)
        if self._fits(membership, message):
            self._keep(membership, message)
        else:
            self._lose(membership)

    def _lose(self, membership: Membership) -> None:
        membership.channel.lose(membership)
        self.dropped += 1
