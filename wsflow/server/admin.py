"""The admin port: pages about the process, apart from the app."""

from __future__ import annotations

from typing import final

from wsflow.addresses import Address
from wsflow.errors import Reject
from wsflow.request import Request
from wsflow.response import TEXT, Response
from wsflow.runtime.ending import refuse
from wsflow.runtime.status import Status, respond
from wsflow.server.accepting import AddressInUse, Listener
from wsflow.server.exits import AdminAddressError, address
from wsflow.server.listening import bind
from wsflow.server.settings import Settings
from wsflow.server.transports import Transports
from wsflow.transports.base import Exchange, Receiver, Transport

MOST = 64
"""How many connections it has at most."""

LOCAL = "127.0.0.1"


@final
class Admin:
    """Listens on the admin port, from ``start`` until ``stop``.

    Args:
        settings: those of the server.
        status: answers the requests.

    Attributes:
        address: where it listens.

    Raises:
        AdminAddressError: the address cannot be listened on.
    """

    def __init__(self, settings: Settings, status: Status) -> None:
        assert settings.admin_port is not None
        elsewhere = settings.uds is not None or settings.fd is not None
        own = Settings(
            host=settings.admin_host or (LOCAL if elsewhere else settings.host),
            port=settings.admin_port,
            open_timeout=settings.open_timeout,
            close_timeout=settings.close_timeout,
            max_connections=MOST,
        )
        try:
            sockets = bind(own)
        except OSError as exc:
            raise AdminAddressError(exc.errno, exc.strerror, address(own)) from None
        self._transports = Transports(own, _Pages(status))
        self._listeners = [Listener(each, self._transports, None, 0) for each in sockets]
        self._transports.listen(self._listeners)
        self.address = Address(own.host, sockets[0].getsockname()[1])

    def start(self) -> None:
        """Listen.

        Raises:
            AdminAddressError: another process listens at this address.
        """
        for listener in self._listeners:
            try:
                listener.start()
            except AddressInUse as exc:
                where = str(self.address)
                raise AdminAddressError(exc.errno, exc.strerror, where) from None

    async def stop(self) -> None:
        """Listen no longer. Requests that have come are answered."""
        for listener in self._listeners:
            await listener.settle()
            listener.close()
        self._transports.refuse_requests()
        await self._transports.all_closed(lambda: True)


@final
class _Pages:
    """Stands where an app stands on its own port."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def page(self, method: str, request: Request, exchange: Exchange) -> None:
        if self._status.has(request.path):
            self._status.answer(method, request, exchange)
        else:
            respond(exchange, method, Response("Not Found\n", 404, content_type=TEXT))

    def open(self, request: Request, transport: Transport) -> Receiver | None:
        refuse(transport, Reject(404))
        return None

    def refused(self, path: str, client: Address | None, status: int) -> None: ...
    def turned_away(self, why: str) -> None: ...
