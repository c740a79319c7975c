"""One way to drive an app over any transport: what a suite needs of a client.

``Wire.connect`` gives a ``Client``: it sends and receives raw messages, and tells what it saw of
the end. A socket's client is one that nobody here wrote.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
import trio
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websockets_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.trio.client import connect as trio_connect

from wsflow import Router
from wsflow.server import Server, Settings, serve
from wsflow.tasks.detached import on_trio
from wsflow.testing import MemoryPeer, MemoryServer, serve_in_memory
from wsflow.testing.conformance.transports import Client, Raw, Refused, Wire


@dataclass
class MemoryClient:
    peer: MemoryPeer

    async def send(self, message: Raw, fragments: int = 1) -> None:
        await self.peer.send(message, fragments=fragments)

    async def receive(self) -> Raw:
        transport = self.peer._transport
        await self.peer._condition.wait_for(lambda: bool(transport.peer_unread()))
        frame = transport.peer_take()
        assert frame is not None
        return frame.payload.decode() if frame.text else frame.payload

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        await self.peer.close(1005 if code is None else code, reason)

    async def vanish(self) -> None:
        await self.peer.vanish()

    async def closed(self) -> tuple[int, str]:
        end = await self.peer.wait_closed(5)
        assert end.error is None or end.code == 1011
        code, reason = self.peer.close_code, self.peer.close_reason
        assert code is not None
        assert reason is not None
        return code, reason


@dataclass
class MemoryWire:
    server: MemoryServer

    @asynccontextmanager
    async def connect(
        self, target: str, headers: dict[str, str] | None = None, offers: Iterable[str] = ()
    ) -> AsyncIterator[Client]:
        async with self.server.connect(target, headers=headers or {}, subprotocols=offers) as peer:
            if peer._transport.rejection is not None:
                answer = peer.rejected
                raise Refused(answer.status, answer.body, dict(answer.headers))
            yield MemoryClient(peer)

    async def stop(self, restart: bool = False) -> None:
        await self.server.drain(1, restart=restart)


@dataclass
class SocketClient:
    client: ClientConnection

    async def send(self, message: Raw, fragments: int = 1) -> None:
        if fragments == 1:
            await self.client.send(message)
        else:
            size = -(-len(message) // fragments)
            pieces = [message[at : at + size] for at in range(0, len(message), size)]
            await self.client.send([*pieces, *[message[:0]] * (fragments - len(pieces))])

    async def receive(self) -> Raw:
        return await self.client.recv()

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        if code is not None:
            await self.client.close(code, reason)
            return
        self.client.protocol.send_close()  # a close frame without a code
        self.client.send_data()
        await self.client.wait_closed()

    async def vanish(self) -> None:
        self.client.transport.abort()

    async def closed(self) -> tuple[int, str]:
        try:
            while True:
                await self.client.recv()
        except ConnectionClosed as exc:
            return (exc.rcvd.code, exc.rcvd.reason) if exc.rcvd else (1006, "")


class TrioClient(SocketClient):
    """The same on Trio, where sending waits until the kernel has it, and so may see the end."""

    client: Any

    async def send(self, message: Raw, fragments: int = 1) -> None:
        with suppress(ConnectionClosed):
            await super().send(message, fragments)

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        if code is not None:
            await self.client.aclose(code, reason)
            return
        with suppress(ConnectionClosed):
            async with self.client.send_context():
                self.client.protocol.send_close()

    async def vanish(self) -> None:
        await trio.aclose_forcefully(self.client.stream)
        await self.client.close_stream()
        if self.client.recv_flow_control is not None:  # its reader would wait for ever
            self.client.resume_reading()


@asynccontextmanager
async def connecting(uri: str, **options: Any) -> AsyncIterator[SocketClient]:
    """A connection, by what ``websockets`` has for asyncio or for Trio."""
    options = {"compression": None, "max_queue": 1, **options}
    if on_trio():
        async with trio_connect(uri, **options) as connection:
            yield TrioClient(connection)
    else:
        async with websockets_connect(uri, **options) as client:
            yield SocketClient(client)


class SocketWire:
    """A client's way to an app at a port of this host."""

    @property
    def port(self) -> int:
        raise NotImplementedError

    @asynccontextmanager
    async def connect(
        self, target: str, headers: dict[str, str] | None = None, offers: Iterable[str] = ()
    ) -> AsyncIterator[Client]:
        uri = f"ws://127.0.0.1:{self.port}{target}"
        options: Any = {"additional_headers": headers, "subprotocols": list(offers) or None}
        try:
            async with connecting(uri, **options) as client:
                yield client
        except InvalidStatus as exc:
            answer = exc.response
            body = bytes(answer.body or b"").decode()
            raise Refused(answer.status_code, body, answer.headers) from None


@dataclass
class ServerWire(SocketWire):
    server: Server

    @property
    def port(self) -> int:
        return self.server.port

    async def stop(self, restart: bool = False) -> None:
        self.server.stop(restart=restart)
        while self.server._app.sessions:
            await anyio.lowlevel.checkpoint()


LIMITS: dict[str, Any] = {"open_timeout": 5, "close_timeout": 1}


@asynccontextmanager
async def memory(app: Router, **limits: Any) -> AsyncIterator[Wire]:
    settings = Settings(**{**LIMITS, **limits})
    async with serve_in_memory(app, limits=settings) as server:
        yield MemoryWire(server)


@asynccontextmanager
async def sockets(app: Router, **limits: Any) -> AsyncIterator[Wire]:
    async with serve(app, Settings(port=0, **{**LIMITS, **limits})) as server:
        yield ServerWire(server)
