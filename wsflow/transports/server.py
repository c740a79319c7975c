"""The transport of a server on a socket: the opening request, and the answer to it."""

from __future__ import annotations

import asyncio
import http
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, cast, final

from websockets.datastructures import Headers
from websockets.http11 import Request as Handshake
from websockets.http11 import Response
from websockets.server import ServerProtocol

from wsflow.addresses import Address, address_of
from wsflow.limits import SocketLimits
from wsflow.request import Request
from wsflow.transports.base import Acceptor
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

    def opened(self, transport: ServerTransport) -> bool:
        """A socket was accepted; False if there are too many."""

    def requested(self, transport: ServerTransport) -> None:
        """Its opening request has come."""

    def closed(self, transport: ServerTransport) -> None:
        """Its socket is closed."""

    def client(self, address: Address | None, headers: Headers) -> Address | None:
        """The client's address, behind trusted proxies."""

    def refused(self, address: Address | None, target: str, status: int) -> None:
        """An invalid opening request was answered with an HTTP error."""


@final
class ServerTransport(SocketTransport):
    """A Transport of a server on asyncio."""

    __slots__ = ("__weakref__", "_opening", "_owner")

    dials = False

    def __init__(self, owner: Owner) -> None:
        super().__init__(
            Library(server_protocol(owner.limits), owner.limits), owner.limits, owner.shared
        )
        self._owner = owner
        self._opening: _Opening | None = _Opening()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._owner.opened(self):
            self._deadline = self._loop.call_later(self._limits.open_timeout, self._socket.abort)
        else:
            self._socket.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._owner.closed(self)

    # -- the opening request

    def _read_head(self, data: bytes) -> None:
        opening, protocol = cast(_Opening, self._opening), self._handshake
        size = opening.head.take(data)
        if opening.head.size > self._limits.max_header_size:
            self.reject(431, (), b"the opening request is too large\n")
            return
        self._held = data[size:]
        protocol.receive_data(data[:size])
        for event in protocol.events_received():
            self._requested(cast(Handshake, event), protocol)
        if protocol.handshake_exc is not None:
            self._refused("", 400)
        self._flush_protocol()
        self.flush()

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
            self.reject(400, (), b"the query cannot be read\n")
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

    @property
    def address(self) -> Address | None:
        """The address of the socket's peer; None for a Unix socket."""
        name = self._socket.get_extra_info("peername")
        return address_of(name[0], name[1]) if isinstance(name, tuple) else None

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
