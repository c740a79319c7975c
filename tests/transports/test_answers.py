"""HTTP answers of the server's transport: large ones, to peers that are slow, or send on."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from websockets.asyncio.client import connect, unix_connect

from tests.loops import anyio_backend as anyio_backend
from tests.loops import on_asyncio
from wsflow import Reject, Router
from wsflow.server import Server, Settings, serve
from wsflow.server import transports as transports_module
from wsflow.transports.server import ServerTransport
from wsflow.transports.sockets import Phase

SIZE = 3_000_000
SMALL = 64 * 1024
"""The buffers of the sockets, so that most of an answer waits in the process."""

PART = 100_000

WIRES = ["tcp", "tls", "unix"]


def app() -> Router:
    router = Router("/")

    @router.consumer
    async def echo(message: bytes) -> bytes:
        return message

    @router.get("/large")
    async def large() -> bytes:
        return bytes(SIZE)

    @router.get("/small")
    async def small() -> bytes:
        return b"small"

    refusing, both = Router("/refused"), Router("/")
    refusing.consumer(echo)

    @refusing.on_connect
    async def refuse() -> None:
        raise Reject(403, "x" * SIZE)

    both.include(router)
    both.include(refusing)
    return both


UPGRADE = (
    "GET /refused HTTP/1.1\nHost: localhost\nUpgrade: websocket\nConnection: Upgrade\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 13\n\n"
)


class Wire:
    """Where a server listens, and how to get there."""

    def __init__(self, kind: str, folder: Path, certificate: tuple[Path, Path]) -> None:
        self.kind = kind
        self.path = folder / "s"
        self.settings: dict[str, Any] = {"port": 0}
        self.context: ssl.SSLContext | None = None
        if kind == "unix":
            self.settings = {"uds": self.path}
        elif kind == "tls":
            self.settings |= {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
            self.context = ssl.create_default_context(cafile=certificate[0])

    @asynccontextmanager
    async def serving(self, **settings: Any) -> AsyncIterator[Server]:
        options = {"close_timeout": 8.0, "grace": 8.0, **self.settings, **settings}
        with anyio.fail_after(20):
            async with serve(app(), Settings(**options)) as server:
                yield server

    async def asks(self, server: Server, request: str = "GET /large HTTP/1.1\n") -> Asker:
        """A peer that has sent a request."""

        def reach() -> socket.socket:
            family = socket.AF_UNIX if self.kind == "unix" else socket.AF_INET
            peer = socket.socket(family)
            peer.settimeout(20)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
            peer.connect(str(self.path) if self.kind == "unix" else ("127.0.0.1", server.port))
            if self.context is not None:
                peer = self.context.wrap_socket(peer, server_hostname="localhost")
            return peer

        before = set(server._transports._open)
        peer = await anyio.to_thread.run_sync(reach)
        while not (new := server._transports._open - before) or not hasattr(*new, "_socket"):
            await anyio.sleep(0.001)
        (transport,) = new
        transport._socket.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL
        )
        asker = Asker(peer, transport)
        head, _, body = f"{request}Host: localhost\n\n".partition("\n\n")
        if "\n\n" in request:
            head, _, body = request.partition("\n\n")
        asker.peer.sendall(f"{head}\n\n".replace("\n", "\r\n").encode() + body.encode())
        return asker

    async def echoes(self, server: Server, message: bytes) -> bytes:
        return await on_asyncio(self._echoes, server, message)

    async def _echoes(self, server: Server, message: bytes) -> bytes:
        if self.kind == "unix":
            client: Any = unix_connect(str(self.path), "ws://localhost/")
        else:
            scheme = "ws" if self.context is None else "wss"
            client = connect(f"{scheme}://localhost:{server.port}/", ssl=self.context)
        async with client as connection:
            await connection.send(message)
            answer: bytes = await connection.recv()
            return answer


class Asker:
    """A peer on a blocking socket, and the transport that it has asked."""

    def __init__(self, peer: socket.socket, transport: ServerTransport) -> None:
        self.peer = peer
        self.transport: Any = transport

    async def take(self, most: int = 200_000) -> bytes:
        """Read so much, or all that still comes."""

        def read() -> bytes:
            data = b""
            while len(data) < most and (more := self.peer.recv(most - len(data))):
                data += more
            return data

        return await anyio.to_thread.run_sync(read)

    async def until_its(self, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            data += await self.take(1)
        return data

    async def rest(self) -> bytes:
        return await self.take(2 * SIZE)

    async def until(self, done: Callable[[], object]) -> None:
        while not done():
            await anyio.sleep(0.001)

    async def stalled(self) -> None:
        """Wait until the socket takes no more."""
        sent, moved = self.transport._sent, -1
        while moved != (moved := sent.acknowledged()) or not self.transport._writing_paused:
            await anyio.sleep(0.05)

    @property
    def answering(self) -> bool:
        return self.transport._phase is Phase.ANSWERING

    @property
    def given(self) -> bool:
        """Whether nothing of its answer waits in the process, as far as can be seen."""
        return self.transport._phase >= Phase.ANSWERING and self.transport._answer is None

    async def taken(self) -> None:
        """Wait until its host has all of the answer."""
        sent = self.transport._sent
        await self.until(lambda: self.given)
        await self.until(lambda: sent.acknowledged() >= sent.position())

    def due(self) -> None:
        """``close_timeout`` is over."""
        self.transport._deadline.cancel()
        self.transport._check_taken()


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest, tmp_path: Path, certificate: tuple[Path, Path]) -> Wire:
    return Wire(request.param, tmp_path, certificate)


async def gone(server: Server) -> None:
    while server._transports._open:
        await anyio.sleep(0.001)


# -- slow peers


async def test_a_slow_peer_has_its_time(wire: Wire) -> None:
    """As long as it takes something within ``close_timeout``, up to the last byte. Then it has to
    close the socket."""
    async with wire.serving() as server:
        asker = await wire.asks(server)
        await asker.stalled()
        sent, size = asker.transport._sent, 0
        while size < SIZE - PART:
            size += len(await asker.take(PART))
            await asker.until(lambda: sent.acknowledged() > asker.transport._acknowledged)
            asker.due()
            assert asker.answering
        assert (await asker.rest()).endswith(bytes(SIZE - size))
        await gone_by(asker, server)


async def gone_by(asker: Asker, server: Server) -> None:
    """It has taken all, and does not close the socket: that is closed all the same."""
    if asker.transport._socket.can_write_eof():
        await asker.taken()
        asker.due()
        assert asker.transport._socket.is_closing()
    await gone(server)
    asker.peer.close()


async def test_who_takes_nothing_is_cut_off(wire: Wire) -> None:
    async with wire.serving() as server:
        asker = await wire.asks(server)
        await asker.stalled()
        asker.due()  # it has taken something at first
        assert asker.answering
        asker.due()
        await gone(server)
        asker.peer.close()


async def test_who_leaves_while_it_takes_an_answer(wire: Wire) -> None:
    async with wire.serving() as server:
        asker = await wire.asks(server)
        await asker.stalled()
        asker.peer.close()
        await gone(server)
        asker.transport._send_body()  # as if it was to go on at that moment
        with anyio.fail_after(10):
            while server._app.pages.running:
                await anyio.sleep(0.001)


async def test_the_end_over_tls_takes_its_time_too(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What TLS still has to send when the socket is told to close is no matter of a timeout."""
    wire = Wire("tls", tmp_path, certificate)
    looked = 0

    def check(transport: ServerTransport) -> None:
        nonlocal looked
        looked += 1
        transport._expect(transport._check_taken)

    monkeypatch.setattr(ServerTransport, "_check_taken", check)
    async with wire.serving(close_timeout=0.02) as server:
        asker = await wire.asks(server)
        data = b""
        while not asker.given:
            data += await asker.take(30_000)
        looked = 0
        await asker.until(lambda: looked >= 3)
        data += await asker.rest()
        assert data.endswith(bytes(SIZE))
        asker.peer.close()


# -- the server stops


@pytest.mark.parametrize("restart", [False, True], ids=["stop", "restart"])
async def test_who_is_taking_an_answer_has_the_grace_period(
    wire: Wire, restart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServerTransport, "_check_taken", lambda transport: None)
    async with wire.serving(close_timeout=0.02) as server:
        asker = await wire.asks(server)
        await asker.stalled()
        server.stop(restart=restart)
        await asker.until(lambda: server._app._admission.closed)
        await anyio.sleep(0.2)
        # Once all is out of the process, the rest has ``close_timeout``.
        limits = replace(asker.transport._limits, close_timeout=8.0)
        asker.transport._limits = limits
        assert (await asker.rest()).endswith(bytes(SIZE))
        asker.peer.close()


@pytest.mark.parametrize("now", [False, True], ids=["the grace is over", "at once"])
async def test_then_it_ends_for_all(wire: Wire, now: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes it steadily included."""
    monkeypatch.setattr(transports_module, "HURRY", 0.1)
    async with wire.serving(close_timeout=0.2, grace=0 if not now else 8) as server:
        asker = await wire.asks(server)
        await asker.stalled()
        server.stop(now=now)
        size = 0
        while part := await asker.take(50_000):
            size += len(part)
            await anyio.sleep(0.02)
        assert size < SIZE
    assert not server.overran
    asker.peer.close()


async def test_an_answer_that_nobody_gives(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server stops, nobody is left without one."""
    async with wire.serving() as server:
        asked = anyio.Event()
        monkeypatch.setattr(server._app, "page", lambda *arguments: asked.set())
        asker = await wire.asks(server)
        await asked.wait()
        server.stop()
        assert (await asker.rest())[9:12] == b"503"
        asker.peer.close()


@pytest.mark.parametrize("stops", [False, True], ids=["", "the server stops"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_who_closes_its_sending_half_while_it_takes_an_answer(
    kind: str, stops: bool, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    wire = Wire(kind, tmp_path, certificate)
    async with wire.serving(grace=0) as server:
        asker = await wire.asks(server)
        await asker.stalled()
        if stops:
            server.stop()
            while server._listeners:
                await anyio.sleep(0.001)
        asker.peer.shutdown(socket.SHUT_WR)
        await asker.until(lambda: asker.transport._eof)
        assert (await asker.rest()).endswith(bytes(SIZE))
        await gone(server)
        asker.peer.close()


# -- many peers


async def test_room_is_not_made_by_cutting_answers(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who have all of it, and do not close their sockets, are dropped."""
    monkeypatch.setattr(transports_module, "FRESH", -1)
    async with wire.serving() as server:
        asker = await wire.asks(server)
        data = b""
        while not asker.given:
            data += await asker.take(50_000)
            server._transports.make_room()
        if wire.kind == "tls":  # a part of it is where it cannot be seen
            data += await asker.take(SIZE - len(data))
        server._transports.make_room()
        data += await asker.rest()
        assert data.endswith(bytes(SIZE)) or wire.kind == "tls"
        await gone(server)
        asker.peer.close()


async def test_a_large_refusal_that_is_not_taken(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts for no limit, and keeps nobody out."""
    monkeypatch.setattr(transports_module, "FRESH", -1)
    async with wire.serving() as server:
        asker = await wire.asks(server, UPGRADE)
        await asker.stalled()
        assert not server._app._admission._count
        server._transports.make_room()
        await gone(server)
        asker.peer.close()


# -- what the peer sends


UPLOAD = 2_000_000


@pytest.mark.parametrize("body", ["length", "chunked", "in one piece"])
@pytest.mark.parametrize("target", ["/small", "/large", "/none"])
async def test_an_answer_to_who_uploads(wire: Wire, target: str, body: str) -> None:
    """It is read before the socket is reset, also by who sends all of it first."""
    head = f"POST {target} HTTP/1.1\nHost: localhost\n"
    size = 10 if body == "in one piece" else UPLOAD
    if body == "chunked":
        head, sent = (
            f"{head}Transfer-Encoding: chunked\n\n",
            f"{size:x}\r\n{'x' * size}\r\n0\r\n\r\n",
        )
    else:
        head, sent = f"{head}Content-Length: {size}\n\n", "x" * size
    async with wire.serving() as server:
        if body == "in one piece":
            asker = await wire.asks(server, head + sent)
        else:
            asker = await wire.asks(server, head)
            await asker.until(lambda: asker.given)
            await anyio.to_thread.run_sync(asker.peer.sendall, sent.encode())
        answer = await asker.rest()
        assert answer[9:12] == (b"404" if target == "/none" else b"405")
        assert answer.endswith(b"\n")
        asker.peer.close()
        await gone(server)


async def test_a_body_that_does_not_come(wire: Wire) -> None:
    """Its peer is answered at once."""
    async with wire.serving() as server:
        request = "GET /small HTTP/1.1\nHost: localhost\nContent-Length: 5\n\n"
        asker = await wire.asks(server, request)
        assert (await asker.until_its(b"small"))[9:12] == b"200"
        await asker.taken()
        asker.due()
        assert asker.transport._socket.is_closing()
        await gone(server)
        asker.peer.close()


async def test_a_flood_behind_a_refusal(wire: Wire) -> None:
    """It is read for ``close_timeout``, and no longer."""
    async with wire.serving() as server:
        request = "POST /none HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\n"
        asker = await wire.asks(server, request)
        reads = asker.transport.reads
        await anyio.to_thread.run_sync(asker.peer.sendall, bytes(1_000_000))
        await asker.until(lambda: asker.transport.reads > reads + 2)
        assert (await asker.until_its(b"Not Found\n"))[9:12] == b"404"
        await asker.taken()
        asker.due()
        assert asker.transport._socket.is_closing()
        await gone(server)
        asker.peer.close()


# -- buffers


@pytest.mark.parametrize("most", [0, 1, 1000])
async def test_a_small_write_buffer(wire: Wire, most: int) -> None:
    async with wire.serving(write_buffer=most) as server:
        asker = await wire.asks(server)
        assert (await asker.rest()).endswith(bytes(SIZE))
        asker.peer.close()
        for size in (1, 100_000):
            assert await wire.echoes(server, bytes(size)) == bytes(size)
