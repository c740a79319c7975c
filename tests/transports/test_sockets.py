"""However the wire of a connection ends, and in whatever state: it ends within its limits."""

from __future__ import annotations

import contextlib
import gc
import socket
import ssl
import struct
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.loops import anyio_backend as anyio_backend
from tests.raw import frame, request
from wsflow import Close, Reject, Router
from wsflow.server import Server, Settings, serve


class Parked:
    """An app whose functions wait until released, in the set-up or in a consumer."""

    def __init__(self, where: str) -> None:
        self.router = Router("/")
        self.reached = anyio.Event()
        self.released = anyio.Event()
        self.within = 0

        async def park() -> None:
            self.reached.set()
            self.within += 1
            try:
                await self.released.wait()
            finally:
                self.within -= 1

        @self.router.on_connect
        async def deciding() -> AsyncIterator[None]:
            if where == "deciding":
                await park()
            yield

        @self.router.consumer
        async def handling(message: str) -> None:
            if where in ("handling", "full"):
                await park()


@asynccontextmanager
async def serving(
    app: Router, tls: tuple[Path, Path] | None = None, **more: Any
) -> AsyncIterator[Server]:
    options: dict[str, Any] = {"open_timeout": 20.0, "close_timeout": 0.1, "ping_interval": 0.0}
    if tls is not None:
        options |= {"ssl_certfile": tls[0], "ssl_keyfile": tls[1]}
    async with serve(app, Settings(port=0, **{**options, **more})) as server:
        yield server


class Wire:
    """A peer on a blocking socket, below TLS if need be. The server may have ended it before."""

    def __init__(self, port: int, tls: bool) -> None:
        self.raw = socket.create_connection(("127.0.0.1", port))
        self.socket: socket.socket = self.raw
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.socket = context.wrap_socket(self.raw)
            self.raw = self.socket

    def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def end(self, how: str) -> None:
        if how == "fin":
            with contextlib.suppress(OSError):  # ENOTCONN, once it was reset
                self.raw.shutdown(socket.SHUT_WR)
        elif how == "close":
            self.raw.close()
        else:
            self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.raw.close()

    def close(self) -> None:
        self.socket.close()


MORE = {
    "nothing": b"",
    "a byte": b"\x81",
    "a message": frame(b"x"),
    "messages": frame(b"x") * 9,
    "a part": frame(b"x" * 100)[:50],
    "a fragment": frame(b"x", fin=False),
    "a close frame": frame(b"\x03\xe8", 8),
    "garbage": b"\xff\xff",
}


@pytest.mark.parametrize("how", ["fin", "close", "reset"])
@pytest.mark.parametrize(
    ("more", "tls"),
    [(each, False) for each in MORE] + [(each, True) for each in ("nothing", "a byte", "messages")],
    ids=lambda each: each if isinstance(each, str) else "tls" if each else "tcp",
)
@pytest.mark.parametrize("where", ["requesting", "deciding", "open", "handling", "full", "refused"])
async def test_the_end_of_the_wire(
    where: str, more: str, how: str, tls: bool, certificate: tuple[Path, Path]
) -> None:
    app = Parked(where)
    opening = {
        "requesting": request()[:-2],
        "refused": request("/nowhere"),
        "full": request() + frame(b"first"),
        "handling": request() + frame(b"first"),
    }.get(where, request())
    small = {"inbox_messages": 1} if where == "full" else {}
    async with serving(app.router, certificate if tls else None, **small) as server:
        wire = await anyio.to_thread.run_sync(Wire, server.port, tls)
        try:
            await anyio.to_thread.run_sync(wire.send, opening)
            if where in ("deciding", "handling", "full"):
                await app.reached.wait()
            if where == "full":
                wire.send(frame(b"second") + frame(b"third"))
            await anyio.to_thread.run_sync(wire.send, MORE[more])
            await anyio.to_thread.run_sync(wire.end, how)
            if where == "full":  # nothing is read meanwhile: how long is the handler's to say
                app.released.set()
            with anyio.fail_after(5):
                while server._transports._open or server._app.sessions:
                    await anyio.sleep(0.001)
        finally:
            wire.close()
        assert app.within == 0


async def test_a_transport_whose_socket_is_closed_is_freed_at_once() -> None:
    """Who sends half a request costs nothing afterwards, not even a reference cycle."""
    async with serving(Parked("open").router) as server:
        gc.collect()
        gc.disable()
        try:
            wire = await anyio.to_thread.run_sync(Wire, server.port, False)
            wire.send(request()[:-2])
            while not (found := [each for each in server._transports._open if each.reads]):
                await anyio.lowlevel.checkpoint()
            transport = weakref.ref(found.pop())
            wire.close()
            with anyio.fail_after(5):
                while transport() is not None:
                    await anyio.lowlevel.checkpoint()
        finally:
            gc.enable()


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_a_server_stops_whatever_its_peers_do(
    tls: bool, certificate: tuple[Path, Path]
) -> None:
    """Fifty who are half gone while it is decided on them, and others who say nothing."""
    app = Parked("deciding")
    wires: list[Wire] = []
    async with serving(app.router, certificate if tls else None) as server:
        for number in range(50):
            wires.append(await anyio.to_thread.run_sync(Wire, server.port, tls))
            wires[-1].send(request() + b"\x81" if number % 5 else request()[:20])
            if number % 2:
                wires[-1].end("fin")
        await app.reached.wait()
        with anyio.fail_after(5):
            server.stop()
            while server._transports._open or server._app.sessions:
                await anyio.sleep(0.001)
    for wire in wires:
        wire.close()


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("how", ["fin", "close", "reset"])
@pytest.mark.parametrize("exc", [Reject(403), Close(4000), RuntimeError(), None], ids=repr)
@pytest.mark.parametrize("where", ["deciding", "open"])
async def test_an_answer_to_a_peer_that_has_just_hung_up(
    where: str, exc: Exception | None, how: str, tls: bool, certificate: tuple[Path, Path]
) -> None:
    """It hangs up in the very step in which it is answered: nobody has noticed yet."""
    wires: list[Wire] = []
    hung_up = anyio.Event()
    app = Router("/")

    async def hang_up() -> None:
        wires[0].end(how)
        hung_up.set()
        if exc is not None:
            raise exc

    @app.on_connect
    async def decide() -> AsyncIterator[None]:
        if where == "deciding":
            await hang_up()
        yield

    @app.consumer
    async def handle(message: str) -> None:
        if where == "open":
            await hang_up()

    async with serving(app, certificate if tls else None) as server:
        wires.append(await anyio.to_thread.run_sync(Wire, server.port, tls))
        wires[0].send(request() + frame(b"x"))
        with anyio.fail_after(5):
            while server._transports._open or server._app.sessions or not hung_up.is_set():
                await anyio.sleep(0.001)
        wires[0].close()
