"""The transports of one server, from accept to close."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol, final

import anyio
from websockets.datastructures import Headers

from wsflow.addresses import Address
from wsflow.log import Log
from wsflow.runtime.rates import count_down
from wsflow.server.accepting import Listener
from wsflow.server.proxies import Proxies
from wsflow.server.settings import Settings
from wsflow.tasks.loops import event_loop
from wsflow.tasks.waiting import Condition
from wsflow.transports.base import Acceptor
from wsflow.transports.server import ServerTransport
from wsflow.transports.shared import Shared

log = Log("wsflow")

AT_ONCE = 256
"""How many connections may be accepted before the first of them has sent its opening request: while
they do, further ones wait in the kernel's queue."""
FRESH = 0.25
"""Seconds after which a connection that is silent, or was told to close, holds up no others."""

SILENT = 1.0
"""Seconds for which a server that is replaced waits for connections that have sent nothing."""

HURRY = 1.0
"""Seconds that the closing handshakes may take when the server stops at once."""


class Owner(Acceptor, Protocol):
    """The app, as its transports see it."""

    def turned_away(self, why: str) -> None:
        """A connection was refused before it could send its opening request."""


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

    def __init__(self, settings: Settings, app: Owner) -> None:
        self.limits = settings
        self.acceptor = app
        self._proxies = Proxies(settings.trusted_proxy, settings.proxy_header)
        self._shared: Shared | None = None
        self._open: set[ServerTransport] = set()
        # Those that have not sent their opening request, the oldest first, and their clients.
        self._requesting: dict[ServerTransport, str] = {}
        # Those that are refused or closing, the oldest first, and since when.
        self._closing: dict[ServerTransport, float] = {}
        self._from: Counter[str] = Counter()
        self._condition = Condition()
        self._listeners: deque[Listener] = deque()

    def listen(self, listeners: Sequence[Listener]) -> None:
        """These listeners are told when there is room again."""
        self._listeners = deque(listeners)

    # -- called by listeners

    def room(self) -> int:
        """How many connections may be accepted now."""
        limits = self.limits
        room = limits.max_handshakes - len(self._requesting)
        recent = self.shared.loop.time() - FRESH
        if limits.max_connections:
            # Refused and closing connections are included here.
            left = limits.max_connections + limits.max_handshakes - len(self._open)
            if left <= 0:
                self.make_room()
            room = min(room, left)
        if room <= 0:
            log.often(
                logging.WARNING,
                "%d connections are open, %d of them have not sent their opening request: "
                "further ones wait",
                len(self._open),
                len(self._requesting),
            )
            return 0
        fresh = 0
        for transport in reversed(self._requesting):
            if transport.since < recent or fresh >= AT_ONCE:
                break
            fresh += 1
        return min(room, AT_ONCE - fresh)

    def make_room(self) -> None:
        """Drop connections that are closing: no peer keeps others out by not closing its socket."""
        recent = self.shared.loop.time() - FRESH
        for transport in [each for each, since in self._closing.items() if since < recent]:
            transport.abort()

    def accepted(self, address: Address | None) -> ServerTransport | None:
        """The transport of a socket that is accepted; None if its client has too many."""
        client = ""
        most = self.limits.max_handshakes_per_client
        if address is not None and most and not self._proxies.trusts(address):
            client = address.network
            if self._from[client] >= most:
                self.acceptor.turned_away(
                    f"{client} has {most} connections that have not sent their opening request"
                )
                return None
            self._from[client] += 1
        transport = ServerTransport(self, address)
        self._requesting[transport] = client
        self._open.add(transport)
        return transport

    # -- called by transports

    @property
    def shared(self) -> Shared:
        """The state that they share."""
        if self._shared is None:
            self._shared = Shared(event_loop())
        return self._shared

    def requested(self, transport: ServerTransport) -> None:
        """Its opening request has come."""
        client = self._requesting.pop(transport, "")
        if client:
            count_down(self._from, client)
        self._changed()

    def closing(self, transport: ServerTransport) -> None:
        """It is refused, or its connection ends: what is left of it is to close the socket."""
        if transport in self._open:
            self._closing[transport] = self.shared.loop.time()
            if transport in self._requesting:
                self.requested(transport)

    def closed(self, transport: ServerTransport) -> None:
        """Its socket is closed."""
        self._open.discard(transport)
        self._closing.pop(transport, None)
        self.requested(transport)

    def _changed(self) -> None:
        self._condition.notify_all()
        for listener in self._listeners:
            listener.resume()
        self._listeners.rotate()  # so that each is the first to take what room there is

    def client(self, address: Address | None, headers: Headers) -> Address | None:
        """The client's address, behind trusted proxies."""
        return self._proxies.client(address, headers)

    def refused(self, address: Address | None, target: str, status: int) -> None:
        """An invalid opening request was answered with an HTTP error."""
        self.acceptor.refused(target, address, status)

    # -- waited for by the server

    def look_again(self) -> None:
        """Check the conditions that are waited for."""
        self._condition.notify_all()

    async def all_requested(self, enough: Callable[[], bool]) -> None:
        """Wait until all connections have sent their opening request, or ``enough`` returns
        True. Those that have sent nothing are waited for during ``SILENT`` seconds: browsers open
        more than they use."""
        with anyio.move_on_after(SILENT):
            await self._condition.wait_for(lambda: enough() or not self._requesting)
        await self._condition.wait_for(
            lambda: enough() or all(each.silent for each in self._requesting)
        )

    def refuse_requests(self) -> None:
        """Answer 503 to all who have no answer yet, and wait no longer for those that are slow to
        take one."""
        for transport in list(self._open):
            transport.finish()

    async def all_closed(self, hurry: Callable[[], bool]) -> None:
        """Wait until all sockets are closed; each has a timeout for its closing handshake. Once
        ``hurry`` returns True, that is at most ``HURRY``."""
        await self._condition.wait_for(lambda: hurry() or not self._open)
        with anyio.move_on_after(HURRY):
            await self._condition.wait_for(lambda: not self._open)
        for transport in list(self._open):
            transport.abort()
        await self._condition.wait_for(lambda: not self._open)
