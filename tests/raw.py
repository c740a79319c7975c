"""A client that sends bytes, whatever they are."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.loops import on_asyncio
from wsflow.server import Server

REQUEST = (
    b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n"
)


def request(path: str = "/", headers: bytes = b"") -> bytes:
    return REQUEST % (path.encode(), headers)


def frame(payload: bytes, opcode: int = 1, fin: bool = True, rsv1: bool = False) -> bytes:
    """A client's frame, masked with zeros."""
    head = (0x80 if fin else 0) | (0x40 if rsv1 else 0) | opcode
    size = len(payload)
    if size < 126:
        return bytes((head, 0x80 | size)) + bytes(4) + payload
    if size < 65536:
        return bytes((head, 0xFE)) + struct.pack("!H", size) + bytes(4) + payload
    return bytes((head, 0xFF)) + struct.pack("!Q", size) + bytes(4) + payload


class Raw:
    """A client that sends bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self, size: int = -1) -> bytes:
        """What comes, up to the end or at most so many bytes."""
        return await on_asyncio(self.reader.read, size)

    async def head(self) -> tuple[int, bytes]:
        """The status of the answer to the handshake, and its head."""
        head = await on_asyncio(self.reader.readuntil, b"\r\n\r\n")
        return int(head.split(b" ")[1]), head

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: its opcode and payload."""
        first, size = await on_asyncio(self.reader.readexactly, 2)
        if size == 126:
            (size,) = struct.unpack("!H", await on_asyncio(self.reader.readexactly, 2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await on_asyncio(self.reader.readexactly, 8))
        return first & 0x0F, await on_asyncio(self.reader.readexactly, size)

    async def close_code(self) -> int:
        while True:
            opcode, payload = await self.frame()
            if opcode == 8:
                return int(struct.unpack("!H", payload[:2])[0])

    async def opened(self, path: str = "/", headers: bytes = b"") -> Raw:
        self.send(request(path, headers))
        status, _ = await self.head()
        assert status == 101
        return self

    def reset(self) -> None:
        """Leave with a RST."""
        self.writer.transport.abort()


@asynccontextmanager
async def raw(server: Server, host: str = "127.0.0.1") -> AsyncIterator[Raw]:
    reader, writer = await on_asyncio(asyncio.open_connection, host, server.port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()
