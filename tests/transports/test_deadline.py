"""Deadlines of what is to be received, and the keepalive."""

from __future__ import annotations

import fcntl
import socket
import ssl
import sys
import termios
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from websockets.sync import server as sync_server

import wsflow
from tests.loops import anyio_backend as anyio_backend
from tests.raw import frame, raw, request
from wsflow import Call, Connection, End, Router
from wsflow.server import Server, Settings, serve
from wsflow.tasks.loops import event_loop
from wsflow.transports.deadline import Deadline


class App:
    """It echoes, and knows how its connections ended."""

    def __init__(self) -> None:
        self.router = Router("/")
        self.ends: list[End] = []
        self.gate = anyio.Event()
        self.gate.set()

        @self.router.consumer
        async def echo(message: bytes, connection: Connection) -> bytes:
            await self.gate.wait()
            return message

        @self.router.on_disconnect
        async def note(end: End) -> None:
            self.ends.append(end)

    async def end(self) -> tuple[str, int]:
        with anyio.fail_after(20):
            while not self.ends:
                await anyio.sleep(0.001)
        return self.ends[0].cause, self.ends[0].code


@asynccontextmanager
async def serving(app: App, **settings: Any) -> AsyncIterator[Server]:
    options: dict[str, Any] = {"close_timeout": 0.2, "ping_interval": 0, **settings}
    async with serve(app.router, Settings(port=0, **options)) as server:
        yield server


# -- a message is complete in time


PARTS = {
    "the first byte": frame(b"x" * 100, 2)[:1],
    "a small frame": frame(b"x" * 100, 2)[:50],
    "a large frame": frame(b"x" * 100_000, 2)[:50_000],
    "a fragment": frame(b"x", 2, fin=False),
    "fragments, the last incomplete": frame(b"x", 2, fin=False) + frame(b"x" * 100, 0)[:50],
    "a message and a part": frame(b"x", 2) + frame(b"x" * 100, 2)[:50],
    "a part of a ping": frame(b"x" * 100, 9)[:50],
    "a fragment and a ping": frame(b"x", 2, fin=False) + frame(b"x", 9),
}


@pytest.mark.parametrize("part", PARTS)
async def test_a_message_that_never_becomes_complete(part: str) -> None:
    app = App()
    async with serving(app, message_timeout=0.05) as server, raw(server) as client:
        await client.opened()
        client.send(PARTS[part])
        assert await client.close_code() == 1008
        assert await app.end() == ("policy", 1008)


async def test_one_byte_at_a_time_is_no_way_out() -> None:
    app = App()
    async with serving(app, message_timeout=0.1) as server, raw(server) as client:
        await client.opened()
        client.send(frame(b"x" * 100_000, 2)[:10])
        codes: list[int] = []

        async def closed() -> None:
            codes.append(await client.close_code())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(closed)
            while not codes:
                client.send(b"x")
                await anyio.sleep(0.005)
        assert codes == [1008]


async def test_each_message_has_a_time_of_its_own() -> None:
    """A stream of them may always leave a part."""
    app = App()
    async with serving(app, message_timeout=2.0) as server, raw(server) as client:
        await client.opened()
        (transport,) = server._transports._open
        deadlines = set()
        data = frame(b"x" * 100, 2)
        client.send(data[:50])
        for _ in range(5):
            while transport._message_timer is None or transport._message_timer in deadlines:
                await anyio.lowlevel.checkpoint()
            deadlines.add(transport._message_timer)
            client.send(data[50:] + data[:50])
            assert await client.frame() == (2, b"x" * 100)
        client.send(data[50:])
        assert await client.frame() == (2, b"x" * 100)
        assert transport._message_timer is None


async def test_no_limit_and_no_reading() -> None:
    app = App()
    async with serving(app, message_timeout=0) as server, raw(server) as client:
        await client.opened()
        client.send(PARTS["a small frame"])
        (transport,) = server._transports._open
        while not transport._held:
            await anyio.lowlevel.checkpoint()
        assert transport._message_timer is None
    app = App()
    app.gate = anyio.Event()
    async with serving(app, message_timeout=0.05, inbox_messages=1) as server:
        async with raw(server) as client:
            await client.opened()
            (transport,) = server._transports._open
            client.send(frame(b"x", 2) * 4 + PARTS["a small frame"])
            while not transport._reading_paused:
                await anyio.lowlevel.checkpoint()
            assert transport._message_timer is None  # this side does not read
            app.gate.set()
            assert await client.close_code() == 1008


# -- who answers no ping is gone


async def test_messages_are_no_answer_to_a_ping() -> None:
    app = App()
    async with serving(app, ping_interval=0.05, ping_timeout=0.1) as server, raw(server) as client:
        await client.opened()
        with anyio.fail_after(20):
            while not app.ends:
                client.send(frame(b"x", 2))
                await anyio.sleep(0.005)
        assert await app.end() == ("vanished", 1006)


async def test_parts_of_messages_are_none_either() -> None:
    app = App()
    limits = {"ping_interval": 0.05, "ping_timeout": 0.05, "message_timeout": 0.2}
    async with serving(app, **limits) as server, raw(server) as client:
        await client.opened()
        data = frame(b"x" * 100, 2)
        client.send(data[:50])
        with anyio.fail_after(20):
            while not app.ends:
                client.send(data[50:] + data[:50])  # each is complete in time
                await anyio.sleep(0.005)
        assert await app.end() == ("vanished", 1006)


async def test_who_is_sending_a_long_message_may_answer_behind_it() -> None:
    app = App()
    limits = {"ping_interval": 0.02, "ping_timeout": 0.02, "message_timeout": 20.0}
    async with serving(app, **limits) as server, raw(server) as client:
        await client.opened()
        data = frame(b"x" * 200_000, 2)
        client.send(data[:100_000])
        assert await client.frame() == (9, b"")
        (transport,) = server._transports._open
        timers = set()
        while len(timers) < 4:  # it was looked for the answer
            assert not app.ends
            timers.add(transport._ping_timer)
            await anyio.sleep(0.001)
        client.send(data[100_000:] + frame(b"", 10))
        assert await client.frame() == (2, b"x" * 200_000)


async def test_unread_replies_and_a_full_inbox() -> None:
    """It reads nothing: what waits to be sent does not move."""
    app = App()
    limits = {"ping_interval": 0.05, "ping_timeout": 0.2, "inbox_messages": 2}
    async with serving(app, **limits) as server, raw(server) as client:
        client.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000
        )
        client.reader._limit = 1000  # type: ignore[attr-defined]
        await client.opened()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(frame(bytes(1_000_000), 2) * 20)
        assert await app.end() == ("vanished", 1006)


# -- a deadline looks first at what has been received


class Peer:
    """A peer on a blocking socket: it works while the event loop is blocked."""

    def __init__(self, port: int, tls: bool, buffer: int = 0) -> None:
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.socket = context.wrap_socket(self.socket)
        self.socket.settimeout(20)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self.socket.recv(size - len(data))
        return data

    def head(self) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.receive(1)
        return head


MUCH = frame(bytes(1000), 2) * 150


def arrived(transport: Any, size: int) -> None:
    """Wait until the kernel has so many bytes for a transport, without running the event loop."""
    fd = transport._socket.get_extra_info("socket").fileno()
    unread = 0
    while unread < size:
        unread = int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def due(deadline: Any) -> None:
    """As an event loop does that runs timers before it reads."""
    deadline.cancel()
    deadline._look()


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize(
    ("awaited", "before"),
    [("pong", b""), ("pong", MUCH), ("request", b""), ("rest", b""), ("close", b"")],
    ids=["pong", "pong behind much", "request", "rest of a message", "close frame"],
)
async def test_what_has_come_when_a_deadline_is_due(
    awaited: str, before: bytes, tls: bool, certificate: tuple[Path, Path]
) -> None:
    app = App()
    options: dict[str, Any] = {"inbox_messages": 10_000, "inbox_bytes": 10**8, "open_timeout": 60}
    if awaited == "pong":
        options |= {"ping_interval": 0.01, "ping_timeout": 60}
    if tls:
        options |= {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
    async with serving(app, **{**options, "close_timeout": 60}) as server:
        peer = await anyio.to_thread.run_sync(Peer, server.port, tls)
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)
        while not server._transports._open or not next(iter(server._transports._open))._deadline:
            await anyio.lowlevel.checkpoint()
        (transport,) = server._transports._open
        theirs = transport._socket.get_extra_info("socket")
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 400_000)
        peer.send(request())
        if awaited == "request":
            arrived(transport, len(request()))
            due(transport._deadline)
        assert (await anyio.to_thread.run_sync(peer.head)).startswith(b"HTTP/1.1 101 ")
        if awaited == "pong":
            assert await anyio.to_thread.run_sync(peer.receive, 2) == b"\x89\x00"
            peer.send(before + frame(b"", 10))
            arrived(transport, len(before) + 6)
            due(transport._ping_timer)
            while not transport._ponged:
                assert not app.ends
                await anyio.lowlevel.checkpoint()
        elif awaited == "rest":
            whole = frame(b"y" * 1000, 2)
            peer.send(whole[:500])
            while transport._message_timer is None:
                await anyio.lowlevel.checkpoint()
            peer.send(whole[500:])
            arrived(transport, len(whole) - 500)
            due(transport._message_timer)
            assert await anyio.to_thread.run_sync(peer.receive, 4) == b"\x82\x7e\x03\xe8"
            assert not app.ends
        elif awaited == "close":
            transport.close(1000, "")
            assert await anyio.to_thread.run_sync(peer.receive, 4) == b"\x88\x02\x03\xe8"
            peer.send(frame(b"\x03\xe8", 8))
            arrived(transport, 8)
            due(transport._deadline)
            assert await anyio.to_thread.run_sync(peer.socket.recv, 1) == b""  # it is not reset
        peer.socket.close()


class Ask(Call[int], tag="ask"):
    pass


class Go(msgspec.Struct, tag="go"):
    pass


def block(due: float) -> None:
    """Block the event loop until after a time of ``time.monotonic``."""
    time.sleep(max(0.0, due - time.monotonic()) + 0.05)


async def blocked_until_due(peer: Peer, transport: Any, answer: bytes, seconds: float) -> None:
    """Block the event loop until an answer lies in the socket's buffer, and the time is over."""
    due = time.monotonic() + seconds
    header = await anyio.to_thread.run_sync(peer.receive, 2)
    await anyio.to_thread.run_sync(peer.receive, header[1] & 0x7F)
    peer.send(answer)
    arrived(transport, len(answer))
    block(due)


@pytest.mark.parametrize("behind", [0, 40])
async def test_an_answer_that_has_come_when_the_time_of_its_call_is_over(behind: int) -> None:
    router, results = Router("/"), list[Any]()

    @router.consumer(concurrency=1000)
    async def go(message: Go, connection: Connection) -> None:
        results.append(None)
        if len(results) == 1:
            try:
                results[0] = await connection.call(Ask(), timeout=0.2)
            except TimeoutError as exc:
                results[0] = exc

    limits = {"ping_interval": 0, "inbox_messages": 10_000, "inbox_bytes": 10**7}
    async with serve(router, Settings(port=0, close_timeout=0.2, **limits)) as server:
        peer = await anyio.to_thread.run_sync(Peer, server.port, False)
        peer.send(request())
        await anyio.to_thread.run_sync(peer.head)
        (transport,) = server._transports._open
        peer.send(frame(b'{"type":"go"}'))
        before = frame(b'{"type":"go"}') * (behind * 150)
        answer = frame(b'{"type":"$answer","id":1,"value":5}')
        await blocked_until_due(peer, transport, before + answer, 0.2)
        with anyio.fail_after(10):
            while results[0] is None:
                await anyio.sleep(0.001)
        assert results[0] == 5
        peer.socket.close()


async def test_a_first_message_that_has_come_when_its_time_is_over() -> None:
    app = App()
    given: list[str] = []

    @app.router.on_connect
    async def enter(connection: Connection) -> None:
        given.append(await connection.ask_credential())

    async with serving(app, open_timeout=0.2) as server:
        peer = await anyio.to_thread.run_sync(Peer, server.port, False)
        peer.send(request(headers=b"Sec-WebSocket-Protocol: wsflow.json\r\n"))
        due = time.monotonic() + 0.2
        await anyio.to_thread.run_sync(peer.head)
        (transport,) = server._transports._open
        auth = frame(b'{"type":"$auth","token":"ada"}')
        peer.send(auth)
        arrived(transport, len(auth))
        block(due)
        with anyio.fail_after(10):
            while not given and not app.ends:
                await anyio.sleep(0.001)
        assert given == ["ada"]
        peer.socket.close()


async def test_a_message_that_has_come_when_the_time_of_its_receiver_is_over() -> None:
    release, sent = threading.Event(), threading.Event()

    def handle(connection: Any) -> None:
        release.wait(10)
        connection.send("late")
        sent.set()
        connection.recv()

    with sync_server.serve(handle, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        async with wsflow.connect(f"ws://127.0.0.1:{port}/", receives=(str,)) as client:
            received: list[str] = []

            async def receive() -> None:
                received.append(await client.receive(timeout=0.1))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                await anyio.lowlevel.checkpoint()
                due = time.monotonic() + 0.1
                release.set()
                assert sent.wait(10)
                block(due)
            assert received == ["late"]
            await client.send("bye")
        server.shutdown()
        thread.join(10)


async def test_what_was_not_read_before_a_deadline() -> None:
    """It is due when reading has just been resumed."""
    app = App()
    app.gate = anyio.Event()
    limits = {"ping_interval": 0.01, "ping_timeout": 60, "inbox_messages": 1}
    async with serving(app, **limits) as server, raw(server) as client:
        await client.opened()
        assert await client.frame() == (9, b"")
        (transport,) = server._transports._open
        client.send(frame(b"x", 2) * 5000 + frame(b"", 10))
        while not transport._reading_paused:
            await anyio.lowlevel.checkpoint()
        arrived(transport, 10_000)
        app.gate.set()
        while transport._reading_paused:
            await anyio.lowlevel.checkpoint()
        due(transport._ping_timer)
        while not transport._ponged:
            assert not app.ends
            await anyio.lowlevel.checkpoint()


async def test_a_deadline_does_not_look_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something always comes, and never what it waits for."""

    class Flooded:
        reads = 0
        full = True
        loop = event_loop()

    monkeypatch.setattr("wsflow.transports.deadline.LOOKS", 8)
    late = anyio.Event()
    flooded = Flooded()
    deadline = Deadline(flooded, 0, late.set)
    looked = 0
    while not late.is_set():
        flooded.reads += 1
        before = deadline._timer
        while deadline._timer is before and not late.is_set():
            flooded.reads += 1
            await anyio.lowlevel.checkpoint()
        looked += 1
    assert 8 < looked <= 2 * 8 + 3
    deadline.cancel()


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_dripping_into_a_busy_event_loop(
    tls: bool, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte has come whenever a deadline looks: it is late all the same, and soon."""
    app = App()
    options: dict[str, Any] = {"open_timeout": 60}
    if tls:
        options |= {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
    async with serving(app, **options) as server:
        peer = await anyio.to_thread.run_sync(Peer, server.port, tls)
        peer.send(b"GET / HTTP/1.1\r\nX: ")
        while not server._transports._open or not next(iter(server._transports._open)).reads:
            await anyio.lowlevel.checkpoint()
        (transport,) = server._transports._open
        looks = 0
        look = Deadline._look

        def dripping(deadline: Deadline) -> None:
            nonlocal looks
            looks += 1
            look(deadline)
            peer.send(b"a")

        monkeypatch.setattr(Deadline, "_look", dripping)
        due(transport._deadline)
        with anyio.fail_after(20):
            while server._transports._open:
                assert looks < 100
                await anyio.lowlevel.checkpoint()
        peer.socket.close()


async def test_a_deadline_that_was_met() -> None:
    class Quiet:
        reads = 0
        full = False
        loop = event_loop()

    late: list[int] = []
    for _ in range(2):
        deadline = Deadline(Quiet(), 0, lambda: late.append(1))
        deadline.cancel()
    looking = Deadline(Quiet(), 0, lambda: late.append(1))
    before = looking._timer
    while looking._timer is before:
        await anyio.lowlevel.checkpoint()
    looking.cancel()
    await anyio.sleep(0.01)
    assert not late
    last = anyio.Event()
    Deadline(Quiet(), 0, last.set)
    await last.wait()
