"""A Router as an ASGI application: inside the frameworks of others, and under their servers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Annotated, Any
from urllib.parse import unquote

import anyio
import httpx2
import msgspec
import pytest
import uvicorn
from anyio.abc import TaskGroup
from channels.routing import ProtocolTypeRouter
from django.conf import settings as django_settings
from django.core.asgi import get_asgi_application
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from hypercorn.middleware import DispatcherMiddleware
from litestar import Litestar
from litestar import asgi as litestar_asgi
from quart import Quart
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import WebSocketDenialResponse
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import wsflow
from tests.conformance.asgi_wires import SERVERS, taken_over
from tests.processes import free_port
from tests.runtime.test_pages import slow_page
from wsflow import BrokerError, Connection, End, Limits, Request, Router, Topic
from wsflow.hosting import asgi as asgi_hosting
from wsflow.hosting import uvicorn as hosting
from wsflow.server import Settings


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Said(msgspec.Struct, tag="said"):
    text: str


class Where(msgspec.Struct, tag="where"):
    pass


WHERE = '{"type":"where"}'
Room = Annotated[Topic[Said], "room.{room}"]


def chat(log: list[str] | None = None, path: str = "/chat/{room}") -> Router:
    log = [] if log is None else log
    router = Router(path)

    @router.lifespan
    async def life() -> AsyncIterator[None]:
        log.append("up")
        yield
        log.append("down")

    @router.on_connect
    async def enter(room: Room) -> None:
        await room.join()

    @router.consumer
    async def say(message: Said, room: Room) -> None:
        await room.publish(message)

    @router.consumer
    async def where(message: Where, request: Request) -> list[Any]:
        host = request.client.host if request.client else ""
        return [request.path, dict(request.path_params), dict(request.query), host]

    return router


# -- where it is mounted


def alone(sockets: wsflow.AsgiApp) -> Any:
    return sockets


def in_fastapi(sockets: wsflow.AsgiApp) -> Any:
    app = FastAPI()
    sockets.mount(app, "/in/ws")
    return app


def in_starlette(sockets: wsflow.AsgiApp) -> Any:
    return Starlette(routes=[Mount("/in/ws", sockets)], lifespan=sockets.lifespan)


def twice_mounted(sockets: wsflow.AsgiApp) -> Any:
    inner = Starlette(routes=[Mount("/ws", sockets)])
    return Starlette(routes=[Mount("/in", inner)], lifespan=sockets.lifespan)


def in_litestar(sockets: wsflow.AsgiApp) -> Any:
    @litestar_asgi("/in/ws", is_mount=True, copy_scope=True)
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await sockets(scope, receive, send)

    return Litestar(
        [mounted], lifespan=[sockets.lifespan], openapi_config=None, logging_config=None
    )


def beside_quart(sockets: wsflow.AsgiApp) -> Any:
    return DispatcherMiddleware({"/in/ws": sockets, "": Quart("app")})


def beside_django(sockets: wsflow.AsgiApp) -> Any:
    if not django_settings.configured:
        django_settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="x", ALLOWED_HOSTS=["*"])
    http = get_asgi_application()
    return ProtocolTypeRouter({"http": http, "websocket": sockets, "lifespan": sockets})


def without_lifespan(sockets: wsflow.AsgiApp, *kinds: str) -> Any:
    return ProtocolTypeRouter(dict.fromkeys(("websocket", *kinds), sockets))


urlpatterns: list[Any] = []  # of Django

PLACES: dict[str, tuple[Callable[[wsflow.AsgiApp], Any], str]] = {
    "alone": (alone, ""),
    "fastapi": (in_fastapi, "/in/ws"),
    "starlette": (in_starlette, "/in/ws"),
    "mounted twice": (twice_mounted, "/in/ws"),
    "litestar": (in_litestar, "/in/ws"),
    "quart": (beside_quart, "/in/ws"),
    "django": (beside_django, ""),
    "no lifespan": (without_lifespan, ""),
}


@asynccontextmanager
async def served(app: Any, server: Any = "uvicorn") -> AsyncIterator[str]:
    """Serve an ASGI application. Gives the beginning of its URIs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with SERVERS.get(server, server)(app, listener):
            yield f"127.0.0.1:{port}"


@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")  # granian's own
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("place", PLACES)
async def test_the_place_where_it_is_mounted(place: str, server: str) -> None:
    log: list[str] = []
    mount, prefix = PLACES[place]
    sockets = wsflow.asgi(chat(log))
    async with served(mount(sockets), server) as host:
        async with connect(f"ws://{host}{prefix}/chat/a%2Fb?x=1&y=%C3%A9") as socket:
            await socket.send(WHERE)
            path, params, query, client = json.loads(await socket.recv())
            assert (path, params) == ("/chat/a%2Fb", {"room": "a/b"})
            assert (query, client) == ({"x": "1", "y": "é"}, "127.0.0.1")
            await sockets.registry.topic("room.{room}", Said, **params).publish(Said("hi"))
            assert json.loads(await socket.recv()) == {"type": "said", "text": "hi"}
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{host}{prefix}/nowhere")
        assert refused.value.response.status_code == 404
        assert log == ["up"]
        await sockets.stop()
    assert log == ["up", "down"]


def scope_of(path: str, root: str = "", raw: str | None = None, **more: Any) -> dict[str, Any]:
    """The scope of a connection, as a server makes it."""
    return {
        "type": "websocket",
        "path": path,
        "root_path": root,
        "raw_path": raw.encode("latin-1") if raw is not None else None,
        "query_string": b"",
        "headers": [(b"host", b"testserver")],
        "client": None,
        **more,
    }


@pytest.mark.parametrize(
    ("scope", "mounted_at", "target"),
    [
        (scope_of("/a"), "", "/a?"),
        (scope_of("/a", query_string=b"x=%20&y"), "", "/a?x=%20&y"),
        (scope_of("/a b/é"), "", "/a%20b/%C3%A9?"),
        (scope_of("/a/b", raw="/a%2Fb"), "", "/a%2Fb?"),
        (scope_of("/a/b", raw="/a%2Fb?x=1", query_string=b"x=1"), "", "/a%2Fb?x=1"),
        (scope_of("/ws/a", "/ws", "/ws/a"), "", "/a?"),
        (scope_of("/ws/a", "/ws/", "/ws/a"), "", "/a?"),
        (scope_of("/ws", "/ws", "/ws"), "", "/?"),
        (scope_of("/ws/", "/ws", "/ws/"), "", "/?"),
        (scope_of("/wsx/a", "/ws", "/wsx/a"), "", "/wsx/a?"),  # of a server that cuts it off
        (scope_of("/a", "/ws", "/ws/a"), "", "/a?"),
        (scope_of("/a/b/", "", "/ws/a%2Fb"), "", "/a%2Fb?"),
        (scope_of("/a b/c", "/a b", "/a%20b/c"), "", "/c?"),
        (scope_of("/a/b/c", "/a/b", "/a%2Fb/c"), "", "/c?"),
        (scope_of("/rewritten", "", "/sent"), "", "/rewritten?"),
        (scope_of("/b", "", "/a%2Fb"), "", "/b?"),
        (scope_of("/b/c", "/x", "/a%2Fb/c"), "", "/b/c?"),
        (scope_of("/t/x/a", "/t/x", "/t/x/a"), "/t/{tenant}", "/t/x/a?"),
        (scope_of("/api/t/x/a", "/api/t/x", "/api/t/x/a"), "/t/{tenant}", "/t/x/a?"),
        (scope_of("/a", "/t/x y", "/t/x%20y/a"), "/t/{tenant}", "/t/x%20y/a?"),
        (scope_of("/t/x/a", "", "/t/x/a"), "/t/{tenant}", "/t/x/a?"),
    ],
)
def test_the_target_of_a_scope(scope: dict[str, Any], mounted_at: str, target: str) -> None:
    router = Router("/{a}")

    @router.consumer
    async def hear(message: str) -> None: ...

    assert wsflow.asgi(router, mounted_at=mounted_at)._target(scope) == target


async def test_parameters_of_the_place() -> None:
    router = Router("/chat")

    @router.consumer
    async def hear(message: str, tenant: int) -> str:
        return f"{message} {tenant + 1}"

    sockets = wsflow.asgi(router, mounted_at="/t/{tenant}/")
    app = FastAPI()
    sockets.mount(app)
    with TestClient(app) as client:
        with client.websocket_connect("/t/41/chat") as socket:
            socket.send_text("hi")
            assert socket.receive_text() == "hi 42"
        with pytest.raises(WebSocketDenialResponse), client.websocket_connect("/t/x/chat"):
            pass
    with pytest.raises(ValueError, match="it is mounted at '/other', and mounted_at is '/t/"):
        sockets.mount(FastAPI(), "/other")
    sockets.mount(FastAPI(), "/t/{tenant}")


# -- beside the outer app


def test_a_request_reaches_the_sockets() -> None:
    app, log = FastAPI(), list[str]()
    sockets = wsflow.asgi(chat(log))
    sockets.mount(app, "/ws")

    @app.post("/say/{room}")
    async def post(room: str, text: str) -> int:
        await sockets.registry.topic("room.{room}", Said, room=room).publish(Said(text))
        return len(sockets.registry)

    @app.post("/in-a-thread")
    def in_a_thread() -> str:
        with pytest.raises(
            RuntimeError, match=r"publish with wsflow\.blocking_publisher"
        ) as raised:
            sockets.registry.topic("x")
        return str(raised.value)

    with TestClient(app) as client:
        with client.websocket_connect("/ws/chat/lobby") as socket:
            socket.send_json({"type": "said", "text": "hi"})
            assert socket.receive_json() == {"type": "said", "text": "hi"}
            assert client.post("/say/lobby?text=posted").json() == 1
            assert socket.receive_json() == {"type": "said", "text": "posted"}
        assert "wsflow.blocking_publisher" in client.post("/in-a-thread").json()
        assert log == ["up"]
    assert log == ["up", "down"]


def test_a_client_of_tests_that_runs_no_lifespan() -> None:
    """Each call of such a client has an event loop of its own, and a running app on that."""
    app, log = FastAPI(), list[str]()
    sockets = wsflow.asgi(chat(log))
    sockets.mount(app, "/ws")

    @app.post("/say")
    async def post() -> None:
        sockets.registry.topic("x")

    client = TestClient(app)
    for _ in range(2):
        with client.websocket_connect("/ws/chat/lobby") as socket:
            socket.send_json({"type": "said", "text": "hi"})
            assert socket.receive_json() == {"type": "said", "text": "hi"}
    assert log == ["up", "down"] * 2
    with pytest.raises(RuntimeError, match="the app does not run on this event loop"):
        client.post("/say")


def test_the_order_of_lifespans() -> None:
    log: list[str] = []

    @asynccontextmanager
    async def around(app: FastAPI) -> AsyncIterator[dict[str, int]]:
        log.append("outer up")
        yield {"answer": 42}
        log.append("outer down")

    app = FastAPI(lifespan=around)
    wsflow.asgi(chat(log)).mount(app, "/ws")
    with TestClient(app) as client:
        assert client.app_state == {"answer": 42}
    assert log == ["outer up", "up", "down", "outer down"]


async def test_what_cannot_be_mounted_in() -> None:
    sockets = wsflow.asgi(chat())
    with pytest.raises(TypeError, match="takes a Starlette or FastAPI app, and not Quart: mount"):
        sockets.mount(Quart("app"), "/ws")


@pytest.mark.parametrize("server", SERVERS)
async def test_a_request_that_is_none_for_a_web_socket(server: str) -> None:
    async with served(wsflow.asgi(chat()), server) as host, httpx2.AsyncClient() as client:
        for method in ("GET", "HEAD", "POST"):
            answer = await client.request(method, f"http://{host}/chat/a", content=b"body")
            assert (answer.status_code, answer.headers["Upgrade"]) == (426, "websocket")
        assert answer.text.startswith("this is a WebSocket")
        assert (await client.get(f"http://{host}/")).status_code == 404
        assert (await client.get(f"http://{host}/?x=%FF")).status_code == 400
        assert (await client.get(f"http://{host}/readyz")).json() == {"ready": True, "reasons": []}


# -- when it does not start, or stops


def failing(*errors: Exception) -> Router:
    router, left = Router("/"), list(errors)

    @router.lifespan
    async def life() -> None:
        if left:
            raise left.pop(0)

    @router.consumer
    async def hear(message: str) -> str:
        return message

    return router


def test_an_app_that_does_not_start() -> None:
    app = FastAPI()
    wsflow.asgi(failing(RuntimeError("no database"))).mount(app, "/ws")
    with pytest.raises(RuntimeError, match="no database"), TestClient(app):
        pass


async def lifespan_of(app: Any) -> list[dict[str, Any]]:
    """What an application says to a server's lifespan events."""
    events, said = [{"type": f"lifespan.{name}"} for name in ("shutdown", "startup")], list[Any]()

    async def receive() -> Any:
        return events.pop()

    async def send(event: Any) -> None:
        said.append(event)

    await app({"type": "lifespan"}, receive, send)
    return said


async def test_the_lifespan_of_a_server(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    assert await lifespan_of(wsflow.asgi(chat(log))) == [
        {"type": "lifespan.startup.complete"},
        {"type": "lifespan.shutdown.complete"},
    ]
    assert log == ["up", "down"]
    assert await lifespan_of(wsflow.asgi(failing(RuntimeError("no database")))) == [
        {"type": "lifespan.startup.failed", "message": "no database"}
    ]
    assert "the app failed at its startup" in caplog.text


async def test_an_app_that_does_not_start_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is started with the first connection, and again with the next one."""
    sockets = wsflow.asgi(failing(RuntimeError("no database")))
    async with served(without_lifespan(sockets)) as host:
        async with anyio.create_task_group() as tasks:

            async def is_refused() -> None:
                with pytest.raises(InvalidStatus) as refused:
                    await connect(f"ws://{host}/")
                answer = refused.value.response
                assert (answer.status_code, answer.body) == (503, b"Service Unavailable\n")
                assert answer.headers["Retry-After"] == "5"

            for _ in range(3):
                tasks.start_soon(is_refused)
        assert caplog.text.count("the app cannot be started") == 1
        with pytest.raises(InvalidStatus):  # at once: not yet
            await connect(f"ws://{host}/")
        monkeypatch.setattr(asgi_hosting, "AGAIN", 0)
        async with connect(f"ws://{host}/") as socket:
            await socket.send("hi")
            assert await socket.recv() == "hi"
        await sockets.stop()
        await sockets.stop()


async def test_an_app_that_fails_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asgi_hosting, "AGAIN", 0)
    router, fail = Router("/"), anyio.Event()

    @router.lifespan
    async def life(tasks: TaskGroup) -> None:
        async def job() -> None:
            await fail.wait()
            raise RuntimeError("the job is broken")

        tasks.start_soon(job)

    @router.consumer
    async def hear(message: str) -> str:
        return message

    sockets = wsflow.asgi(router)
    async with served(sockets) as host:
        async with connect(f"ws://{host}/") as socket:
            fail.set()
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
        assert "the app has stopped; it is started again when a connection comes" in caplog.text
        with pytest.raises(RuntimeError, match="the app has failed, as the log says"):
            sockets.registry.counters()
        fail = anyio.Event()
        async with connect(f"ws://{host}/") as socket:
            await socket.send("hi")
            assert await socket.recv() == "hi"


@pytest.mark.parametrize("restart", [False, True])
async def test_what_was_accepted_is_answered_before_it_stops(restart: bool) -> None:
    router, begun, go = Router("/"), anyio.Event(), anyio.Event()

    @router.consumer
    async def hear(message: str) -> str:
        begun.set()
        await go.wait()
        return message

    sockets = wsflow.asgi(router)
    async with served(sockets) as host, connect(f"ws://{host}/") as socket:
        await socket.send("hi")
        await begun.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: sockets.stop(restart=restart))
            await anyio.sleep(0.01)
            go.set()
            assert await socket.recv() == "hi"
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == (1012 if restart else 1001)


# -- what it is not


@pytest.mark.parametrize(
    ("arguments", "raised", "why"),
    [
        ({"router": FastAPI()}, TypeError, "the app is a FastAPI: pass a Router"),
        ({"limits": {}}, TypeError, "limits is a dict: pass a Limits"),
        ({"broker": "amqp://x"}, ValueError, "amqp"),
        ({"router": Router("/x")}, wsflow.DeclarationError, "It serves no path"),
    ],
)
async def test_wrong_arguments(arguments: Any, raised: Any, why: str) -> None:
    with pytest.raises(raised, match=why):
        wsflow.asgi(**{"router": chat(), **arguments})


async def test_a_broker_that_is_not_there() -> None:
    sockets = wsflow.asgi(
        chat(), Limits(publish_timeout=0.1), broker=f"redis://127.0.0.1:{free_port()}"
    )
    with pytest.raises(BrokerError, match="cannot be reached"):
        await sockets.start()


async def test_a_router_is_no_asgi_application() -> None:
    with pytest.raises(TypeError, match=r"is no ASGI application: write app = wsflow\.asgi"):
        await lifespan_of(chat())
    app = FastAPI()
    app.mount("/ws", chat())
    with pytest.raises(TypeError, match=r"write app = wsflow\.asgi\(router\)"):
        with TestClient(app).websocket_connect("/ws/chat/a"):
            pass


async def test_an_unknown_scope() -> None:
    called: Any = wsflow.asgi(chat())
    with pytest.raises(ValueError, match="knows no ASGI scope of the type 'telegram'"):
        await called({"type": "telegram"}, None, None)


async def test_a_request_that_cannot_be_read() -> None:
    async with served(wsflow.asgi(chat())) as host:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{host}/chat/a?x=%FF")
        assert refused.value.response.status_code == 400


async def test_a_server_that_tells_little() -> None:
    """No header for the subprotocols, no extension for answers, no address of the client."""
    router = Router("/", subprotocols=("chat",))

    @router.consumer
    async def hear(message: str, request: Request, connection: Connection) -> str:
        return f"{request.client} {connection.subprotocol}"

    sockets = wsflow.asgi(router)
    said: list[Any] = []
    for path in ("/", "/nowhere"):
        events: asyncio.Queue[Any] = asyncio.Queue()
        for event in (
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "text": "hi"},
        ):
            events.put_nowait(event)

        async def send(event: Any, events: asyncio.Queue[Any] = events) -> None:
            said.append(event)
            if event["type"] == "websocket.send":
                events.put_nowait({"type": "websocket.disconnect", "code": 1000})

        await sockets(scope_of(path, subprotocols=["x", "chat"]), events.get, send)
    assert said == [
        {"type": "websocket.accept", "subprotocol": "chat", "headers": []},
        {"type": "websocket.send", "text": "None chat"},
        {"type": "websocket.close"},
    ]
    await sockets.stop()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_is_told(anyio_backend: str) -> None:
    with pytest.raises(RuntimeError, match=r"wsflow\.asgi is for asyncio, and this is Trio"):
        await wsflow.asgi(chat()).start()


# -- uvicorn with wsflow's protocol


async def test_a_version_of_uvicorn_that_nobody_has_tested(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hosting, "_VERSION", (1, 0))
    sockets = wsflow.asgi(chat())
    async with served(sockets, taken_over) as host:
        for _ in range(2):
            async with connect(f"ws://{host}/chat/a") as socket:
                await socket.send('{"type":"said","text":"hi"}')
                assert json.loads(await socket.recv()) == {"type": "said", "text": "hi"}
    lines = [each for each in caplog.messages if "was tested with uvicorn 0.40 to 0.54" in each]
    assert len(lines) == 1


@pytest.mark.parametrize("place", PLACES)
async def test_a_place_where_sockets_are_taken_over(place: str) -> None:
    mount, prefix = PLACES[place]
    sockets = wsflow.asgi(chat())
    async with served(mount(sockets), taken_over) as host:
        async with connect(f"ws://{host}{prefix}/chat/a%2Fb?x=1") as socket:
            await socket.send(WHERE)
            assert json.loads(await socket.recv()) == [
                "/chat/a%2Fb",
                {"room": "a/b"},
                {"x": "1"},
                "127.0.0.1",
            ]
            assert len(sockets.registry) == 1
        for target, status in (("/nowhere", 404), ("/chat/a?x=%FF", 400)):
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{host}{prefix}{target}")
            assert refused.value.response.status_code == status
        await sockets.stop()


async def test_an_app_that_cannot_take_over(caplog: pytest.LogCaptureFixture) -> None:
    sockets = wsflow.asgi(failing(RuntimeError("no database")))
    async with served(without_lifespan(sockets), taken_over) as host:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{host}/")
        assert refused.value.response.status_code == 503
        with pytest.raises(RuntimeError, match="no database"):
            await sockets.stop()


async def test_a_peer_that_has_left_before_it_is_taken_over() -> None:
    router, begun, go = Router("/"), anyio.Event(), anyio.Event()

    @router.lifespan
    async def life() -> None:
        begun.set()
        await go.wait()

    @router.consumer
    async def hear(message: str) -> str:
        return message

    sockets = wsflow.asgi(router)
    async with served(without_lifespan(sockets), taken_over) as host:
        async with anyio.create_task_group() as tasks:

            async def leave() -> None:
                await connect(f"ws://{host}/")

            tasks.start_soon(leave)
            await begun.wait()
            tasks.cancel_scope.cancel()
        await anyio.sleep(0.05)
        go.set()
        async with connect(f"ws://{host}/") as socket:
            await socket.send("hi")
            assert await socket.recv() == "hi"
            assert len(sockets.registry) == 1
        await sockets.stop()


async def test_uvicorn_stops_and_waits_no_longer() -> None:
    """Its own limit is shorter than the grace period of the app."""
    router, begun, ends = Router("/"), anyio.Event(), list[Any]()

    @router.on_disconnect
    async def note(end: End) -> None:
        ends.append(end)

    @router.consumer
    async def hear(message: str) -> None:
        begun.set()
        await anyio.sleep_forever()

    sockets = wsflow.asgi(router, Limits(close_timeout=0.1))
    async with served(sockets, taken_over) as host:
        socket = await connect(f"ws://{host}/")
        await socket.send("hi")
        await begun.wait()
    with pytest.raises(ConnectionClosed):
        await socket.recv()
    assert [each.cause for each in ends] == ["vanished"]


async def test_uvicorn_stops_while_a_refused_peer_lingers() -> None:
    app = FastAPI()

    @app.websocket("/own")
    async def own(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive_text()

    wsflow.asgi(chat(), Limits(close_timeout=0.1)).mount(app, "/ws")
    async with served(app, taken_over) as host:
        reader, writer = await asyncio.open_connection(*host.split(":"))
        lines = "GET /ws/nowhere HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: Upgrade"
        key = "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        writer.write("\r\n".join([*lines, *key, "", ""]).encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 404")
        other = await connect(f"ws://{host}/own")
    with pytest.raises(ConnectionClosed) as closed:
        await other.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    writer.close()


def test_limits_of_sockets() -> None:
    config = uvicorn.Config(chat(), ws_ping_interval=3, ws_ping_timeout=None)
    limits = hosting.socket_limits(Limits(max_message_size=5), config)
    assert (limits.max_message_size, limits.ping_interval, limits.ping_timeout) == (5, 3, 20)
    own = Settings(ping_interval=7)
    assert hosting.socket_limits(own, config) is own


# -- what an attacker and a hurried program do


def test_a_path_is_read_once_however_long_it_is() -> None:
    """Each segment is looked at once: a request must not hold up all others."""
    router = Router("/{a}")

    @router.consumer
    async def hear(message: str) -> None: ...

    sockets = wsflow.asgi(router)
    looked = Counter[str]()

    def count(text: str) -> str:
        looked["characters"] += len(text)
        return unquote(text)

    many = "/%41" * 10_000
    for scope in (
        scope_of(unquote(f"/ws%2Fc{many}"), "/ws", f"/ws%2Fc{many}"),
        scope_of("/nope", "", many),
        scope_of(f"/x{unquote(many)}", "", many),
        scope_of(unquote(many), "/ws", f"/ws{many}//x"),
    ):
        looked.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asgi_hosting, "unquote", count)
            sockets._target(scope)
        assert looked["characters"] < 8 * 40_000


user: ContextVar[str] = ContextVar("user", default="nobody")


async def test_context_variables_of_one_connection_are_not_those_of_the_next() -> None:
    router = Router("/")

    @router.lifespan
    async def life() -> None: ...

    @router.consumer
    async def hear(message: str) -> str:
        return user.get()

    sockets = wsflow.asgi(router)

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            user.set(scope["query_string"].decode())
            await sockets(scope, receive, send)

    async with served(middleware) as host:
        for name in ("alice", "bob"):
            async with connect(f"ws://{host}/?{name}") as socket:
                await socket.send("who am I?")
                assert await socket.recv() == "nobody"
        await sockets.stop()


def slow(begun: anyio.Event, log: list[str], registry: Any = None) -> Router:
    """An app with a consumer that takes a while, and a lifespan."""
    router = Router("/")

    @router.lifespan
    async def life() -> AsyncIterator[None]:
        log.append("up")
        yield
        log.append("down")

    @router.consumer
    async def hear(message: str) -> str:
        begun.set()
        await anyio.sleep(float(message))
        return f"{len(registry())}" if registry is not None else "done"

    return router


async def test_stopping_is_one_for_all_who_ask_for_it() -> None:
    begun, log = anyio.Event(), list[str]()
    sockets = wsflow.asgi(slow(begun, log, lambda: sockets.registry))
    async with served(without_lifespan(sockets)) as host, connect(f"ws://{host}/") as socket:
        await socket.send("0.2")
        await begun.wait()
        async with anyio.create_task_group() as tasks:
            for _ in range(3):

                async def stop() -> None:
                    await sockets.stop()
                    assert log == ["up", "down"]

                tasks.start_soon(stop)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{host}/")
            assert refused.value.response.status_code == 503
            assert await socket.recv() == "1"  # the registry is there as long as handlers run
        with pytest.raises(InvalidStatus) as refused:  # nobody has started it again
            await connect(f"ws://{host}/")
        assert refused.value.response.status_code == 503
        await sockets.start()
        async with connect(f"ws://{host}/") as again:
            await again.send("0")
            assert await again.recv() == "1"
        await sockets.stop()
    assert log == ["up", "down"] * 2
    assert not sockets._running


async def test_stopping_that_is_cancelled_still_ends() -> None:
    begun, log = anyio.Event(), list[str]()
    sockets = wsflow.asgi(slow(begun, log), Limits(close_timeout=0.1))
    async with served(without_lifespan(sockets)) as host, connect(f"ws://{host}/") as socket:
        await socket.send("60")
        await begun.wait()
        with anyio.move_on_after(0.05):
            await sockets.stop()
        assert log == ["up", "down"]


async def test_stopping_while_it_starts() -> None:
    router, begun = Router("/"), anyio.Event()

    @router.lifespan
    async def life() -> None:
        begun.set()
        await anyio.sleep_forever()

    @router.consumer
    async def hear(message: str) -> None: ...

    sockets = wsflow.asgi(router)
    for _ in range(2):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sockets.start)
            await begun.wait()
            await sockets.stop()
        with anyio.move_on_after(0.01):
            async with sockets.lifespan():
                raise AssertionError
        assert not sockets._running


async def test_connections_wait_for_a_start_no_longer_than_they_may() -> None:
    router = Router("/")

    @router.lifespan
    async def life() -> None:
        await anyio.sleep_forever()

    @router.consumer
    async def hear(message: str) -> None: ...

    sockets = wsflow.asgi(router, Limits(open_timeout=0.05))
    async with served(without_lifespan(sockets)) as host:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{host}/")
        assert refused.value.response.status_code == 503
        await sockets.stop()


def test_event_loops_are_let_go() -> None:
    sockets = wsflow.asgi(chat())
    for _ in range(3):
        asyncio.run(sockets.start())
    assert len(sockets._running) == 1


async def test_pages_of_an_app_that_does_not_run() -> None:
    sockets = wsflow.asgi(failing(RuntimeError("no database")))
    async with served(without_lifespan(sockets, "http")) as host, httpx2.AsyncClient() as client:
        answer = await client.get(f"http://{host}/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


async def test_a_page_that_nobody_waits_for() -> None:
    """Nor is it counted any more, once it has ended or could not be sent."""
    router, begun, go = slow_page()
    sockets: Any = wsflow.asgi(router, Limits(max_connections=1))
    scope = scope_of("/slow", type="http", method="GET")
    call = asyncio.create_task(sockets(scope, None, None))
    await begun.wait()
    call.cancel()
    await asyncio.wait([call])
    (running,) = sockets._running.values()
    assert running.app._admission._count == 1
    go.set()
    while running.app._admission._count:
        await asyncio.sleep(0)

    async def send(event: Any) -> None:
        raise OSError("the client has left")

    with pytest.raises(OSError, match="has left"):
        await sockets(scope, None, send)
    while running.app._admission._count:
        await asyncio.sleep(0)
    await sockets.stop()


async def test_what_a_server_can_do() -> None:
    sockets: Any = wsflow.asgi(chat())
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    for method, status in (("OPTIONS", 204), ("GET", 400)):
        await sockets(scope_of("*", raw="*", type="http", method=method), None, send)
        assert sent[-2]["status"] == status
    assert (b"allow", b"GET, HEAD, OPTIONS") in sent[0]["headers"]
    await sockets.stop()


async def test_a_large_answer_comes_in_pieces() -> None:
    """A server waits between them."""
    router, size = Router("/"), 150_000

    @router.get("/large")
    async def large() -> bytes:
        return bytes(size)

    sockets: Any = wsflow.asgi(router)
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    await sockets(scope_of("/large", type="http", method="GET"), None, send)
    assert [len(event["body"]) for event in sent[1:]] == [65536, 65536, size - 131072, 0]
    assert [event.get("more_body", False) for event in sent[1:]] == [True, True, True, False]
    await sockets.stop()
