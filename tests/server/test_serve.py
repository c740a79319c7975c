"""Serving on sockets: listening, stopping, lifespans, proxies, settings."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from anyio.abc import TaskGroup
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.trio.client import connect as trio_connect

from wsflow import ClientLimits, DeclarationError, End, Limits, Reject, Request, Router
from wsflow.addresses import Address
from wsflow.server import Server, Settings, serve
from wsflow.server.listening import listen
from wsflow.wiring.compile import compile_app


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def echo_app() -> Router:
    app = Router("/")

    @app.consumer
    async def echo(message: str) -> str:
        return message

    return app


def quick(**values: Any) -> Settings:
    return Settings(port=0, **{"close_timeout": 1.0, "grace": 1.0, **values})


async def test_leaving_the_block_answers_what_was_received() -> None:
    started, gate = anyio.Event(), anyio.Event()
    app = Router("/")

    @app.consumer
    async def slow(message: str) -> str:
        started.set()
        await gate.wait()
        return message

    async with serve(app, quick()) as server:
        client = await connect(f"ws://127.0.0.1:{server.port}/")
        await client.send("a")
        await client.send("b")
        await started.wait()
        asyncio.get_running_loop().call_later(0.01, gate.set)
    assert [await client.recv(), await client.recv()] == ["a", "b"]
    with pytest.raises(ConnectionClosed) as closed:
        await client.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    assert not server._app.overran


async def test_stopping_at_once_cuts_short() -> None:
    started = anyio.Event()
    app = Router("/")

    @app.consumer
    async def park(message: str) -> None:
        started.set()
        await anyio.sleep_forever()

    async with serve(app, quick(grace=100.0)) as server:
        client = await connect(f"ws://127.0.0.1:{server.port}/")
        idle = await asyncio.open_connection("127.0.0.1", server.port)
        idle[1].write(b"GET / HT")
        await client.send("a")
        await started.wait()
        assert [name.split()[0] for name in server.running] == ["consumer"]
        while len(server._transports._requesting) < 1:
            await asyncio.sleep(0)
        server.stop()
        while not server._app._admission.closed:
            await asyncio.sleep(0)
        server.stop(now=True)
        server.stop(now=True)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert (await idle[0].read()).startswith(b"HTTP/1.1 503 ")
        idle[1].close()
    assert server._app.overran


async def test_a_restart_lets_in_who_has_come() -> None:
    """Who has connected is let in, and then told to come again: nobody is answered 503."""
    began, go = anyio.Event(), anyio.Event()
    app = Router("/")

    @app.on_connect
    async def slowly() -> None:
        began.set()
        await go.wait()

    @app.consumer
    async def nothing(message: str) -> None: ...

    async with serve(app, quick(grace=100.0)) as server:
        address = f"ws://127.0.0.1:{server.port}/"

        async def come() -> ClientConnection:
            return await connect(address)

        connecting = asyncio.create_task(come())
        await began.wait()
        half = await asyncio.open_connection("127.0.0.1", server.port)
        request = (
            b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        )
        half[1].write(request)
        while len(server._transports._requesting) < 1:
            await asyncio.sleep(0)
        server.stop(restart=True)
        while server._transports._condition._event is None:
            await asyncio.sleep(0)
        half[1].write(
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + b"A" * 22 + b"==\r\n\r\n"
        )
        while server._transports._requesting:
            await asyncio.sleep(0)
        go.set()
        client = await connecting
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        answer = await half[0].read()
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert answer.endswith((1012).to_bytes(2, "big"))
        half[1].close()


@pytest.mark.parametrize("begun", [False, True])
async def test_a_restart_does_not_wait_for_who_says_nothing(
    begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Browsers open connections that they do not use; but who has begun to ask is answered."""
    monkeypatch.setattr("wsflow.server.transports.SILENT", 0.01)
    async with serve(echo_app(), quick(open_timeout=100.0)) as server:
        idle = await asyncio.open_connection("127.0.0.1", server.port)
        if begun:
            idle[1].write(REQUEST[:-1])
        async with connect(f"ws://127.0.0.1:{server.port}/") as client:
            while len(server._transports._requesting) < 1 or (
                begun and all(each.silent for each in server._transports._requesting)
            ):
                await asyncio.sleep(0)
            server.stop(restart=True)
            if begun:
                await asyncio.sleep(0.05)
                assert client.close_code is None
                idle[1].write(REQUEST[-1:])
                assert (await idle[0].readline()).startswith(b"HTTP/1.1 101 ")
            try:
                with pytest.raises(ConnectionClosed), anyio.fail_after(10):
                    await client.recv()
            finally:
                idle[1].close()
            assert client.close_code == 1012


REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": use}) for use in (False, True)]
)
@pytest.mark.parametrize("turns", range(10))
async def test_a_restart_drops_nobody_who_connects_at_that_moment(turns: int) -> None:
    """Whoever connects in the turn of the loop in which the address is left is answered, too."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        old, new = (Server(compile_app(echo_app()), quick(), [listening.dup()]) for _ in range(2))
        old_runs = asyncio.create_task(old.run())
        await old.started.wait()
        old.stop(restart=True)
        for _ in range(turns):
            await asyncio.sleep(0)
        client = socket.create_connection(listening.getsockname())
        client.sendall(REQUEST)
        while old._listeners:
            await asyncio.sleep(0)
        new_runs = asyncio.create_task(new.run())
        answer = b"nothing"
        reader, writer = await asyncio.open_connection(sock=client)
        with anyio.move_on_after(5):  # asyncio does not even close what it drops
            answer = await reader.readline()
        writer.close()
        new.stop()
        await asyncio.gather(old_runs, new_runs)
    assert answer.startswith(b"HTTP/1.1 101 ")


async def test_a_restart_that_is_cut_short() -> None:
    async with serve(echo_app(), quick(open_timeout=100.0)) as server:
        half = await asyncio.open_connection("127.0.0.1", server.port)
        half[1].write(b"GET / HTTP/1.1\r\n")
        while len(server._transports._requesting) < 1:
            await asyncio.sleep(0)
        server.stop(restart=True)
        while server._transports._condition._event is None:
            await asyncio.sleep(0)
        server.stop(now=True)
        assert (await half[0].read()).startswith(b"HTTP/1.1 503 ")
        half[1].close()


@pytest.mark.parametrize("restart", [False, True])
async def test_stopping_at_once_from_the_start(restart: bool) -> None:
    async with serve(echo_app(), quick()) as server:
        client = await connect(f"ws://127.0.0.1:{server.port}/")
        server.stop(now=True, restart=restart)
        assert await closed(client) == (1012 if restart else 1001)


async def closed(client: ClientConnection) -> int:
    """Wait for the end; its close code."""
    with pytest.raises(ConnectionClosed) as end:
        await client.recv()
    return end.value.rcvd.code if end.value.rcvd is not None else 1006


async def test_newcomers_are_let_in_for_a_while() -> None:
    async with serve(echo_app(), quick(drain_delay=0.3)) as server:
        loop = asyncio.get_running_loop()
        address = f"ws://127.0.0.1:{server.port}/"
        client = await connect(address)
        began = loop.time()
        server.stop()
        newcomer = await connect(address)
        await newcomer.send("x")
        assert await newcomer.recv() == "x"
        assert {await closed(client), await closed(newcomer)} == {1001}
        assert loop.time() - began >= 0.3


@pytest.mark.parametrize("how", ["at once", "a restart", "the app fails"])
async def test_the_delay_ends_early(how: str) -> None:
    failing = anyio.Event()
    app = echo_app()

    @app.lifespan
    async def background(tasks: TaskGroup) -> AsyncIterator[None]:
        async def fail() -> None:
            await failing.wait()
            raise RuntimeError("lost its database")

        tasks.start_soon(fail)
        yield
        tasks.cancel_scope.cancel()

    server = Server(compile_app(app), quick(drain_delay=1000.0, drain_over=1000.0))
    task = asyncio.create_task(server.run())
    await server.started.wait()
    client = await connect(f"ws://127.0.0.1:{server.port}/")
    server.stop(restart=how == "a restart")
    if how == "at once":
        await asyncio.sleep(0)
        server.stop(now=True)
    elif how == "the app fails":
        failing.set()
    async with asyncio.timeout(10):
        assert await closed(client) == (1012 if how == "a restart" else 1001)
        await asyncio.wait([task])
    if how == "the app fails":
        with pytest.raises(RuntimeError, match="lost its database"):
            await task
    else:
        await task


async def test_connections_are_closed_one_after_another() -> None:
    async with serve(echo_app(), quick(drain_over=0.4)) as server:
        loop = asyncio.get_running_loop()
        clients = [await connect(f"ws://127.0.0.1:{server.port}/") for _ in range(4)]
        began = loop.time()
        server.stop()

        async def ended(client: ClientConnection) -> float:
            assert await closed(client) == 1001
            return loop.time() - began

        times = sorted(await asyncio.gather(*map(ended, clients)))
    for at, least in zip(times, (0, 0.1, 0.2, 0.3), strict=True):
        assert at >= least - 0.01


async def test_stopping_at_once_in_the_midst_of_it() -> None:
    async with serve(echo_app(), quick(drain_over=1000.0)) as server:
        clients = [await connect(f"ws://127.0.0.1:{server.port}/") for _ in range(10)]
        server.stop()
        while len(server.registry) == 10:
            await asyncio.sleep(0)
        server.stop(now=True)
        async with asyncio.timeout(10):
            assert {await closed(client) for client in clients} == {1001}


async def test_lifespans_surround_all() -> None:
    order: list[str] = []

    class Outer: ...

    class Inner: ...

    app = Router("/")

    @app.lifespan
    async def outer(tasks: TaskGroup) -> AsyncIterator[Outer]:
        order.append("outer in")
        tasks.start_soon(anyio.sleep_forever)
        yield Outer()
        order.append("outer out")

    @app.lifespan
    async def inner(outer: Outer) -> AsyncIterator[Inner]:
        order.append("inner in")
        yield Inner()
        order.append("inner out")

    @app.consumer
    async def use(message: str, outer: Outer, inner: Inner) -> str:
        return message

    @app.on_disconnect
    async def gone(inner: Inner) -> None:
        order.append("gone")

    async with serve(app, quick()) as server:
        async with connect(f"ws://127.0.0.1:{server.port}/") as client:
            await client.send("x")
            assert await client.recv() == "x"
    assert order == ["outer in", "inner in", "gone", "inner out", "outer out"]


async def test_a_lifespan_that_fails_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    left: list[str] = []
    app = echo_app()

    @app.lifespan
    async def good() -> AsyncIterator[None]:
        yield
        left.append("good")

    @app.lifespan
    async def bad() -> None:
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"):
        async with serve(app, quick()):
            pass
    assert left == ["good"]
    assert "lifespan " in caplog.text
    assert "failed to set up" in caplog.text


async def test_lifespans_that_fail_to_tear_down(caplog: pytest.LogCaptureFixture) -> None:
    app = echo_app()

    @app.lifespan
    async def second() -> AsyncIterator[None]:
        yield
        raise RuntimeError("second")

    @app.lifespan
    async def first() -> AsyncIterator[None]:
        yield
        raise RuntimeError("first")

    with pytest.raises(RuntimeError, match="first"):
        async with serve(app, quick()):
            pass
    assert "RuntimeError: second" in caplog.text


async def test_a_task_of_the_app_that_fails_stops_it(caplog: pytest.LogCaptureFixture) -> None:
    app = echo_app()

    @app.lifespan
    async def start(tasks: TaskGroup) -> None:
        async def fail() -> None:
            raise RuntimeError("background")

        tasks.start_soon(fail)

    server = Server(compile_app(app), quick())
    with pytest.raises(RuntimeError, match="background"):
        await server.run()
    assert "the app stops" in caplog.text


async def test_an_app_that_does_not_wire() -> None:
    with pytest.raises(DeclarationError):
        async with serve(Router("/"), quick()):
            pass


async def test_an_address_in_use() -> None:
    async with serve(echo_app(), quick()) as server:
        with pytest.raises(OSError, match="in use"):
            async with serve(echo_app(), Settings(port=server.port)):
                pass


async def test_cancelling_the_block_stops_in_order() -> None:
    left: list[int] = []
    app = echo_app()

    @app.on_connect
    async def scope() -> AsyncIterator[None]:
        yield
        await asyncio.sleep(0.01)
        left.append(1)

    serving = asyncio.Event()
    servers: list[Server] = []

    async def run() -> None:
        async with serve(app, quick()) as server:
            servers.append(server)
            async with connect(f"ws://127.0.0.1:{server.port}/"):
                serving.set()
                await asyncio.sleep(1000)

    task = asyncio.create_task(run())
    await serving.wait()
    task.cancel()
    while not servers[0]._stop.is_set():
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left == [1]


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    seen: list[Any] = []
    app = echo_app()

    @app.on_connect
    async def note(request: Request) -> None:
        seen.append(request.client)

    settings = Settings(uds=path, trusted_proxy=("unix",))
    async with serve(app, settings) as server:
        assert server.port == 0
        async with unix_connect(str(path), "ws://localhost/") as client:
            await client.send("x")
            assert await client.recv() == "x"
        forwarded = {"X-Forwarded-For": "10.0.0.1"}
        async with unix_connect(str(path), "ws://localhost/", additional_headers=forwarded):
            pass
    assert seen == [None, Address("10.0.0.1", 0)]
    assert not path.exists()


async def test_a_unix_socket_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with serve(echo_app(), Settings(uds=path)):
        with pytest.raises(OSError, match="another process listens there"):
            async with serve(echo_app(), Settings(uds=path)):
                pass
        path.unlink()
        async with serve(echo_app(), Settings(uds=path)) as later:
            inode = path.stat().st_ino
            assert later._inode == inode
            path.rename(tmp_path / "moved")  # the first one's end must not take it away
            (tmp_path / "moved").rename(path)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with serve(echo_app(), Settings(uds=path)):  # nobody listens: it is replaced
        pass
    assert not path.exists()
    path.write_text("a plain file")
    with pytest.raises(OSError, match="there is a file of that name"):
        async with serve(echo_app(), Settings(uds=path)):
            pass
    assert path.read_text() == "a plain file"


async def test_stopping_while_a_lifespan_sets_up() -> None:
    entered = anyio.Event()
    app = echo_app()

    @app.lifespan
    async def slow() -> None:
        entered.set()
        await anyio.sleep_forever()

    server = Server(compile_app(app), quick())
    task = asyncio.create_task(server.run())
    await entered.wait()
    server.stop()
    await task
    assert not server.started.is_set()


async def test_a_lifespan_that_waits_for_a_task_that_fails() -> None:
    app = echo_app()

    @app.lifespan
    async def wait(tasks: TaskGroup) -> AsyncIterator[None]:
        async def fail() -> None:
            raise RuntimeError("the worker failed")

        tasks.start_soon(fail)
        await anyio.sleep_forever()
        yield

    with pytest.raises(RuntimeError, match="the worker failed"):
        await Server(compile_app(app), quick()).run()


async def test_new_connections_are_answered_while_it_stops() -> None:
    started, gate = anyio.Event(), anyio.Event()
    app = Router("/")

    @app.consumer
    async def slow(message: str) -> None:
        started.set()
        await gate.wait()

    async with serve(app, quick()) as server:
        client = await connect(f"ws://127.0.0.1:{server.port}/")
        await client.send("x")
        await started.wait()
        server.stop()
        while not server._app._admission.closed:
            await asyncio.sleep(0)
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{server.port}/")
        assert refused.value.response.status_code == 503
        gate.set()
        await client.wait_closed()


async def test_an_inherited_descriptor() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with serve(echo_app(), Settings(fd=listening.fileno())) as server:
            assert server.port == listening.getsockname()[1]
            async with connect(f"ws://127.0.0.1:{server.port}/") as client:
                await client.send("x")
                assert await client.recv() == "x"
        os.fstat(listening.fileno())  # it is still the caller's


async def test_tls(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    context = ssl.create_default_context(cafile=str(cert))
    async with serve(echo_app(), quick(ssl_certfile=cert, ssl_keyfile=key)) as server:
        async with connect(f"wss://127.0.0.1:{server.port}/", ssl=context) as client:
            await client.send("x")
            assert await client.recv() == "x"
            await client.send(b"no consumer")
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1003
        while server._transports._open:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": use}) for use in (False, True)]
)
async def test_a_restart_lets_in_who_is_in_the_tls_handshake(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes: who is in it is not silent."""
    monkeypatch.setattr("wsflow.server.transports.SILENT", 0)
    cert, key = certificate
    context = ssl.create_default_context(cafile=str(cert))
    server = Server(compile_app(echo_app()), quick(ssl_certfile=cert, ssl_keyfile=key))
    runs = asyncio.create_task(server.run())
    await server.started.wait()
    address = ("127.0.0.1", server.port)
    early, failing = socket.create_connection(address), socket.create_connection(address)
    while len(server._transports._requesting) < 2:
        await asyncio.sleep(0)
    server.stop(restart=True)
    failing.sendall(b"no TLS at all\r\n\r\n")
    for _ in range(100):
        await asyncio.sleep(0)
    assert not runs.done()
    reader, writer = await asyncio.open_connection(
        sock=early, ssl=context, server_hostname="127.0.0.1"
    )
    writer.write(REQUEST)
    assert (await reader.readline()).startswith(b"HTTP/1.1 101 ")
    writer.close()
    failing.close()
    await runs


async def test_a_restart_does_not_wait_for_a_tls_handshake_for_ever(
    certificate: tuple[Path, Path],
) -> None:
    cert, key = certificate
    limits = quick(ssl_certfile=cert, ssl_keyfile=key, open_timeout=0.1)
    async with serve(echo_app(), limits) as server:
        slow = socket.create_connection(("127.0.0.1", server.port))
        while not server._transports._requesting:
            await asyncio.sleep(0)
        server.stop(restart=True)
    slow.close()


async def test_tls_files_that_cannot_be_used(certificate: tuple[Path, Path]) -> None:
    cert, _ = certificate
    for settings, why in [
        (quick(ssl_certfile=Path("/no/such")), "TLS cannot use /no/such: No such file"),
        (quick(ssl_certfile=cert), "TLS cannot use .*cert.pem: "),
    ]:
        with pytest.raises(ValueError, match=why):
            async with serve(echo_app(), settings):
                pass


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"port": 70000}, "port is 70000: ports go up to 65535"),
        ({"grace": -1}, "grace is -1: it must be 0 or more"),
        ({"ping_interval": float("nan")}, "ping_interval is nan"),
        ({"ssl_keyfile": Path("x")}, "ssl_certfile is not"),
        ({"open_timeout": 0}, "no client could connect"),
        ({"origin": ("example.com",)}, "origin is 'example.com': write scheme and host"),
        ({"origin": ("https://a.example/",)}, "write scheme and host"),
        ({"origin": ("null",)}, "files, have no origin of their own"),
        ({"origin": ("wss://a.example",)}, "a page has http or https, as in https://a.example"),
        ({"allowed_host": ("a.example:80",)}, "write a name without a port"),
        ({"trusted_proxy": ("nonsense",)}, "trusted_proxy is 'nonsense': write an address"),
        ({"uds": Path("x"), "fd": 3}, "uds and fd are both set"),
        ({"uds": Path("x"), "port": 1}, "uds and port are both set"),
        ({"fd": 3, "host": "::1"}, "fd and host are both set"),
        ({"uds_mode": "600"}, "uds_mode is set and uds is not"),
        ({"ssl_keyfile_password": "x"}, "ssl_keyfile_password is set and ssl_certfile is not"),
        ({"proxy_header": "forwarded"}, "trusted_proxy is not set: no header would be read"),
        ({"trusted_proxy": ("::1,::2",)}, "trusted_proxy is '::1,::2', with a comma: several"),
        ({"inbox_messages": 0}, "inbox_messages is 0: nothing could be received"),
        ({"max_handshakes": 0}, "max_handshakes is 0: no client could connect"),
        ({"max_header_size": 0}, "max_header_size is 0: no client could connect"),
    ],
)
def test_settings_that_make_no_sense(values: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Settings(**values)


@pytest.mark.parametrize("serving", [False, True])
async def test_a_native_cancellation_of_the_server(serving: bool) -> None:
    """It stops at once, and tears down."""
    left: list[int] = []
    app = echo_app()

    @app.lifespan
    async def start(tasks: TaskGroup) -> AsyncIterator[None]:
        yield
        left.append(1)

    server = Server(compile_app(app), quick())
    server.bind()
    task = asyncio.create_task(server.run())
    await asyncio.sleep(0)
    if serving:
        await server.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left == [1] * serving


async def test_requests_over_unix_sockets_have_no_host(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with serve(echo_app(), Settings(uds=path, max_connections_per_client=1)):
        async with unix_connect(str(path), "ws://localhost/") as client:
            await client.send("x")
            assert await client.recv() == "x"


async def test_those_who_linger_count(caplog: pytest.LogCaptureFixture) -> None:
    limits = quick(max_connections=1, max_handshakes=1)
    async with serve(echo_app(), limits) as server:
        lingering = []
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 426 ")
            lingering.append(writer)  # and does not close
        _, waiting = await asyncio.open_connection("127.0.0.1", server.port)
        with anyio.fail_after(10):
            while "2 connections are open, 0 of them have not sent" not in caplog.text:
                await asyncio.sleep(0)
        assert len(server._transports._open) == 2
        for each in (*lingering, waiting):
            each.close()
    async with serve(echo_app(), quick(max_connections=0)) as server:  # no limit
        async with connect(f"ws://127.0.0.1:{server.port}/"):
            pass


async def test_stopping_while_the_broker_is_silent() -> None:
    """A broker that takes connections and says nothing: the start can be aborted."""
    writers: list[asyncio.StreamWriter] = []

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    async with await asyncio.start_server(take, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        server = Server(compile_app(echo_app()), quick(broker=f"redis://127.0.0.1:{port}"))
        running = asyncio.create_task(server.run())
        while not writers:
            await asyncio.sleep(0)
        server.stop()
        await running
        assert not server.started.is_set()
        for writer in writers:
            writer.close()


def test_listening_in_several_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = listen(Settings(host="::1", port=0), 3)
    ports = {each.getsockname()[1] for sockets in own for each in sockets}
    assert len(ports) == 1
    assert len({each.fileno() for sockets in own for each in sockets}) == 3
    with pytest.raises(OSError, match="in use"):
        listen(Settings(host="::1", port=ports.pop()), 2)
    monkeypatch.setattr("sys.platform", "darwin")
    shared = listen(Settings(port=0), 2)
    assert shared[0] == shared[1]
    for each in {each for sockets in (*own, *shared) for each in sockets}:
        each.close()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (Settings(workers=4), "workers is 4, which serve() does not do: use wsflow run --workers"),
        (Settings(loop="uvloop"), "loop is 'uvloop', which serve() does not do: start the program"),
        (Settings(log_level="debug"), "log_level is 'debug', which serve() does not do: set the"),
        (Settings(access_log=False), "access_log is False, which serve() does not do: disable"),
    ],
)
async def test_settings_that_only_the_command_does(settings: Settings, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        async with serve(Router("/"), settings):
            raise AssertionError


@pytest.mark.parametrize("kind", [Settings, Limits, ClientLimits])
@pytest.mark.parametrize(
    ("name", "value", "error", "says"),
    [
        ("inbox_messages", "8", TypeError, "inbox_messages is '8', a str: use an int"),
        ("inbox_messages", 1.5, TypeError, "inbox_messages is 1.5, a float: use an int"),
        ("inbox_messages", True, TypeError, "inbox_messages is True, a bool: use an int"),
        ("open_timeout", "1", TypeError, "open_timeout is '1', a str: use a float"),
        ("open_timeout", float("nan"), ValueError, "open_timeout is nan: it must be more than 0"),
        ("open_timeout", 0, ValueError, "open_timeout is 0: no client could connect"),
        ("inbox_bytes", -1, ValueError, "inbox_bytes is -1: it must be more than 0"),
        ("inbox_bytes", 0, ValueError, "inbox_bytes is 0: nothing could be received"),
    ],
)
def test_limits_that_make_no_sense(
    kind: Any, name: str, value: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=re.escape(says)):
        kind(**{name: value})


# -- in a program on Trio


def telling_app(events: list[str]) -> Router:
    """An app that says how connections and lifespans have ended."""
    app = echo_app()

    @app.lifespan
    async def life() -> AsyncIterator[None]:
        yield
        events.append("lifespan over")

    @app.on_disconnect
    async def bye(end: End) -> None:
        events.append(f"{end.cause} {end.code}")

    return app


def test_a_scope_around_the_block_is_cancelled_on_trio() -> None:
    events: list[str] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            async with (
                serve(telling_app(events), quick()) as server,
                trio_connect(f"ws://127.0.0.1:{server.port}/") as client,
            ):
                await client.send("x")
                assert await client.recv() == "x"
                trio.lowlevel.current_trio_token().run_sync_soon(scope.cancel)  # by another task
                await trio.sleep_forever()
        assert scope.cancelled_caught

    trio.run(main)
    assert events[-1] == "lifespan over"
    assert len(events) == 2


def test_ctrl_c_in_a_program_on_trio() -> None:
    events: list[str] = []

    async def main() -> None:
        async with serve(telling_app(events), quick()):
            signal.raise_signal(signal.SIGINT)
            await trio.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert events == ["lifespan over"]


def test_a_task_of_the_program_fails_on_trio(tmp_path: Path) -> None:
    """Beside a server at a Unix socket."""
    events: list[str] = []

    async def fail() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        path = tmp_path / "socket"
        async with trio.open_nursery() as nursery, serve(telling_app(events), Settings(uds=path)):
            stream = await trio.open_unix_socket(path)
            async with trio_connect("ws://localhost/", stream=stream) as client:
                await client.send("x")
                assert await client.recv() == "x"
            nursery.start_soon(fail)
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        trio.run(main)
    assert raised.group_contains(ZeroDivisionError)
    assert events == ["peer 1000", "lifespan over"]


@pytest.mark.parametrize("path", ["/none", "/"])
async def test_a_refusal_that_a_page_can_see(path: str) -> None:
    """Before and after there is a connection: it is open, and closed at once."""
    app = echo_app()

    @app.on_connect
    async def refuse() -> None:
        raise Reject(404, "not here\n")

    async with serve(app, quick()) as server:
        offers: Any = ["wsflow.json", "wsflow.refuse"]
        async with connect(f"ws://127.0.0.1:{server.port}{path}", subprotocols=offers) as client:
            assert client.subprotocol == "wsflow.refuse"
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert client.close_code == 4404
            assert client.close_reason in ("Not Found", "not here")
        with pytest.raises(InvalidStatus):
            await connect(f"ws://127.0.0.1:{server.port}{path}")
