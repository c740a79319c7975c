"""The console beside an app, which it must not change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import anyio
import httpx2
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.server.test_serve import quick
from wsflow import BrokerError, Registry, Router, Topic, TopicName
from wsflow.brokers.select import beside
from wsflow.console.front import Front
from wsflow.limits import Limits
from wsflow.runtime.app import App
from wsflow.server import Server, serve
from wsflow.wiring.compile import compile_app

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Say(msgspec.Struct, tag="say"):
    text: str


Anything = Annotated[Topic[Say], TopicName("{a}.{b}")]


def app_of() -> Router:
    app = Router("/{a}/{b}", topics=[Anything])

    @app.consumer
    async def say(message: Say, registry: Registry) -> None:
        await registry.broadcast(message)

    return app


def at(server: Server, path: str) -> Any:
    return connect(f"ws://localhost:{server.port}{path}")


async def told(socket: ClientConnection) -> Any:
    async with asyncio.timeout(10):
        return json.loads(await socket.recv())


async def test_the_app_does_not_know_of_it() -> None:
    """Not in its registry, its broadcasts, its topics, its limits and its metrics."""
    settings = quick(console="", max_connections=1, host="localhost")
    async with serve(app_of(), settings) as server, at(server, "/_wsflow/live") as console:
        assert (await told(console))["connections"] == {}
        async with at(server, "/a/b") as peer:
            assert len(server.registry) == 1
            await peer.send('{"type":"say","text":"hi"}')
            assert (await told(peer))["text"] == "hi"
            for _ in range(2):
                found = await told(console)
                assert found["type"] == "process"
            assert found["connections"] == {"/{a}/{b}": 1}
            assert found["counters"]["published"] == 1
        families = server._app.metrics.families()
        assert {
            name for each in families for name in each.values if "/_wsflow/live" in name
        } == set()
        assert server.registry.counters()["topics"] == 0


async def test_a_path_of_the_apps_own() -> None:
    app = Router("/_wsflow/live")

    @app.consumer
    async def echo(message: str) -> str:
        return message

    @app.get("/page")
    async def page() -> str:
        return "mine"

    async with serve(app, quick(console="", host="localhost")) as server:
        async with at(server, "/_wsflow/live") as peer:
            await peer.send("mine")
            assert await peer.recv() == "mine"
        async with httpx2.AsyncClient() as client:
            url = f"http://localhost:{server.port}/_wsflow"
            assert (await client.get(f"{url}/live/page")).text == "mine"
            assert (await client.get(url)).status_code == 200


async def test_types_without_a_schema(caplog: pytest.LogCaptureFixture) -> None:
    app = Router("/")

    class Raw(msgspec.Struct, tag="raw"):
        body: msgspec.Raw = msgspec.Raw(b"{}")

    @app.consumer
    async def take(message: Raw) -> None: ...

    async with serve(app, quick(console="", host="localhost")) as server:
        async with httpx2.AsyncClient() as client:
            answer = await client.get(f"http://localhost:{server.port}/_wsflow/")
        assert answer.status_code == 200
        async with at(server, "/_wsflow/live") as console:
            assert (await told(console))["type"] == "process"
    assert "the console has no forms" in caplog.text


async def fails(serve: Callable[[], Awaitable[None]]) -> None:
    raise BrokerError("denied")


async def fails_later(serve: Callable[[], Awaitable[None]]) -> None:
    await serve()
    raise BrokerError("denied")


@pytest.mark.parametrize("run", [fails, fails_later])
async def test_one_that_fails_stops_nothing(
    run: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(app_of(), quick(host="localhost")) as server:
        front = Front(server._app, "", Limits(), "memory://")
        monkeypatch.setattr(front._console, "run", run)
        calls: list[int] = []

        async def serving() -> None:
            calls.append(1)

        await front.run(serving)
        assert calls == [1]
        assert "the console has failed" in caplog.text


async def test_what_is_refused_before_there_is_a_path() -> None:
    settings = quick(console="", host="localhost", max_handshakes_per_client=1)
    async with serve(app_of(), settings) as server:
        reader, writer = await asyncio.open_connection("localhost", server.port)
        turned_away, other = await asyncio.open_connection("localhost", server.port)
        assert b" 429 " in await turned_away.readline()
        writer.write(b"nonsense\r\n\r\n")
        assert b" 400 " in await reader.readline()
        writer.close()
        other.close()
        assert server.registry.counters()["refused"] == 1


async def test_what_serving_raises() -> None:
    app = App(compile_app(app_of()), Limits())
    front = Front(app, "", Limits(), "memory://")

    async def serving() -> None:
        raise ValueError("of the app")

    with anyio.fail_after(10), pytest.raises(ValueError, match="of the app"):
        await front.run(serving)


async def test_one_that_is_stopped_before_it_begins() -> None:
    front = Front(App(compile_app(app_of()), Limits()), "", Limits(), "memory://")
    front.stop()
    calls: list[int] = []

    async def serving() -> None:
        calls.append(1)

    with anyio.fail_after(10):
        await front.run(serving)
    assert calls == [1]


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("memory://", "memory://"),
        ("mine://host?prefix=a", "mine://host?prefix=a"),
        ("workers://:8000", "workers://:8000"),
        ("tls://host", "tls://host?prefix=wsflow_console"),
        ("redis+sentinel://a,b/main", "redis+sentinel://a,b/main?prefix=wsflow_console"),
        ("nats://u:p@host", "nats://u:p@host?prefix=wsflow_console"),
        (
            "redis://host/1?prefix=shop&ssl_ca_certs=%2Fx",
            "redis://host/1?ssl_ca_certs=%2Fx&prefix=shop_console",
        ),
    ],
)
def test_the_url_of_the_broker(url: str, other: str) -> None:
    assert beside(url, "_console") == other
