"""Topics by template and values, and those that are declared while an app runs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest

from wsflow import DeclarationError, EventId, Query, Registry, Router, Topic, TopicName
from wsflow.messages.codec import JSON, MSGPACK
from wsflow.messages.events import TopicOptions
from wsflow.testing import connect, serve_in_memory
from wsflow.testing.server import MemoryServer
from wsflow.topics import declared
from wsflow.topics.type import TopicType
from wsflow.wiring.compile import compile_app


class Said(msgspec.Struct, tag="said"):
    text: str


class Note(msgspec.Struct, tag="note"):
    text: str
    id: Annotated[str, EventId()] = ""


class Member(msgspec.Struct):
    name: str


class Loud(Said, tag="loud"):
    pass


Room = Annotated[Topic[Said], "room.{room}"]
Alerts = Annotated[Topic[Note], TopicName("alerts.{kind}.{place}", history=9, backlog=7)]


def build(*topics: Any, path: str = "/{room}") -> Router:
    app = Router(path, topics=topics)

    @app.on_connect
    async def enter(room: Room) -> None:
        await room.join()

    @app.consumer
    async def say(message: str, registry: Registry) -> None:
        await registry.topic("room.{room}", Said, room=message).publish(Said(message))

    return app


@pytest.fixture
async def server() -> AsyncIterator[MemoryServer]:
    async with serve_in_memory(build(Alerts)) as running:
        yield running


@pytest.mark.parametrize("room", ["my room", "ada@x.org", "é", "a.b", "*", "100%", "{room}"])
async def test_a_template_names_what_the_path_has_named(room: str) -> None:
    async with connect(build(), "/" + "".join(f"%{byte:02X}" for byte in room.encode())) as ada:
        await ada.send(room)
        assert await ada.receive(Said) == Said(room)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("room.my room", 'registry.topic("room.{room}", room="my room")'),
        ("room.ada@x.org", 'registry.topic("room.{room}", room="ada@x.org")'),
        ("room.a.b", 'registry.topic("room.{room}", room="a.b")'),
        ("room.100%", 'registry.topic("room.{room}", room="100%")'),
        ("room.é", 'registry.topic("room.{room}", room="é")'),
        ("room.a\nb", 'registry.topic("room.{room}", room="a\\nb")'),
        ("alerts.a b.c", 'registry.topic("alerts.{kind}.{place}", kind="a b", place="c")'),
    ],
)
async def test_a_finished_name_that_looks_like_a_declared_one(
    server: MemoryServer, name: str, cure: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(cure.replace('"', "'"))):
        server.registry.topic(name)


@pytest.mark.parametrize("name", ["room", "room.", "rooms.a b", "alerts.a", "x y", "my.room.a b"])
async def test_a_name_of_nobody(server: MemoryServer, name: str) -> None:
    topic = server.registry.topic(name)
    assert topic.name == name
    assert await topic.publish("to nobody") == ""


async def test_a_template_without_a_text_of_its_own_looks_like_nothing() -> None:
    app = Router("/{room}")

    @app.consumer
    async def say(message: str, any_room: Annotated[Topic[str], "{room}"]) -> None: ...

    async with serve_in_memory(app) as server:
        assert server.registry.topic("a.b").name == "a.b"


async def test_a_router_declares_what_its_path_has_no_values_for(server: MemoryServer) -> None:
    topic = server.registry.topic("alerts.{kind}.{place}", kind="fire", place="hall 1")
    assert topic.name == "alerts.fire.hall%201"
    assert (await topic.publish(Note("!"))).endswith("-1")
    with pytest.raises(TypeError, match="carries Note, not int"):
        await topic.publish(5)
    assert server.registry.topic(topic.name)._type.options == topic._type.options
    assert topic._type.options.backlog == 7


def test_what_a_router_declares_is_known_before_it_runs() -> None:
    plan = compile_app(build(Alerts, path="/{room}"))
    options = TopicOptions(history=9, backlog=7, event_id="all")
    assert plan.topics.with_history == {"alerts.{kind}.{place}": options}
    (route,) = plan.routes
    assert Note in route.sends
    codecs = plan.topics.types["alerts.{kind}.{place}"].codecs
    assert {codec.name for codec in codecs} == {codec.name for codec in route.codecs}


async def test_options_of_a_topic_known_at_run_time() -> None:
    presence: list[Any] = []
    app = Router("/")
    kinds = TopicName(
        "kinds.{kind}",
        history=3,
        max_age=60,
        history_bytes=100_000,
        backlog=2,
        when_full="latest",
        presence=Member,
    )

    @app.on_connect
    async def enter(registry: Registry, last: Annotated[int, Query()] = 0) -> None:
        topic = registry.topic(kinds, Said, kind="a.b")
        await topic.join(presence=Member("ada"), last=last)

    @app.consumer
    async def say(message: str, registry: Registry) -> str:
        topic = registry.topic("kinds.{kind}", kind="a.b")
        presence[:] = [each.presence for each in await topic.members()]
        return await topic.publish(Said(message))

    async with serve_in_memory(app) as server, server.connect("/") as ada:
        for text in "abcd":
            await ada.send(text)
            assert await ada.receive(str)
        assert presence == [Member("ada")]
        async with server.connect("/?last=2") as bob:
            assert [(await bob.receive(Said)).text for _ in range(2)] == ["c", "d"]
        options = server.registry.topic("kinds.a%2Eb")._type.options
        assert options == kinds._options
        assert server.registry.topic("kinds.c")._type.types == (Said,)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        (
            TopicName("x", history=-1),
            {},
            "topic 'x': history is -1. Fix: use a whole number of at least 0.",
        ),
        (TopicName("x", max_age=5), {}, "max_age is a limit of a history in seconds"),
        (TopicName("x", idle=5), {}, "idle is a limit of a history in seconds"),
        (TopicName("x", history=5, idle=-5), {}, "idle is -5. Fix: use seconds, at least 0"),
        (TopicName("x", when_full="wait"), {}, "when_full is 'wait'"),  # type: ignore[arg-type]
        (TopicName("x.{y}"), {}, "needs a value for y"),
        (TopicName("room.{room}", history=5), {"room": "a"}, "history is 0 there and 5 here"),
        (TopicName("room.{other}", backlog=5), {"other": "a"}, "backlog is 1024 there and 5 here"),
        (TopicName("room.a", when_full="latest"), {}, "when_full is 'close' there and 'latest'"),
        (TopicName("alerts.{kind}.{place}"), {"kind": "a", "place": "b"}, "history is 9 there"),
        (TopicName("used", presence=Member), {}, "topic 'used' has other options elsewhere"),
    ],
)
async def test_options_that_cannot_be(
    server: MemoryServer, name: TopicName, values: dict[str, str], says: str
) -> None:
    used = aiter(server.registry.topic("used"))
    with pytest.raises(ValueError, match=re.escape(says)):
        server.registry.topic(name, **values)
    await used.aclose()


async def test_the_options_of_a_topic_that_was_there_before() -> None:
    app = Router("/")

    @app.on_connect
    async def enter(registry: Registry) -> None:
        early = registry.topic("late")
        topic = registry.topic(TopicName("late", history=1))
        await topic.join()
        for act in (early.join, lambda: early.publish("x")):
            with pytest.raises(ValueError, match="history is 1 there and 0 here"):
                await act()
        with pytest.raises(ValueError, match="history is 1 there and 0 here"):
            aiter(early)

    @app.consumer
    async def nothing(message: str) -> None: ...

    async with connect(app, "/"):
        pass


async def test_names_at_run_time_have_a_bound(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declared, "MAX_TOPICS", 3)
    async with serve_in_memory(build()) as small:
        for number in range(5):
            small.registry.topic(TopicName("many.{number}"), number=number)
        small.registry.topic(TopicName("x.0"))
        small.registry.topic(TopicName("x.1"))
        small.registry.topic(TopicName("many.{other}"), other=5)
        with pytest.raises(ValueError, match="3 topics were declared while the app runs"):
            small.registry.topic(TopicName("x.5"))


@pytest.mark.parametrize("last", [-1, True, 1.5, "5"])
async def test_last_is_a_number_of_events(server: MemoryServer, last: Any) -> None:
    async with serve_in_memory(joining("x", last)) as other, other.connect("/") as peer:
        await peer.send("go")
        assert "last is" in await peer.receive(str)


async def test_last_needs_a_history() -> None:
    async with serve_in_memory(joining("x", 5)) as other, other.connect("/") as peer:
        await peer.send("go")
        assert await peer.receive(str) == (
            "join(last=5) needs a history, and topic 'x' has none: declare it with "
            'TopicName("…", history=5)'
        )


def joining(name: str, last: Any) -> Router:
    app = Router("/")

    @app.consumer
    async def join(message: str, registry: Registry) -> str:
        try:
            await registry.topic(name).join(last=last)
        except ValueError as exc:
            return str(exc)
        return ""

    return app


# -- what a topic carries

Small = Annotated[int, msgspec.Meta(ge=1, le=9)]
Short = Annotated[str, msgspec.Meta(max_length=2)]


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (float | None, [1, 1.5, None], ["1", True, [1]]),
        (float, [1, 1.5], ["1", None, Said("x")]),
        (int, [1, 2**63], [1.5, True, "1"]),
        (bool, [True], [1]),
        (Sequence[int], [(1, 2), [1], ()], [("a",), "12", b"12", {"a": 1}]),
        (list[int], [[1], (1,), {1}], [["a"], [1.5], None]),
        (tuple[int, str], [(1, "a"), [1, "a"]], [(1, 2), (1,)]),
        (dict[str, int], [{"a": 1}], [{"a": "b"}, [1]]),
        (dict, [{"a": "b"}], [[1]]),
        (Small, [1, 9], [0, 10, "1"]),
        (Short, ["ab", ""], ["abc", b"ab"]),
        (str, ["", "é"], [b"", 1, None]),
        (bytes, [b"", bytearray(b"x"), memoryview(b"x")], ["x", 1]),
        (bytearray, [b"x", bytearray(b"x")], ["x"]),
        (Literal["a", "b"], ["a"], ["c", 1]),
        (Literal[1, 2], [1], [3, "1"]),
        (UUID, [UUID(int=5)], ["5", str(UUID(int=5)), 5]),
        (Said, [Said("x"), {"type": "said", "text": "x"}], [Note("x"), Loud("x"), {"text": 1}]),
        (Said | Note | None, [Said("x"), Note("x"), None], [Loud("x"), "x"]),
        (Any, ["x", 1, None, Said("x")], []),
        (object, ["x", 1], []),
    ],
)
@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_what_msgspec_decodes_is_right(
    kind: Any, right: list[Any], wrong: list[Any], codec: Any
) -> None:
    app = Router("/", codec=codec)

    @app.consumer
    async def nothing(message: Any) -> None: ...

    async with serve_in_memory(app) as server:
        topic = server.registry.topic("x", kind)
        for message in right:
            assert await topic.publish(message) == ""
        for message in wrong:
            with pytest.raises(
                TypeError, match=f"topic 'x' carries .*, not {type(message).__name__}"
            ):
                await topic.publish(message)


async def test_the_error_says_where() -> None:
    async with serve_in_memory(build()) as server:
        topic = server.registry.topic("x", list[int])
        with pytest.raises(TypeError, match=re.escape("Expected `int`, got `str` - at `$[1]`")):
            await topic.publish([1, "a"])
        with pytest.raises(TypeError, match="Encoding objects of type complex"):
            await topic.publish([1j])
        assert await topic.publish([2**65]) == ""  # as JSON, which has integers as large


async def test_what_is_decoded_has_its_event_id() -> None:
    heard: list[Any] = []
    app = Router("/")

    @app.on_connect
    async def enter(news: Annotated[Topic[Note], TopicName("news", history=5)]) -> None:
        await news.join()

    @app.consumer
    async def say(message: Any, registry: Registry) -> None:
        heard.append(await registry.topic("news").publish(message))

    async with connect(app, "/") as ada:
        await ada.send({"type": "note", "text": "x"})
        assert await ada.receive(Note) == Note("x", heard[0] if heard else "")
        assert heard[0]


async def test_integers_that_one_codec_has() -> None:
    app = Router("/", codec="msgpack", subprotocols=("wsflow.msgpack", "wsflow.json"))

    @app.consumer
    async def nothing(message: Any) -> None: ...

    async with serve_in_memory(app) as server:
        topic = server.registry.topic("x", list[int])
        packed = TopicType(topic._type.types, topic._type.options, (MSGPACK,))
        both = TopicType(topic._type.types, topic._type.options, (MSGPACK, JSON))
        assert both.check("x", [2**65]) == [2**65]
        assert packed.check("x", [2**65]) == [2**65]  # encoding it says so
        with pytest.raises(TypeError, match="carries"):
            both.check("x", [2**65, "a"])


def test_what_a_router_offers_to_a_handler_that_differs() -> None:
    app = Router("/", topics=[Annotated[Topic[int], "n"], Annotated[Topic[str], "n"]])

    @app.consumer
    async def nothing(message: str) -> None: ...

    with pytest.raises(DeclarationError, match="The topic 'n' has the type str here, and others"):
        compile_app(app)
