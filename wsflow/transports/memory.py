"""The in-memory transport of tests: both peers in one process, without a socket, with the same
limits.

``peer_…`` methods are the peer's side. Closing handshakes complete at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

import anyio

from wsflow.limits import WireLimits
from wsflow.messages.encoded import EncodedMessage
from wsflow.tasks.detached import detach
from wsflow.transports.base import NOBODY, OneByOne, Receiver, Transport


@dataclass(frozen=True, slots=True)
class Rejection:
    """The HTTP answer to an opening request that was refused."""

    status: int
    body: str
    headers: tuple[tuple[str, str], ...]


@final
class MemoryTimer:
    """A scheduled call: a task that sleeps."""

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self._seconds = seconds
        self._call = call
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        with self._scope:
            await anyio.sleep(self._seconds)
            self._call()

    def cancel(self) -> None:
        self._scope.cancel()


class MemoryClock:
    """The clock of the event loop that the test runs on."""

    def now(self) -> float:
        return anyio.current_time()

    def after(self, seconds: float, call: Callable[[], None]) -> MemoryTimer:
        timer = MemoryTimer(seconds, call)
        detach(timer.run, name="wsflow timer")
        return timer


@final
class MemoryTransport(MemoryClock, OneByOne):
    """One in-memory connection.

    Args:
        limits: its limits.
        changed: called when there is something new for the peer.
        begin: begins the connection, or rejects it and returns None; called once, by the
            constructor.

    Attributes:
        accepted: whether the handshake was answered with 101.
        rejection: the answer that refused the handshake, None if it was not refused.
        subprotocol: the negotiated subprotocol.
        closing: the code and reason of the close frame that the peer received; 1006 without a
            frame.
        from_loop: False; it reports in the tasks of the test.
    """

    from_loop = False
    dials = False

    def __init__(
        self,
        limits: WireLimits,
        changed: Callable[[], None],
        begin: Callable[[Transport], Receiver | None],
    ) -> None:
        self._limits = limits
        self._changed = changed
        self._to_peer: deque[EncodedMessage] = deque()
        self._to_peer_bytes = 0
        self._received_bytes = self._sent_bytes = 0
        self._writing_paused = False
        self._held: deque[tuple[bytes, bool]] = deque()  # sent by the peer while reading is paused
        self._held_bytes = 0
        self._reading_paused = False
        self._peer_closing: tuple[int, str] | None = None  # a close frame after what is held
        self.accepted = False
        self.rejection: Rejection | None = None
        self.subprotocol: str | None = None
        self.closing: tuple[int, str] | None = None
        self._receiver = begin(self) or NOBODY

    # -- the server's side

    @property
    def traffic(self) -> tuple[int, int]:
        return self._received_bytes, self._sent_bytes

    def accept(self, subprotocol: str | None) -> None:
        self.accepted = True
        self.subprotocol = subprotocol
        self._changed()

    def reject(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        self.rejection = Rejection(status, body.decode(), tuple(headers))
        self.closing = (1006, "")
        self._changed()

    def send(self, payload: bytes, text: bool, raw: bool) -> bool:
        self.share(EncodedMessage(payload, text, raw))
        return False

    def share(self, message: EncodedMessage) -> None:
        if self.closing is not None:
            return
        self._to_peer.append(message)
        self._to_peer_bytes += len(message.payload)
        self._sent_bytes += len(message.payload)
        if self._to_peer_bytes > self._limits.write_buffer and not self._writing_paused:
            self._writing_paused = True
            self._receiver.pause_writing()
        self._changed()

    def close(self, code: int, reason: str) -> None:
        if self.closing is None:
            self.closing = (code, reason)
            self._changed()

    def pause_reading(self, *, briefly: bool = False) -> None:
        self._reading_paused = self._reading_paused or not briefly

    def resume_reading(self) -> None:
        self._reading_paused = False
        while self._held and not self._reading_paused and self.closing is None:
            data, text = self._held.popleft()
            self._held_bytes -= len(data)
            self._received(data, text)
        if not self._held and self._peer_closing is not None:
            self._close_as_peer(*self._peer_closing)
        self._changed()

    # -- the peer's side

    @property
    def peer_can_send(self) -> bool:
        """Whether the buffer to the server has room."""
        return self._held_bytes <= self._limits.write_buffer or self.closing is not None

    def peer_send(self, data: bytes, text: bool, fragments: int = 1) -> None:
        """Send a message in ``fragments`` fragments."""
        if self.closing is not None or self._peer_closing is not None:
            return
        if len(data) > self._limits.max_message_size:
            self._fail(1009, "message too big")
        elif fragments > self._limits.max_fragments:
            self._fail(1009, "too many fragments")
        elif self._reading_paused:
            self._held.append((data, text))
            self._held_bytes += len(data)
        else:
            self._received(data, text)

    def _received(self, data: bytes, text: bool) -> None:
        self._received_bytes += len(data)
        self._receiver.messages_received([(data, text, len(data))])

    def _fail(self, code: int, reason: str) -> None:
        self.close(code, reason)
        self._receiver.peer_failed(code, reason)

    def peer_take(self) -> EncodedMessage | None:
        """Take the next message for the peer; None if there is none yet."""
        if not self._to_peer:
            return None
        message = self._to_peer.popleft()
        self._to_peer_bytes -= len(message.payload)
        if self._writing_paused and self._to_peer_bytes <= self._limits.write_buffer // 2:
            self._writing_paused = False
            self._receiver.resume_writing()
        return message

    def peer_unread(self) -> list[EncodedMessage]:
        """The messages that the peer has not taken, oldest first."""
        return list(self._to_peer)

    def peer_close(self, code: int, reason: str) -> None:
        """Send a close frame; 1005 for one without a code. It is echoed.

        Before the handshake is answered no frame can be sent: the connection is lost.
        """
        if not self.accepted:
            self.peer_vanish()
        elif self._held:  # it comes after what was sent before
            self._peer_closing = (code, reason)
        else:
            self._close_as_peer(code, reason)

    def _close_as_peer(self, code: int, reason: str) -> None:
        if self.closing is None:
            self.close(code, reason)
            self._receiver.peer_closed(code, reason)

    def peer_vanish(self) -> None:
        """Lose the connection without a close frame."""
        if self.closing is None:
            self.close(1006, "")
            self._receiver.peer_vanished()
