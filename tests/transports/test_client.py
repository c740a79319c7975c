"""The client's end of the wire, where ``wsflow.connect`` alone does not lead to."""

from __future__ import annotations

import email.utils
import ssl
import time
from typing import Annotated, Any

import anyio
import msgspec
import pytest
from websockets.exceptions import InvalidProxyStatus
from websockets.http11 import Response

import wsflow
from wsflow import Disconnected, Header, Registry, Router, Topic, run_client
from wsflow.client.connecting import Peer
from wsflow.server import Settings
from wsflow.server.serve import serve
from wsflow.tasks.loops import event_loop
from wsflow.transports.base import Nobody
from wsflow.transports.client import Dialler, Target
from wsflow.transports.connect_errors import connect_error, retry_after
from wsflow.transports.shared import Shared


class Say(msgspec.Struct, tag="say"):
    text: str


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def silent() -> Router:
    """An app that answers nothing."""
    router = Router()

    @router.consumer
    async def nothing(message: Say) -> None: ...

    return router


def wire(peer: Peer) -> Any:
    connection: Any = peer.connection
    return connection._driver.transport.wire


async def test_no_user_agent() -> None:
    router, agents = Router(), []

    @router.on_connect
    async def enter(agent: Annotated[str | None, Header("User-Agent")] = None) -> None:
        agents.append(agent)

    @router.consumer
    async def nothing(message: Say) -> None: ...

    async with serve(router, Settings(port=0)) as server:
        uri = f"ws://127.0.0.1:{server.port}/"
        for options in ({}, {"user_agent_header": "me"}, {"user_agent_header": None}):
            async with wsflow.connect(uri, **options):
                pass
    assert agents[0].startswith("Python/")
    assert agents[1:] == ["me", None]


async def test_a_wire_that_is_closed() -> None:
    async with serve(silent(), Settings(port=0)) as server:
        async with wsflow.connect(f"ws://127.0.0.1:{server.port}/") as peer:
            closed = wire(peer)
            closed.close(1000, "")
            assert closed.send(b"x", True, True) is False
            assert await closed.ping() is None
            with pytest.raises(Disconnected):
                await peer.ping()


async def test_a_ping_that_nobody_answers() -> None:
    """The socket is closed before the pong comes."""
    async with serve(silent(), Settings(port=0)) as server:
        async with wsflow.connect(f"ws://127.0.0.1:{server.port}/") as peer:
            socket = wire(peer).transport
            socket.pause_reading()
            wire(peer)._pong_received(b"of nobody")
            with anyio.move_on_after(0.001) as late:
                await peer.ping()
            assert late.cancelled_caught
            wire(peer).loop.call_later(0.001, socket.abort)
            with pytest.raises(Disconnected):
                await peer.ping()


async def test_a_topic_of_the_clients_own() -> None:
    """What is published in the client's process goes to the server that it is connected to."""
    server, client, heard = Router(), Router(), list[str]()

    @server.consumer
    async def hear(message: Say) -> None:
        heard.append(message.text)

    @client.producer(on_end="keep")
    async def join(topic: Annotated[Topic[Say], "mine"], registry: Registry) -> None:
        await topic.join()
        await registry.topic("mine", Say).publish(Say("hi"))

    async with serve(server, Settings(port=0)) as serving:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_client, client, f"ws://127.0.0.1:{serving.port}/")
            while not heard:
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
    assert heard == ["hi"]


async def test_closing_in_the_moment_when_it_is_connected() -> None:
    """It is connected, and nobody was told yet."""
    ends: list[wsflow.End] = []
    router = silent()

    @router.on_disconnect
    async def bye(end: wsflow.End) -> None:
        ends.append(end)

    class Told(Nobody):
        def opened(self, subprotocol: str | None) -> None:
            assert closed
            opened.append(subprotocol)

    async with serve(router, Settings(port=0)) as server:
        target = Target(f"ws://127.0.0.1:{server.port}/", options={"proxy": None})
        told, closed, opened = Told(), False, list[str | None]()
        shared = Shared(event_loop())
        dialler = Dialler(lambda: target, lambda _: told, wsflow.ClientLimits(), shared)
        dialler.accept(None)
        dialling: Any = dialler._dialling

        def look() -> None:
            nonlocal closed
            if dialling.done():
                closed = True
                dialler.close(4001, "never mind")
            else:
                shared.loop.call_soon(look)

        shared.loop.call_soon(look)
        await dialler.closed()
        while not ends:
            await anyio.sleep(0.001)
    assert ends == [wsflow.End("peer", 4001, "never mind")]
    assert opened == [None]


async def test_a_slow_client_pauses_reading() -> None:
    server, client, heard, go = Router(), Router(), [], anyio.Event()
    connections: list[Any] = []

    @server.producer
    async def tell(connection: wsflow.Connection) -> None:
        for number in range(2000):
            await connection.send(Say(f"{number} " + "x" * 1000))

    @client.on_connect
    async def enter(connection: wsflow.Connection) -> None:
        connections.append(connection)

    @client.consumer
    async def hear(message: Say) -> None:
        await go.wait()
        heard.append(int(message.text.split()[0]))

    async with serve(server, Settings(port=0)) as serving:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_client, client, f"ws://127.0.0.1:{serving.port}/")
            while not (connections and connections[0]._driver._inbox.full):
                await anyio.sleep(0.001)
            go.set()
    assert heard == list(range(2000))


def test_when_to_come_back() -> None:
    assert retry_after(None) is None
    assert retry_after("7") == 7
    assert retry_after("soon") is None
    assert retry_after("9" * 400) == 3600
    assert retry_after("Fri, 01 Jan 2999 00:00:00 GMT") == 3600
    soon = retry_after(email.utils.formatdate(time.time() + 100, usegmt=True))
    assert soon is not None
    assert 90 < soon <= 100
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize(
    ("error", "why", "again"),
    [
        (ssl.SSLCertVerificationError(1, "x"), "TLS failed", False),
        (ssl.SSLEOFError(8, "EOF"), "TLS failed", True),
        (OSError("Multiple exceptions"), "cannot be reached: Multiple exceptions", True),
        (InvalidProxyStatus(Response(502, "", Any)), "the proxy answered 502 Bad Gateway", True),
        (InvalidProxyStatus(Response(407, "", Any)), "the proxy answered 407 Proxy Auth", False),
        (RuntimeError("else"), "else", False),
    ],
)
def test_why(error: Exception, why: str, again: bool) -> None:
    explanation = connect_error(error, "ws://x/", 10)
    assert why in str(explanation)
    assert explanation.retryable is again
