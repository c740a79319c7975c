"""What the transports of one server share, and who keeps them."""

from __future__ import annotations

import asyncio
from typing import Protocol, final

from websockets.datastructures import Headers

from wsflow.limits import SocketLimits
from wsflow.request import Address
from wsflow.transports.base import Acceptor

READ_BYTES = 3 * 1024
"""The most that is read from one socket before others get their turn."""


class Writer(Protocol):
    """Something that has bytes to write."""

    def flush(self) -> None:
        """Write them."""


@final
class Shared:
    """What the transports of one event loop have in common.

    Attributes:
        loop: the event loop.
        buffer: what they read into, one after the other; nothing stays in it.
        greedy: whether the loop goes on reading one socket as long as that fills the buffer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.greedy = not isinstance(loop, asyncio.BaseEventLoop)  # as libuv does
        self._writers: list[Writer] = []

    def flush_later(self, writer: Writer) -> None:
        """Have it write when this turn of the event loop ends."""
        if not self._writers:
            self.loop.call_soon(self._flush)
        self._writers.append(writer)

    def _flush(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.flush()


class Host(Protocol):
    """Who keeps the transports: the server."""

    @property
    def limits(self) -> SocketLimits: ...
    @property
    def acceptor(self) -> Acceptor: ...
    @property
    def shared(self) -> Shared: ...

    def opened(self, transport: Kept) -> bool:
        """A socket was accepted; False if there are too many."""

    def requested(self, transport: Kept) -> None:
        """Its opening request has come."""

    def closed(self, transport: Kept) -> None:
        """Its socket is closed."""

    def client(self, address: Address | None, headers: Headers) -> Address | None:
        """The peer's address, seen through the proxies that are trusted."""

    def refused(self, address: Address | None, target: str, status: int) -> None:
        """An opening request was no proper one, and was answered so."""


class Kept(Protocol):
    """A transport, as its host sees it."""

    @property
    def address(self) -> Address | None: ...
    def reject(self, status: int, headers: tuple[()], body: bytes) -> None: ...
