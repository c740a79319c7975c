"""Every family of message types, everywhere a message type is taken."""

import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import httpx2
import pytest

import wsflow
from tests.messages.kinds import CBOR, CODECS, FAMILIES, Family
from wsflow import Call, Connection, InvalidMessage, Registry, Router, Stream, Topic, TopicName
from wsflow.server import Settings, serve
from wsflow.testing import FakeConnection, FakeRegistry, FakeTopic, connect, serve_in_memory

ANY_FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=str)
ANY_CODEC = pytest.mark.parametrize("codec", CODECS, ids=lambda c: getattr(c, "name", c))


class Chat(Router):
    """An app that has messages of a family wherever there can be some."""

    def __init__(self, family: Family, codec: Any) -> None:
        super().__init__("/{room}", codec=codec)
        Say, Move, Said = family.say, family.move, family.said
        Room = Annotated[
            Topic[Move | Said], TopicName("room.{room}", history=10, presence=Move | Said)
        ]

        class Ask(Call[Move | Said], tag="ask"):
            what: Say

        class Count(Stream[Said], tag="count"):
            to: int

        self.Ask, self.Count = Ask, Count

        @self.on_connect
        async def enter(room: Room, connection: Connection) -> None:
            await room.join(presence=family.make(Said, text="here"))

        @self.producer(on_end="keep")
        async def greet() -> AsyncIterator[Said]:
            yield family.make(Said, text="welcome")

        @self.consumer
        async def say(message: Say, room: Room) -> None:
            await room.publish(family.make(Said, text=_of(message, "text")))

        @self.consumer
        async def move(message: Move, connection: Connection, room: Room) -> Move:
            if _of(message, "by") == 0:
                members = [each.presence for each in await room.members()]
                await connection.send(members[0])
            return family.make(Move, by=_of(message, "by") + 1)

        @self.consumer
        async def ask(message: Ask) -> Move | Said:
            text = _of(message.what, "text")
            if text == "what":
                return family.make(Said, text="that")
            return family.make(Move, by=len(text))

        @self.consumer
        async def count(message: Count) -> AsyncIterator[Said]:
            for number in range(message.to):
                yield family.make(Said, text=str(number))

        @self.get("/page")
        async def page() -> Said:
            return family.make(Said, text="page")


def _of(message: Any, field: str) -> Any:
    return message[field] if isinstance(message, dict) else getattr(message, field)


@ANY_CODEC
@ANY_FAMILY
async def test_messages_go_both_ways(family: Family, codec: Any) -> None:
    app = Chat(family, codec)
    Say, Move, Said = family.say, family.move, family.said
    async with connect(app, "/lobby") as peer:
        assert await peer.receive(Said) == family.make(Said, text="welcome")
        await peer.send(family.make(Say, text="hi"))
        assert await peer.receive(Said) == family.make(Said, text="hi")
        await peer.send(family.make(Move, by=1))
        assert await peer.receive(Move) == family.make(Move, by=2)
        await peer.send(family.make(Move, by=0))
        assert await peer.receive(Move) == family.make(Move, by=1)
        assert await peer.receive(Said) == family.make(Said, text="here")
        answers = [
            await peer.call(app.Ask(family.make(Say, text=each))) for each in ("abc", "what")
        ]
        assert answers == [family.make(Move, by=3), family.make(Said, text="that")]
        async with peer.stream(app.Count(2)) as items:
            found = [each async for each in items]
        assert found == [family.make(Said, text=each) for each in "01"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("codec", ["json", "msgpack", CBOR()])
@ANY_FAMILY
async def test_over_sockets(family: Family, codec: Any) -> None:
    app = Chat(family, codec)
    Say, Move, Said = family.say, family.move, family.said
    async with serve(app, Settings(port=0)) as server, httpx2.AsyncClient() as http:
        uri = f"ws://127.0.0.1:{server.port}/lobby"
        async with wsflow.connect(uri, receives=(Move, Said), codec=codec) as peer:
            assert await peer.receive() == family.make(Said, text="welcome")
            await peer.send(family.make(Say, text="hi"))
            assert await peer.receive() == family.make(Said, text="hi")
            await peer.send(family.make(Move, by=1))
            assert await peer.receive() == family.make(Move, by=2)
            answer = await peer.call(app.Ask(family.make(Say, text="abc")))
            assert answer == family.make(Move, by=3)
        found = await http.get(f"http://127.0.0.1:{server.port}/lobby/page")
        assert found.json() == {"type": "said", "text": "page"}


@ANY_CODEC
@ANY_FAMILY
async def test_loops_and_histories(family: Family, codec: Any) -> None:
    Say, Move, Said = family.say, family.move, family.said
    News = Annotated[Topic[Move | Said], TopicName("news", history=10)]
    app = Router(codec=codec)

    @app.producer
    async def echo(news: News) -> AsyncIterator[Move | Said]:
        async for message in news:
            yield message

    @app.consumer
    async def say(message: Say, news: News) -> int:
        await news.publish(family.make(Move, by=1))
        await news.publish(family.make(Said, text="hi"))
        return len((await news.history()).events)

    async with connect(app, "/") as peer:
        await peer.send(family.make(Say, text="hi"))
        assert await peer.receive(int) == 2
        assert await peer.receive(Move | Said) == family.make(Move, by=1)
        assert await peer.receive(Move, Said) == family.make(Said, text="hi")


@ANY_FAMILY
async def test_what_is_for_all_who_are_connected(family: Family) -> None:
    Say, Said = family.say, family.said
    app = Router()

    @app.consumer
    async def say(message: Say, registry: Registry) -> None:
        await registry.broadcast(family.make(Said, text="all"))
        await registry.topic("more", Said).publish(family.make(Said, text="none"))

    async with serve_in_memory(app) as server:
        async with server.connect("/") as one, server.connect("/") as two:
            await one.send(family.make(Say, text="hi"))
            assert await one.receive(Said) == family.make(Said, text="all")
            assert await two.receive(Said) == family.make(Said, text="all")


@ANY_FAMILY
async def test_what_a_topic_refuses(family: Family) -> None:
    topic = FakeTopic[Any](types=[family.said])
    await topic.publish(family.make(family.said, text="hi"))
    for wrong in (family.make(family.move, by=1), {"type": "said"}, 5):
        with pytest.raises(TypeError, match="topic 'fake' carries Said, not"):
            await topic.publish(wrong)


@ANY_FAMILY
async def test_doubles_take_them(family: Family) -> None:
    said = family.make(family.said, text="hi")
    connection, registry = FakeConnection(), FakeRegistry()
    await connection.send(said)
    assert connection.sent == [said]
    await registry.broadcast(said)
    await registry.topic("news", family.said).join(presence=said)
    await registry.topic("news", family.said).publish(said)
    assert registry.topics["news"].published == registry.broadcasts == [said]


SECRET = "hunter2"
BAD = {
    "no tag": {"text": SECRET},
    "an unknown tag": {"type": "shout", "text": SECRET},
    "a tag that is none": {"type": ["say"], "text": SECRET},
    "a wrong field": {"type": "say", "text": 5},
    "a missing field": {"type": "say"},
    "an array": ["say"],
    "a number": 5,
}


@ANY_CODEC
@ANY_FAMILY
async def test_what_cannot_be_decoded(family: Family, codec: Any) -> None:
    Say, Move = family.say, family.move
    app = Router(codec=codec)
    told: dict[str, InvalidMessage] = {}
    names = iter(BAD)

    @app.consumer
    async def say(message: Say) -> None: ...

    @app.consumer
    async def move(message: Move) -> str:
        return "moved"

    @app.on_error
    async def bad(error: InvalidMessage) -> None:
        told[next(names)] = error

    async with connect(app, "/") as peer:
        for each in BAD.values():
            await peer.send(each)
        await peer.send(family.make(Move, by=1))
        assert await peer.receive(str) == "moved"
    assert {name: each.tag for name, each in told.items()} == {
        **dict.fromkeys(BAD),
        "an unknown tag": "shout",
        "a wrong field": "say",
        "a missing field": "say",
    }
    unknown = told["an unknown tag"]
    assert unknown.reason == "unknown type 'shout': this path takes 'say', 'move'"
    assert unknown.where == "$.type"
    assert told["no tag"].reason == "Object missing required field `type`"
    assert told["a wrong field"].where == "$.text"
    assert told["an array"].reason.startswith("Expected `object`, got ")
    assert all(SECRET not in str(each) for each in told.values())


@ANY_FAMILY
async def test_without_a_function_for_it(family: Family, caplog: pytest.LogCaptureFixture) -> None:
    app = Router()

    @app.consumer
    async def say(message: family.say) -> None: ...

    @app.consumer
    async def move(message: family.move) -> None: ...

    with caplog.at_level(logging.WARNING):
        async with connect(app, "/") as peer:
            await peer.send({"type": "say", "text": 5})
            end = await peer.wait_closed()
    assert end.code == 1007
    assert "$.text" in end.reason
    assert "$.text" in caplog.text


@ANY_FAMILY
async def test_a_tag_that_is_ignored(family: Family) -> None:
    app = Router(unknown="ignore")

    @app.consumer
    async def say(message: family.say) -> str:
        return "said"

    @app.consumer
    async def move(message: family.move, registry: Registry) -> int:
        return registry.counters()["ignored"]

    async with connect(app, "/") as peer:
        await peer.send({"type": "shout", "text": "hi"})
        await peer.send(family.make(family.move, by=1))
        assert await peer.receive(int) == 1
        await peer.send(family.make(family.say, text="hi"))
        assert await peer.receive(str) == "said"


@ANY_FAMILY
async def test_beside_consumers_of_the_rest(family: Family) -> None:
    app = Router()

    @app.consumer
    async def say(message: family.say) -> str:
        return "say"

    @app.consumer
    async def objects(message: dict[str, Any]) -> str:
        return "object"

    @app.consumer
    async def rest(message: Any) -> str:
        return "rest"

    async with connect(app, "/") as peer:
        for sent, taken in (
            (family.make(family.say, text="hi"), "say"),
            ({"text": 5}, "object"),
            ({"type": "shout"}, "object"),
            ({"type": []}, "object"),
            ([1], "rest"),
            (5, "rest"),
        ):
            await peer.send(sent)
            assert await peer.receive(str) == taken
        await peer.send({"type": "say", "text": 5})
        assert (await peer.wait_closed()).code == 1007


@ANY_FAMILY
async def test_alone_on_a_path(family: Family) -> None:
    app = Router()

    class Ask(Call[int], tag="ask"):
        pass

    @app.consumer
    async def say(message: family.say) -> str:
        return _of(message, "text")

    @app.consumer
    async def number(message: int) -> int:
        return message

    @app.consumer
    async def ask(message: Ask) -> int:
        return 7

    async with connect(app, "/") as peer:
        await peer.send(family.make(family.say, text="hi"))
        assert await peer.receive(str) == "hi"
        await peer.send(5)
        assert await peer.receive(int) == 5
        assert await peer.call(Ask()) == 7


@ANY_FAMILY
async def test_a_consumer_that_iterates_and_one_with_a_key(family: Family) -> None:
    app = Router()
    heard: list[Any] = []
    done = anyio.Event()

    @app.consumer
    async def say(messages: AsyncIterator[family.say | family.move]) -> None:
        async for each in messages:
            heard.append(each)
            if len(heard) == 2:
                done.set()

    sent = [family.make(family.say, text="hi"), family.make(family.move, by=1)]
    async with connect(app, "/") as peer:
        for each in sent:
            await peer.send(each)
        await done.wait()
    assert heard == sent
