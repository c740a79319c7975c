"""Accepting connections, as long as there is room for them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.conformance.wires import connecting
from tests.loops import anyio_backend as anyio_backend
from tests.loops import on_asyncio
from tests.raw import raw, request
from wsflow import Router
from wsflow.addresses import Address
from wsflow.server import Server, Settings, serve
from wsflow.server import process as process_module
from wsflow.server import transports as transports_module
from wsflow.server.accepting import Listener


def echo() -> Router:
    app = Router("/")

    @app.consumer
    async def reply(message: str) -> str:
        return message

    return app


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Server]:
    options: dict[str, Any] = {"open_timeout": 20, "close_timeout": 0.1, **settings}
    with anyio.fail_after(15):  # also if the server does not stop
        async with serve(echo(), Settings(port=0, **options)) as server:
            yield server


@contextlib.contextmanager
def silent(server: Server, count: int) -> Iterator[list[socket.socket]]:
    """So many sockets that say nothing."""
    with contextlib.ExitStack() as all_of_them:
        yield [
            all_of_them.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(count)
        ]


async def until(server: Server, pending: int) -> None:
    with anyio.fail_after(10):
        while len(server._transports._requesting) != pending:
            await anyio.sleep(0.001)


async def works(server: Server) -> None:
    with anyio.fail_after(10):
        async with raw(server) as client:
            await client.opened()


@pytest.mark.parametrize("tls", [False, True])
async def test_healthy_clients_all_get_in(tls: bool, certificate: tuple[Path, Path]) -> None:
    """More at once than may be in the handshake at a time: the others wait in the kernel."""
    options: dict[str, Any] = {"max_handshakes": 10}
    context = None
    if tls:
        options |= {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
        context = ssl.create_default_context(cafile=str(certificate[0]))
    async with serving(**options) as server:
        uri = f"{'wss' if tls else 'ws'}://127.0.0.1:{server.port}/"
        leave = anyio.Event()

        async def come() -> None:
            async with connecting(uri, ssl=context, open_timeout=20, ping_interval=None):
                await leave.wait()

        async with anyio.create_task_group() as tasks:
            for _ in range(60):
                tasks.start_soon(come)
            while len(server._app.sessions) < 60:
                await anyio.sleep(0.001)
            assert server.registry.counters()["refused"] == 0
            leave.set()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_small_messages_do_not_wait_for_others(host: str) -> None:
    """Nagle's algorithm is off (RFC 896): with it, an answer may take 40 ms."""
    async with serving(host=host) as server:
        async with raw(server, host) as client:
            await client.opened()
            (transport,) = server._transports._open
            accepted = transport._socket.get_extra_info("socket")
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def test_silent_sockets_do_not_lock_out_others() -> None:
    async with serving(max_handshakes_per_client=3, max_handshakes=5) as server:
        with silent(server, 3) as some:
            await until(server, 3)
            with silent(server, 20):  # are turned away
                with anyio.fail_after(10):
                    while server.registry.counters()["refused"] < 20:
                        await anyio.sleep(0.001)
            assert len(server._transports._open) == 3
            some[0].close()
            await until(server, 2)
            await works(server)


async def test_those_who_wait_get_in_when_there_is_room() -> None:
    async with serving(max_handshakes=2) as server:
        with silent(server, 2) as some:
            await until(server, 2)
            async with raw(server) as client:
                client.send(request())
                with anyio.fail_after(10):  # it rests, instead of looking all the time
                    while server._listeners[0]._again is None:
                        await anyio.sleep(0.001)
                some[1].close()
                assert (await client.head())[0] == 101


async def test_a_silent_client_holds_up_others_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transports_module, "AT_ONCE", 1)
    async with serving() as server:
        with silent(server, 3):
            await until(server, 3)
            await works(server)


async def test_a_tls_handshake_counts(certificate: tuple[Path, Path]) -> None:
    tls = {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
    async with serving(max_handshakes_per_client=2, **tls) as server:
        with silent(server, 2) as some:
            await until(server, 2)
            reader, writer = await on_asyncio(asyncio.open_connection, "127.0.0.1", server.port)
            assert await reader.read() == b""  # there is no answer without a TLS handshake
            writer.close()
            some[0].sendall(b"no TLS at all\r\n\r\n")
            await until(server, 1)
            assert len(server._transports._open) == 1
            some[1].close()
            await until(server, 0)
        assert not server._transports._from
        assert not server._listeners[0]._arriving


async def test_a_tls_handshake_and_a_request_have_one_timeout(
    certificate: tuple[Path, Path],
) -> None:
    tls = {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
    async with serving(open_timeout=0.2, **tls) as server:
        with silent(server, 2):
            await until(server, 2)
            await until(server, 0)
    async with serving(open_timeout=20, **tls) as server:
        context = ssl.create_default_context(cafile=str(certificate[0]))
        _, writer = await on_asyncio(asyncio.open_connection, "127.0.0.1", server.port, ssl=context)
        (transport,) = server._transports._requesting
        with anyio.fail_after(10):
            while transport._deadline is None:
                await anyio.lowlevel.checkpoint()
        when = transport._deadline._timer.when()
        assert when == pytest.approx(transport.since + 20, abs=0.01)
        writer.close()


async def test_dropping_who_was_just_accepted(certificate: tuple[Path, Path]) -> None:
    """A task that is cancelled before its first step does not run."""
    tls = {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
    async with serving(**tls) as server:
        with silent(server, 3):
            while not server._transports._requesting:
                server._listeners[0]._accept()
            server._listeners[0]._drop()
            await until(server, 0)
            assert not server._transports._open


@pytest.mark.parametrize("restart", [False, True])
async def test_stopping_amid_tls_handshakes(restart: bool, certificate: tuple[Path, Path]) -> None:
    tls = {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
    async with serving(open_timeout=0.3, **tls) as server:
        with silent(server, 5):
            await until(server, 5)
            server.stop(restart=restart)
            with anyio.fail_after(10):
                while server._listeners:
                    await anyio.sleep(0.001)


async def test_a_stop_answers_those_who_have_just_come() -> None:
    async with serving() as server:
        with silent(server, 5) as some:
            server.stop()
            with anyio.fail_after(10):
                while server._listeners:
                    await anyio.sleep(0.001)
            for each in some:
                answer = await anyio.to_thread.run_sync(each.recv, 1000)
                assert answer.startswith(b"HTTP/1.1 503 ")


async def test_what_counts_as_one_client() -> None:
    settings = Settings(max_handshakes_per_client=2, trusted_proxy=("10.0.0.0/8", "unix"))
    server = Server(server_plan(), settings)
    accepted = server._transports.accepted
    taken = [accepted(Address(f"2001:db8::{n}", 1)) is not None for n in range(3)]
    assert taken == [True, True, False]
    assert accepted(Address("2001:db8:0:1::1", 1)) is not None
    for proxy in (Address("10.1.2.3", 1), None):  # the clients behind it are counted later
        for _ in range(5):
            assert accepted(proxy) is not None
    assert dict(server._transports._from) == {"2001:db8::/64": 2, "2001:db8:0:1::/64": 1}
    for transport in list(server._transports._open):
        server._transports.closed(transport)
    assert not server._transports._from


def server_plan() -> Any:
    from wsflow.wiring.compile import compile_app

    return compile_app(echo())


class Failing:
    """A listening socket whose ``accept`` fails so often."""

    def __init__(self, real: socket.socket, errors: list[int]) -> None:
        self.real = real
        self.errors = errors

    def accept(self) -> Any:
        if self.errors:
            raise OSError(self.errors.pop(), "no luck")
        return self.real.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_out_of_descriptors(error: int, caplog: pytest.LogCaptureFixture) -> None:
    """It is said, and tried again; neither a traceback nor a busy loop."""
    async with serving() as server:
        listener: Any = server._listeners[0]
        listener.socket = Failing(listener.socket, [error] * 3)
        await works(server)
        assert listener.socket.errors == []
    assert 1 <= caplog.text.count("no connection can be accepted: no luck") <= 3  # once a second
    assert "Traceback" not in caplog.text


async def test_one_connection_that_failed_before_it_was_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as server:
        listener: Any = server._listeners[0]
        listener.socket = Failing(listener.socket, [errno.ECONNABORTED, errno.EPROTO])
        await works(server)
    assert "no connection can be accepted" not in caplog.text


async def test_really_out_of_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving() as server:
        with silent(server, 1) as (late,):
            await until(server, 1)
            client = socket.socket()
            client.setblocking(False)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
                client.connect_ex(("127.0.0.1", server.port))
                with anyio.fail_after(10):
                    while "no connection can be accepted: Too many open files" not in caplog.text:
                        await anyio.sleep(0.001)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await until(server, 2)  # it gets in once there is one again
            late.close()
            client.close()


@pytest.mark.parametrize(
    ("limit", "most", "raised", "says"),
    [
        ((1024, 4096), 2000, (3152, 4096), ""),
        ((1024, 2048), 10_000, (2048, 2048), "which is enough for 896 connections"),
        ((256, 256), 10_000, (256, 256), "which is enough for 0 connections"),
        ((1024, resource.RLIM_INFINITY), 2000, (3152, resource.RLIM_INFINITY), ""),
        ((100_000, 100_000), 10_000, None, ""),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 10_000, None, ""),
        ((256, 256), 0, None, ""),
    ],
)
def test_descriptors_at_start(
    limit: tuple[int, int],
    most: int,
    raised: tuple[int, int] | None,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: limit)
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: done.append(new))
    process_module.check_descriptors(Settings(max_connections=most))
    assert done == ([] if raised is None else [raised])
    assert says in caplog.text if says else not caplog.text


async def test_listeners_are_idempotent() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(server_plan(), Settings())
    listener = Listener(listening, server._transports, None, 1.0)
    listener.resume()
    listener.start()
    listener.stop()
    listener.stop()
    listener.resume()
    listener.close()
    listener.close()
    assert listening.fileno() == -1


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_so_many_are_accepted_and_not_one_more(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all in the handshake, of them from one client, open, and at once."""

    def transports(**settings: Any) -> Any:
        options = {"max_handshakes": 100, "max_handshakes_per_client": 0, **settings}
        return Server(server_plan(), Settings(**options))._transports

    def accept(each: Any, count: int) -> list[Any]:
        """As many as there is room for, each from an address of its own."""
        made = [each.accepted(Address(f"192.0.2.{n}", 1)) for n in range(min(each.room(), count))]
        assert None not in made
        return made

    in_handshake = transports(max_handshakes=most)
    for _ in range(3):
        waiting = accept(in_handshake, 10)
        assert (len(waiting), in_handshake.room()) == (most, 0)
        in_handshake.requested(waiting[0])
        assert in_handshake.room() == 1
        for each in waiting:
            in_handshake.closed(each)

    of_a_client = transports(max_handshakes_per_client=most)
    for _ in range(3):
        waiting = [of_a_client.accepted(Address("192.0.2.1", n)) for n in range(5)]
        assert [each is not None for each in waiting] == [n < most for n in range(5)]
        of_a_client.requested(waiting[0])
        waiting.append(of_a_client.accepted(Address("192.0.2.1", 9)))
        assert waiting[-1] is not None
        assert of_a_client.accepted(Address("192.0.2.1", 9)) is None
        for each in waiting:
            if each is not None:
                of_a_client.closed(each)
        assert (of_a_client._from, of_a_client._requesting, of_a_client._open) == ({}, {}, set())

    are_open = transports(max_connections=most, max_handshakes=10)
    for _ in range(3):
        made = []
        for _ in range(3):
            made += accept(are_open, 10)
            for each in made:
                are_open.requested(each)
        assert (len(made), are_open.room()) == (most + 10, 0)
        are_open.closed(made.pop())
        assert are_open.room() == 1
        for each in made:
            are_open.closed(each)

    monkeypatch.setattr(transports_module, "AT_ONCE", most)
    assert len(accept(transports(), 10)) == most


async def test_a_listener_is_stopped_while_it_has_paused() -> None:
    """Nothing of it is left in the event loop."""

    class Full:
        asked = 0

        def room(self) -> int:
            self.asked += 1
            return 0

    arrivals: Any = Full()
    listening = socket.create_server(("127.0.0.1", 0))
    listener = Listener(listening, arrivals, None, 1.0)
    listener.start()
    with socket.create_connection(listening.getsockname()):
        with anyio.fail_after(5):
            while not arrivals.asked:
                await anyio.lowlevel.checkpoint()
        listener.stop()
        assert listener._again is None
        listener.stop()
        listener.close()
