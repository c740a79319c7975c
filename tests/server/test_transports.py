"""The transports of one server, from accept to close."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.conformance.wires import connecting
from tests.loops import anyio_backend as anyio_backend
from tests.raw import frame, raw, request
from tests.server.test_accepting import Failing, server_plan, serving
from wsflow.server import Server, Settings
from wsflow.server import transports as transports_module

LINGERING = {
    "no such path": request("/nowhere"),
    "no WebSocket": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no HTTP": b"garbage\r\n\r\n",
    "no target": request("nowhere"),
    "a bad frame": request() + frame(b"x", 3),
    "a close frame": request() + frame(b"\x03\xe8", 8),
}


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("kind", LINGERING)
async def test_who_does_not_close_its_socket_keeps_nobody_out(
    kind: str, tls: bool, certificate: tuple[Path, Path]
) -> None:
    """It was refused, or its connection has ended."""
    options: dict[str, Any] = {"max_connections": 1, "max_handshakes": 2, "close_timeout": 60}
    if tls:
        options |= {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
    context = ssl.create_default_context(cafile=certificate[0]) if tls else None
    async with serving(**options) as server:
        with contextlib.ExitStack() as open_ones:
            for count in range(1, 4):
                peer = await anyio.to_thread.run_sync(
                    lambda: socket.create_connection(("127.0.0.1", server.port))
                )
                if context is not None:
                    plain = peer
                    peer = await anyio.to_thread.run_sync(
                        lambda: context.wrap_socket(plain, server_hostname="localhost")  # noqa: B023
                    )
                open_ones.enter_context(peer)
                peer.sendall(LINGERING[kind])
                while len(server._transports._closing) < count:
                    if len(server._transports._open) == 0:
                        break  # this side has closed it
                    await anyio.sleep(0.001)
            async with connecting(
                f"{'wss' if tls else 'ws'}://localhost:{server.port}/", ssl=context
            ) as client:
                await client.send("a")
                assert await client.receive() == "a"
        transports = server._transports
        while transports._open:
            await anyio.sleep(0.001)
        assert (transports._closing, transports._requesting, transports._from) == ({}, {}, {})


async def test_who_is_closing_is_given_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports_module, "FRESH", 60)
    async with serving(max_connections=1, max_handshakes=1, close_timeout=60) as server:
        async with raw(server) as one, raw(server) as two, raw(server) as waiting:
            for each in (one, two):
                each.send(request("/nowhere"))
                assert (await each.head())[0] == 404
            waiting.send(request())
            while server._listeners[0]._again is None:
                await anyio.sleep(0.001)
            assert len(server._transports._open) == 2
            one.writer.close()
            assert (await waiting.head())[0] == 101


async def test_nor_when_there_are_no_descriptors_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit of connections they are the limit."""
    monkeypatch.setattr(transports_module, "FRESH", -1)
    async with serving(max_connections=0, close_timeout=60) as server, raw(server) as one:
        one.send(request("/nowhere"))
        assert (await one.head())[0] == 404
        (closing,) = server._transports._open
        listener: Any = server._listeners[0]
        listener.socket = Failing(listener.socket, [errno.EMFILE])
        async with raw(server) as newcomer:
            await newcomer.opened()
        assert closing not in server._transports._open


async def test_listeners_take_turns() -> None:
    """With little room, the first would else take it all."""
    server = Server(server_plan(), Settings())
    told: list[int] = []

    class Told:
        def __init__(self, number: int) -> None:
            self.number = number

        def resume(self) -> None:
            told.append(self.number)

    listeners: Any = [Told(number) for number in range(3)]
    server._transports.listen(listeners)
    for _ in range(3):
        server._transports._changed()
    assert sorted(told[::3]) == [0, 1, 2]


@pytest.mark.parametrize("second", ["before", "after"])
async def test_stopping_at_once_from_peers_that_do_not_close(
    second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are told, and then their sockets are closed: not after ``close_timeout``."""
    monkeypatch.setattr(transports_module, "HURRY", 0.05)
    with anyio.fail_after(10):
        async with serving(close_timeout=60) as server:
            async with raw(server) as peer:
                await peer.opened()
                if second == "after":
                    server.stop()
                    assert await peer.close_code() == 1001
                server.stop(now=True)
                if second == "before":
                    assert await peer.close_code() == 1001
                while server._transports._open:
                    await anyio.sleep(0.001)
