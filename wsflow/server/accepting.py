"""Accepting connections, as long as there is room for them.

What there is no room for waits in the kernel's queue: nobody is reset because others are many, or
silent. The event loop's own servers accept without asking, do not say who is in the TLS handshake,
and log a traceback for each connection when the process is out of file descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from functools import partial
from typing import Any, Protocol, final

from wsflow.addresses import Address, address_of
from wsflow.log import Log
from wsflow.runtime.admission import LATER
from wsflow.runtime.rates import retry_after
from wsflow.tasks.loops import event_loop
from wsflow.tasks.waiting import Condition
from wsflow.transports.handshake import refusal
from wsflow.transports.server import ServerTransport

log = Log("wsflow")

BACKLOG = 4096
"""Length of the queue of connections that wait to be accepted; the kernel may limit it further."""

PAUSE = 0.25
"""Seconds after which a listener that had no room looks again."""

LONG = 24 * 60 * 60.0

_TRANSIENT = (errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH)


class AddressInUse(OSError):
    """Another process listens at this address since it was bound."""


class Arrivals(Protocol):
    """Who knows how much room there is."""

    def room(self) -> int:
        """How many connections may be accepted now."""

    def make_room(self) -> None:
        """No connection can be accepted, for lack of descriptors or memory."""

    def accepted(self, address: Address | None) -> ServerTransport | None:
        """The transport of a socket that is accepted; None if its client has too many."""

    def closed(self, transport: ServerTransport) -> None:
        """Its socket is closed; here, before it was connected."""


@final
class Listener:
    """Accepts the connections of one listening socket.

    Args:
        listening: the socket; it is closed by ``close``.
        arrivals: who knows how much room there is.
        context: the TLS context, if any.
        timeout: seconds for the TLS handshake.
    """

    def __init__(
        self,
        listening: socket.socket,
        arrivals: Arrivals,
        context: ssl.SSLContext | None,
        timeout: float,
    ) -> None:
        self.socket = listening
        self._arrivals = arrivals
        self._loop = event_loop()
        self._secure: dict[str, Any] = {}
        if context is not None:
            self._secure = {
                "ssl": context,
                "ssl_handshake_timeout": timeout,
                "ssl_shutdown_timeout": LONG,  # a transport has deadlines of its own
            }
        self._arriving: set[asyncio.Task[Any]] = set()
        self._settled = Condition()
        self._accepting = False  # it was started, and not stopped
        self._again: asyncio.TimerHandle | None = None  # while it has paused

    def start(self) -> None:
        """Listen, and accept connections.

        Raises:
            AddressInUse: another process listens at this address.
        """
        self.socket.setblocking(False)
        try:
            self.socket.listen(BACKLOG)
        except OSError as exc:
            raise AddressInUse(exc.errno, exc.strerror) from None
        self._accepting = True
        self._loop.add_reader(self.socket, self._accept)

    def resume(self) -> None:
        """There may be room again."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
            self._loop.add_reader(self.socket, self._accept)

    def stop(self) -> None:
        """Accept no more. Those that were accepted go on. Idempotent."""
        if self._accepting:
            self._accepting = False
            if self._again is not None:
                self._again.cancel()
                self._again = None
            self._loop.remove_reader(self.socket)

    async def settle(self) -> None:
        """Accept no more. Those that were accepted are connected, or dropped if they are in the TLS
        handshake."""
        self.stop()
        if self._secure:
            self._drop()
        await self._settled.wait_for(lambda: not self._arriving)

    def close(self) -> None:
        """Close the socket, and drop those that are not connected."""
        self.stop()
        self.socket.close()
        self._drop()

    def _drop(self) -> None:
        for task in self._arriving:
            task.cancel()

    def _pause(self) -> None:
        self._loop.remove_reader(self.socket)
        self._again = self._loop.call_later(PAUSE, self.resume)

    def _accept(self) -> None:
        """Accept what waits, at most as many as there is room for."""
        room = self._arrivals.room()
        for _ in range(room):
            try:
                accepted, name = self.socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno not in _TRANSIENT:  # of this one connection
                    log.often(logging.ERROR, "no connection can be accepted: %s", exc.strerror)
                    self._arrivals.make_room()
                    self._pause()
                    return
            else:
                self._take(accepted, name)
        if room <= 0:
            self._pause()

    def _take(self, accepted: socket.socket, name: Any) -> None:
        address = None
        if isinstance(name, tuple):
            address = address_of(name[0], name[1])
            # An event loop does so only for sockets that were made with the number of the protocol.
            with contextlib.suppress(OSError):  # the peer is gone already
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = self._arrivals.accepted(address)
        if transport is None:
            self._turn_away(accepted)
            return
        task = self._loop.create_task(
            self._loop.connect_accepted_socket(lambda: transport, accepted, **self._secure)
        )
        self._arriving.add(task)
        task.add_done_callback(partial(self._connected, transport, accepted))

    def _connected(
        self, transport: ServerTransport, accepted: socket.socket, task: asyncio.Task[Any]
    ) -> None:
        self._arriving.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None or task.cancelled():
            self._arrivals.closed(transport)
            accepted.close()
            log.debug("a connection was lost in the TLS handshake: %s", error or "the server stops")
        self._settled.notify_all()

    def _turn_away(self, accepted: socket.socket) -> None:
        """Answer 429, where that needs no TLS handshake, and close the socket."""
        with accepted, contextlib.suppress(OSError):
            accepted.setblocking(False)
            if not self._secure:
                answer = refusal(429, [retry_after(LATER)], b"Too Many Requests\n")
                accepted.send(answer.serialize())
                accepted.shutdown(socket.SHUT_WR)
                accepted.recv(64 * 1024)  # what is unread would reset the connection
