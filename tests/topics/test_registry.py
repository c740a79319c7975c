"""The registry: this process's connections, broadcasts, topics by name."""

from __future__ import annotations

import re
from typing import Annotated, Any

import anyio
import msgspec
import pytest

from wsflow import Connection, Registry, Router, Topic, TopicName
from wsflow.testing import serve_in_memory


class Note(msgspec.Struct, tag="note"):
    text: str


def build() -> Router:
    app = Router("/{room}")
    Log = Annotated[Topic[Note], TopicName("log.{room}", history=5)]

    @app.on_connect
    async def enter(log: Log) -> None:
        await log.join()

    @app.consumer
    async def do(message: str, registry: Registry, connection: Connection) -> Any:
        match message.split():
            case ["all"]:
                await registry.broadcast(Note("all"))
            case ["others"]:
                await registry.broadcast("others", exclude=connection)
            case ["count"]:
                return [len(registry), [each.id for each in registry] != []]
            case ["self"]:
                return registry.get(connection.id) is connection and registry.get("x") is None
            case ["log", name]:
                return await registry.topic(f"log.{name}").publish(Note("logged"))
            case ["join", name]:
                await registry.topic(name, Note).join()
            case ["tell", name]:
                await registry.topic(name, Note).publish(Note(name))
            case ["empty"]:
                registry.topic("")
        return "done"

    return app


async def test_registry() -> None:
    async with serve_in_memory(build()) as server:
        assert server.registry.broker == "memory"
        async with (
            server.connect("/a") as ada,
            server.connect("/b", subprotocols=["wsflow.msgpack"]) as bob,
        ):
            assert bob.subprotocol == "wsflow.msgpack"
            await ada.send("count")
            assert await ada.receive() == [2, True]
            await ada.send("self")
            assert await ada.receive() is True
            await ada.send("all")
            for peer in (ada, bob):
                assert await peer.receive(Note) == Note("all")
            assert await ada.receive() == "done"
            await ada.send("others")
            assert await bob.receive(str) == "others"
            assert await ada.receive() == "done"
            await ada.receive_nothing(within=0.01)
            # a name that a declared template matches has that topic's options: history
            await ada.send("log b")
            assert (await ada.receive()).endswith("-1")
            assert await bob.receive(Note) == Note("logged")
            await bob.send("join x.y")
            assert await bob.receive() == "done"
            await ada.send("tell x.y")
            assert await bob.receive(Note) == Note("x.y")
            await ada.send("empty")
            end = await ada.wait_closed()
            assert str(end.error) == "a topic needs a name"
        assert len(server.registry) == 0


async def test_broadcast_before_anybody_is_there() -> None:
    async with serve_in_memory(build()) as server:
        await server.registry.broadcast("nobody hears")


async def test_no_word_to_those_who_are_not_accepted_yet() -> None:
    entered, go = anyio.Event(), anyio.Event()
    app = Router("/")

    @app.on_connect
    async def slow() -> None:
        entered.set()
        await go.wait()

    @app.consumer
    async def echo(message: str) -> str:
        return message

    async with serve_in_memory(app) as server:
        peer = server._open("/", (), ())
        await entered.wait()
        assert len(server.registry) == 0
        await server.registry.broadcast("early")
        go.set()
        await peer._opened()
        await server.registry.broadcast("late")
        assert await peer.receive() == "late"


@pytest.mark.parametrize("bad", [object(), 1j])
async def test_what_cannot_be_encoded(bad: object) -> None:
    async with serve_in_memory(build()) as server:
        with pytest.raises(TypeError):
            await server.registry.broadcast(bad)


async def test_each_counter_is_there_from_the_start() -> None:
    """Whoever reads them for metrics need not ask whether they have counted yet."""
    named = {*re.findall(r"``(\w+)``", str(Registry.counters.__doc__))}
    async with serve_in_memory(build()) as server:
        assert {*server.registry.counters()} == named
