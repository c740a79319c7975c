"""The one place that writes to the transport.

A handler's message waits for room, in its own task. A topic's message waits for nobody: while the
peer lags it is kept here, as far as the topic's backlog goes; beyond that the topic's policy holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import final

import anyio
from anyio.lowlevel import checkpoint

from wsflow.channels import Membership
from wsflow.connection import End
from wsflow.errors import Disconnected
from wsflow.transports.base import Transport
from wsflow.transports.frames import Frame

BURST_MESSAGES = 64
BURST_BYTES = 16 * 1024
"""How much may be sent in a row before other tasks get their turn."""


@final
class Outbox:
    """What one connection sends.

    Attributes:
        sent: messages written.
        dropped: messages that a lagging or departed peer did not get.
    """

    def __init__(
        self, transport: Transport, backlog_bytes: int, lagging: Callable[[str], None]
    ) -> None:
        self._transport = transport
        self._backlog_bytes = backlog_bytes
        self._lagging = lagging
        self._open = False
        self._paused = False
        self._dropping = False
        self._refusing: End | None = None
        self._order: deque[Membership] = deque()  # whose turn it is, one entry per waiting frame
        self._waiting_bytes = 0
        self._resumed: anyio.Event | None = None
        self._burst = 0
        self._burst_bytes = 0
        self.sent = 0
        self.dropped = 0

    # -- what changes its state; synchronous

    def open(self) -> None:
        """The handshake is accepted: what waited goes out."""
        self._open = True
        self._flush()

    def pause(self) -> None:
        """The transport's buffer is full."""
        self._paused = True

    def resume(self) -> None:
        """There is room again."""
        self._paused = False
        self._flush()
        self._wake()

    def drop(self) -> None:
        """The peer has left: drop and count from now on."""
        self._dropping = True
        self._discard()

    def refuse(self, end: End) -> None:
        """This side has ended the connection: sending raises from now on."""
        self._refusing = end
        self._discard()

    def _discard(self) -> None:
        self.dropped += sum(len(membership.waiting) for membership in set(self._order))
        for membership in self._order:
            membership.waiting.clear()
        self._order.clear()
        self._wake()

    def _wake(self) -> None:
        if self._resumed is not None:
            self._resumed.set()

    @property
    def _room(self) -> bool:
        return self._open and not self._paused and not self._order

    def _write(self, frame: Frame) -> None:
        self.sent += 1
        self._transport.send(frame)

    def _flush(self) -> None:
        while self._order and not self._paused:
            membership = self._order.popleft()
            if membership.waiting:  # the policy may have taken it
                frame = membership.waiting.popleft()
                self._waiting_bytes -= len(frame.payload)
                self._write(frame)

    # -- a handler's message

    async def send(self, frame: Frame) -> None:
        """Write ``frame`` once there is room. Cancelled, it has not been written.

        Raises:
            Disconnected: this side has ended the connection.
        """
        while True:
            if self._burst >= BURST_MESSAGES or self._burst_bytes >= BURST_BYTES:
                self._burst = self._burst_bytes = 0
                await checkpoint()
            elif self._refusing is not None:
                raise Disconnected(self._refusing)
            elif self._dropping or self._room:
                break
            else:
                await self._resumes()
        self._burst += 1
        self._burst_bytes += len(frame.payload)
        if self._dropping:
            self.dropped += 1
        else:
            self._write(frame)

    async def drained(self) -> None:
        """Wait until the last message is out, as far as the transport can tell."""
        while not (self._room or self._dropping or self._refusing):
            await self._resumes()

    async def _resumes(self) -> None:
        if self._resumed is None or self._resumed.is_set():
            self._resumed = anyio.Event()
        self._burst = self._burst_bytes = 0
        await self._resumed.wait()

    # -- a topic's message; never waits

    def deliver(self, membership: Membership, frame: Frame) -> None:
        """Write a topic's frame, or keep it until there is room."""
        if self._dropping or self._refusing is not None:
            self._lose(membership, 1)
        elif self._room:
            self._write(frame)
        elif self._full(membership, frame):
            self._overflow(membership, frame)
        else:
            self._keep(membership, frame)

    def _full(self, membership: Membership, frame: Frame) -> bool:
        return (
            len(membership.waiting) >= membership.options.backlog
            or self._waiting_bytes + len(frame.payload) > self._backlog_bytes
        )

    def _keep(self, membership: Membership, frame: Frame) -> None:
        membership.waiting.append(frame)
        self._waiting_bytes += len(frame.payload)
        self._order.append(membership)

    def _overflow(self, membership: Membership, frame: Frame) -> None:
        policy = membership.options.when_full
        if policy == "close":
            self._lose(membership, 1)
            self._lagging(membership.channel.name)
        elif policy == "drop_newest" or not membership.waiting:
            self._lose(membership, 1)
        else:
            count = 1 if policy == "drop_oldest" else len(membership.waiting)
            for _ in range(count):
                self._waiting_bytes -= len(membership.waiting.popleft().payload)
            self._lose(membership, count)
            self._keep(membership, frame)

    def _lose(self, membership: Membership, count: int) -> None:
        membership.dropped += count
        self.dropped += count
