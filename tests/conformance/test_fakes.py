"""Fakes refuse what the real ones refuse, with the same exceptions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from wsflow import (
    Call,
    Connection,
    Disconnected,
    End,
    Registry,
    Router,
    Stream,
    Topic,
    TopicName,
)
from wsflow.testing import FakeConnection, FakeRegistry, FakeTopic, serve_in_memory


class Say(msgspec.Struct, tag="say"):
    text: str


KEPT = TopicName("kept", history=10)
NOT_KEPT = TopicName("not kept")
wrong: Any = "100"


class Add(Call[int], tag="add"):
    pass


class Count(Stream[int], tag="count"):
    pass


@dataclass
class Kit:
    """What a handler is given."""

    connection: Connection
    topic: Topic[Any]
    registry: Registry


Tried = Callable[[Kit], Awaitable[Any]]


@asynccontextmanager
async def fakes(tried: Tried) -> AsyncIterator[list[Any]]:
    connection = FakeConnection(answers={Add: lambda _: 5})
    kit = Kit(connection, FakeTopic(), FakeRegistry([connection]))
    yield [await outcome(tried, kit)]


@asynccontextmanager
async def real(tried: Tried) -> AsyncIterator[list[Any]]:
    """In an ``on_connect`` function, before anything is sent."""
    app = Router("/")
    outcomes: list[Any] = []

    @app.on_connect
    async def enter(connection: Connection, registry: Registry) -> None:
        kit = Kit(connection, registry.topic("news"), registry)
        outcomes.append(await outcome(tried, kit))

    @app.consumer
    async def say(message: Say) -> None: ...

    async with serve_in_memory(app) as server, server.connect("/") as peer:
        while not outcomes:
            await peer._opened()
        yield outcomes


async def outcome(tried: Tried, kit: Kit) -> Any:
    try:
        return "fine", await tried(kit)
    except Exception as exc:
        return type(exc), str(exc)


async def send(kit: Kit, message: object) -> None:
    await kit.connection.send(message)


async def sent_then_identified(kit: Kit) -> None:
    await kit.connection.send(Say("hi"))
    kit.connection.identify("ada")


async def closed_then(kit: Kit, then: str) -> None:
    await kit.connection.close(4000, "enough")
    if then == "send":
        await kit.connection.send(Say("hi"))
    else:
        kit.connection.identify("ada")


async def identified(kit: Kit, *names: Any) -> str | None:
    for name in names:
        kit.connection.identify(name)
    return kit.connection.user


async def named(kit: Kit, *arguments: Any, **values: Any) -> str:
    return kit.registry.topic(*arguments, **values).name


async def published(kit: Kit, message: Any, *arguments: Any) -> str | bool:
    """The event id; whether there is one, on a topic with history."""
    id = await kit.registry.topic(*arguments).publish(message)
    return (isinstance(arguments[0], TopicName) and bool(id)) or id


async def joined(kit: Kit, name: TopicName, *arguments: Any, **options: Any) -> bool:
    return (await kit.registry.topic(name).join(*arguments, **options)).recovered


async def declared_twice(kit: Kit, *others: Any) -> str:
    kit.registry.topic(KEPT, Say)
    return kit.registry.topic(*others).name


async def published_as_declared(kit: Kit, message: Any) -> None:
    kit.registry.topic(KEPT, Say)
    await kit.registry.topic("kept").publish(message)


async def sent_then_asked(kit: Kit) -> None:
    await kit.connection.send(Say("hi"))
    await kit.connection.ask_credential()


async def claimed(kit: Kit, seconds: Any) -> tuple[bool, bool]:
    return await kit.registry.claim("x", seconds), await kit.registry.claim("x", seconds)


async def disconnected(kit: Kit, *arguments: Any, user: Any = "nobody") -> None:
    await kit.registry.user(user).disconnect(*arguments)


async def to_its_user(kit: Kit) -> tuple[Any, Any, Any]:
    """Tell all connections of its user, then close them; what it knows of them and its end."""
    kit.connection.identify("ada")
    await kit.connection.send("open")
    ada = kit.registry.user("ada")
    await ada.send(Say("hi"), exclude=kit.connection)
    there = [each.id == kit.connection.id for each in await ada.connections()]
    await ada.disconnect(4000, "out", exclude=kit.connection)
    before = kit.connection.end
    await ada.send(Say("hi"))
    await ada.disconnect(4401, "out")
    return there, before, kit.connection.end


async def to_itself(kit: Kit) -> Any:
    await kit.registry.disconnect(kit.connection.id, 4000, "out")
    return kit.connection.end


async def streamed(kit: Kit, message: Any) -> None:
    async with kit.connection.stream(message):
        pass


CASES: dict[str, tuple[Tried, Any]] = {
    "send a Struct": (lambda kit: send(kit, Say("hi")), "fine"),
    "send text": (lambda kit: send(kit, "hi"), "fine"),
    "send a call": (lambda kit: send(kit, Add()), TypeError),
    "send a stream": (lambda kit: send(kit, Count()), TypeError),
    "send what cannot be encoded": (lambda kit: send(kit, object()), TypeError),
    "send after the end": (lambda kit: closed_then(kit, "send"), Disconnected),
    "call what is none": (lambda kit: kit.connection.call(Say("hi")), TypeError),  # type: ignore[arg-type]
    "call a stream": (lambda kit: kit.connection.call(Count()), TypeError),  # type: ignore[arg-type]
    "call a class": (lambda kit: kit.connection.call(Add), TypeError),  # type: ignore[arg-type]
    "stream a call": (lambda kit: streamed(kit, Add()), TypeError),
    "stream what is none": (lambda kit: streamed(kit, 5), TypeError),
    "identify": (lambda kit: identified(kit, "ada", "ada"), "fine"),
    "identify as another": (lambda kit: identified(kit, "ada", "bob"), RuntimeError),
    "identify as nobody": (lambda kit: identified(kit, ""), ValueError),
    "identify as a number": (lambda kit: identified(kit, 5), TypeError),
    "identify once it is open": (sent_then_identified, RuntimeError),
    "identify after the end": (lambda kit: closed_then(kit, "identify"), Disconnected),
    "publish a call": (lambda kit: kit.topic.publish(Add()), TypeError),
    "publish what cannot be encoded": (lambda kit: kit.topic.publish(object()), TypeError),
    "join for the last without a history": (lambda kit: kit.topic.join(last=True), ValueError),
    "publish": (lambda kit: published(kit, Say("hi"), "plain"), "fine"),
    "publish what is kept": (lambda kit: published(kit, Say("hi"), KEPT), "fine"),
    "publish of the type": (lambda kit: published(kit, Say("hi"), "typed", Say, int), "fine"),
    "publish another type": (lambda kit: published(kit, "hi", "typed", Say, int), TypeError),
    "publish of the declared type": (lambda kit: published_as_declared(kit, Say("hi")), "fine"),
    "publish another one than declared": (lambda kit: published_as_declared(kit, 5), TypeError),
    "join": (lambda kit: joined(kit, NOT_KEPT), "fine"),
    "join with a presence": (lambda kit: joined(kit, NOT_KEPT, Say("me")), "fine"),
    "join with no presence": (lambda kit: joined(kit, NOT_KEPT, object()), TypeError),
    "join after what is not kept": (lambda kit: joined(kit, NOT_KEPT, after="5"), "fine"),
    "join for the last": (lambda kit: joined(kit, KEPT, last=5), "fine"),
    "join for the last of none": (lambda kit: joined(kit, NOT_KEPT, last=5), ValueError),
    "join for less than none": (lambda kit: joined(kit, KEPT, last=-1), ValueError),
    "a topic with other options": (
        lambda kit: declared_twice(kit, TopicName("kept", history=5)),
        ValueError,
    ),
    "a topic that is declared": (lambda kit: declared_twice(kit, "kept", Say), "fine"),
    "a topic with wrong options": (
        lambda kit: named(kit, TopicName("x", history=wrong)),
        ValueError,
    ),
    "a topic whose name is none": (lambda kit: named(kit, 5), TypeError),
    "ask for a credential once it is open": (sent_then_asked, RuntimeError),
    "broadcast": (lambda kit: kit.registry.broadcast(Say("hi")), "fine"),
    "broadcast what cannot be encoded": (lambda kit: kit.registry.broadcast(object()), TypeError),
    "a topic by template": (lambda kit: named(kit, "room.{room}", Say, room="my room"), "fine"),
    "a topic without its value": (lambda kit: named(kit, "room.{room}"), ValueError),
    "a topic with a value too many": (lambda kit: named(kit, "room", room="a"), ValueError),
    "a topic with a value of another type": (
        lambda kit: named(kit, "room.{room}", room=1.5),
        TypeError,
    ),
    "a topic without a name": (lambda kit: named(kit, ""), ValueError),
    "send to a user": (lambda kit: kit.registry.user("ada").send(Say("hi")), "fine"),
    "send to a user what cannot be encoded": (
        lambda kit: kit.registry.user("ada").send(object()),
        TypeError,
    ),
    "disconnect a user": (lambda kit: disconnected(kit, 4401, "out"), "fine"),
    "disconnect by a wrong code": (lambda kit: disconnected(kit, 1006), ValueError),
    "disconnect for a wrong reason": (lambda kit: disconnected(kit, 4401, 5), TypeError),
    "disconnect nobody": (lambda kit: disconnected(kit, user=""), ValueError),
    "disconnect a number": (lambda kit: disconnected(kit, user=5), TypeError),
    "disconnect half a character": (lambda kit: disconnected(kit, user="\ud800"), ValueError),
    "identify as half a character": (lambda kit: identified(kit, "\ud800"), ValueError),
    "disconnect its user": (to_its_user, "fine"),
    "disconnect a connection": (to_itself, "fine"),
    "disconnect no connection": (lambda kit: kit.registry.disconnect("x"), "fine"),
    "disconnect a connection without an id": (lambda kit: kit.registry.disconnect(""), ValueError),
    "disconnect a Connection": (
        lambda kit: kit.registry.disconnect(kit.connection),  # type: ignore[arg-type]
        TypeError,
    ),
    "disconnect a connection by a wrong code": (
        lambda kit: kit.registry.disconnect("x", 999),
        ValueError,
    ),
    "count": (lambda kit: kit.topic.count(), "fine"),
    "claim": (lambda kit: claimed(kit, 5), "fine"),
    "claim for too long": (lambda kit: claimed(kit, 1e9), ValueError),
    "claim for no time": (lambda kit: claimed(kit, 0), ValueError),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_fake_does_as_the_real_one(name: str) -> None:
    tried, expected = CASES[name]
    async with fakes(tried) as faked, real(tried) as done:
        (fake,), (real_one,) = faked, done
        assert fake[0] == real_one[0] == expected
        if expected == "fine":
            assert fake[1] == real_one[1]


async def test_what_a_fake_registry_says() -> None:
    ada, bob = FakeConnection(id="a"), FakeConnection(id="b")
    ada.identify("ada")
    registry = FakeRegistry([ada, bob], counters={"dropped": 3})
    registry.topics["news"] = FakeTopic([Say("old")], name="news")
    assert (len(registry), list(registry), registry.get("b")) == (2, [ada, bob], bob)
    assert registry.get("c") is None
    assert registry.of_user("ada") == [ada]
    assert registry.counters() == {"connections": 2, "topics": 1, "dropped": 3}
    assert (registry.broker, FakeRegistry(broker="nats").broker) == ("memory", "nats")
    assert [each async for each in registry.topic("news")] == [Say("old")]
    await registry.topic("room.{room}", room="my room").publish(Say("hi"))
    assert registry.topics["room.my%20room"].published == [Say("hi")]
    await registry.broadcast(Say("all"), exclude=ada)
    assert registry.broadcasts == [Say("all")]
    assert [each.id for each in await registry.user("ada").connections()] == ["a"]
    await registry.user("ada").send(Say("you"))
    await registry.user("eve").send(Say("nobody"))
    assert registry.sent == [("ada", Say("you")), ("eve", Say("nobody"))]
    assert (ada.sent, bob.sent) == ([Say("you")], [])
    await registry.disconnect("b", 4000, "x" * 200)
    await registry.user("ada").disconnect(4401)
    assert registry.disconnected == [("b", 4000, "x" * 123), ("ada", 4401, "")]
    assert (ada.end, bob.end) == (End("closed", 4401), End("closed", 4000, "x" * 123))
    await registry.user("ada").send(Say("gone"))
    assert ada.sent == [Say("you")]
