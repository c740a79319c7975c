"""The transports of one server, from accept to close."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import final
from weakref import WeakSet

from websockets.datastructures import Headers

from wsflow.addresses import Address
from wsflow.runtime.access import log_refusal
from wsflow.runtime.app import App
from wsflow.server.proxies import Proxies
from wsflow.server.settings import Settings
from wsflow.tasks.waiting import Condition
from wsflow.transports.server import ServerTransport
from wsflow.transports.shared import Shared


@final
class Transports:
    """Keeps track of the transports of a server, and is their owner.

    Args:
        settings: their limits.
        app: decides on opening requests.

    Attributes:
        limits: their limits.
        acceptor: decides on opening requests.
    """

    def __init__(self, settings: Settings, app: App) -> None:
        self.limits = settings
        self.acceptor = app
        self._proxies = Proxies(settings.trusted_proxy, settings.proxy_header)
        self._shared: Shared | None = None
        self._arriving: WeakSet[ServerTransport] = WeakSet()  # in the TLS handshake
        self._requesting: set[ServerTransport] = set()
        self._open: set[ServerTransport] = set()
        self._condition = Condition()

    def make(self, *, secure: bool) -> ServerTransport:
        """Create a transport for a socket that is being accepted."""
        transport = ServerTransport(self)
        if secure:
            self._arriving.add(transport)
        return transport

    # -- called by transports

    @property
    def shared(self) -> Shared:
        """The state that they share."""
        if self._shared is None:
            self._shared = Shared(asyncio.get_running_loop())
        return self._shared

    def opened(self, transport: ServerTransport) -> bool:
        """A socket was accepted; False if there are too many."""
        self._arriving.discard(transport)
        self._condition.notify_all()
        if len(self._requesting) >= self.limits.max_handshakes:
            return False
        # Refused and closing connections are included here.
        most = self.limits.max_connections
        if most and len(self._open) >= most + self.limits.max_handshakes:
            return False
        per_client = self.limits.max_connections_per_client
        if per_client and self._requests_from(transport.address) >= per_client:
            return False
        self._requesting.add(transport)
        self._open.add(transport)
        return True

    def requested(self, transport: ServerTransport) -> None:
        """Its opening request has come."""
        self._requesting.discard(transport)
        self._condition.notify_all()

    def closed(self, transport: ServerTransport) -> None:
        """Its socket is closed."""
        self._open.discard(transport)
        self.requested(transport)

    def client(self, address: Address | None, headers: Headers) -> Address | None:
        """The client's address, behind trusted proxies."""
        return self._proxies.client(address, headers)

    def refused(self, address: Address | None, target: str, status: int) -> None:
        """An invalid opening request was answered with an HTTP error."""
        log_refusal(target, address, status)

    def _requests_from(self, address: Address | None) -> int:
        """How many connections from the same host have not sent their opening request."""
        if address is None:
            return 0
        others = (each.address for each in self._requesting)
        return sum(1 for other in others if other is not None and other.host == address.host)

    # -- waited for by the server

    def look_again(self) -> None:
        """Check the conditions that are waited for."""
        self._condition.notify_all()

    async def all_arrived(self, enough: Callable[[], bool]) -> None:
        """Wait until no connection is in its TLS handshake, or ``enough`` returns True."""
        await self._condition.wait_for(lambda: enough() or not self._arriving)

    async def all_requested(self, enough: Callable[[], bool]) -> None:
        """Wait until all connections have sent their opening request, or ``enough`` returns
        True."""
        await self._condition.wait_for(lambda: enough() or not self._requesting)

    def refuse_requests(self) -> None:
        """Answer 503 to connections that have not sent their opening request."""
        for transport in list(self._requesting):
            transport.reject(503, (), b"Service Unavailable\n")

    async def all_closed(self) -> None:
        """Wait until all sockets are closed; each has a timeout for its closing handshake."""
        await self._condition.wait_for(lambda: not self._open)
