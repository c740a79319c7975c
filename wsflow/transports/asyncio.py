"""Sockets on asyncio: an ``asyncio.Protocol`` around the Sans-I/O protocol of ``websockets``.

The library speaks RFC 6455: handshake, frames, control frames, extensions, the close. This file
moves bytes between it and the socket, puts fragments together, keeps the connection alive, and
holds back what nobody has room for. A connection goes through the phases in order.
"""

from __future__ import annotations

import asyncio
import enum
import http
import logging
from collections.abc import Callable, Iterable
from typing import Protocol, cast, final

from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.http11 import Request as Handshake
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from wsflow.request import Address, Request
from wsflow.transports.base import Acceptor, Receiver
from wsflow.transports.frames import Frame
from wsflow.transports.handshake import Head, refusal
from wsflow.transports.limits import SocketLimits

SLICE = 4096
"""How many bytes are parsed before the receiver may say that it has enough."""

COMPRESSED_SLICE = 512
"""The same for compressed bytes: deflate makes at most about a thousand of one."""

SLICES = 16
"""How many slices are parsed before other connections get their turn."""

_PONG = 0x8A  # FIN and opcode 10

_DEFLATE = ServerPerMessageDeflateFactory(
    server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
)

# The library logs each connection; the app's access log does.
_quiet = logging.getLogger("wsflow.websockets")
_quiet.setLevel(logging.ERROR)


class _Phase(enum.IntEnum):
    REQUESTING = 1  # the opening request is being read
    DECIDING = 2  # it is up to the app; what the peer sends already is held back
    OPEN = 3
    CLOSING = 4  # messages count no more; the peer has ``close_timeout`` to close the socket
    CLOSED = 5


class Host(Protocol):
    """Who keeps the transports: the server."""

    @property
    def limits(self) -> SocketLimits: ...
    @property
    def acceptor(self) -> Acceptor: ...

    def opened(self, transport: SocketTransport) -> bool:
        """A socket was accepted; False if there are too many."""

    def requested(self, transport: SocketTransport) -> None:
        """Its opening request has come."""

    def closed(self, transport: SocketTransport) -> None:
        """Its socket is closed."""

    def client(self, address: Address | None, headers: Headers) -> Address | None:
        """The peer's address, seen through the proxies that are trusted."""

    def refused(self, address: Address | None, target: str, status: int) -> None:
        """An opening request was no proper one, and was answered so."""


@final
class SocketTransport(asyncio.Protocol):
    """One WebSocket connection on a socket: a Transport, driven by asyncio."""

    def __init__(self, host: Host) -> None:
        limits = host.limits
        self._host = host
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._protocol = ServerProtocol(
            extensions=[_DEFLATE] if limits.compression == "deflate" else None,
            max_size=limits.max_message_size,
            logger=_quiet,
        )
        self._phase = _Phase.REQUESTING
        self._receiver: Receiver | None = None
        self._response: Response | None = None
        self._head = Head()
        self._held = bytearray()  # read from the socket, not parsed yet
        self._reading_paused = False
        self._eof = False  # nothing more will be read
        self._lost = False  # the socket is closed
        self._writing_paused = False
        self._pong = b""  # the answer to the latest ping, while there is no room for it
        self._unsent = 0  # what was buffered when the last ping went out
        self._parts: list[bytes] = []  # fragments of a message
        self._text = False  # whether they are of a text message
        self._heard = False
        self._ping_timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None  # of the handshake, then of the close

    # -- the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)
        self._socket.set_write_buffer_limits(high=self._limits.write_buffer)
        if self._host.opened(self):
            self._deadline = self._loop.call_later(self._limits.open_timeout, self._socket.abort)
        else:
            self._socket.abort()

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._phase is _Phase.REQUESTING:
            self._read_request(data)
        else:
            self._held += data
            self._parse()

    def eof_received(self) -> bool:
        self._eof = True
        self._parse()
        return (
            bool(self._held) and self._socket.can_write_eof()
        )  # keep it open, if that is possible

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = self._lost = True
        self._cancel_timers()
        self._parse()
        if self._held and self._phase is _Phase.OPEN:
            # What came before is still to be handled, for as long as a close may take.
            self._deadline = self._loop.call_later(self._limits.close_timeout, self._vanished)
        else:
            self._vanished()
            self._phase = _Phase.CLOSED
        self._host.closed(self)

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._receiver is not None:
            self._receiver.pause_writing()

    def resume_writing(self) -> None:
        self._heard = True  # the peer reads: it lives
        self._writing_paused = False
        pong, self._pong = self._pong, b""
        self._write(pong)
        if self._receiver is not None:
            self._receiver.resume_writing()

    def _write(self, data: bytes) -> None:
        if data and not self._lost:
            self._socket.write(data)

    def _flush(self) -> None:
        """Write what the protocol has to say; half-close the socket when it is done."""
        for data in self._protocol.data_to_send():
            if not data:
                self._half_close()
            elif self._writing_paused and data[0] == _PONG:
                self._pong = data  # only the latest ping need be answered (RFC 6455 §5.5.3)
            else:
                self._write(data)

    def _half_close(self) -> None:
        self._linger()
        if not self._lost:
            if self._socket.can_write_eof():
                self._socket.write_eof()
            else:
                self._socket.close()

    def _linger(self) -> None:
        """All is said: give the peer time to close the socket, and take no message meanwhile."""
        self._phase = max(self._phase, _Phase.CLOSING)
        if self._lost:
            return
        self._cancel_timers()
        self._deadline = self._loop.call_later(self._limits.close_timeout, self._socket.abort)
        self._reading_paused = False
        self._socket.resume_reading()
        self._loop.call_soon(self._parse)

    def _cancel_timers(self) -> None:
        for timer in (self._deadline, self._ping_timer):
            if timer is not None:
                timer.cancel()

    # -- the opening request

    def _read_request(self, data: bytes) -> None:
        size = self._head.take(data)
        if self._head.size > self._limits.max_header_size:
            self.reject(431, (), b"the opening request is too large\n")
            return
        self._held += data[size:]
        self._protocol.receive_data(data[:size])
        for event in self._protocol.events_received():
            self._requested(cast(Handshake, event))
        if self._protocol.handshake_exc is not None:
            self._refused("", 400)
        self._flush()

    def _requested(self, handshake: Handshake) -> None:
        self._phase = _Phase.DECIDING
        self._cancel_timers()
        self._host.requested(self)
        response = self._protocol.accept(handshake)
        if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self._refused(handshake.path, response.status_code)
            self._protocol.send_response(response)
            return
        self._response = response
        client = self._host.client(self.address, handshake.headers)
        try:
            request = Request.parse(handshake.path, handshake.headers, client)
        except ValueError:
            self.reject(400, (), b"the query cannot be read\n")
            return
        self._receiver = self._host.acceptor.open(request, self)

    def _refused(self, target: str, status: int) -> None:
        self._host.refused(self.address, target, status)

    @property
    def address(self) -> Address | None:
        """Where the socket comes from; None for a Unix socket."""
        name = self._socket.get_extra_info("peername")
        return Address(name[0], name[1]) if isinstance(name, tuple) else None

    # -- what the runtime asks for

    def now(self) -> float:
        return self._loop.time()

    def after(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, call)

    def accept(self, subprotocol: str | None) -> None:
        if self._phase is not _Phase.DECIDING or self._response is None:
            return
        self._phase = _Phase.OPEN
        if subprotocol is not None:
            self._response.headers["Sec-WebSocket-Protocol"] = subprotocol
        self._protocol.send_response(self._response)
        self._flush()
        self._schedule_ping()
        self._socket.resume_reading()
        self._loop.call_soon(self._parse)  # not now: the caller is not ready for a message

    def reject(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        if self._phase >= _Phase.OPEN:
            return
        self._protocol.send_response(refusal(status, headers, body))
        self._flush()

    def send(self, frame: Frame) -> None:
        if self._phase is not _Phase.OPEN:
            return
        if self._protocol.extensions:
            send = self._protocol.send_text if frame.text else self._protocol.send_binary
            send(frame.payload)
            self._flush()
        else:
            self._write(frame.wire)

    def close(self, code: int, reason: str) -> None:
        if self._phase is not _Phase.OPEN:
            return
        self._protocol.send_close(code, reason)
        self._flush()
        self._linger()

    def pause_reading(self) -> None:
        if self._phase is _Phase.OPEN:
            self._reading_paused = True
            if not self._lost:
                self._socket.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if not self._lost:
                self._socket.resume_reading()
            self._loop.call_soon(self._parse)

    # -- what comes in

    def _parse(self) -> None:
        """Hand what was read to the protocol, slice by slice, while there is room for messages."""
        held = self._held
        if self._phase is _Phase.DECIDING:
            if self._eof:
                self._vanished()
            elif len(held) > self._limits.write_buffer:
                self._socket.pause_reading()
            return
        size = COMPRESSED_SLICE if self._protocol.extensions else SLICE
        for _ in range(SLICES):
            if not held or self._reading_paused or self._phase is _Phase.CLOSED:
                break
            chunk = bytes(held[:size])
            del held[:size]
            self._protocol.receive_data(chunk)
            self._after_parsing()
        else:
            self._loop.call_soon(self._parse)
        if self._eof and not held:
            self._protocol.receive_eof()
            self._after_parsing()

    def _after_parsing(self) -> None:
        for event in self._protocol.events_received():
            if self._phase is _Phase.OPEN:
                self._frame_received(cast(WireFrame, event))
        if self._phase is _Phase.OPEN and self._protocol.state is not OPEN:
            self._report_close()
        self._flush()

    def _report_close(self) -> None:
        """The protocol is closing, and not because we said so."""
        protocol, receiver = self._protocol, cast(Receiver, self._receiver)
        sent, got = protocol.close_sent, protocol.close_rcvd
        self._phase = _Phase.CLOSING
        if sent is None:
            receiver.peer_vanished()
        elif got is not None and protocol.parser_exc is None:
            receiver.peer_closed(int(got.code), got.reason)
        else:
            receiver.peer_failed(int(sent.code), sent.reason)

    def _frame_received(self, frame: WireFrame) -> None:
        match frame.opcode:
            case Opcode.TEXT | Opcode.BINARY:
                self._text = frame.opcode is Opcode.TEXT
                if frame.fin:
                    self._message_received(bytes(frame.data))
                else:
                    self._parts = [bytes(frame.data)]
            case Opcode.CONT:
                self._parts.append(bytes(frame.data))
                if len(self._parts) > self._limits.max_fragments:
                    self._protocol.fail(1009, "too many fragments")
                    self._report_close()
                elif frame.fin:
                    self._message_received(b"".join(self._parts))

    def _message_received(self, data: bytes) -> None:
        self._parts = []
        cast(Receiver, self._receiver).message_received(data, self._text)

    def _vanished(self) -> None:
        """The peer is gone, or as good as gone. Reported unless the end is known already."""
        if self._phase in (_Phase.DECIDING, _Phase.OPEN) and self._receiver is not None:
            self._phase = _Phase.CLOSING
            self._receiver.peer_vanished()

    # -- keepalive (RFC 6455 §5.5.2)

    def _schedule_ping(self) -> None:
        if self._limits.ping_interval and self._phase is _Phase.OPEN:
            self._ping_timer = self._loop.call_later(self._limits.ping_interval, self._ping)

    def _ping(self) -> None:
        self._heard = False
        self._unsent = self._socket.get_write_buffer_size()
        self._protocol.send_ping(b"")
        self._flush()
        self._ping_timer = self._loop.call_later(self._limits.ping_timeout, self._expect_pong)

    def _expect_pong(self) -> None:
        reads = self._socket.get_write_buffer_size() < self._unsent
        if self._heard or reads or self._reading_paused:
            self._schedule_ping()
        else:
            self._vanished()
            self._socket.abort()
