"""Sockets on asyncio: an ``asyncio.Protocol`` around the Sans-I/O protocol of ``websockets``.

The library speaks RFC 6455: handshake, frames, control frames, extensions, the close. This file
moves bytes between it and the socket, puts fragments together, keeps the connection alive, and
holds back what nobody has room for. A connection goes through the phases in order.
"""

from __future__ import annotations

import asyncio
import email.utils
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

from wsflow.errors import cut_reason
from wsflow.request import Address, Request
from wsflow.transports.base import Acceptor, Receiver
from wsflow.transports.frames import Frame
from wsflow.transports.limits import SocketLimits

SLICE = 4096
"""How many bytes are parsed before the receiver may say that it has enough."""

_END_OF_HEAD = b"\r\n\r\n"
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
        self._head_size = 0
        self._tail = b""  # the last bytes of the head so far: its end may be split
        self._held = bytearray()  # read from the socket, not parsed yet
        self._reading_paused = False
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

    def eof_received(self) -> None:
        self._parse()
        if self._phase is _Phase.DECIDING:
            self._vanished()
        self._protocol.receive_eof()
        self._after_parsing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._vanished()
        self._phase = _Phase.CLOSED
        self._cancel_timers()
        self._host.closed(self)

    def pause_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.pause_writing()

    def resume_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.resume_writing()

    def _flush(self) -> None:
        """Write what the protocol has to say; half-close the socket when it is done."""
        for data in self._protocol.data_to_send():
            if data:
                self._socket.write(data)
            else:
                self._linger()
                if self._socket.can_write_eof():
                    self._socket.write_eof()
                else:
                    self._socket.close()

    def _linger(self) -> None:
        """All is said: give the peer time to close the socket, and read no message meanwhile."""
        self._phase = max(self._phase, _Phase.CLOSING)
        self._cancel_timers()
        self._deadline = self._loop.call_later(self._limits.close_timeout, self._socket.abort)
        self._held.clear()
        self._reading_paused = False
        self._socket.resume_reading()

    def _cancel_timers(self) -> None:
        for timer in (self._deadline, self._ping_timer):
            if timer is not None:
                timer.cancel()

    # -- the opening request

    def _read_request(self, data: bytes) -> None:
        # The head alone is parsed: what follows it must not be, before the handshake is answered.
        seen = self._tail + data
        end = seen.find(_END_OF_HEAD)
        size = len(data) if end < 0 else end + len(_END_OF_HEAD) - len(self._tail)
        self._tail = seen[-3:]
        self._head_size += size
        if self._head_size > self._limits.max_header_size:
            self.reject(431, (), b"the opening request is too large\n")
            return
        self._held += data[size:]
        self._protocol.receive_data(data[:size])
        for event in self._protocol.events_received():
            self._requested(cast(Handshake, event))
        self._flush()

    def _requested(self, handshake: Handshake) -> None:
        self._phase = _Phase.DECIDING
        self._cancel_timers()
        self._host.requested(self)
        response = self._protocol.accept(handshake)
        if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self._protocol.send_response(response)
            return
        self._response = response
        client = self._host.client(self._address(), handshake.headers)
        try:
            request = Request.parse(handshake.path, handshake.headers, client)
        except ValueError:
            self.reject(400, (), b"the query cannot be read\n")
            return
        self._receiver = self._host.acceptor.open(request, self)

    def _address(self) -> Address | None:
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
        self._loop.call_soon(self._parse)  # not now: the caller is not ready for a message

    def reject(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        if self._phase >= _Phase.OPEN:
            return
        answer = Headers(
            [
                ("Date", email.utils.formatdate(usegmt=True)),
                ("Connection", "close"),
                ("Content-Length", str(len(body))),
                ("Content-Type", "text/plain; charset=utf-8"),
            ]
        )
        for name, value in headers:
            if name.lower() == "content-type":
                del answer[name]
            answer[name] = value
        phrases = {each.value: each.phrase for each in http.HTTPStatus}
        self._protocol.send_response(Response(status, phrases.get(status, ""), answer, body))
        self._flush()

    def send(self, frame: Frame) -> None:
        if self._phase is not _Phase.OPEN:
            return
        if self._protocol.extensions:
            send = self._protocol.send_text if frame.text else self._protocol.send_binary
            send(frame.payload)
            self._flush()
        else:
            self._socket.write(frame.wire)

    def close(self, code: int, reason: str) -> None:
        if self._phase is not _Phase.OPEN:
            return
        self._protocol.send_close(code, reason)
        self._flush()
        self._linger()

    def pause_reading(self) -> None:
        if self._phase is _Phase.OPEN:
            self._reading_paused = True
            self._socket.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._socket.resume_reading()
            self._loop.call_soon(self._parse)

    # -- what comes in

    def _parse(self) -> None:
        """Hand what was read to the protocol, slice by slice, while there is room for messages."""
        held = self._held
        while held and self._phase >= _Phase.OPEN and not self._reading_paused:
            chunk = bytes(held[:SLICE])
            del held[:SLICE]
            self._protocol.receive_data(chunk)
            self._after_parsing()
        if self._phase is _Phase.DECIDING and len(held) > self._limits.write_buffer:
            self._socket.pause_reading()

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
                if frame.fin:
                    self._message_received(b"".join(self._parts))
                elif len(self._parts) >= self._limits.max_fragments:
                    self._protocol.fail(1009, cut_reason("too many fragments"))

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
        self._protocol.send_ping(b"")
        self._flush()
        self._ping_timer = self._loop.call_later(self._limits.ping_timeout, self._expect_pong)

    def _expect_pong(self) -> None:
        if self._heard or self._reading_paused:
            self._schedule_ping()
        else:
            self._vanished()
            self._socket.abort()
