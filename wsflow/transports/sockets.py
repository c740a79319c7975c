"""Sockets on asyncio: an ``asyncio.BufferedProtocol`` around the Sans-I/O protocol of
``websockets``; the common part of the transports of servers and clients.

Frames that carry one small message, and control frames between messages, take the fast path of
``frames``. The library implements the rest of RFC 6455: fragments, extensions, what is malformed,
and the closing handshake if this side begins it.

This module moves bytes between them and the socket, and implements keepalive and backpressure. What
is sent is written once per iteration of the event loop. A connection goes through the phases in
order.
"""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import Callable, Sequence
from typing import cast

from websockets.exceptions import ProtocolError
from websockets.frames import Close
from websockets.protocol import OPEN
from websockets.protocol import Protocol as WebSocketProtocol

from wsflow.limits import SocketLimits
from wsflow.messages.codec import Packed
from wsflow.messages.encoded import EncodedMessage
from wsflow.transports.base import NOBODY, OneByOne, Receiver
from wsflow.transports.deadline import Deadline
from wsflow.transports.frames import (
    CLOSE,
    MASKED,
    PING,
    PONG,
    UNMASKED,
    Found,
    all_whole,
    control,
    only,
    short,
    split,
    waits,
    whole,
)
from wsflow.transports.library import Library
from wsflow.transports.sent import Sent
from wsflow.transports.shared import READ_BYTES, Shared

SMALL = 16 * 1024
"""The largest payload that takes the fast path, which keeps a frame until it is whole."""

WRITE_BYTES = 16 * 1024
"""How many bytes are collected before they are written within the iteration."""


class Phase(enum.IntEnum):
    """The phase of a connection."""

    REQUESTING = 1  # the opening request, or the answer to it, is being read
    DECIDING = 2  # the app decides; what the peer sends meanwhile is held back
    OPEN = 3
    ANSWERING = 4  # an HTTP answer takes the place of a connection; what comes is not looked at
    CLOSING = 5  # messages are ignored; the socket is closed within ``close_timeout``
    LEFT = 6  # the peer has closed, and is answered; what comes is not looked at
    CLOSED = 7


# For the fast path, where each attribute look-up matters.
_REQUESTING, _DECIDING, _OPEN, _CLOSED = (
    Phase.REQUESTING,
    Phase.DECIDING,
    Phase.OPEN,
    Phase.CLOSED,
)


class SocketTransport(asyncio.BufferedProtocol):
    """One open WebSocket connection on a socket, driven by asyncio."""

    # fmt: off
    __slots__ = (
        "_acknowledged", "_buffer", "_deadline", "_eof", "_framed", "_held", "_last_read",
        "_library", "_limits", "_lost", "_mask", "_message_timer", "_out", "_out_bytes", "_phase",
        "_ping_timer", "_pinged", "_pong", "_pong_due", "_ponged", "_reading_paused", "_received",
        "_receiver", "_resumed", "_sent", "_shared", "_small", "_socket", "_socket_paused",
        "_to_flush", "_writing_paused", "from_loop", "loop",
    )
    # fmt: on

    def __init__(self, library: Library, limits: SocketLimits, shared: Shared) -> None:
        self._library = library
        self._mask = UNMASKED if library.client else MASKED  # of what is received
        self._limits = limits
        self._shared = shared
        self._buffer = shared.buffer  # shared: each read is copied out of it at once
        self.loop = shared.loop
        self.from_loop = shared.from_loop
        self._small = min(SMALL, limits.max_message_size)
        self._framed = whole
        self._phase = Phase.REQUESTING
        self._receiver: Receiver = NOBODY
        self._held = b""  # read from the socket, not parsed yet
        self._out: list[bytes] = []  # to be written at the end of this iteration of the loop
        self._out_bytes = 0
        self._to_flush = False  # whether a flush is scheduled
        self._reading_paused = False  # by the receiver
        self._socket_paused = False  # until what was read is taken
        self._eof = False  # nothing more will be read
        self._lost = False  # the socket is closed
        self._writing_paused = False
        self._pong = b""  # the answer to the latest ping, while there is no room for it
        self._received = 0  # bytes
        self._last_read = 0  # bytes
        self._resumed = 0  # how often reading went on
        self._acknowledged = 0  # how far what was sent had come, when it was looked last
        self._pinged = 0  # the position behind the last ping
        self._ponged = False  # since the last ping
        self._pong_due = 0.0  # for a peer that is sending a message
        self._ping_timer: Deadline | asyncio.TimerHandle | None = None
        self._message_timer: Deadline | None = None  # while a message is incomplete
        # Of the handshake, then of the answer or the close.
        self._deadline: Deadline | asyncio.TimerHandle | None = None
        library.ponged = self._pong_received

    # -- the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)
        self._limit_writing(self._limits.write_buffer)
        self._sent = Sent(self._socket)

    def _limit_writing(self, most: int) -> None:
        """How many bytes may be buffered before ``pause_writing`` is called."""
        # With 0, an event loop pauses TLS although nothing is buffered, and may never resume it.
        self._socket.set_write_buffer_limits(high=max(1, most))

    def _read_head(self, data: bytes) -> None:
        """Read the opening request, or the answer to it."""

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._received += nbytes
        self._last_read = nbytes
        data = self._buffer[:nbytes].tobytes()
        if (
            self._phase is _OPEN
            and self._library.between
            and not (self._held or self._reading_paused)
            and (message := only(data, self._mask, self._small)) is not None
        ):
            # One message and nothing else, as most often: what _parse does, in fewer steps.
            self._to_flush = True
            if not self._receiver.messages_received((message,)):
                self._held = data
            self.flush()
        elif self._phase is _REQUESTING:
            self._read_head(data)
        else:
            self._parse(self._held + data if self._held else data)
        if nbytes == READ_BYTES and self._shared.greedy:
            self._socket.pause_reading()
            self.loop.call_soon(self._read_again)

    @property
    def reads(self) -> int:
        return self._received + self._resumed

    @property
    def full(self) -> bool:
        return self._last_read == READ_BYTES

    def _read_again(self) -> None:
        if not self._socket_paused:
            self._read_on()

    def eof_received(self) -> bool:
        self._eof = True
        self._parse_held()
        if self._held and self._phase is _OPEN:
            self._expect_to_be_taken()
        return bool(self._held) and self._socket.can_write_eof()  # to send answers

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = self._lost = True
        self._out.clear()
        self._out_bytes = 0
        self._cancel_timers()
        self._parse_held()
        if self._held and self._phase < Phase.CLOSING:
            self._expect_to_be_taken()
        else:
            self._gone()

    def _expect_to_be_taken(self) -> None:
        """The wire has ended: what came before is still handled, for at most ``close_timeout``."""
        self._deadline = Deadline(self, self._limits.close_timeout, self._not_taken)

    def _not_taken(self) -> None:
        self._gone()
        self._socket.abort()

    def pause_writing(self) -> None:
        self._writing_paused = True
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        self._writing_paused = False
        pong, self._pong = self._pong, b""
        if pong:
            self._write(pong)
        self._receiver.resume_writing()

    def _write(self, data: bytes) -> bool:
        """Buffer bytes to be written at the end of this iteration of the loop. Returns whether they
        were enough to be written now."""
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes >= WRITE_BYTES:
            self.flush()
            return True
        if not self._to_flush:
            self._to_flush = True
            self._shared.flush_later(self)
        return False

    def flush(self) -> None:
        """Write the buffered bytes."""
        self._to_flush = False
        out = self._out
        if not out:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        size, self._out_bytes = self._out_bytes, 0
        if not self._lost:
            sent = self._sent
            sent.bytes += size
            if sent.tls:
                sent.writes += 1
            self._socket.write(data)

    def _flush_protocol(self) -> None:
        """Write the data that the library sends; close the socket at the end of its stream."""
        library = self._library
        for data in library.data_to_send():
            if not data:
                protocol = library.protocol
                self._end(clean=protocol.close_rcvd is not None and protocol.parser_exc is None)
            elif data[0] == PONG:
                self._answer_ping(data)
            else:
                self._write(data)
        if self._phase is _OPEN:
            library.let_go()

    def _end(self, *, clean: bool) -> None:
        """Close the socket behind what was sent."""
        self.flush()
        self._begin_closing()
        if clean and not self._lost:
            self._socket.close()
        else:
            self._shut()

    def _shut(self) -> None:
        """Close the socket, or only its sending half if the peer may still be sending: a reset
        would discard what was sent at last before the peer reads it (RFC 6455 §7.1.1)."""
        if self._lost:
            return
        if self._eof or not self._socket.can_write_eof():
            self._socket.close()
            return
        try:
            self._socket.write_eof()
        except (OSError, RuntimeError):  # the peer is gone, which will be reported
            self._socket.abort()
        else:
            self._linger()

    def _begin_closing(self) -> None:
        """Ignore messages from now on. Whatever follows, the socket has a deadline."""
        if self._phase >= Phase.CLOSING:
            return
        self._phase = Phase.CLOSING
        self._cancel_timers()
        if not self._lost:
            self._deadline = Deadline(self, self._limits.close_timeout, self._socket.abort)

    def _linger(self) -> None:
        """Read on until the peer closes the socket."""
        if not self._lost:
            self._reading_paused = False
            self._read_on()
            self.loop.call_soon(self._parse_held)

    def _cancel_timers(self) -> None:
        for timer in (self._deadline, self._ping_timer, self._message_timer):
            if timer is not None:
                timer.cancel()
        self._deadline = self._ping_timer = self._message_timer = None

    def _opened(self) -> None:
        """The handshake is complete: frames may be sent and received."""
        self._phase = Phase.OPEN
        if self._library.extensions:
            self._framed = self._library.extended
        self._schedule_ping()
        if self._socket_paused:
            self._read_on()
        if self._held or self._eof:
            self.loop.call_soon(self._parse_held)  # not now: the caller is not ready for a message

    # -- called by the runtime

    @property
    def traffic(self) -> tuple[int, int]:
        return self._received, self._sent.bytes

    def now(self) -> float:
        return self.loop.time()

    def after(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, call)

    def send(self, payload: bytes, text: bool, raw: bool) -> bool:
        if self._phase is not _OPEN:
            return False
        framed = self._framed
        data = framed(payload, text)
        # The same as _write, inlined for speed.
        self._out.append(data)
        self._out_bytes = size = self._out_bytes + len(data)
        if size >= WRITE_BYTES:
            self.flush()
            return True
        if not self._to_flush:
            self._to_flush = True
            self._shared.flush_later(self)
        return False

    def send_all(self, messages: Sequence[Packed]) -> bool:
        if self._phase is not _OPEN:
            return False
        if self._library.extensions:
            return OneByOne.send_all(self, messages)
        return self._write(all_whole(messages))

    def share(self, message: EncodedMessage) -> None:
        if self._phase is not _OPEN:
            return
        library = self._library
        wire = library.shared(message) if library.extensions else message.wire
        if wire is None:
            wire = message.wire = whole(message.payload, message.text)
        # The same as _write, inlined for speed.
        self._out.append(wire)
        self._out_bytes += len(wire)
        if self._out_bytes >= WRITE_BYTES:
            self.flush()
        elif not self._to_flush:
            self._to_flush = True
            self._shared.flush_later(self)

    def close(self, code: int, reason: str) -> None:
        if self._phase is not Phase.OPEN:
            return
        self._begin_closing()
        self._library.protocol.send_close(code, reason)
        self._flush_protocol()
        self.flush()
        self._linger()

    def pause_reading(self, *, briefly: bool = False) -> None:
        if self._phase is Phase.OPEN:
            self._reading_paused = True
            self._met()
            if not briefly:
                self._socket_paused = True
                if not self._lost:
                    self._socket.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self.loop.call_soon(self._parse_held)  # what was read already comes first

    def _read_on(self) -> None:
        self._resumed += 1  # a deadline that is due waits for what comes now
        self._socket_paused = False
        if not self._lost:
            self._socket.resume_reading()

    # -- receiving

    def _parse_held(self) -> None:
        self._parse(self._held)

    def _parse(self, data: bytes) -> None:
        """Parse what was read, while there is room for messages."""
        if self._phase is not _OPEN and self._hold(data):
            return
        self._to_flush = True  # what is sent meanwhile is written together, below
        library, at, end, took = self._library, 0, len(data), False
        while at < end and not self._reading_paused and self._phase is not _CLOSED:
            if library.between and self._phase is _OPEN:
                found: list[Found] = []
                after = split(data, at, self._mask, self._small, found)
                if found:
                    took = True
                    taken = self._receiver.messages_received(found)
                    at = after if taken == len(found) else found[taken - 1][2] if taken else at
                    continue
                if waits(data, at, self._mask, self._small) and not self._eof:
                    break
                payload = control(data, at) if self._mask else None  # a client's answer is masked
                if payload is not None and self._take_control(data[at], payload):
                    at = end if self._phase is Phase.LEFT else at + 6 + len(payload)
                    continue
            at = library.give(data, at)
            took = self._after_parsing() or took
        self._held = data[at:]
        if self._held or library.partial:
            if took:
                self._met()
            self._expect_rest()
        elif self._message_timer is not None:
            self._met()
        if self._socket_paused and not self._reading_paused:
            self._read_on()
        if self._eof and not self._held and self._phase is not _CLOSED:
            self._vanished()
            self._end(clean=False)
        self.flush()

    def _take_control(self, first: int, payload: bytes) -> bool:
        """Do what a control frame between two messages asks for. Returns False if that is for the
        library."""
        if first == PING:
            self._answer_ping(short(PONG, payload))
        elif first == PONG:
            self._pong_received(payload)
        else:
            try:
                close = Close.parse(payload)
            except (ProtocolError, UnicodeDecodeError):
                return False
            self._begin_closing()
            self._phase = Phase.LEFT
            self._receiver.peer_closed(int(close.code), close.reason)
            self._write(short(CLOSE, payload))
            self._end(clean=True)
        return True

    def _answer_ping(self, pong: bytes) -> None:
        if self._writing_paused:
            self._pong = pong  # only the latest ping need be answered (RFC 6455 §5.5.3)
        else:
            self._write(pong)

    def _hold(self, data: bytes) -> bool:
        """Hold what comes before the handshake is answered, and skip what comes after the end.
        Returns whether it is one of these."""
        if self._phase is Phase.LEFT:
            self._held = b""
            return True
        if self._phase is not _DECIDING:
            return False
        self._held = data
        if len(data) > self._limits.write_buffer:
            self._socket_paused = True
            self._socket.pause_reading()
        return True

    def _after_parsing(self) -> bool:
        """Do what the library found in the data. Returns whether that has a message."""
        library = self._library
        messages = library.messages()
        for message in messages:
            if self._phase is _OPEN:
                self._receiver.messages_received((message,))
        protocol = library.protocol
        if self._phase is _OPEN and protocol.state is not OPEN:
            self._report_close(protocol)
        self._flush_protocol()
        return bool(messages)

    def _expect_rest(self) -> None:
        """A message has begun to come: it must be complete within ``message_timeout``."""
        seconds = self._limits.message_timeout
        waits = self._phase is _OPEN and not self._reading_paused
        if self._message_timer is None and seconds and waits:
            self._message_timer = Deadline(self, seconds, self._not_complete)

    def _met(self) -> None:
        """That message is complete, or this side does not read."""
        timer, self._message_timer = self._message_timer, None
        if timer is not None:
            timer.cancel()

    def _not_complete(self) -> None:
        self._library.protocol.fail(1008, "a message was not complete in time")
        self._after_parsing()
        self.flush()

    def _report_close(self, protocol: WebSocketProtocol) -> None:
        """The protocol is closing, and this side has not started that: report it."""
        sent, got = cast(Close, protocol.close_sent), protocol.close_rcvd
        self._begin_closing()
        if got is not None and protocol.parser_exc is None:
            self._receiver.peer_closed(int(got.code), got.reason)
        else:
            self._receiver.peer_failed(int(sent.code), sent.reason)

    def _vanished(self) -> None:
        """The connection is lost without a close frame: report it, unless it has ended already."""
        if self._phase in (Phase.DECIDING, Phase.OPEN):
            self._begin_closing()
            self._receiver.peer_vanished()

    def _gone(self) -> None:
        """The connection is closed. Release the references, to break reference cycles."""
        self._vanished()
        self._phase = Phase.CLOSED
        self._cancel_timers()
        self._receiver = NOBODY
        self._library.forget()
        self._held = b""

    # -- keepalive (RFC 6455 §5.5.2)

    def _schedule_ping(self) -> None:
        if self._limits.ping_interval and self._phase is Phase.OPEN:
            self._ping_timer = self.loop.call_later(self._limits.ping_interval, self._ping)

    def _ping(self) -> None:
        self._ponged = False
        self._library.protocol.send_ping(b"")
        self._flush_protocol()
        self.flush()
        self._pinged = self._sent.position()
        self._acknowledged = self._sent.acknowledged()
        longest = self._limits.message_timeout or math.inf
        self._pong_due = self.loop.time() + max(longest, self._limits.ping_timeout)
        self._expect_pong()

    def _expect_pong(self) -> None:
        self._ping_timer = Deadline(self, self._limits.ping_timeout, self._check_pong)

    def _pong_received(self, data: bytes) -> None:
        self._ponged = True

    def _check_pong(self) -> None:
        """``ping_timeout`` is over since the ping, or since this was checked last."""
        before = self._acknowledged
        self._acknowledged = self._sent.acknowledged()
        moves = self._acknowledged > before
        if self._socket.get_write_buffer_size() and not moves:
            self._give_up()  # the peer does not read
        elif self._ponged or self._socket_paused:
            self._schedule_ping()
        elif (moves and self._acknowledged < self._pinged) or (
            self._message_timer is not None and self.loop.time() < self._pong_due
        ):
            self._expect_pong()  # the ping is not there yet, or the pong is behind a message
        else:
            self._give_up()

    def _give_up(self) -> None:
        """The peer is not there any more."""
        self._vanished()
        self._socket.abort()
