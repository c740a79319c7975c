"""The public API as users write it: checked by mypy, and run once as a test."""

from collections.abc import AsyncIterator
from typing import Annotated, assert_type

import msgspec

from wsflow import (
    Close,
    Connection,
    Cookie,
    End,
    Header,
    Message,
    Query,
    Registry,
    Reject,
    Request,
    Router,
    Topic,
    TopicName,
)
from wsflow.testing import FakeConnection, FakeTopic, Peer, connect


class Say(msgspec.Struct, tag="say"):
    text: str


class Said(msgspec.Struct, tag="said"):
    text: str


class Database:
    pass


Room = Annotated[Topic[Said], TopicName("typed.{room}", history=10, when_full="drop_oldest")]

app = Router("/typed/{room}")


@app.lifespan
async def database(registry: Registry) -> AsyncIterator[Database]:
    yield Database()


@app.on_connect()
async def enter(
    room: Room,
    request: Request,
    token: Annotated[str, Header("X-Token")] = "",
    session: Annotated[str | None, Cookie()] = None,
) -> None:
    joined = await room.join(presence=token, after=None)
    assert_type(joined.recovered, bool)
    if request.path == "/never":
        raise Reject(403, headers={"X-Why": "never"})


@app.on_message
async def around(message: Annotated[object, Message()]) -> AsyncIterator[None]:
    yield


@app.consumer
async def say(message: Say, room: Room, database: Database) -> Said:
    assert_type(await room.publish(Said(message.text)), str)
    return Said(message.text)


@app.consumer(concurrency=4, key=None)
async def raw(message: bytes, connection: Connection) -> None:
    await connection.send(message)


@app.producer(on_end="keep")
async def greet(since: Annotated[int, Query()] = 0) -> AsyncIterator[Said]:
    yield Said(f"since {since}")


@app.on_error
async def bad(error: ValueError) -> Said:
    raise Close(4000, str(error))


@app.on_disconnect
async def gone(end: End) -> None:
    assert_type(end.code, int)


async def typed_peer(peer: Peer) -> None:
    assert_type(await peer.receive(Said), Said)
    assert_type(await peer.receive(Said, Say), Said | Say)
    assert_type(await peer.receive(Said, timeout=2), Said)


async def handlers_stay_functions() -> None:
    topic: FakeTopic[Said] = FakeTopic()
    assert_type(await say(Say("a"), topic, Database()), Said)
    connection = FakeConnection()
    await raw(b"x", connection)
    assert connection.sent == [b"x"]
    assert topic.published == [Said("a")]


async def test_typed_app_runs() -> None:
    async with connect(app, "/typed/a?since=3") as peer:
        assert await peer.receive(Said) == Said("since 3")
        await peer.send(Say("hi"))
        assert await peer.receive(Said) == Said("hi")
        await peer.send(b"raw")
        assert await peer.receive(bytes) == b"raw"
    await handlers_stay_functions()
