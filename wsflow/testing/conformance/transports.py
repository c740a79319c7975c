"""What every transport promises: the table of close codes, as the peer sees it and as the app does.

The suite needs one fixture, ``serving``: a function that serves an app on the transport, as in
``async with serving(app, max_message_size=1000) as wire``, with limits by name. Of a ``Wire``,
``wire.connect(target)`` gives a ``Client``, and ``wire.stop()`` stops the server in order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Annotated, Any, Protocol

import anyio
import anyio.lowlevel
import msgspec
import pytest

from wsflow.connection import Connection
from wsflow.declare.router import Router
from wsflow.end import End
from wsflow.errors import Close, Reject
from wsflow.topics.topic import Topic

Raw = str | bytes


class Refused(Exception):
    """The handshake was answered with an HTTP error."""

    def __init__(self, status: int, body: str, headers: Mapping[str, str]) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body
        self.headers = headers


class Client(Protocol):
    """A WebSocket client: it sends and receives raw messages, and says what it saw of the end."""

    async def send(self, message: Raw, fragments: int = 1) -> None: ...
    async def receive(self) -> Raw: ...
    async def close(self, code: int | None = 1000, reason: str = "") -> None: ...
    async def vanish(self) -> None: ...
    async def closed(self) -> tuple[int, str]: ...


class Wire(Protocol):
    """A server on a transport."""

    def connect(
        self, target: str, headers: dict[str, str] | None = None, offers: Iterable[str] = ()
    ) -> Any: ...
    async def stop(self, restart: bool = False) -> None: ...


class Say(msgspec.Struct, tag="say"):
    text: str


Crowd = Annotated[Topic[str], "crowd"]
SECRET = "the password is swordfish"


def build() -> tuple[Router, list[End], anyio.Event]:
    """An app whose consumer does what it is told, and what it was told of its end."""
    ends: list[End] = []
    gone = anyio.Event()
    app = Router("/")

    @app.on_disconnect
    async def note(end: End) -> None:
        ends.append(end)
        gone.set()

    steered = Router("/steered")

    @steered.consumer
    async def say(message: Say, connection: Connection) -> str | None:
        match message.text:
            case "close":
                raise Close(4000, "bye")
            case "long":
                raise Close(4001, "é" * 100)
            case "group":
                async with anyio.create_task_group():
                    raise Close(4002)
            case "asked":
                await connection.close(4003, "asked")
            case "bad code":
                await connection.close(2000)
            case "reject":
                raise Reject(403, "not you")
            case "fail":
                raise RuntimeError(SECRET)
        return message.text

    produced = Router("/produced")

    @produced.producer
    async def three() -> AsyncIterator[str]:
        for word in ("a", "b", "c"):
            yield word

    waiting = Router("/waiting")

    @waiting.producer
    async def wait() -> None:
        await anyio.sleep_forever()

    ordered = Router("/ordered")

    @ordered.on_connect
    async def be_there(crowd: Crowd) -> None:
        await crowd.join()

    @ordered.producer
    async def in_order(connection: Connection, crowd: Crowd) -> AsyncIterator[str]:
        yield "1"
        yield "2"
        await crowd.publish("3")
        yield "4"
        await connection.send("5")
        yield "6"
        await anyio.lowlevel.checkpoint()
        yield "7"
        await connection.close(4006)

    failing = Router("/failing")

    @failing.producer
    async def fail() -> AsyncIterator[str]:
        yield "first"
        raise RuntimeError(SECRET)

    closing = Router("/closing")

    @closing.producer
    async def close() -> None:
        raise Close(4004, "from a producer")

    streamed = Router("/streamed")

    @streamed.consumer
    async def first(messages: AsyncIterator[str]) -> AsyncIterator[str]:
        async for message in messages:
            yield message
            return

    early = Router("/early")

    @early.on_connect
    async def accept_and_reject(connection: Connection) -> None:
        await connection.send("hello")
        raise Reject(403, "changed my mind")

    @early.producer
    async def never() -> None:
        raise AssertionError("is not reached")

    shut = Router("/shut")

    @shut.on_connect
    async def close_at_once() -> None:
        raise Close(4005, "at once")

    shut.producer(never)

    crashed = Router("/crashed")

    @crashed.on_connect
    async def crash() -> None:
        raise RuntimeError(SECRET)

    crashed.producer(never)

    listening = Router("/crowd")

    @listening.on_connect
    async def join(crowd: Crowd) -> None:
        await crowd.join()

    @listening.consumer
    async def shout(message: str, crowd: Crowd) -> None:
        for _ in range(int(message)):
            await crowd.publish("x" * 1_000_000)

    for each in (
        steered,
        produced,
        ordered,
        waiting,
        failing,
        closing,
        streamed,
        early,
        shut,
        crashed,
        listening,
    ):
        app.include(each)
    return app, ends, gone


def say(text: str) -> str:
    return msgspec.json.encode(Say(text)).decode()


async def test_the_peer_closes(serving: Any) -> None:
    app, ends, gone = build()
    async with serving(app) as wire, wire.connect("/steered") as client:
        await client.close(4321, "done")
        await gone.wait()
    assert ends == [End("peer", 4321, "done")]


async def test_the_peer_closes_without_a_code(serving: Any) -> None:
    app, ends, gone = build()
    async with serving(app) as wire, wire.connect("/steered") as client:
        await client.close(None)
        await gone.wait()
    assert ends == [End("peer", 1005)]


async def test_the_peer_vanishes(serving: Any) -> None:
    app, ends, gone = build()
    async with serving(app) as wire, wire.connect("/steered") as client:
        await client.vanish()
        await gone.wait()
    assert ends == [End("vanished", 1006)]


@pytest.mark.parametrize(
    ("path", "sent", "end"),
    [
        ("/produced", None, End("finished", 1000)),
        ("/streamed", "a", End("finished", 1000)),
        ("/steered", say("close"), End("closed", 4000, "bye")),
        ("/steered", say("long"), End("closed", 4001, "é" * 61)),
        ("/steered", say("group"), End("closed", 4002)),
        ("/steered", say("asked"), End("closed", 4003, "asked")),
        ("/closing", None, End("closed", 4004, "from a producer")),
        ("/steered", b"x", End("unsupported", 1003, "no consumer takes binary messages here")),
        ("/waiting", "x", End("unsupported", 1003, "no consumer takes text messages here")),
        ("/steered", "{", End("invalid", 1007, "Input data was truncated")),
        (
            "/steered",
            '{"type":"say","text":1}',
            End("invalid", 1007, "Expected `str`, got `int` - at `$.text`"),
        ),
        ("/steered", say("reject"), End("policy", 1008, "not you")),
        ("/early", None, End("policy", 1008, "changed my mind")),
    ],
)
async def test_how_it_ends(serving: Any, path: str, sent: Any, end: End) -> None:
    app, ends, gone = build()
    async with serving(app) as wire, wire.connect(path) as client:
        if sent is not None:
            await client.send(sent)
        assert await client.closed() == (end.code, end.reason)
        if path != "/early":  # its on_connect did not set up
            await gone.wait()
            assert ends == [end]


async def test_what_a_producer_sends_in_every_way_is_in_order(serving: Any) -> None:
    app, _, _ = build()
    async with serving(app) as wire, wire.connect("/ordered") as client:
        assert [await client.receive() for _ in range(7)] == list("1234567")
        assert await client.closed() == (4006, "")


async def test_too_large(serving: Any) -> None:
    app, ends, gone = build()
    async with serving(app, max_message_size=1000) as wire, wire.connect("/steered") as client:
        await client.send("x" * 1001)
        code, _ = await client.closed()
        await gone.wait()
    assert code == 1009
    assert [(end.cause, end.code) for end in ends] == [("too_large", 1009)]


async def test_too_many_fragments(serving: Any) -> None:
    app, ends, gone = build()
    async with serving(app, max_fragments=10) as wire, wire.connect("/streamed") as client:
        await client.send("x" * 8, fragments=8)
        assert await client.receive() == "x" * 8
    app, ends, gone = build()
    async with serving(app, max_fragments=10) as wire, wire.connect("/streamed") as client:
        await client.send("x" * 100, fragments=50)
        code, _ = await client.closed()
        await gone.wait()
    assert code == 1009
    assert [(end.cause, end.code) for end in ends] == [("too_large", 1009)]


@pytest.mark.parametrize(("path", "sent"), [("/steered", say("fail")), ("/failing", None)])
async def test_a_handler_raises(
    serving: Any, path: str, sent: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app, ends, gone = build()
    async with serving(app) as wire, wire.connect(path) as client:
        if sent:
            await client.send(sent)
        assert await client.closed() == (1011, "")
        await gone.wait()
    (end,) = ends
    assert (end.cause, end.code, end.reason) == ("error", 1011, "")
    assert str(end.error) == SECRET
    assert f"RuntimeError: {SECRET}" in caplog.text  # the traceback is in the log


async def test_a_code_that_may_not_be_sent(serving: Any, caplog: pytest.LogCaptureFixture) -> None:
    app, _, _ = build()
    async with serving(app) as wire, wire.connect("/steered") as client:
        await client.send(say("bad code"))
        assert await client.closed() == (1011, "")
    assert "2000 is not a close code" in caplog.text


async def test_a_peer_that_does_not_read(serving: Any) -> None:
    app, ends, gone = build()
    async with serving(app, write_buffer=1000, backlog_bytes=2_000_000) as wire:
        async with wire.connect("/crowd") as stalled, wire.connect("/crowd") as busy:
            await busy.send("40")
            await gone.wait()
            assert ends[0].code == 1013
            assert ends[0].cause == "slow"
            await stalled.vanish()
            await busy.vanish()


async def test_the_server_stops(serving: Any) -> None:
    app, ends, gone = build()
    async with serving(app) as wire, wire.connect("/steered") as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wire.stop)
            assert await client.closed() == (1001, "")
        await gone.wait()
    assert ends == [End("shutdown", 1001)]


async def test_the_server_restarts(serving: Any) -> None:
    app, ends, gone = build()
    async with serving(app) as wire, wire.connect("/steered") as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wire.stop, True)
            assert await client.closed() == (1012, "")
        await gone.wait()
    assert ends == [End("restart", 1012)]


async def test_close_before_the_handshake_is_answered(serving: Any) -> None:
    app, _, _ = build()
    async with serving(app) as wire, wire.connect("/shut") as client:
        assert await client.closed() == (4005, "at once")


async def test_a_crash_before_the_handshake_is_answered(serving: Any) -> None:
    app, _, _ = build()
    async with serving(app) as wire:
        with pytest.raises(Refused) as refused:
            async with wire.connect("/crashed"):
                pass
    assert refused.value.status == 500
    assert SECRET not in refused.value.body


async def test_no_route(serving: Any) -> None:
    app, _, _ = build()
    async with serving(app) as wire:
        with pytest.raises(Refused) as refused:
            async with wire.connect("/nowhere"):
                pass
    assert (refused.value.status, refused.value.body) == (404, "Not Found\n")


async def test_messages_and_codecs_survive_the_wire(serving: Any) -> None:
    app, _, _ = build()
    async with serving(app) as wire:
        async with wire.connect("/steered") as client:
            await client.send(say("hallo, Wörld"))
            assert await client.receive() == "hallo, Wörld"
        async with wire.connect("/steered", offers=["x", "wsflow.msgpack"]) as client:
            await client.send(msgspec.msgpack.encode(Say("a")))
            assert await client.receive() == "a"
