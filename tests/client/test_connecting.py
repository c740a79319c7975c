"""``wsflow.connect``, against a server of ours on a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

import wsflow
from tests.loops import on_asyncio
from wsflow import (
    Call,
    Close,
    ConnectError,
    Connection,
    Disconnected,
    EventId,
    Header,
    Query,
    Reconnect,
    Registry,
    Reject,
    Request,
    Router,
    Stream,
    Topic,
    TopicName,
)
from wsflow.server import Server, Settings
from wsflow.server.serve import serve


class Say(msgspec.Struct, tag="say"):
    text: str


class Bye(msgspec.Struct, tag="bye"):
    code: int


class Double(Call[int], tag="double"):
    number: int


class Upto(Stream[int], tag="upto"):
    number: int


class News(msgspec.Struct, tag="news"):
    text: str
    id: Annotated[str, EventId()] = ""


SOON = Reconnect(initial_delay=0.01, max_delay=0.05)


def echo() -> Router:
    router = Router("/echo", subprotocols=["chat.v2"])

    @router.on_connect
    async def enter(user: Annotated[str, Header()] = "ada") -> None:
        if user == "eve":
            raise Reject(403, "not you")

    @router.consumer
    async def say(message: Say) -> Say:
        return message

    @router.consumer
    async def bye(message: Bye) -> None:
        raise Close(message.code, "as you wish")

    @router.consumer
    async def double(call: Double) -> int:
        return 2 * call.number

    @router.consumer
    async def upto(call: Upto) -> AsyncIterator[int]:
        for number in range(call.number):
            yield number

    return router


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve(echo(), Settings(port=0, compression="deflate")) as server:
        yield server


@pytest.fixture
def uri(server: Server) -> str:
    return f"ws://127.0.0.1:{server.port}/echo"


async def test_send_and_iterate(uri: str) -> None:
    heard = []
    async with wsflow.connect(uri, receives=(Say, News), subprotocols=["chat.v2"]) as peer:
        assert peer.subprotocol == "chat.v2"
        await peer.send(Say("hi"))
        await peer.send(Say("x" * 100_000))
        await peer.send(Bye(1000))
        async for message in peer:
            heard.append(message)
    assert heard == [Say("hi"), Say("x" * 100_000)]
    assert peer.end is not None
    assert (peer.end.cause, peer.end.code, peer.end.reason) == ("peer", 1000, "as you wish")
    assert peer.subprotocol is None


async def test_texts_as_they_are(uri: str) -> None:
    async with wsflow.connect(uri) as peer:
        await peer.send('{"type": "say", "text": "hi"}')
        assert await peer.receive(timeout=5) == '{"type":"say","text":"hi"}'
        with pytest.raises(TimeoutError, match=r"no message came within 0\.01 s"):
            await peer.receive(timeout=0.01)
    assert peer.end is not None
    assert str(peer.end) == "closed (1000)"
    with pytest.raises(Disconnected):
        await peer.send("too late")
    with pytest.raises(Disconnected):
        await peer.receive()
    with pytest.raises(Disconnected):
        await peer.ping()
    with pytest.raises(TypeError, match="raw messages cannot be told apart from answers"):
        peer.stream(Upto(1))
    with pytest.raises(TypeError, match=r"or receives=\(\) for none"):
        await peer.call(Double(1))
    assert [message async for message in peer] == []


async def test_messagepack(uri: str) -> None:
    async with wsflow.connect(uri, receives=Say, codec="msgpack") as peer:
        assert peer.subprotocol == "wsflow.msgpack"
        await peer.send(Say("hi"))
        assert await peer.receive() == Say("hi")


async def test_calls(uri: str) -> None:
    async with wsflow.connect(uri, receives=Say) as peer:
        doubled: dict[int, int] = {}

        async def double(number: int) -> None:
            doubled[number] = await peer.call(Double(number))

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(double, number)
        assert doubled == {n: 2 * n for n in range(100)}
        async with peer.stream(Upto(200)) as numbers:
            assert [number async for number in numbers] == list(range(200))
        assert 0 < await peer.ping() < 5


async def test_a_peer_that_only_asks(uri: str) -> None:
    async with wsflow.connect(uri, receives=()) as peer:
        assert await peer.call(Double(21)) == 42
    with pytest.raises(Disconnected):
        peer.stream(Upto(1))
    async with wsflow.connect(uri, receives=[Say, News]) as peer:
        assert await peer.call(Double(21)) == 42


async def test_what_came_before_the_end_can_be_read_after_it(uri: str) -> None:
    async with wsflow.connect(uri, receives=Say) as peer:
        for number in range(50):
            await peer.send(Say(str(number)))
        await peer.send(Bye(4000))
        connection: Any = peer.connection
        while connection.end is None:
            await anyio.sleep(0.001)
        heard = []
        with pytest.raises(Disconnected, match="ended: peer \\(4000 as you wish\\)"):
            async for message in peer:
                heard.append(message.text)
    assert heard == [str(number) for number in range(50)]


async def test_what_came_can_be_read_when_its_time_is_over(uri: str) -> None:
    limits = wsflow.ClientLimits(close_timeout=0.05)
    async with wsflow.connect(uri, receives=Say, limits=limits) as peer:
        for number in range(50):
            await peer.send(Say(str(number)))
        await peer.send(Bye(1000))
        while peer.end is None:
            await anyio.sleep(0.01)
        assert [message.text async for message in peer] == [str(number) for number in range(50)]


async def test_a_cancelled_receive_loses_nothing(uri: str) -> None:
    async with wsflow.connect(uri, receives=Say) as peer:
        for number in range(50):
            with anyio.move_on_after(0.0005):
                await peer.receive()
                continue
            await peer.send(Say(str(number)))
            assert (await peer.receive()).text == str(number)


async def test_a_block_that_raises() -> None:
    ends: list[wsflow.End] = []
    router = Router()

    @router.producer(on_end="keep")
    async def nothing() -> None: ...

    @router.on_disconnect
    async def bye(end: wsflow.End) -> None:
        ends.append(end)

    async with serve(router, Settings(port=0)) as server:
        with pytest.raises(ZeroDivisionError):
            async with wsflow.connect(f"ws://127.0.0.1:{server.port}/"):
                raise ZeroDivisionError
        while not ends:
            await anyio.sleep(0.001)
        assert ends[0].code == 1011


async def test_refusals(uri: str) -> None:
    with pytest.raises(ConnectError, match="/echo answered 403 Forbidden: not you") as refused:
        async with wsflow.connect(uri, headers={"User": "eve"}):
            raise AssertionError
    error = refused.value
    assert (error.status, error.body, error.retryable, error.retry_after) == (
        403,
        "not you",
        False,
        None,
    )
    assert ("Connection", "close") in error.headers
    with pytest.raises(ConnectError, match=r"answered 404 Not Found$"):
        async with wsflow.connect(uri + "/nowhere", reconnect=True):
            raise AssertionError
    with pytest.raises(ConnectError, match=r":1/ cannot be reached: Connection refused"):
        async with wsflow.connect("ws://127.0.0.1:1/"):
            raise AssertionError
    secret = "ws://me:secret@127.0.0.1:1/x?token=secret"
    with pytest.raises(ConnectError, match=r"^ws://…@127\.0\.0\.1:1/x\?… cannot be reached"):
        async with wsflow.connect(secret):
            raise AssertionError


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("http://x", "'http://x' is not a WebSocket URI: use ws:// or"),
        ("localhost:8000", "is not a WebSocket URI: use ws:// or wss://"),
        ("ws://", "'ws://' is not a WebSocket URI: "),
    ],
)
async def test_bad_uris(uri: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        wsflow.connect(uri)


@pytest.mark.parametrize(
    ("receives", "why"),
    [
        ((str, Say), "It takes raw text messages, and the path decodes text messages as json"),
        ((object(),), "msgspec refuses the type"),
        (Double, "consumer that iterates its messages cannot answer each"),
    ],
)
async def test_bad_types(receives: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        wsflow.connect("ws://x/", receives=receives)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"orgin": "x"}, "there is no option 'orgin': did you mean origin?"),
        ({"nonsense": 1}, "there is no option 'nonsense'$"),
        ({"max_size": 1}, r"max_size=… is for websockets.connect: here, use limits=ClientLimits"),
        ({"additional_headers": {}}, "here, use headers=…"),
    ],
)
async def test_bad_options(options: dict[str, Any], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        wsflow.connect("ws://x/", **options)
    with pytest.raises(TypeError, match=why):
        await wsflow.run_client(echo(), "ws://x/echo", **options)


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("receives", [(News, Bye), News, ()])
async def test_messages_of_a_new_type(uri: str, receives: Any, codec: Any) -> None:
    async with wsflow.connect(uri, receives=receives, codec=codec) as peer:
        await peer.send(Say("hi"))
        await peer.send(Say("hi"))
        with pytest.raises(TimeoutError):
            await peer.receive(timeout=0.01)
        assert await peer.call(Double(2)) == 4
        assert peer._client.app.directory.channels.counters["ignored"] == 2
    assert str(peer.end) == "closed (1000)"
    code = 1007 if receives else 1003
    async with wsflow.connect(uri, receives=receives, codec=codec, unknown="close") as peer:
        await peer.send(Say("hi"))
        with pytest.raises(Disconnected, match=f"{code} unknown type 'say'"):
            await peer.receive(timeout=5)


async def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match='unknown is \'drop\': use "close" or "ignore"'):
        wsflow.connect("ws://x/", unknown="drop")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"reconnect is 5: use True, False or Reconnect\(…\)"):
        wsflow.connect("ws://x/", reconnect=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="headers is a str: use a mapping, or pairs"):
        wsflow.connect("ws://x/", headers="a: b")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="subprotocols is 'chat': use a list of names"):
        await wsflow.run_client(echo(), "ws://x/echo", subprotocols="chat")


async def test_bad_headers() -> None:
    for headers in ({"A B": "c"}, {"A": "b\r\nC: d"}):
        with pytest.raises(ValueError, match="header"):
            wsflow.connect("ws://x/", headers=headers)
        with pytest.raises(ValueError, match="header"):
            await wsflow.run_client(echo(), "ws://x/echo", headers=headers)


async def test_a_connection_in_vain_is_given_up() -> None:
    """Cancelled while the server says nothing, it leaves nothing behind."""
    came = anyio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read()
        writer.close()

    server = await on_asyncio(asyncio.start_server, silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, anyio.create_task_group() as tasks:

        async def connect() -> None:
            async with wsflow.connect(f"ws://127.0.0.1:{port}/"):
                raise AssertionError

        tasks.start_soon(connect)
        await came.wait()
        tasks.cancel_scope.cancel()
    limits = wsflow.ClientLimits(open_timeout=0.05)
    server = await on_asyncio(asyncio.start_server, silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(ConnectError, match=r"/ did not answer within 0\.05 s"):
            async with wsflow.connect(f"ws://127.0.0.1:{port}/", limits=limits):
                raise AssertionError


@pytest.mark.parametrize(
    ("answer", "why", "again"),
    [
        (b"", "closed the connection without an answer", True),
        (b"SSH-2.0-OpenSSH\r\n", "does not answer as a WebSocket server", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "answered 200 OK: hi", False),
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", "answered 503", True),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
            "does not answer as a WebSocket server",
            False,
        ),
    ],
)
async def test_answers_that_are_none(answer: bytes, why: str, again: bool) -> None:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for byte in answer:  # one by one: the client puts them together
            writer.write(bytes([byte]))
            await writer.drain()
        writer.close()

    server = await on_asyncio(asyncio.start_server, answers, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(ConnectError, match=why) as raised:
            async with wsflow.connect(f"ws://127.0.0.1:{port}/"):
                raise AssertionError
        assert raised.value.retryable is again
        assert raised.value.retry_after == (7.0 if b"Retry-After" in answer else None)


# -- coming back

Kept = Annotated[Topic[News], TopicName("news", history=1000)]


def news() -> Router:
    router = Router("/news")

    @router.on_connect
    async def join(topic: Kept, after: Annotated[str, Query()] = "") -> None:
        await topic.join(after=after)

    @router.consumer
    async def say(message: Say, connection: Connection) -> Say:
        return message

    @router.consumer
    async def bye(message: Bye, connection: Connection) -> None:
        await connection.close(message.code)

    return router


async def test_reconnect_resumes() -> None:
    """What is published while the client is away comes once it is back."""
    async with serve(news(), Settings(port=0)) as server:
        registry = Registry(server._app.directory)
        uri = f"ws://127.0.0.1:{server.port}/news"
        async with wsflow.connect(
            uri, receives=(News, Say), reconnect=SOON, resume="after"
        ) as peer:
            await registry.topic("news").publish(News("0"))
            assert (await peer.receive()).text == "0"
            for number in range(1, 6):
                await peer.send(Bye(1012))
                while len(registry):
                    await anyio.lowlevel.checkpoint()
                await registry.topic("news").publish(News(str(number)))
                assert (await peer.receive(timeout=5)).text == str(number)
            await peer.send(Say("on the new connection"))
            assert await peer.receive(timeout=5) == Say("on the new connection")
            await peer.close(4000, "enough")
            with pytest.raises(Disconnected):
                await peer.send(Say("x"))


async def test_sending_while_away_waits() -> None:
    async with serve(news(), Settings(port=0)) as server:
        registry = Registry(server._app.directory)
        async with wsflow.connect(
            f"ws://127.0.0.1:{server.port}/news", receives=Say, reconnect=SOON
        ) as peer:
            await peer.send(Bye(1001))
            while peer.connection is not None:
                await anyio.lowlevel.checkpoint()
            await peer.send(Say("later"))
            assert await peer.receive(timeout=5) == Say("later")
            assert len(registry) == 1
            await peer.send(Bye(4400))
            with pytest.raises(Disconnected, match="4400"):
                await peer.receive(timeout=5)


async def test_a_send_that_meets_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection has ended, and the consumer has not noticed yet: the next one gets it."""
    async with serve(news(), Settings(port=0)) as server:
        async with wsflow.connect(
            f"ws://127.0.0.1:{server.port}/news", receives=Say, reconnect=SOON
        ) as peer:
            connection: Any = peer.connection
            await connection.close(1012)
            await peer.send(Say("again"))
            assert await peer.receive(timeout=5) == Say("again")


async def test_the_request_that_it_sent(uri: str, server: Server) -> None:
    origin = f"http://127.0.0.1:{server.port}"
    async with wsflow.connect(
        uri + "?a=1", headers=[("User", "bob"), ("Cookie", "c=d")], origin=origin
    ) as peer:
        assert peer.connection is not None
        request: Request = peer.connection.request
        assert (request.path, request.query["a"]) == ("/echo", "1")
        assert (request.headers["User"], request.cookies["c"]) == ("bob", "d")
