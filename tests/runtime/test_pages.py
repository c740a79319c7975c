"""Plain HTTP on the port: pages, files, health. Over sockets, and under ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import httpx2
import msgspec
import pytest

import wsflow
from tests.conformance.asgi_wires import SERVERS
from tests.loops import LOOPS
from tests.processes import free_port, running
from wsflow import Cookie, Header, Query, Registry, Reject, Request, Response, Router, Topic
from wsflow.runtime import pages
from wsflow.server import Server, Settings, serve
from wsflow.transports import library

NO_FILE = Settings(port=0)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return getattr(request, "param", "asyncio")


class Database:
    name = "the database"


class Info(msgspec.Struct):
    room: str
    number: int
    user: str | None = None


def app() -> Router:
    router = Router("/chat/{room}")
    Room = Annotated[Topic[str], "room.{room}"]

    @router.lifespan
    async def connect() -> Database:
        return Database()

    @router.on_connect
    async def never() -> None:
        raise Reject(401)

    @router.consumer
    async def hear(message: str) -> str:
        return message

    @router.get("/")
    async def page(room: str, database: Database) -> str:
        return f"<h1>{room} of {database.name}</h1>"

    @router.get("/info")
    async def info(
        room: str,
        number: Annotated[int, Query()],
        x_user: Annotated[str, Header()] = "",
        session: Annotated[str, Cookie()] = "",
    ) -> Info:
        return Info(room, number, f"{x_user}{session}" or None)

    @router.get("/bytes/{size}")
    async def raw(size: int) -> bytes:
        return b"x" * size

    @router.get("/response")
    async def response(request: Request) -> Response:
        return Response(request.path, 201, {"X-A": "b"}, "text/x")

    @router.get("/nothing")
    async def nothing() -> None: ...

    @router.get("/reject")
    async def reject() -> str:
        raise Reject(409, "in use\n", {"X-Why": "because"})

    @router.get("/fail")
    async def fail() -> str:
        raise RuntimeError("the password is swordfish")

    @router.get("/odd")
    async def odd() -> object:
        return object()

    @router.get("/topic")
    async def topic(topic: Room, registry: Registry) -> int:
        await topic.publish("hi")
        return len(registry)

    return router


@asynccontextmanager
async def over_sockets(router: Router, settings: Settings = NO_FILE) -> AsyncIterator[str]:
    async with serve(router, settings) as server:
        yield f"http://127.0.0.1:{server.port}"


@asynccontextmanager
async def under_uvicorn(router: Router, settings: Settings = NO_FILE) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with SERVERS["uvicorn"](wsflow.asgi(router, settings), listener):
            yield f"http://127.0.0.1:{port}"


@pytest.fixture(params=[over_sockets, under_uvicorn], ids=["sockets", "uvicorn"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[httpx2.AsyncClient]:
    async with request.param(app()) as base, httpx2.AsyncClient(base_url=base) as client:
        yield client


HTML, JSON, TEXT = "text/html; charset=utf-8", "application/json", "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("target", "status", "kind", "body"),
    [
        ("/chat/a", 200, HTML, b"<h1>a of the database</h1>"),
        ("/chat/a%20b/", 200, HTML, b"<h1>a b of the database</h1>"),
        ("/chat/a/info?number=7", 200, JSON, b'{"room":"a","number":7,"user":"ada!"}'),
        ("/chat/a/info", 400, TEXT, b"query 'number' is missing\n"),
        ("/chat/a/info?number=x", 400, TEXT, b"query 'number' is not valid: Expected `int`\n"),
        ("/chat/a/bytes/3", 200, "application/octet-stream", b"xxx"),
        ("/chat/a/bytes/300000", 200, "application/octet-stream", b"x" * 300_000),
        ("/chat/a/bytes/x", 404, TEXT, b"not found\n"),
        ("/chat/a/response", 201, "text/x", b"/chat/a/response"),
        ("/chat/a/nothing", 204, None, b""),
        ("/chat/a/reject", 409, TEXT, b"in use\n"),
        ("/chat/a/fail", 500, TEXT, b"Internal Server Error\n"),
        ("/chat/a/odd", 500, TEXT, b"Internal Server Error\n"),
        ("/chat/a/topic", 200, JSON, b"0"),
        ("/nowhere", 404, TEXT, b"Not Found\n"),
        ("/chat/a/nowhere", 404, TEXT, b"Not Found\n"),
        ("/chat/a?x=%FF", 400, TEXT, b"the request target cannot be read\n"),
        ("/healthz", 200, JSON, b'{"live":true,"reasons":[]}'),
        ("/readyz", 200, JSON, b'{"ready":true,"reasons":[]}'),
    ],
)
async def test_what_a_page_returns(
    client: httpx2.AsyncClient, target: str, status: int, kind: str | None, body: bytes
) -> None:
    headers = {"X-User": "ada", "Cookie": "session=!"}
    answer = await client.get(target, headers=headers)
    assert (answer.status_code, answer.headers.get("Content-Type")) == (status, kind)
    assert answer.content == body
    if status != 204:
        assert answer.headers["Content-Length"] == str(len(body))
        head = await client.head(target, headers=headers)
        assert (head.status_code, head.content) == (status, b"")
        assert head.headers["Content-Length"] == str(len(body))
    for name, value in {"response": ("X-A", "b"), "reject": ("X-Why", "because")}.items():
        if target.endswith(name):
            assert answer.headers[value[0]] == value[1]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("body", [b"", b"x", b"x" * 200_000])
@pytest.mark.parametrize("target", ["/chat/a", "/readyz"])
async def test_other_methods(
    client: httpx2.AsyncClient, method: str, body: bytes, target: str
) -> None:
    answer = await client.request(method, target, content=body)
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert answer.status_code == (204 if method == "OPTIONS" else 405)


async def test_a_page_is_no_connection_and_makes_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with serve(app(), NO_FILE) as server, httpx2.AsyncClient() as client:
        base = f"http://127.0.0.1:{server.port}"
        for target in ("/chat/a", "/chat/a/fail", "/healthz", "/readyz"):
            await client.get(base + target)
        counters = server.registry.counters()
    assert (counters["connections"], counters["refused"]) == (0, 0)
    lines = [each.getMessage() for each in caplog.records if each.name == "wsflow.access"]
    assert [line.partition(" peer")[0] for line in lines] == ["GET /chat/a", "GET /chat/a/fail"]
    assert "RuntimeError: the password is swordfish" in caplog.text


# -- on the wire


async def ask(server: Server, request: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request.replace("\n", "\r\n").encode("latin-1"))
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /healthz HTTP/1.0\nHost: localhost\n\n", 200),
        ("HEAD /healthz HTTP/1.0\nHost: localhost\n\n", 200),
        ("GET http://localhost/healthz HTTP/1.1\nHost: localhost\n\n", 200),
        ("GET /healthz HTTP/1.1\nHost: localhost\nUpgrade: h2c\nConnection: Upgrade\n\n", 200),
        ("OPTIONS /healthz HTTP/1.1\nHost: localhost\n\n", 204),
        ("OPTIONS * HTTP/1.1\nHost: localhost\n\n", 204),
        ("GET * HTTP/1.1\nHost: localhost\n\n", 400),
        ("GET /healthz HTTP/1.0\n\n", 200),
        ("OPTIONS /readyz HTTP/1.0\n\n", 204),
        ("GET /chat/a HTTP/1.0\n\n", 400),
        ("GET /healthz HTTP/1.1\nHost: a\nHost: b\n\n", 400),
        ("GET /healthz HTTP/1.1\nHost: 10.1.2.3:8000\n\n", 200),
        ("GET /readyz HTTP/1.1\nHost: evil.example\n\n", 200),
        ("GET /chat/a HTTP/1.1\nHost: evil.example\n\n", 403),
        ("POST /healthz HTTP/1.1\nHost: evil.example\n\n", 405),
        ("GET /healthz HTTP/2.0\nHost: localhost\n\n", 400),
        ("nonsense\n\n", 400),
        ("GET /healthz\n\n", 400),
        ("GET /healthz HTTP/1.1\nHost: localhost\nContent-Length: 5\n\nhello", 200),
        ("HEAD /healthz HTTP/1.1\ncontent-length: 5\nHost: localhost\n\nhello", 200),
        ("GET /chat/a HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\n0\n\n", 200),
        ("GET /chat/a HTTP/1.1\nHost: localhost\nContent-Length: 0x5\n\nhello", 400),
        ("OPTIONS /chat/a HTTP/1.1\nHost: localhost\nContent-Length: 5\n\nhello", 204),
        ("OPTIONS * HTTP/1.1\nHost: localhost\nContent-Length: 5\n\nhello", 204),
        ("POST /nowhere HTTP/1.1\nHost: localhost\nContent-Length: 5\n\nhello", 404),
        ("POST /healthz HTTP/1.1\nHost: localhost\nContent-Length: 5\n\nhello", 405),
        ("POST /ws HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\n1\na\n0\n\n", 426),
        ("POST /chat/a/info HTTP/1.1\nHost: localhost\n\n", 405),
        ("OPTIONS /chat/a/info HTTP/1.1\nHost: localhost\n\n", 204),
        ("GET /chat/a/info HTTP/1.1\nHost: localhost\n\n", 400),
        ("TRACE /healthz HTTP/1.1\nHost: localhost\n\n", 405),
        ("GET /chat/a/topic HTTP/1.1\nHost: localhost\n\nGET / HTTP/1.1\n\n", 200),
        ("GET /ws HTTP/1.1\nHost: localhost\n\n", 426),
    ],
)
async def test_requests(request_: str, status: int) -> None:
    router = app()
    sockets = Router("/ws")
    router_of = Router("/")
    router_of.include(router)
    router_of.include(sockets)

    @sockets.consumer
    async def hear(message: str) -> None: ...

    async with serve(router_of, NO_FILE) as server:
        answer = await ask(server, request_)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    if status == 426:
        assert b"Upgrade: websocket" in answer
        assert b"Sec-WebSocket-Version: 13" in answer
    if request_.startswith("HEAD"):
        assert answer.endswith(b"\r\n\r\n")


async def test_a_version_that_nobody_speaks() -> None:
    async with serve(app(), NO_FILE) as server:
        answer = await ask(
            server,
            "GET /chat/a HTTP/1.1\nHost: localhost\nUpgrade: websocket\nConnection: Upgrade\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 8\n\n",
        )
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Sec-WebSocket-Version: 13\r\n" in answer


# -- when it takes long, or stops


async def test_a_page_that_does_not_answer_in_time(caplog: pytest.LogCaptureFixture) -> None:
    router = Router("/")

    @router.get("/slow")
    async def slow() -> None:
        await anyio.sleep_forever()

    async with serve(router, Settings(port=0, open_timeout=0.1)) as server:
        assert (await ask(server, "GET /slow HTTP/1.1\nHost: localhost\n\n")).startswith(
            b"HTTP/1.1 503 "
        )
    assert "is not done after 0.1 s (open_timeout)" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("over", [over_sockets, under_uvicorn], ids=["sockets", "uvicorn"])
@pytest.mark.parametrize("kind", ["/thread", "/swallows", "/raises"])
async def test_a_page_that_takes_no_cancellation(
    over: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is answered in time all the same, and counts until it has ended."""
    router, go, leave = Router("/"), anyio.Event(), threading.Event()

    @router.get("/thread")
    async def thread() -> None:
        await anyio.to_thread.run_sync(leave.wait, 20)

    @router.get("/swallows")
    async def swallows() -> str:
        with anyio.CancelScope(shield=True):
            await go.wait()
        return "late"

    @router.get("/raises")
    async def raises() -> str:
        with anyio.CancelScope(shield=True):
            await go.wait()
        raise ValueError("late")

    limits = Settings(port=0, open_timeout=0.1, max_connections=1)
    async with over(router, limits) as base, httpx2.AsyncClient(base_url=base) as client:
        assert (await client.get(kind)).status_code == 503
        assert f"get {kind[1:]} (" in caplog.text
        assert "is not done after 0.1 s (open_timeout)" in caplog.text
        assert (await client.get("/thread")).headers["Retry-After"] == "5"
        go.set()
        leave.set()
        headers: list[Any] = [{"Retry-After": ""}]
        while "Retry-After" in headers[-1]:
            headers.append((await client.get("/thread")).headers)
    assert caplog.text.count("is not done after") == 1
    assert ("ValueError: late" in caplog.text) == (kind == "/raises")


@pytest.mark.parametrize("over", [over_sockets, under_uvicorn], ids=["sockets", "uvicorn"])
async def test_a_page_that_fails_stops_nothing(
    over: Callable[[Router], AbstractAsyncContextManager[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it raises or returns: it is answered, and the app goes on."""
    router = Router("/")

    @router.get("/surrogate")
    async def surrogate() -> str:
        return "x\ud800"

    @router.get("/cancelled")
    async def cancelled() -> str:
        task = asyncio.create_task(asyncio.sleep(9))
        task.cancel()
        await task
        return "x"

    @router.get("/leaves")
    async def leaves() -> str:
        raise SystemExit(3)

    @router.get("/memory")
    async def memory() -> str:
        raise MemoryError

    @router.get("/unchanged")
    async def unchanged() -> str:
        raise Reject(304, "a 304 has no body", headers=[("ETag", '"x"')])

    altered = {
        "body": Reject(410),
        "status": Reject(410),
        "headers": Reject(410),
        "header": Reject(410),
    }
    altered["body"].body = 5  # type: ignore[assignment]
    altered["status"].status = 99
    altered["headers"].headers = 5  # type: ignore[assignment]
    altered["header"].headers = (("a", "b\r\nc"),)

    @router.get("/altered/{what}")
    async def raise_altered(what: str) -> str:
        raise altered[what]

    class Odd(Response):
        @property
        def data(self) -> bytes:
            raise ValueError("odd")

    @router.get("/odd")
    async def odd() -> Response:
        return Odd("x")

    @router.get("/cookies")
    async def cookies() -> str:
        raise Reject(401, headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])

    async with over(router) as base, httpx2.AsyncClient(base_url=base) as client:
        for path in ("/surrogate", "/cancelled", "/leaves", "/memory"):
            answer = await client.get(path)
            assert (answer.status_code, answer.text) == (500, "Internal Server Error\n")
            assert f"get {path[1:]} (" in caplog.text
            assert (await client.get("/readyz")).status_code == 200
        for number, path in enumerate([*(f"/altered/{what}" for what in altered), "/odd"], 1):
            answer = await client.get(path)
            assert (answer.status_code, answer.text) == (500, "Internal Server Error\n")
            assert caplog.text.count("altered (") + caplog.text.count("odd (") == number
        answer = await client.get("/unchanged")
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", '"x"')
        answer = await client.get("/cookies")
        assert answer.headers.get_list("Set-Cookie") == ["a=1", "b=2"]


async def test_an_exception_that_is_raised_again_and_again() -> None:
    """It collects no frames."""
    router, gone, broken = Router("/"), Reject(410), ValueError("broken")

    @router.get("/gone")
    async def raise_gone() -> None:
        raise gone

    @router.get("/broken")
    async def raise_broken() -> None:
        raise broken

    async with serve(router, NO_FILE) as server:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
            for _ in range(3):
                assert (await client.get("/gone")).status_code == 410
                assert (await client.get("/broken")).status_code == 500
                assert (gone.__traceback__, broken.__traceback__) == (None, None)


def slow_page() -> tuple[Router, anyio.Event, anyio.Event]:
    """An app with a page at ``/slow`` that says when it has begun, and waits until it may go on."""
    router, begun, go = Router("/"), anyio.Event(), anyio.Event()

    @router.get("/slow")
    async def slow() -> str:
        begun.set()
        await go.wait()
        return "done"

    return router, begun, go


async def test_pages_count_as_connections() -> None:
    """Of all, and of one client, as long as they are not answered."""
    for limits, status in (({"max_connections": 1}, 503), ({"max_connections_per_client": 1}, 429)):
        router, begun, go = slow_page()

        @router.consumer
        async def hear(message: str) -> None: ...

        async with (
            serve(router, Settings(port=0, **limits)) as server,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(ask, server, "GET /slow HTTP/1.1\nHost: localhost\n\n")
            await begun.wait()
            for target in ("/slow", "/"):
                upgrade = UPGRADE if target == "/" else ""
                text = f"GET {target} HTTP/1.1\nHost: localhost\n{upgrade}\n"
                answer = await ask(server, text)
                assert answer.startswith(f"HTTP/1.1 {status} ".encode())
                assert b"Retry-After: 5" in answer
            go.set()
        assert not server._app._admission._count
        assert not server._app._admission._clients


def asking(base: str, target: str, upgrade: str = "") -> socket.socket:
    """A peer with small buffers that has sent a request."""
    host, _, port = base.removeprefix("http://").partition(":")
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    peer.settimeout(20)
    peer.connect((host, int(port)))
    text = f"GET {target} HTTP/1.1\nHost: localhost\nConnection: close\n{upgrade}\n"
    peer.sendall(text.replace("\n", "\r\n").encode())
    return peer


def everything(peer: socket.socket) -> bytes:
    with peer:
        return b"".join(iter(lambda: peer.recv(1024 * 1024), b""))


@pytest.mark.parametrize("over", [over_sockets, under_uvicorn], ids=["sockets", "uvicorn"])
@pytest.mark.parametrize("leaves", [False, True], ids=["it reads", "it leaves"])
async def test_pages_count_until_they_are_sent(over: Any, leaves: bool) -> None:
    """Health does not count."""
    router, asked = Router("/"), anyio.Event()

    @router.get("/large")
    async def large() -> bytes:
        asked.set()
        return bytes(LARGE)

    limits = Settings(port=0, max_connections=1)
    async with over(router, limits) as base, httpx2.AsyncClient(base_url=base) as client:
        peer = await asyncio.to_thread(asking, base, "/large")
        await asked.wait()
        for _ in range(3):
            assert (await client.get("/large")).status_code == 503
            assert (await client.get("/healthz")).status_code == 200
        if leaves:
            peer.close()
        else:
            assert len(await asyncio.to_thread(everything, peer)) > LARGE
        statuses = {503}
        while 200 not in statuses:
            statuses.add((await client.get("/large")).status_code)
        assert statuses == {200, 503}


async def test_small_pages_one_after_the_other() -> None:
    """The next one is never too early, however quick who asks for it is."""
    async with serve(app(), Settings(port=0, max_connections_per_client=1)) as server:
        with contextlib.ExitStack() as lingering:
            for _ in range(50):
                peer = asking(f"http://127.0.0.1:{server.port}", "/chat/a")
                lingering.enter_context(peer)
                assert (await asyncio.to_thread(peer.recv, 1000))[9:12] == b"200"


UPGRADE = (
    "Upgrade: websocket\nConnection: Upgrade\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 13\n"
)


async def test_the_grace_period_of_pages(caplog: pytest.LogCaptureFixture) -> None:
    """Those that are not done then are answered with 503 and cancelled; one that swallows its
    cancellation holds up nobody."""
    router, begun = Router("/"), asyncio.Semaphore(0)
    never = anyio.Event()

    @router.get("/slow")
    async def slow() -> None:
        begun.release()
        await anyio.sleep_forever()

    @router.get("/stubborn")
    async def stubborn() -> None:
        begun.release()
        with anyio.CancelScope(shield=True):
            await never.wait()

    @router.get("/untidy")
    async def untidy() -> None:
        begun.release()
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("untidy")

    answers: list[bytes] = []
    async with anyio.create_task_group() as tasks:
        settings = Settings(port=0, grace=0.1, close_timeout=0.5)
        async with serve(router, settings) as server:

            async def get(target: str) -> None:
                answers.append(await ask(server, f"GET {target} HTTP/1.1\nHost: localhost\n\n"))

            for target in ("/slow", "/stubborn", "/untidy"):
                tasks.start_soon(get, target)
                await begun.acquire()
        assert server.overran
        assert [name.partition(" (")[0] for name in server.left_behind] == ["get stubborn"]
        never.set()
    assert [answer[9:12] for answer in answers] == [b"503"] * 3
    assert caplog.text.count("is cancelled: the grace period is over") == 3
    assert "ValueError: untidy" in caplog.text


async def test_a_page_that_goes_on_behind_its_answer() -> None:
    """It is left behind when the server stops, as one without an answer."""
    router, never = Router("/"), anyio.Event()

    @router.get("/stubborn")
    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await never.wait()

    settings = Settings(port=0, open_timeout=0.1, grace=0.1, close_timeout=0.1)
    async with serve(router, settings) as server:
        answer = await ask(server, "GET /stubborn HTTP/1.1\nHost: localhost\n\n")
        assert answer[9:12] == b"503"
    assert server.overran
    assert [name.partition(" (")[0] for name in server.left_behind] == ["get stubborn"]
    never.set()
    await anyio.wait_all_tasks_blocked()


# -- on the wire


async def test_half_a_close_is_answered(files: Path) -> None:
    """By who has nothing more to send: before, while and after it is decided."""
    router = app()

    @router.get("/large")
    async def large() -> bytes:
        await anyio.lowlevel.checkpoint()
        return bytes(LARGE)

    async with serve(router, Settings(port=0, static=files)) as server:
        for target in ("/page.css", "/chat/a", "/chat/a/large", "/none", "/healthz"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            writer.write_eof()
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 404 " if target == "/none" else b"HTTP/1.1 200 ")
            assert len(answer) > (LARGE if target.endswith("large") else 100)
            writer.close()


LARGE = 24 * 1024 * 1024


@pytest.mark.parametrize("anyio_backend", LOOPS.values(), ids=LOOPS, indirect=True)
async def test_a_page_that_is_taken_slowly(anyio_backend: object) -> None:
    """It comes as a whole, in many times ``close_timeout``; who takes nothing is cut off."""
    router = Router("/")

    @router.get("/large")
    async def large() -> bytes:
        return bytes(LARGE)

    settings = Settings(port=0, close_timeout=0.2, max_connections=1, max_handshakes=2)
    async with serve(router, settings) as server:
        for reads in (True, False):
            async with await anyio.connect_tcp("127.0.0.1", server.port) as client:
                await client.send(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
                got = 0
                with contextlib.suppress(anyio.EndOfStream):
                    while reads:
                        got += len(await client.receive(1024 * 1024))
                if reads:
                    assert got > LARGE  # with its head
                else:
                    await all_closed(server)
            await all_closed(server)


async def all_closed(server: Server) -> None:
    with anyio.fail_after(10):
        while server._transports._open:
            await anyio.sleep(0.001)


async def test_a_stop_while_a_page_is_taken() -> None:
    """Who is slow to take it has the grace period, and then ``close_timeout``."""
    router = Router("/")

    @router.get("/large")
    async def large() -> bytes:
        return bytes(LARGE)

    async with serve(router, Settings(port=0, close_timeout=0.2, grace=0.1)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=4096)
        writer.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()
    writer.close()


async def test_what_comes_behind_a_refusal_is_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A body of zeros is half a million frames."""
    monkeypatch.setattr(library, "Boundary", None)
    async with serve(app(), Settings(port=0)) as server:
        for target, status in (("/none", b"404"), ("/chat/a", b"405")):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            head = f"POST {target} HTTP/1.1\nHost: localhost\nContent-Length: 1000000\n\n"
            writer.write(head.replace("\n", "\r\n").encode() + bytes(1_000_000))
            async with asyncio.timeout(10):
                await writer.drain()
                assert (await reader.read())[9:12] == status
            writer.close()


async def test_a_page_while_the_app_stops() -> None:
    router, begun, go = slow_page()
    answers: list[bytes] = []
    async with anyio.create_task_group() as tasks:
        async with serve(router, Settings(port=0, drain_delay=5)) as server:

            async def get(target: str) -> None:
                answers.append(await ask(server, f"GET {target} HTTP/1.1\nHost: localhost\n\n"))

            tasks.start_soon(get, "/slow")
            await begun.wait()
            server.stop()
            await get("/readyz")
            await get("/healthz")
            server.stop(now=True)
            go.set()
    assert answers[0].endswith(b'{"ready":false,"reasons":["it stops"]}')
    assert answers[1].startswith(b"HTTP/1.1 200 ")
    assert answers[2].endswith(b"done")


async def test_a_page_of_an_app_that_has_ended() -> None:
    """A request that comes at the last moment is answered."""
    server = Server(wsflow.wiring.compile.compile_app(app()), NO_FILE)
    answered: list[int] = []

    class Exchange:
        def now(self) -> float:
            return 0.0

        def after(self, seconds: float, call: Any) -> Any: ...
        def answer(self, status: int, headers: Any, body: bytes, sent: Any = None) -> None:
            answered.append(status)

    server._app.pages.cut_short()
    headers = wsflow.testing.server.opening_headers({"Host": "localhost"})
    for target in ("/chat/a", "/file"):
        server._app.pages.files = Path.cwd()
        server._app.page("GET", Request.parse(target, headers), Exchange())
    await anyio.wait_all_tasks_blocked()
    assert answered == [503, 503]
    server._app.page("GET", Request.parse("/readyz", headers), Exchange())  # not started, too
    server._app._admission.closed = True
    server._app.page("GET", Request.parse("/chat/a", headers), Exchange())
    assert answered[2:] == [503, 503]


async def test_a_broker_that_is_away(server_of: Any) -> None:
    broker = server_of("valkey")
    async with serve(app(), Settings(port=0, broker=broker.url)) as server:
        ready = "GET /readyz HTTP/1.1\nHost: localhost\n\n"
        assert (await ask(server, ready)).startswith(b"HTTP/1.1 200 ")
        broker.kill()
        with anyio.fail_after(10):
            while not (answer := await ask(server, ready)).startswith(b"HTTP/1.1 503 "):
                await anyio.sleep(0.02)
        assert answer.endswith(b'{"ready":false,"reasons":["the broker is away"]}')
        assert (await ask(server, "GET /healthz HTTP/1.1\nHost: localhost\n\n"))[9:12] == b"200"


# -- files


@pytest.fixture
def files(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    (root / "sub").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / ".git").mkdir()
    for name in ("index.html", "a b.js", "x.tar.gz", "odd.unknown", "sub/index.html", ".env"):
        (root / name).write_text(name)
    (root / ".git" / "config").write_text("secret")
    (root / "page.css").write_text("é")
    (tmp_path / "outside.txt").write_text("secret")
    (root / "link.txt").symlink_to(tmp_path / "outside.txt")
    (root / "inner.txt").symlink_to(root / "a b.js")
    (root / "locked.txt").write_text("secret")
    os.chmod(root / "locked.txt", 0)
    return root


@pytest.mark.parametrize(
    ("target", "status", "kind", "body"),
    [
        ("/", 200, HTML, "index.html"),
        ("/index.html", 200, HTML, "index.html"),
        ("/a%20b.js", 200, "text/javascript; charset=utf-8", "a b.js"),
        ("/inner.txt", 200, "text/javascript; charset=utf-8", "a b.js"),
        ("/page.css", 200, "text/css; charset=utf-8", "é"),
        ("/x.tar.gz", 200, "application/octet-stream", "x.tar.gz"),
        ("/odd.unknown", 200, "application/octet-stream", "odd.unknown"),
        ("/sub/", 200, HTML, "sub/index.html"),
        ("/empty/", 404, TEXT, "Not Found\n"),
        ("/index.html/", 404, TEXT, "Not Found\n"),
        ("/index.html//", 404, TEXT, "Not Found\n"),
        ("/index%2Ehtml/", 404, TEXT, "Not Found\n"),
        ("/index.html%2F", 404, TEXT, "Not Found\n"),
        ("/index.html%2f%2F", 404, TEXT, "Not Found\n"),
        ("/sub%2Findex.html", 404, TEXT, "Not Found\n"),
        ("/sub%2F", 404, TEXT, "Not Found\n"),
        ("/sub//index.html", 200, HTML, "sub/index.html"),
        ("/s%75b/", 200, HTML, "sub/index.html"),
        ("/%2Eenv", 404, TEXT, "Not Found\n"),
        ("/index.html/x", 404, TEXT, "Not Found\n"),
        ("/none", 404, TEXT, "Not Found\n"),
        ("/.env", 404, TEXT, "Not Found\n"),
        ("/.git/config", 404, TEXT, "Not Found\n"),
        ("/%2e%2e/outside.txt", 404, TEXT, "Not Found\n"),
        ("/sub%2f..%2f..%2foutside.txt", 404, TEXT, "Not Found\n"),
        ("/sub/%2e%2e%5coutside.txt", 404, TEXT, "Not Found\n"),
        ("//etc/passwd", 404, TEXT, "Not Found\n"),
        ("/%00", 404, TEXT, "Not Found\n"),
        ("/%FF", 404, TEXT, "Not Found\n"),
        ("/link.txt", 404, TEXT, "Not Found\n"),
    ],
)
async def test_files(files: Path, target: str, status: int, kind: str, body: str) -> None:
    async with serve(app(), Settings(port=0, static=files)) as server:
        answer = await ask(server, f"GET {target} HTTP/1.1\nHost: localhost\n\n")
    head, _, content = answer.decode().partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert f"\r\nContent-Type: {kind}\r\n" in f"{head}\r\n"
    assert content == body


async def test_a_page_at_the_path_of_its_socket(files: Path) -> None:
    """As in ``new WebSocket(location.href)``: who asks for a page gets it, if there is one."""
    router = Router("/")

    @router.consumer
    async def hear(message: str) -> None: ...

    other = Router("/none")
    other.consumer(hear)
    app = Router("/")
    app.include(router)
    app.include(other)
    async with serve(app, Settings(port=0, static=files)) as server:
        for target, upgrade, status in (
            ("/", "", b"200"),
            ("/", UPGRADE, b"101"),
            ("/none", "", b"426"),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            text = f"GET {target} HTTP/1.1\nHost: localhost\n{upgrade}\n".replace("\n", "\r\n")
            writer.write(text.encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer[9:12] == status
            writer.close()


async def test_files_that_are_known(files: Path) -> None:
    async with serve(app(), Settings(port=0, static=files)) as server:
        base = f"http://127.0.0.1:{server.port}"
        async with httpx2.AsyncClient(base_url=base) as client:
            first = await client.get("/page.css")
            tag = first.headers["ETag"]
            for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
                answer = await client.get("/page.css", headers={"If-None-Match": known})
                assert (answer.status_code, answer.content) == (304, b"")
                assert answer.headers["ETag"] == tag
            answer = await client.get("/page.css", headers={"If-None-Match": '"x"'})
            assert answer.status_code == 200
            (files / "page.css").write_text("new")
            answer = await client.get("/page.css", headers={"If-None-Match": tag})
            assert (answer.status_code, answer.text) == (200, "new")
            assert (await client.get("/sub")).headers["Location"] == "/sub/"
            assert (await client.get("/chat/a")).text == "<h1>a of the database</h1>"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all files")
async def test_a_file_that_cannot_be_read(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serve(app(), Settings(port=0, static=files)) as server:
        assert (await ask(server, "GET /locked.txt HTTP/1.1\nHost: a\n\n"))[9:12] == b"404"
    assert "a file cannot be read" in caplog.text


async def test_a_file_that_goes_while_it_is_read(
    files: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: Path) -> bytes:
        raise PermissionError(13, "no")

    monkeypatch.setattr(Path, "read_bytes", fail)
    async with serve(app(), Settings(port=0, static=files)) as server:
        answer = await ask(server, "GET /page.css HTTP/1.1\nHost: localhost\n\n")
    assert answer[9:12] == b"404"
    assert "a file cannot be read" in caplog.text


async def test_files_that_are_none(
    files: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Links in a circle, what is hidden behind a link, what is too large: the server goes on."""
    monkeypatch.setattr(pages, "LARGEST", 20)
    (files / "circle").symlink_to("circle2")
    (files / "circle2").symlink_to("circle")
    (files / "visible").symlink_to(".git")
    (files / "large.txt").write_text("x" * 21)
    async with serve(app(), Settings(port=0, static=files)) as server:
        base = f"http://127.0.0.1:{server.port}"
        async with httpx2.AsyncClient(base_url=base) as client:
            for path, status in (
                ("/circle", 404),
                ("/circle/x", 404),
                ("/visible/config", 404),
                ("/visible", 404),
                ("/large.txt", 500),
                ("/page.css", 200),
            ):
                assert (await client.get(path)).status_code == status
                assert (await client.head(path)).status_code == status
            assert (await client.get("/sub?a=1&b=%26&a=2")).headers["Location"] == (
                "/sub/?a=1&a=2&b=%26"
            )
        answer = await ask(server, "GET //sub HTTP/1.1\nHost: localhost\n\n")
        assert b"\r\nLocation: /sub/\r\n" in answer
    assert "large.txt is larger than" in caplog.text


async def test_a_disk_that_hangs(
    files: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who asks for a file is answered, there are no more threads than before, and the server can
    stop. When the disk is there again, so are the files."""
    go, reading = threading.Event(), asyncio.Semaphore(0)
    loop, read = asyncio.get_running_loop(), Path.read_bytes

    def hang(path: Path) -> bytes:
        loop.call_soon_threadsafe(reading.release)
        go.wait(20)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", hang)
    async with serve(app(), Settings(port=0, static=files, open_timeout=0.5)) as server:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
            for _ in range(2):
                asked = [client.get("/page.css") for _ in range(pages.THREADS + 2)]
                answers = await asyncio.gather(*asked)
                assert {answer.status_code for answer in answers} == {503}
            assert "no file can be read: all 8 threads hang in that" in caplog.text
            for _ in range(pages.THREADS):
                await reading.acquire()
            assert reading.locked()
            assert (await client.get("/chat/a")).status_code == 200
            go.set()
            statuses = {503}
            while 200 not in statuses:
                statuses.add((await client.get("/page.css")).status_code)
            assert statuses == {200, 503}


async def test_a_process_whose_disk_hangs(files: Path, tmp_path: Path) -> None:
    """It ends all the same."""
    (tmp_path / "hung.py").write_text(
        "import pathlib, threading, wsflow\n"
        "pathlib.Path.read_bytes = lambda path: threading.Event().wait()\n"
        "app = wsflow.Router('/ws')\n"
        "@app.consumer\n"
        "async def hear(message: str) -> None: ...\n"
    )
    port = free_port()
    options = ("--port", str(port), "--static", str(files), "--open-timeout", "0.1")
    path = str(Path(__file__).parents[2])
    async with running(
        "hung:app", *options, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
    ) as run:
        await run.until("try it")
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert (await client.get("/page.css")).status_code == 503
        run.process.terminate()
        async with asyncio.timeout(20):
            assert await run.ended() == 0


def test_what_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"static is '.*none', which is no directory"):
        Settings(static=tmp_path / "none")


# -- responses


@pytest.mark.parametrize(
    ("arguments", "raised", "why"),
    [
        ({"body": 5}, TypeError, "the body of a Response is a int: use a str or bytes"),
        ({"status": 101}, ValueError, "101 is no status of an answer"),
        ({"status": "200"}, ValueError, "'200' is no status"),
        ({"headers": {"a b": "c"}}, ValueError, "the name of header"),
        ({"headers": {"a": "b\r\nc"}}, ValueError, "the value of header 'a'"),
        ({"content_type": "a\nb"}, ValueError, "the value of header 'Content-Type'"),
        ({"headers": {"Content-Length": "5"}}, ValueError, "Content-Length is not yours to set"),
        ({"headers": "a"}, TypeError, "headers is a str"),
        ({"body": "x", "status": 204}, ValueError, "an answer with 204 has no body"),
        ({"body": b"x", "status": 304}, ValueError, "an answer with 304 has no body"),
        ({"body": "\ud800"}, ValueError, "half of a surrogate pair"),
    ],
)
def test_what_no_response_can_be(arguments: Any, raised: Any, why: str) -> None:
    with pytest.raises(raised, match=why):
        Response(**arguments)


def test_a_response_is_a_value() -> None:
    assert Response("a") == Response("a", 200)
    assert json.loads(Response.of({"a": 1}).body) == {"a": 1}
    pairs = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    assert Response(headers=(each for each in pairs)).pairs == pairs
