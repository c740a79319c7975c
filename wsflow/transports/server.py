"""The transport of a server on a socket: the opening request, and the answer to it."""

from __future__ import annotations

import asyncio
import http
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, cast, final

from websockets.datastructures import Headers
from websockets.exceptions import InvalidMessage, RequestLineTooLong
from websockets.http11 import Request as Handshake
from websockets.http11 import Response
from websockets.server import ServerProtocol

from wsflow.addresses import Address
from wsflow.limits import SocketLimits
from wsflow.request import Request
from wsflow.transports.base import Acceptor
from wsflow.transports.deadline import Deadline
from wsflow.transports.handshake import Head, refusal
from wsflow.transports.library import Library, server_protocol
from wsflow.transports.shared import Shared
from wsflow.transports.sockets import Phase, SocketTransport


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

    __slots__ = ("__weakref__", "_opening", "_owner", "address", "since")

    dials = False

    def __init__(self, owner: Owner, address: Address | None) -> None:
        super().__init__(
            Library(server_protocol(owner.limits), owner.limits), owner.limits, owner.shared
        )
        self._owner = owner
        self.address = address
        self._opening: _Opening | None = _Opening()
        self.since = self.loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        left = self.since + self._limits.open_timeout - self.loop.time()
        self._deadline = Deadline(self, left, self._socket.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._owner.closed(self)

    def _begin_closing(self) -> None:
        if self._phase < Phase.CLOSING:
            self._owner.closing(self)
        super()._begin_closing()

    def abort(self) -> None:
        """Close the socket at once, whatever waits to be sent."""
        self._socket.abort()

    # -- the opening request

    def _read_head(self, data: bytes) -> None:
        opening, protocol = cast(_Opening, self._opening), self._handshake
        size = opening.head.take(data)
        if opening.head.size > self._limits.max_header_size:
            self._refuse("", 431, b"the opening request is too large\n")
            return
        self._held = data[size:]
        protocol.receive_data(data[:size])
        for event in protocol.events_received():
            self._requested(cast(Handshake, event), protocol)
        if self._phase is Phase.REQUESTING and protocol.handshake_exc is not None:
            self._malformed(protocol.handshake_exc)
        self._flush_protocol()
        self.flush()

    def _malformed(self, exc: Exception) -> None:
        """It is no HTTP request, or a part of it is too long. The library answers only the latter;
        in both cases it has ended the stream, which closes the socket."""
        if isinstance(exc, InvalidMessage):
            self._write(refusal(400, (), b"this is not a valid HTTP request\n").serialize())
            self._refused("", 400)
        else:
            self._refused("", 414 if isinstance(exc, RequestLineTooLong) else 431)

    def _requested(self, handshake: Handshake, protocol: ServerProtocol) -> None:
        self._phase = Phase.DECIDING
        self._cancel_timers()
        self._owner.requested(self)
        response = protocol.accept(handshake)
        if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self._refused(handshake.path, response.status_code)
            protocol.send_response(response)
            return
        self._opening = _Opening(response=response)
        client = self._owner.client(self.address, handshake.headers)
        try:
            request = Request.parse(handshake.path, handshake.headers, client)
        except ValueError:
            self._refuse(handshake.path, 400, b"the request target cannot be read\n")
            return
        receiver = self._owner.acceptor.open(request, self)
        if receiver is not None:
            self._receiver = receiver

    def _hold(self, data: bytes) -> None:
        super()._hold(data)
        if self._eof:
            self._vanished()
            self._socket.close()

    @property
    def _handshake(self) -> ServerProtocol:
        """The protocol of the handshake, until it is accepted."""
        return cast(ServerProtocol, self._library.protocol)

    def _refused(self, target: str, status: int) -> None:
        self._owner.refused(self.address, target, status)

    def _refuse(self, target: str, status: int, body: bytes) -> None:
        self._refused(target, status)
        self.reject(status, (), body)

    def accept(self, subprotocol: str | None) -> None:
        opening = self._opening
        if self._phase is not Phase.DECIDING or opening is None or opening.response is None:
            return
        if subprotocol is not None:
            opening.response.headers["Sec-WebSocket-Protocol"] = subprotocol
        self._handshake.send_response(opening.response)
        self._opening = None
        self._opened()
        self._flush_protocol()
        self.flush()

    def reject(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        if self._phase >= Phase.OPEN:
            return
        self._begin_closing()
        self._handshake.send_response(refusal(status, headers, body))
        self._flush_protocol()
        self.flush()


@dataclass(slots=True)
class _Opening:
    """An opening request that is being read, and the answer to it."""

    head: Head = field(default_factory=Head)
    response: Response | None = None
