"""uvicorn with wsflow's own transport: a connection of a wsflow app leaves uvicorn's protocol, and
its socket is served as by ``wsflow run``. All other connections stay as they were.

This stands on what uvicorn does inside, so it is for the versions that it was tested with.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import fields
from typing import Any, final

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.http11 import Request as Handshake

from wsflow.addresses import Address
from wsflow.hosting.asgi import TAKEOVER, Running
from wsflow.limits import Limits, SocketLimits, WireLimits
from wsflow.log import Log
from wsflow.runtime.ending import RESTART
from wsflow.runtime.session import Session
from wsflow.transports.base import Acceptor
from wsflow.transports.server import ServerTransport
from wsflow.transports.shared import Shared

log = Log("wsflow")

TESTED = ((0, 40), (0, 54))
"""The versions of uvicorn that this was tested with: from the first to the last, both included."""

_VERSION = tuple(map(int, re.findall(r"\d+", uvicorn.__version__)[:2]))

_told: set[str] = set()


def _is_tested() -> bool:
    """Whether this version was. The first time that it is not, the log says so."""
    tested = TESTED[0] <= _VERSION <= TESTED[1]
    if not tested and not _told:
        first, last = (".".join(map(str, each)) for each in TESTED)
        _told.add(uvicorn.__version__)
        log.warning(
            "wsflow.uvicorn:Protocol was tested with uvicorn %s to %s, and this is %s: connections "
            "are served over ASGI, which is slower",
            first,
            last,
            uvicorn.__version__,
        )
    return tested


class Protocol(WebSocketsSansIOProtocol):
    """A protocol for ``uvicorn --ws wsflow.uvicorn:Protocol``.

    Apps of ``wsflow.asgi`` are served at the full speed of ``wsflow run``, with its limits and its
    keepalive, and answer what they have accepted before uvicorn stops. Other WebSockets of the
    outer app are served as ever.
    """

    _taken: _Taken | None = None

    def handle_connect(self, event: Handshake) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope") and _is_tested():
            extensions: Any = self.scope["extensions"]
            extensions[TAKEOVER] = self._take

    async def _take(self, running: Running, target: str, client: Address | None) -> None:
        """Serve the connection on its socket, until that is closed. If it is cancelled, the socket
        is closed at once.

        Args:
            running: the app.
            target: the request target, as the app knows it.
            client: the client's address.
        """
        if self.transport.is_closing():
            return
        self.handshake_complete = self.close_sent = True  # for uvicorn there is nothing left to do
        taken = self._taken = _Taken(self, running, client)
        taken.begin(target, self.request)
        try:
            await taken.over.wait()
        finally:
            taken.transport.abort()

    def shutdown(self) -> None:
        if self._taken is None:
            super().shutdown()
        else:
            self._taken.drain()


@final
class _Taken:
    """A connection that was taken over: the owner of its transport."""

    def __init__(self, protocol: Protocol, running: Running, client: Address | None) -> None:
        self.limits = socket_limits(running.app.limits, protocol.config)
        self.acceptor: Acceptor = running.app
        self.shared: Shared = running.shared
        self.over = asyncio.Event()
        self.transport = ServerTransport(self, client)
        self._protocol = protocol
        self._running = running
        self._client = client

    def begin(self, target: str, request: Handshake) -> None:
        socket = self._protocol.transport
        socket.set_protocol(self.transport)
        self.transport.connection_made(socket)
        lines = [f"GET {target} HTTP/1.1", *map(": ".join, request.headers.raw_items()), "", ""]
        self.transport.take_head("\r\n".join(lines).encode("latin-1"))

    def drain(self) -> None:
        """uvicorn stops."""
        receiver = self.transport.receiver
        if isinstance(receiver, Session):
            receiver.drain(RESTART, self._running.grace)

    # -- called by the transport

    def requested(self, transport: ServerTransport) -> None: ...
    def closing(self, transport: ServerTransport) -> None: ...
    def closed(self, transport: ServerTransport) -> None:
        self._protocol.connections.discard(self._protocol)
        self.over.set()

    def client(self, address: Address | None, headers: Headers) -> Address | None:
        return self._client

    def refused(self, address: Address | None, target: str, status: int) -> None:
        self.acceptor.refused(target, self._client, status)


def socket_limits(limits: Limits, config: uvicorn.Config) -> SocketLimits:
    """The limits of a socket: those of the app, and uvicorn's keepalive unless the app has one."""
    if isinstance(limits, SocketLimits):
        return limits
    return SocketLimits(
        ping_interval=config.ws_ping_interval or 0,
        ping_timeout=config.ws_ping_timeout or SocketLimits.ping_timeout,
        **{each.name: getattr(limits, each.name) for each in fields(WireLimits)},
    )
