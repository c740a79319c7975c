"""The transport of a server on a socket: the opening request, and the answer to it."""

from __future__ import annotations

import asyncio
import http
import math
import re
from collections.abc import Callable, Iterable
from typing import Protocol, cast, final

from websockets.datastructures import Headers
from websockets.exceptions import InvalidMessage, RequestLineTooLong
from websockets.http11 import Request as Handshake
from websockets.server import ServerProtocol

from wsflow.addresses import Address
from wsflow.limits import SocketLimits
from wsflow.request import Request
from wsflow.transports.base import NOBODY, Acceptor, Receiver, nothing
from wsflow.transports.deadline import Deadline
from wsflow.transports.handshake import (
    ALLOW,
    EVERYTHING,
    Acceptance,
    Head,
    asks_to_connect,
    common,
    refusal,
)
from wsflow.transports.library import Library, release, server_protocol
from wsflow.transports.shared import Shared
from wsflow.transports.sockets import Phase, SocketTransport

BODY_BYTES = 64 * 1024
"""How many bytes of an answer are given to the socket at a time."""

_BODY = re.compile(rb"^(content-length|transfer-encoding):[ \t]*(.*?)[ \t]*\r\n", re.I | re.M)
"""The headers that say that a request has a body, and how long that is."""

_LAST_CHUNK = b"0\r\n\r\n"

NOT_VALID = b"this is not a valid HTTP request\n"
TOO_LARGE = b"the opening request is too large\n"


class Owner(Protocol):
    """The server, as its transports see it."""

    @property
    def limits(self) -> SocketLimits: ...
    @property
    def acceptor(self) -> Acceptor: ...
    @property
    def shared(self) -> Shared: ...

    def requested(self, transport: ServerTransport) -> None:
        """Its opening request has come."""

    def closing(self, transport: ServerTransport) -> None:
        """It is refused, or its connection ends."""

    def closed(self, transport: ServerTransport) -> None:
        """Its socket is closed."""

    def client(self, address: Address | None, headers: Headers) -> Address | None:
        """The client's address, behind trusted proxies."""

    def refused(self, address: Address | None, target: str, status: int) -> None:
        """An opening request that no one has decided on was answered with an HTTP error."""


@final
class ServerTransport(SocketTransport):
    """A Transport of a server on asyncio.

    Args:
        owner: the server.
        address: that of the socket's peer; None for a Unix socket.

    Attributes:
        address: that of the socket's peer; None for a Unix socket.
        since: when its socket was accepted, by the clock of the event loop.
    """

    # fmt: off
    __slots__ = (
        "__weakref__", "_acceptance", "_answer", "_owner", "_reading", "_told", "_upload",
        "address", "since",
    )
    # fmt: on

    dials = False

    def __init__(self, owner: Owner, address: Address | None) -> None:
        super().__init__(Library(owner.limits), owner.limits, owner.shared)
        self._owner = owner
        self.address = address
        self._reading: _Reading | None = None  # if the opening request is not a common one
        self._acceptance: Acceptance | None = None  # what ``accept`` will answer
        self._answer: memoryview | None = None  # what is left of it; None if all was given away
        self._told = nothing  # called once nothing is left
        self._upload = 0.0  # bytes of the request's body that may still come
        self.since = self.loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        left = self.since + self._limits.open_timeout - self.loop.time()
        self._deadline = Deadline(self, left, self._socket.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._release_reading()
        self._gave_all()
        self._owner.closed(self)

    def _begin_closing(self) -> None:
        if self._phase < Phase.CLOSING:
            self._owner.closing(self)
        super()._begin_closing()

    def abort(self) -> None:
        """Close the socket at once, whatever waits to be sent."""
        self._socket.abort()

    # -- the opening request

    @property
    def silent(self) -> bool:
        """Whether nothing of it has come, while it has not come as a whole. Who is in the TLS
        handshake is not silent: it may take its time."""
        return self._deadline is not None and self._reading is None

    @property
    def receiver(self) -> Receiver:
        """What it reports to."""
        return self._receiver

    def take_head(self, head: bytes) -> None:
        """Take an opening request that somebody else has read from the socket."""
        self._read_head(head)

    def _read_head(self, data: bytes) -> None:
        limits = self._limits
        if self._reading is None:
            deflate = limits.compression == "deflate"
            found = common(data, largest=limits.max_header_size, extensions=deflate)
            if found is not None:
                self._held = data[found.size :]
                self._requested()
                self._decide(found.target, found.headers, found.acceptance)
                return
            self._reading = _Reading(server_protocol(limits))
        self._read_on_head(self._reading, data)
        if self._phase is not Phase.REQUESTING:
            self._release_reading()

    def _read_on_head(self, reading: _Reading, data: bytes) -> None:
        """Give the library what has come of the opening request."""
        head, protocol = reading.head, reading.protocol
        size = head.take(data)
        if len(head.data) > self._limits.max_header_size:
            self._refuse("", 431, TOO_LARGE)
            return
        self._held = data[size:]
        self._parse_head(protocol, data[:size])
        if self._phase is Phase.REQUESTING and protocol.handshake_exc is not None:
            self._malformed(protocol.handshake_exc, head)

    def _release_reading(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            release(reading.protocol)

    def _parse_head(self, protocol: ServerProtocol, data: bytes) -> None:
        protocol.receive_data(data)
        for event in protocol.events_received():
            self._judge(cast(Handshake, event), protocol)

    def _malformed(self, exc: Exception, head: Head) -> None:
        """It is no HTTP request, a part of it is too long, or it has a body. The library takes no
        body, and is given the request anew without the headers that say so."""
        why = exc.__cause__
        if isinstance(exc, RequestLineTooLong):
            self._refuse("", 414, b"the request line is too long\n")
        elif not isinstance(exc, InvalidMessage):
            self._refuse("", 431, TOO_LARGE)
        else:
            has_body = isinstance(why, NotImplementedError) or "request body" in str(why)
            self._upload = _upload(head.data) if has_body else 0
            if self._upload:
                self._parse_head(server_protocol(self._limits), _BODY.sub(b"", head.data))
            else:
                self._refuse("", 400, NOT_VALID)

    def _judge(self, handshake: Handshake, protocol: ServerProtocol) -> None:
        """The library has read the request: it may be for a WebSocket, or for a page."""
        self._requested()
        method, target, headers = handshake.method, handshake.path, handshake.headers
        response = protocol.accept(handshake)
        connects = response.status_code == http.HTTPStatus.SWITCHING_PROTOCOLS
        if connects and self._upload:
            self._refuse(target, 400, b"a request for a WebSocket has no body\n")
        elif connects:
            self._library.extensions = tuple(protocol.extensions)
            answer = response.headers
            accept = answer["Sec-WebSocket-Accept"], answer.get("Sec-WebSocket-Extensions")
            self._decide(target, headers, Acceptance(*accept))
        elif asks_to_connect(headers):
            said = [each for each in response.headers.raw_items() if each[0] == "Upgrade"]
            said.append(("Sec-WebSocket-Version", "13"))  # RFC 6455 §4.4
            self._refuse(target, response.status_code, bytes(response.body), said)
        elif (method, target) == EVERYTHING:
            self.reject(204, [ALLOW], b"")
        else:
            request = self._request(target, headers)
            if request is not None:
                self._owner.acceptor.page(method, request, self)

    def _requested(self) -> None:
        """The opening request has come."""
        self._phase = Phase.DECIDING
        self._cancel_timers()
        self._owner.requested(self)

    def _decide(self, target: str, headers: Headers, acceptance: Acceptance) -> None:
        """Ask the app whether to accept the connection."""
        self._acceptance = acceptance
        request = self._request(target, headers)
        receiver = self._owner.acceptor.open(request, self) if request is not None else None
        if receiver is not None:
            self._receiver = receiver

    def _request(self, target: str, headers: Headers) -> Request | None:
        """The request as the app sees it; None if its target cannot be read, which is answered."""
        client = self._owner.client(self.address, headers)
        try:
            return Request.parse(target, headers, client)
        except ValueError:
            self._refuse(target, 400, b"the request target cannot be read\n")
            return None

    @property
    def _owes_an_answer(self) -> bool:
        """Whether all that is left is an answer, and it can be sent to who sends no more."""
        asked = self._phase is Phase.DECIDING and self._acceptance is None
        owes = self._answer is not None or asked
        return owes and self._socket.can_write_eof() and not self._lost

    def eof_received(self) -> bool:
        return super().eof_received() or self._owes_an_answer

    def _hold(self, data: bytes) -> bool:
        if self._phase is Phase.ANSWERING:
            self._held = b""
            self._skip(data)
            return True
        if not super()._hold(data):
            return False
        if self._eof and not self._owes_an_answer:
            self._vanished()
            self._socket.close()
        return True

    def _refuse(
        self, target: str, status: int, body: bytes, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        self._owner.refused(self.address, target, status)
        self.reject(status, headers, body)

    def accept(self, subprotocol: str | None) -> None:
        acceptance = self._acceptance
        if self._phase is not Phase.DECIDING or acceptance is None:
            return
        self._write(acceptance.serialize(self._shared.date, subprotocol))
        self._acceptance = None
        self._opened()
        self.flush()

    def reject(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        self.answer(status, headers, body)

    # -- an HTTP answer

    def answer(
        self,
        status: int,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        sent: Callable[[], None] = nothing,
    ) -> None:
        if self._phase >= Phase.OPEN or self._lost:
            sent()
            return
        self._phase, self._acceptance, self._receiver = Phase.ANSWERING, None, NOBODY
        response = refusal(status, headers, body)
        response.body = b""
        if sent is nothing:
            self._owner.closing(self)  # it counts for no limit: where there is no room it may go
        self._told = sent
        self._answer = memoryview(body)
        self._limit_writing(0)  # so that ``resume_writing`` says when it has gone out
        self._acknowledged = self._sent.acknowledged()
        self._expect(self._check_taken)
        self._linger()
        self._write(response.serialize())
        self._send_body()

    def _send_body(self) -> None:
        """Send a part of an answer. Once that has gone out, the next one follows; behind the last
        one the socket is closed."""
        if self._answer is None:  # the socket is closed
            return
        piece, self._answer = self._answer[:BODY_BYTES], self._answer[BODY_BYTES:]
        if piece:
            self._write(bytes(piece))
        self.flush()
        if self._writing_paused:
            return
        if self._answer:
            self.loop.call_soon(self._send_body)
        else:
            self._close_behind_answer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._answer is not None:
            self.loop.call_soon(self._send_body)  # asyncio must not be told to close it here

    def _gave_all(self) -> None:
        """Nothing of an answer waits here any more."""
        self._answer = None
        told, self._told = self._told, nothing
        told()

    def _close_behind_answer(self) -> None:
        """All of it has gone out. Over TLS no half of the socket can be closed, so that the rest of
        the request must come first (RFC 9112 §9.6)."""
        self._gave_all()
        self._owner.closing(self)
        if self._eof or self._socket.can_write_eof():
            self._upload = 0
        if not self._upload:
            self._shut()

    def _skip(self, data: bytes) -> None:
        """Skip what comes of the request's body."""
        if self._upload:
            self._upload = 0 if data.endswith(_LAST_CHUNK) else max(0, self._upload - len(data))
            if not self._upload and self._answer is None:
                self._shut()

    def _expect(self, late: Callable[[], None]) -> None:
        self._cancel_timers()
        self._deadline = self.after(self._limits.close_timeout, late)

    def _check_taken(self) -> None:
        """``close_timeout`` is over since the answer was begun, or since this was checked last."""
        before, self._acknowledged = self._acknowledged, self._sent.acknowledged()
        left = self._answer is not None or self._acknowledged < self._sent.position()
        if left and self._acknowledged > before:
            self._expect(self._check_taken)
        else:
            self.abort()  # the peer does not read, or it does not close the socket

    def finish(self) -> None:
        """The server stops: who waits for an answer gets none, and what is left of one must be
        taken within ``close_timeout``."""
        self.reject(503, (), b"Service Unavailable\n")
        if self._phase is Phase.ANSWERING:
            self._expect(self.abort)


def _upload(head: bytearray) -> float:
    """How long the body of a request is: infinite if only its end tells, 0 if nobody knows."""
    said = {(name.lower(), value) for name, value in _BODY.findall(head)}
    if any(name == b"transfer-encoding" for name, _ in said):
        return math.inf
    lengths = [value for _, value in said]
    return float(lengths[0]) if len(lengths) == 1 and lengths[0].isdigit() else 0


class _Reading:
    """An opening request that the library reads."""

    __slots__ = ("head", "protocol")

    def __init__(self, protocol: ServerProtocol) -> None:
        self.head = Head()
        self.protocol = protocol
