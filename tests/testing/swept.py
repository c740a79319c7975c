"""Apps and peers to sweep: together they have every kind of function that a connection runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Annotated, NamedTuple

import anyio
import msgspec
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from wsflow import Call, Connection, End, Message, Reject, Router, Stream, Topic
from wsflow.limits import Limits
from wsflow.testing import MemoryPeer
from wsflow.testing.server import LIMITS
from wsflow.testing.sweep import Scenario


class Say(msgspec.Struct, tag="say"):
    text: str


class Keyed(msgspec.Struct, tag="keyed"):
    key: int


class Other(msgspec.Struct, tag="other"):
    pass


class Count(Stream[int], tag="count"):
    upto: int


class Add(Call[int], tag="add"):
    a: int
    b: int


class Ask(Call[str], tag="ask"):
    what: str


class Session(NamedTuple):
    """What on_connect provides."""

    name: str


News = Annotated[Topic[Say], "news"]


def consumer() -> Router:
    app = Router("/")

    @app.on_message
    async def around() -> AsyncIterator[None]:
        await checkpoint()
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()

    @app.consumer
    async def say(message: Say) -> Say:
        await anyio.sleep(0.1)
        return Say(message.text.upper())

    return app


async def say_twice(peer: MemoryPeer) -> None:
    await peer.send(Say("a"))
    await peer.send(Say("b"))
    assert [await peer.receive(Say) for _ in "ab"] == [Say("A"), Say("B")]
    await peer.close()


def producer() -> Router:
    app = Router("/")

    @app.producer(on_end="keep")
    async def tick() -> AsyncIterator[Say]:
        try:
            for number in range(2):
                yield Say(str(number))
                await anyio.sleep(0.1)
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()

    @app.producer
    async def once(connection: Connection) -> None:
        await connection.send(Say("once"))
        await anyio.sleep(0.3)

    return app


async def hear_three(peer: MemoryPeer) -> None:
    assert {(await peer.receive(Say)).text for _ in range(3)} == {"0", "1", "once"}


def both() -> Router:
    app = Router("/")

    @app.producer(on_end="keep")
    async def tick() -> AsyncIterator[int]:
        while True:
            await anyio.sleep(0.1)
            yield 1

    @app.consumer
    async def slow(message: Say) -> Say:
        await anyio.sleep(0.25)
        return message

    @app.on_disconnect
    async def farewell(end: End) -> None:
        await checkpoint()

    return app


async def leave_with_a_message(peer: MemoryPeer) -> None:
    await peer.send(Say("a"))
    assert await peer.receive(Say) == Say("a")
    await peer.send(Say("b"))
    await peer.close()


def concurrent() -> Router:
    app = Router("/")

    @app.consumer(concurrency=2)
    async def say(message: Say) -> Say:
        await anyio.sleep(0.1)
        return message

    @app.consumer(concurrency=4, key="key")
    async def keyed(message: Keyed) -> AsyncIterator[Keyed]:
        await anyio.sleep(0.1)
        yield message

    @app.consumer
    async def plain(message: Other) -> None:
        await checkpoint()

    return app


async def send_all_kinds(peer: MemoryPeer) -> None:
    for each in (Say("a"), Keyed(1), Say("b"), Keyed(1), Other(), Say("c"), Keyed(2)):
        await peer.send(each)
    says = {(await peer.receive(Say)).text for _ in "abc"}
    assert says == {"a", "b", "c"}
    assert sorted([(await peer.receive(Keyed)).key for _ in range(3)]) == [1, 1, 2]


def grouped() -> Router:
    app = Router("/")

    @app.on_connect
    async def enter(tasks: TaskGroup, connection: Connection) -> None:
        async def greet() -> None:
            await connection.send(Say("hello"))
            await anyio.sleep(5)

        tasks.start_soon(greet)

    @app.consumer
    async def say(message: Say, tasks: TaskGroup, connection: Connection) -> None:
        async def answer() -> None:
            await anyio.sleep(0.1)
            await connection.send(message)

        tasks.start_soon(answer)

    return app


async def hear_both(peer: MemoryPeer) -> None:
    await peer.send(Say("a"))
    assert [await peer.receive(Say) for _ in range(2)] == [Say("hello"), Say("a")]


def streamed() -> Router:
    app = Router("/")

    @app.consumer
    async def iterate(messages: AsyncIterator[Say]) -> AsyncIterator[Say]:
        async for message in messages:
            yield message
            await anyio.sleep(0.1)

    return app


def calls() -> Router:
    app = Router("/")

    @app.consumer
    async def add(call: Add) -> int:
        await anyio.sleep(0.1)
        return call.a + call.b

    @app.consumer
    async def count(call: Count) -> AsyncIterator[int]:
        for number in range(call.upto):
            await checkpoint()
            yield number

    return app


async def call_and_stream(peer: MemoryPeer) -> None:
    assert await peer.call(Add(1, 2)) == 3
    async with peer.stream(Count(3)) as numbers:
        assert [number async for number in numbers] == [0, 1, 2]


def asks() -> Router:
    """The app calls its peer, which never answers."""
    app = Router("/")

    @app.consumer
    async def say(message: Say, connection: Connection) -> Say:
        with contextlib.suppress(TimeoutError):
            await connection.call(Ask("what?"), timeout=0.1)
        return message

    return app


async def say_once(peer: MemoryPeer) -> None:
    await peer.send(Say("a"))
    assert await peer.receive(Say) == Say("a")


def topics() -> Router:
    app = Router("/")

    @app.on_connect
    async def enter(news: News) -> None:
        await news.join("somebody")

    @app.consumer
    async def publish(message: Say, news: News) -> None:
        await news.publish(message)

    @app.consumer
    async def move(message: Other, news: News) -> str:
        await news.leave()
        await news.join()
        return f"{len(await news.members())} here"

    @app.producer
    async def repeat(news: News) -> AsyncIterator[str]:
        async for message in news:
            yield message.text

    return app


async def hear_the_news(peer: MemoryPeer) -> None:
    await peer.send(Say("a"))
    assert await peer.receive(Say) == Say("a")
    assert await peer.receive(str) == "a"
    await peer.send(Other())
    assert await peer.receive(str) == "1 here"


def nested() -> Router:
    app = Router("/")

    @app.on_connect
    async def outer() -> AsyncIterator[None]:
        await checkpoint()
        # scopes of the user's own, open as long as the connection
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 5)
            with anyio.CancelScope():
                yield
            tasks.cancel_scope.cancel()
        await checkpoint()

    inner = Router("/")

    @inner.on_connect
    async def shielded() -> AsyncIterator[Session]:
        with anyio.CancelScope(shield=True):  # it sets up, whatever happens meanwhile
            await checkpoint()
        yield Session("ada")
        await anyio.sleep(0.1)

    @inner.on_connect
    async def plain(session: Session) -> None:
        await checkpoint()

    @inner.on_disconnect
    async def farewell(end: End, session: Session) -> None:
        await anyio.sleep(0.1)

    @inner.consumer
    async def say(message: Say, session: Session) -> Say:
        return Say(f"{session.name}: {message.text}")

    app.include(inner)
    return app


async def hear_ada(peer: MemoryPeer) -> None:
    await peer.send(Say("a"))
    assert await peer.receive(Say) == Say("ada: a")


def guarded() -> Router:
    """What goes wrong is answered, and the connection goes on."""
    app = Router("/")

    @app.on_error
    async def explain(error: Exception) -> Say:
        await checkpoint()
        return Say(str(error))

    @app.consumer
    async def say(message: Say) -> Say:
        await checkpoint()
        if message.text == "wrong":
            raise ValueError("wrong")
        return message

    return app


async def err(peer: MemoryPeer) -> None:
    await peer.send(Say("wrong"))
    await peer.send(Say("right"))
    assert [await peer.receive(Say) for _ in range(2)] == [Say("wrong"), Say("right")]


def crowded() -> Router:
    """Several tasks send to a peer that reads slowly; one that is cancelled does not end the
    others."""
    app = Router("/")

    @app.consumer
    async def many(message: Say, connection: Connection) -> str:
        async def send(number: int) -> None:
            with contextlib.suppress(asyncio.CancelledError):  # as of a task that was cancelled
                await connection.send(Say(f"{number}: {message.text * 50}"))

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(send, number)
        return "done"

    return app


async def read_slowly(peer: MemoryPeer) -> None:
    await peer.send(Say("a"))
    await anyio.sleep(0.1)
    for _ in range(4):
        await peer.receive(Say)
        await anyio.sleep(0.1)
    assert await peer.receive(str) == "done"


def busy() -> Router:
    """All at once."""
    app = Router("/")

    @app.on_connect
    async def enter(news: News, connection: Connection) -> AsyncIterator[Session]:
        await news.join()
        await connection.send(Say("welcome"))
        yield Session("ada")
        await news.publish(Say("gone"))

    @app.on_message
    async def around(session: Session) -> AsyncIterator[None]:
        await checkpoint()
        yield
        await checkpoint()

    @app.on_message
    async def tagged(message: Annotated[object, Message()]) -> None:
        await checkpoint()

    @app.consumer
    async def say(message: Say, news: News) -> str:
        await news.publish(message)
        await anyio.sleep(0.1)
        return "published"

    @app.consumer(concurrency=3, key="key")
    async def keyed(message: Keyed) -> Keyed:
        await anyio.sleep(0.1)
        return message

    @app.producer(on_end="keep")
    async def tick() -> AsyncIterator[float]:
        for _ in range(3):
            yield 0.5
            await anyio.sleep(0.1)

    @app.on_disconnect
    async def farewell(news: News) -> None:
        await news.publish(Say("bye"))

    return app


async def do_all(peer: MemoryPeer) -> None:
    for each in (Say("a"), Keyed(1), Keyed(1), Keyed(2)):
        await peer.send(each)
    assert [await peer.receive(Say) for _ in range(2)] == [Say("welcome"), Say("a")]
    assert sorted([(await peer.receive(Keyed)).key for _ in range(3)]) == [1, 1, 2]
    assert await peer.receive(str) == "published"
    assert [await peer.receive(float) for _ in range(3)] == [0.5] * 3


def overrun() -> Router:
    """It handles what comes more slowly than it comes."""
    app = Router("/")

    @app.consumer
    async def say(message: Say) -> Say:
        await anyio.sleep(0.4)
        return message

    return app


async def send_many(peer: MemoryPeer) -> None:
    for text in "abcde":
        await peer.send(Say(text))
    assert [(await peer.receive(Say)).text for _ in range(2)] == ["a", "b"]
    await peer.close()


def refusing() -> Router:
    """It accepts nobody."""
    app = Router("/")

    @app.on_connect
    async def refuse() -> None:
        await checkpoint()
        raise Reject(403)

    @app.consumer
    async def say(message: Say) -> Say:
        return message

    return app


async def be_refused(peer: MemoryPeer) -> None:
    assert peer.rejected.status == 403


async def send_too_much(peer: MemoryPeer) -> None:
    await peer.send(Say("a" * 200))
    assert (await peer.wait_closed()).code == 1009


class Swept(NamedTuple):
    """An app, what a peer does, and the limits."""

    app: Callable[[], Router]
    scenario: Scenario
    limits: Limits = LIMITS


SWEPT = {
    "consumer": Swept(consumer, say_twice),
    "producer": Swept(producer, hear_three),
    "both": Swept(both, leave_with_a_message),
    "concurrency and keys": Swept(concurrent, send_all_kinds),
    "task group": Swept(grouped, hear_both),
    "stream": Swept(streamed, say_once),
    "calls": Swept(calls, call_and_stream),
    "calls of the app": Swept(asks, say_once),
    "topics": Swept(topics, hear_the_news),
    "nested scopes": Swept(nested, hear_ada),
    "on_error": Swept(guarded, err),
    "all at once": Swept(busy, do_all),
    "a slow app": Swept(overrun, send_many, replace(LIMITS, inbox_messages=2)),
    "rejected": Swept(refusing, be_refused),
    "too big": Swept(both, send_too_much, replace(LIMITS, max_message_size=100)),
    "a slow peer": Swept(crowded, read_slowly, replace(LIMITS, write_buffer=50)),
}
