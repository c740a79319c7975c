"""Peers that cost little: thousands of them fit into one process. And peers that do not behave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from tests.raw import frame, request

VANISHED = 1006


class Peer(asyncio.Protocol):
    """A client of a few bytes.

    Args:
        path: the request's target.
        headers: more headers, each with its end of line.
        heard: called with the payload of each message.
        pongs: whether it answers pings.

    Attributes:
        pings: how many have come.
        status: of the answer to the handshake; 0 if there was none.
        head: that answer.
        messages: the payloads that have come, if nobody is called with them.
        closed: the close code and the reason that the server sent; 1006 if it sent none.
    """

    def __init__(
        self,
        path: str = "/",
        headers: bytes = b"",
        heard: Callable[[bytes], object] | None = None,
        pongs: bool = True,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.messages: list[bytes] = []
        self.status = 0
        self.head = b""
        self.closed: asyncio.Future[tuple[int, str]] = loop.create_future()
        self.opened: asyncio.Future[int] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self._request = request(path, headers)
        self._heard = heard or self.messages.append
        self.pings = 0
        self._pongs = pongs
        self._data = b""
        self._more = asyncio.Event()
        self.transport: Any = None

    # -- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        if self._request:
            self.transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        for each, value in ((self.opened, 0), (self.closed, (VANISHED, "")), (self.lost, None)):
            if not each.done():
                each.set_result(value)  # type: ignore[arg-type]
        self._more.set()

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        data = self._data + data if self._data else data
        if not self.status:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._data = data
                return
            self.head, data = data[:end], data[end + 4 :]
            self.status = int(self.head.split(b" ", 2)[1])
            if not self.opened.done():
                self.opened.set_result(self.status)
        if self.status == 101:
            self._data = self._frames(data)
            self._more.set()

    def _frames(self, data: bytes) -> bytes:
        at, end = 0, len(data)
        while end - at >= 2:
            size, begin = data[at + 1], at + 2
            if size == 126:
                begin = at + 4
                size = int.from_bytes(data[at + 2 : begin], "big")
            elif size == 127:
                begin = at + 10
                size = int.from_bytes(data[at + 2 : begin], "big")
            if begin + size > end:
                break
            opcode = data[at] & 15
            payload = data[begin : begin + size]
            at = begin + size
            if opcode < 8:
                self._heard(payload)
            elif opcode == 9:
                self.pings += 1
                if self._pongs:
                    self.send(payload, 10)
            elif opcode == 8 and not self.closed.done():
                code = int.from_bytes(payload[:2], "big") if payload else 1005
                self.closed.set_result((code, payload[2:].decode()))
                self.transport.write(frame(payload, 8))
        return data[at:]

    # -- called by a test

    def send(self, payload: bytes, opcode: int = 1) -> None:
        self.transport.write(frame(payload, opcode))

    async def receive(self, seconds: float = 30) -> bytes:
        """The next message."""
        async with asyncio.timeout(seconds):
            while not self.messages:
                if self.lost.done():
                    raise ConnectionError(f"closed: {self.closed.result()}")
                self._more.clear()
                await self._more.wait()
        return self.messages.pop(0)

    def stall(self) -> None:
        """Read nothing more."""
        self.transport.pause_reading()

    def reset(self) -> None:
        """Leave with a RST."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def leave(self) -> None:
        """Close as the protocol has it."""
        if not self.transport.is_closing():
            self.send(struct.pack("!H", 1000), 8)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.closed), 10)
        self.transport.close()


async def connect(
    port: int,
    path: str = "/",
    *,
    receives: int = 0,
    silent: bool = False,
    source: str = "",
    **options: Any,
) -> Peer:
    """A peer with a connection; ``opened`` has the answer to its handshake.

    Args:
        port: the server's.
        receives: the size of its receive buffer, the system's if it is 0.
        silent: whether it sends no request by itself.
        source: the address that it connects from.
    """
    loop = asyncio.get_running_loop()
    peer = Peer(path, **options)
    if silent:
        peer._request = b""
    sock = socket.socket()
    try:
        sock.setblocking(False)
        if receives:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        if source:
            sock.bind((source, 0))
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.create_connection(lambda: peer, sock=sock)
    except BaseException:
        sock.close()
        raise
    return peer


async def open_peer(port: int, path: str = "/", **options: Any) -> Peer:
    """A peer whose handshake was accepted.

    Raises:
        AssertionError: it was not.
    """
    peer = await connect(port, path, **options)
    status = await asyncio.wait_for(peer.opened, 60)
    assert status == 101, f"{path}: {status}"
    return peer


async def open_peers(
    port: int, count: int, path: str = "/", at_once: int = 100, **options: Any
) -> list[Peer]:
    """So many of them, a hundred at a time."""
    peers: list[Peer] = []
    while len(peers) < count:
        some = min(at_once, count - len(peers))
        peers += await asyncio.gather(*(open_peer(port, path, **options) for _ in range(some)))
    return peers


async def leave_all(peers: Iterable[Peer]) -> None:
    await asyncio.gather(*(peer.leave() for peer in peers))


@asynccontextmanager
async def some_peers(
    port: int, count: int, path: str = "/", **options: Any
) -> AsyncIterator[list[Peer]]:
    """So many peers, as long as the block runs."""
    peers = await open_peers(port, count, path, **options)
    try:
        yield peers
    finally:
        for peer in peers:
            peer.transport.abort()
        await asyncio.gather(*(peer.lost for peer in peers))
