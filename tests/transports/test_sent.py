"""How far what was sent has come."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.loops import anyio_backend as anyio_backend
from tests.raw import frame, request
from tests.transports.test_deadline import App, Peer, serving
from wsflow import Connection
from wsflow.transports import sent
from wsflow.transports.sent import Sent

SIZE = 6_000_000


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("answers", [True, False], ids=["it answers", "it does not"])
@pytest.mark.parametrize("before", [0, 3000], ids=["at first", "later"])
async def test_a_peer_that_reads_slowly(
    before: int, answers: bool, tls: bool, certificate: tuple[Path, Path]
) -> None:
    """The ping is behind what it has to read. As long as it reads, it is there; once it has read
    the ping, it has to answer."""
    app = App()

    @app.router.consumer
    async def fill(message: str, connection: Connection) -> bytes:
        return bytes(SIZE)

    options: dict[str, Any] = {"ping_interval": 1000, "ping_timeout": 1000, "inbox_messages": 8000}
    if tls:
        options |= {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
    async with serving(app, **options) as server:
        peer = await anyio.to_thread.run_sync(Peer, server.port, tls, 64_000)
        peer.send(request())
        assert (await anyio.to_thread.run_sync(peer.head)).startswith(b"HTTP/1.1 101 ")
        (transport,) = server._transports._open
        transport._socket.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 64_000
        )
        for _ in range(before):  # what TLS adds is estimated: it must not add up
            peer.send(frame(b"x", 2))
            assert await anyio.to_thread.run_sync(peer.receive, 3) == b"\x82\x01x"
        peer.send(frame(b"fill"))
        with anyio.fail_after(20):
            while transport._sent.bytes < SIZE:
                await anyio.sleep(0.001)
        transport._ping_timer.cancel()
        transport._ping()

        async def due(size: int) -> None:
            """The peer reads, and it is looked for the pong."""
            at = transport._acknowledged
            await anyio.to_thread.run_sync(peer.receive, size)
            with anyio.fail_after(20):
                while transport._sent.acknowledged() <= at:
                    await anyio.sleep(0.001)
            transport._ping_timer.cancel()
            transport._check_pong()

        left = SIZE + 10
        while left > 1_000_000:
            await due(500_000)
            left -= 500_000
            assert not app.ends
        await anyio.to_thread.run_sync(peer.receive, left)
        assert await anyio.to_thread.run_sync(peer.receive, 2) == b"\x89\x00"
        if answers:
            peer.send(frame(b"", 10))
            with anyio.fail_after(20):
                while not transport._ponged:
                    await anyio.sleep(0.001)
        looks = 0
        while not app.ends and not transport._ponged:  # once more, as long as it still moves
            looks += 1
            assert looks <= 2
            transport._ping_timer.cancel()
            transport._check_pong()
            await anyio.sleep(0.01)
        assert bool(app.ends) is not answers
        peer.socket.close()


async def test_over_tls_each_position_is_reached(certificate: tuple[Path, Path]) -> None:
    """By pieces of every size: what TLS adds is not estimated too low, nor for good. It does not
    change what is said to have been written."""
    app = App()
    options = {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
    async with serving(app, **options) as server:
        peer = await anyio.to_thread.run_sync(Peer, server.port, True)
        peer.send(request())
        assert (await anyio.to_thread.run_sync(peer.head)).startswith(b"HTTP/1.1 101 ")
        (transport,) = server._transports._open
        counted, written = transport._sent, transport.traffic[1]
        for size in (1, 10, 125, 126, 1000, 16_000, 17_000, 100_000, 1_000_000):
            peer.send(frame(b"x" * size, 2))
            header = 2 if size < 126 else 4 if size < 65536 else 10
            await anyio.to_thread.run_sync(peer.receive, header + size)
            estimated = counted.position()
            with anyio.fail_after(20):
                while (now := counted.position()) != counted.acknowledged():
                    await anyio.sleep(0.001)
            assert now <= estimated
            written += header + size
            assert transport.traffic[1] == written
            assert (counted.position(), counted.writes) == (counted._from, 0)
        peer.socket.close()


class NoSocket:
    """A transport whose socket is closed, or none at all."""

    def __init__(self, closed: bool, tls: bool) -> None:
        self.socket = socket.socket() if closed else None
        self.tls = tls
        if self.socket is not None:
            self.socket.close()

    def get_extra_info(self, name: str) -> Any:
        return self.socket if name == "socket" else self if self.tls else None

    def get_write_buffer_size(self) -> int:
        return 3


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("tls", [False, True])
def test_where_the_kernel_does_not_say(
    tls: bool, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport: Any = NoSocket(closed, tls)
    for _ in range(2):
        counted = Sent(transport)
        counted.bytes = 10
        assert (counted.position(), counted.acknowledged()) == (10, 7)
        monkeypatch.setattr(sent, "fcntl", None)
        monkeypatch.setattr(sent, "_TCP_INFO", None)


async def test_a_connection_that_is_closed(certificate: tuple[Path, Path]) -> None:
    app = App()
    options = {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
    async with serving(app, **options) as server:
        peer = await anyio.to_thread.run_sync(Peer, server.port, True)
        peer.send(request())
        await anyio.to_thread.run_sync(peer.head)
        (transport,) = server._transports._open
        counted, at = transport._sent, transport._sent.acknowledged()
        peer.socket.close()
        assert await app.end() == ("vanished", 1006)
        while server._transports._open:
            await anyio.sleep(0.001)
        await anyio.lowlevel.checkpoint()
        assert counted.acknowledged() >= at
        assert counted.position() >= at
