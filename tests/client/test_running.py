"""``run_client``: a Router at the connecting end."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

import anyio
import msgspec
import pytest

import wsflow
from tests.client.test_connecting import SOON, Bye, Kept, News, Say, echo, news
from wsflow import (
    Close,
    ConnectError,
    Connection,
    DeclarationError,
    End,
    Header,
    Opening,
    Query,
    Reconnect,
    Registry,
    Reject,
    Request,
    Router,
    Topic,
    run_client,
)
from wsflow.server import Settings
from wsflow.server.serve import serve
from wsflow.testing import connect, serve_in_memory


class Database:
    """Something that a lifespan provides."""


class Life:
    def __init__(self) -> None:
        self.events: list[str] = []


def bot(life: Life) -> Router:
    router = Router("/echo")

    @router.lifespan
    async def database() -> AsyncIterator[Database]:
        life.events.append("lifespan")
        yield Database()
        life.events.append("lifespan over")

    @router.on_connect
    async def enter(connection: Connection, database: Database) -> AsyncIterator[Life]:
        life.events.append("enter")
        yield life
        life.events.append(f"leave {connection.end}")

    @router.producer(on_end="keep")
    async def talk(connection: Connection) -> AsyncIterator[Say]:
        life.events.append("talk")
        yield Say("hi")

    @router.consumer
    async def hear(message: Say, mine: Life) -> Bye:
        mine.events.append(f"heard {message.text}")
        return Bye(4400)

    @router.on_disconnect
    async def bye(end: End) -> None:
        life.events.append(f"bye {end.code}")

    return router


async def test_functions_mean_what_they_mean_in_a_server() -> None:
    life = Life()
    async with serve(echo(), Settings(port=0)) as server:
        end = await run_client(bot(life), f"ws://127.0.0.1:{server.port}/echo")
    assert (end.cause, end.code, end.reason) == ("peer", 4400, "as you wish")
    assert life.events == [
        "lifespan",
        "enter",
        "talk",
        "heard hi",
        "bye 4400",
        "leave peer (4400 as you wish)",
        "lifespan over",
    ]


async def test_cancelling_it_goes_away_in_order() -> None:
    life, ended = Life(), list[End]()
    router, client = Router(), bot(life)
    client.path = "/"

    @router.consumer
    async def nothing(message: Say) -> None:
        here.set()

    @router.on_disconnect
    async def bye(end: End) -> None:
        ended.append(end)

    here = anyio.Event()
    async with serve(router, Settings(port=0)) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_client, client, f"ws://127.0.0.1:{server.port}/")
            await here.wait()
            tasks.cancel_scope.cancel()
        assert life.events[-1] == "lifespan over"
        while not ended:
            await anyio.sleep(0.001)
        assert ended[0].code == 1001


async def test_an_error_is_raised_if_it_does_not_come_back() -> None:
    router = Router()

    @router.consumer
    async def fail(message: Say) -> None:
        raise ZeroDivisionError("here")

    @router.producer(on_end="keep")
    async def talk() -> AsyncIterator[Say]:
        yield Say("hi")

    async with serve(echo(), Settings(port=0)) as server:
        uri = f"ws://127.0.0.1:{server.port}/echo"
        with pytest.raises(ZeroDivisionError, match="here"):
            await run_client(router, uri, reconnect=False)


async def test_it_reconnects_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    router = Router()
    attempts: list[tuple[int, str]] = []

    @router.on_connect
    async def enter(opening: Opening) -> None:
        attempts.append((opening.attempt, str(opening.previous)))

    @router.consumer
    async def fail(message: Say) -> None:
        if len(attempts) < 3:
            raise ZeroDivisionError("here")
        raise Close(4444)

    @router.producer(on_end="keep")
    async def talk() -> AsyncIterator[Say]:
        yield Say("hi")

    async with serve(echo(), Settings(port=0)) as server:
        end = await run_client(router, f"ws://127.0.0.1:{server.port}/echo", reconnect=SOON)
    assert end.code == 4444
    assert attempts == [(1, "None"), (2, "error (1011)"), (3, "error (1011)")]
    assert caplog.text.count("ZeroDivisionError: here") == 2
    assert "ended: error (1011); reconnecting in" in caplog.text


async def test_a_lifespan_that_fails() -> None:
    router = Router()

    @router.lifespan
    async def fails() -> None:
        raise ZeroDivisionError("no database")

    @router.consumer
    async def nothing(message: Say) -> None: ...

    with pytest.raises(ZeroDivisionError, match="no database"):
        await run_client(router, "ws://127.0.0.1:1/")


async def test_a_task_of_the_app_that_fails() -> None:
    router = Router()

    @router.lifespan
    async def start(tasks: anyio.abc.TaskGroup) -> None:
        async def fails() -> None:
            await here.wait()
            raise ZeroDivisionError("in the background")

        tasks.start_soon(fails)

    @router.consumer
    async def nothing(message: Say) -> None: ...

    @router.producer(on_end="keep")
    async def talk() -> None:
        here.set()

    here = anyio.Event()
    async with serve(echo(), Settings(port=0)) as server:
        with pytest.raises(ZeroDivisionError, match="in the background"):
            await run_client(router, f"ws://127.0.0.1:{server.port}/echo")


async def test_refusals() -> None:
    router = echo()
    with pytest.raises(ConnectError, match="cannot be reached: Connection refused"):
        await run_client(router, "ws://127.0.0.1:1/echo", reconnect=False)
    with pytest.raises(ValueError, match="the client has no path for /x: it has /a, /b"):
        both = Router()
        for path in ("/a", "/b"):
            other = echo()
            other.path = path
            both.include(other)
        await run_client(both, "ws://127.0.0.1:1/x")
    with pytest.raises(ValueError, match="the client has no path for /x: it has /echo"):
        await run_client(router, "ws://127.0.0.1:1/x")
    with pytest.raises(ValueError, match="is not a WebSocket URI"):
        await run_client(router, "http://x")
    with pytest.raises(DeclarationError, match="An Opening is a client's opening request"):
        wrong = echo()

        @wrong.consumer
        async def other(message: News, opening: Opening) -> None: ...

        await run_client(wrong, "ws://127.0.0.1:1/echo")
    asks = Router()

    @asks.consumer
    async def take(message: Say, room: Annotated[str, Query()]) -> None: ...

    with pytest.raises(ValueError, match="ws://x/: query 'room' is missing"):
        await run_client(asks, "ws://x/")


def test_it_needs_an_event_loop() -> None:
    running = run_client(echo(), "ws://x/echo")
    with pytest.raises(RuntimeError, match="clients need asyncio or Trio: run them in"):
        running.send(None)


async def test_it_waits_for_a_server(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody listens yet; then the server asks it to wait; then it is let in."""
    caplog.set_level(logging.WARNING, "wsflow.client")
    life, busy = Life(), True
    router = echo()

    @router.on_connect
    async def full() -> None:
        nonlocal busy
        if busy:
            busy = False
            raise Reject(503, "later", {"Retry-After": "0"})

    async with serve(router, Settings(port=0)) as first:
        port = first.port
    ends: list[End] = []

    async def run() -> None:
        ends.append(await run_client(bot(life), f"ws://127.0.0.1:{port}/echo", reconnect=SOON))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        while "cannot be reached: Connection refused; reconnecting in" not in caplog.text:
            await anyio.sleep(0.001)
        async with serve(router, Settings(port=port)):
            while not ends:
                await anyio.sleep(0.001)
    assert ends[0].code == 4400
    assert "answered 503 Service Unavailable: later; reconnecting in" in caplog.text
    assert life.events.count("bye 4400") == 1  # not for the attempts
    assert life.events.count("leave unreachable (1006") == 0
    assert life.events.count("talk") == 1


async def test_the_opening_may_be_changed() -> None:
    seen: list[tuple[Any, ...]] = []
    server = Router("/x")

    @server.on_connect
    async def enter(
        request: Request,
        token: Annotated[str, Header("Authorization")],
        tag: Annotated[list[str], Query()],
        room: Annotated[str, Query()],
    ) -> None:
        seen.append((token, tag, room))
        raise Reject(401)

    @server.consumer
    async def nothing(message: Say) -> None: ...

    client = Router("/x")

    @client.on_connect
    async def sign_in(opening: Opening) -> None:
        assert opening.query == {"tag": ["a", "b"], "room": "lobby", "empty": ""}
        opening.headers["Authorization"] = f"Bearer {opening.attempt}"
        opening.query["room"] = "attic & more"
        assert (opening.last_event_id, dict(opening.last_event_ids)) == ("", {})
        assert repr(opening) == f"<Opening {uri.partition('?')[0]}?… attempt 1>"

    client.consumer(nothing)
    async with serve(server, Settings(port=0)) as serving:
        uri = f"ws://127.0.0.1:{serving.port}/x?tag=a&tag=b&room=lobby&empty="
        with pytest.raises(ConnectError, match="401"):
            await run_client(client, uri, reconnect=False)
    assert seen == [("Bearer 1", ["a", "b"], "attic & more")]


async def test_a_header_that_cannot_be_sent() -> None:
    router = echo()

    @router.on_connect
    async def sign_in(opening: Opening) -> None:
        opening.headers["Bad Name"] = "x"

    with pytest.raises(ConnectError, match=r"name of header 1 .* has ' ' in it"):
        await run_client(router, "ws://127.0.0.1:1/echo")


async def test_resuming_by_hand() -> None:
    """With two topics on a connection, each goes on behind its own last event."""

    class Alert(msgspec.Struct, tag="alert"):
        text: str
        id: Annotated[str, wsflow.EventId()] = ""

    Alerts = Annotated[Topic[Alert], wsflow.TopicName("alerts", history=10)]
    server, client, heard = Router(), Router(), []

    @server.on_connect
    async def join(
        news: Kept,
        alerts: Alerts,
        news_after: Annotated[str, Query()] = "",
        alerts_after: Annotated[str, Query()] = "",
    ) -> None:
        await news.join(after=news_after)
        await alerts.join(after=alerts_after)

    @server.consumer
    async def nothing(message: Say) -> None: ...

    @client.on_connect
    async def resume(opening: Opening) -> None:
        last = opening.last_event_ids
        opening.query |= {"news_after": last.get(News, ""), "alerts_after": last.get(Alert, "")}
        if last:
            assert opening.last_event_id == last[News]

    @client.consumer
    async def hear(message: Alert) -> None:
        heard.append(message.text)

    @client.consumer
    async def stream(messages: AsyncIterator[News]) -> None:
        async for message in messages:
            heard.append(message.text)

    async def until(count: int) -> None:
        with anyio.fail_after(5):
            while len(heard) < count:
                await anyio.sleep(0.001)

    async with connect(server, client=client, reconnect=SOON) as linked:
        await linked.registry.topic("alerts").publish(Alert("a1"))
        await until(1)
        await linked.registry.topic("news").publish(News("n1"))
        await until(2)
        linked.link.down = True
        linked.link.cut()
        await linked.registry.topic("alerts").publish(Alert("a2"))
        await linked.registry.topic("news").publish(News("n2"))
        linked.link.down = False
        await linked.connected(2)
        await until(4)
    assert sorted(heard) == ["a1", "a2", "n1", "n2"]


async def test_subprotocols_that_are_offered() -> None:
    offered: list[tuple[str, ...]] = []
    server = Router(subprotocols=["b"])
    client = Router(subprotocols=["a", "b"], codec="msgpack")

    @server.on_connect
    async def enter(request: Request) -> None:
        offered.append(request.subprotocols)

    for router in (server, client):

        @router.consumer
        async def nothing(message: Say) -> None: ...

    async with serve_in_memory(server) as serving:
        async with serving.link(client, "/", subprotocols=["c", "a"]) as linked:
            assert linked.client.subprotocol == "b"
    assert offered == [("a", "b", "c", "wsflow.msgpack")]


async def test_when_is_up_to_the_user() -> None:
    ends: list[End] = []

    def never(end: End) -> bool:
        ends.append(end)
        return False

    async with serve(news(), Settings(port=0)) as server:
        registry = Registry(server._app.directory)
        client = Router()

        @client.producer(on_end="keep")
        async def leave(connection: Connection) -> None:
            await connection.send(Bye(1012))

        uri = f"ws://127.0.0.1:{server.port}/news"
        end = await run_client(client, uri, reconnect=Reconnect(when=never))
        assert (end.code, ends) == (1012, [end])
        assert len(registry) == 0


async def test_stopping_while_it_waits_for_its_next_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    patient = Reconnect(initial_delay=60)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(run_client, echo(), "ws://127.0.0.1:1/echo", reconnect=patient))
        while "reconnecting in" not in caplog.text:
            await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()


async def test_a_client_that_closes_before_it_is_open() -> None:
    router = Router()

    @router.on_connect
    async def enough() -> None:
        raise Close(4000)

    @router.consumer
    async def nothing(message: Say) -> None: ...

    end = await run_client(router, "ws://127.0.0.1:1/", reconnect=False)
    assert (end.cause, end.code) == ("closed", 4000)
    rejects = Router()

    @rejects.on_connect
    async def refuse() -> None:
        raise Reject(401)

    rejects.consumer(nothing)
    end = await run_client(rejects, "ws://127.0.0.1:1/")
    assert (end.cause, end.code) == ("rejected", 401)


async def test_a_when_that_fails() -> None:
    def fails(end: End) -> bool:
        raise ZeroDivisionError("in when")

    with pytest.raises(ZeroDivisionError, match="in when"):
        await run_client(echo(), "ws://127.0.0.1:1/echo", reconnect=Reconnect(when=fails))


async def test_stopping_before_the_first_attempt() -> None:
    router, here = echo(), anyio.Event()

    @router.lifespan
    async def slow() -> None:
        here.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_client, router, "ws://127.0.0.1:1/echo")
        await here.wait()
        tasks.cancel_scope.cancel()


async def test_messages_without_an_event_id() -> None:
    server, client, seen = Router(), Router(), []

    @server.consumer
    async def say(message: Say) -> News:
        return News(message.text, id=message.text)

    @client.on_connect
    async def look(opening: Opening) -> None:
        seen.append(opening.last_event_id)

    @client.consumer
    async def hear(message: News) -> None:
        if not message.id:
            raise Close(1012)

    async with connect(server, client=client, reconnect=SOON) as linked:
        await linked.client.send(Say("7"))
        await linked.client.send(Say(""))
        await linked.connected(2)
    assert seen == ["", "7"]
