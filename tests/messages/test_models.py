"""Models of pydantic: what they validate, where an error is, and what is sent."""

import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, TypedDict, TypeVar

import anyio
import attrs
import msgspec
import pydantic
import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, SecretStr
from typing_extensions import TypeAliasType

from tests.messages.kinds import CBOR, CODECS
from wsflow import (
    Call,
    Connection,
    EventId,
    InvalidMessage,
    Requires,
    Router,
    Sends,
    Topic,
    TopicName,
)
from wsflow import Message as TheMessage
from wsflow.messages.codec import CODECS as NATIVE
from wsflow.messages.codec import JSON, MSGPACK, BoundCodec, bad_message
from wsflow.testing import connect

T = TypeVar("T")
ALL = [*NATIVE.values(), BoundCodec(CBOR())]
ANY_CODEC = pytest.mark.parametrize("codec", ALL, ids=lambda c: c.name)


class Point(BaseModel):
    x: int
    y: int = 0


class Circle(BaseModel):
    kind: Literal["circle"]
    radius: float = Field(gt=0)
    at: Point = Point(x=0)


class Square(BaseModel):
    kind: Literal["square"]
    side: float


Shape = Annotated[Circle | Square, Field(discriminator="kind")]


@dataclass
class Pen:
    colour: str


class Draw(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["draw"] = "draw"
    shape: Shape
    pen: Pen | None = None
    path: list[Point | int] = []
    names: dict[str, int] = {}

    @pydantic.field_validator("path")
    @classmethod
    def is_short(cls, path: list[Any]) -> list[Any]:
        if len(path) > 2:
            raise ValueError("the path is too long")
        return path


CIRCLE = {"kind": "circle", "radius": 1}


@pytest.mark.parametrize(
    ("value", "reason", "where"),
    [
        ({"type": "draw"}, "Field required", "$.shape"),
        ({"shape": {"kind": "circle"}}, "Field required", "$.shape.radius"),
        ({"shape": {"kind": "circle", "radius": -1}}, "greater than 0", "$.shape.radius"),
        ({"shape": {**CIRCLE, "at": {"x": "u"}}}, "valid integer", "$.shape.at.x"),
        ({"shape": {"kind": "hexagon"}}, "does not match any", "$.shape"),
        ({"shape": {}}, "Unable to extract tag", "$.shape"),
        ({"shape": CIRCLE, "pen": {"colour": 1}}, "valid string", "$.pen.colour"),
        ({"shape": CIRCLE, "path": [1, {"x": "u"}]}, "valid integer", "$.path[1].x"),
        ({"shape": CIRCLE, "path": [1, []]}, "should be", "$.path[1]"),
        ({"shape": CIRCLE, "path": [1, 2, 3]}, "the path is too long", "$.path"),
        ({"shape": CIRCLE, "names": {"a": "u"}}, "valid integer", "$.names.a"),
        ({"shape": CIRCLE, "colour": 1}, "Extra inputs", "$.colour"),
        ([1], "should be an object", "$"),
    ],
)
@ANY_CODEC
def test_the_place_of_an_error(codec: BoundCodec, value: Any, reason: str, where: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        codec.decoder(Draw)(codec.encode(value))
    bad = bad_message(raised.value)
    assert (bad.code, bad.where) == (1007, where)
    assert reason in bad.reason
    assert bad.__cause__ is None


class Frame(msgspec.Struct, tag="frame"):
    draw: Draw
    more: list[Draw] = []


@ANY_CODEC
def test_a_model_within_a_struct(codec: BoundCodec) -> None:
    frame = Frame(Draw(shape=Circle(kind="circle", radius=1), pen=Pen("red")), [])
    assert codec.decoder(Frame)(codec.encode(frame)) == frame
    for value, where in (
        ({"draw": {"shape": {"kind": "circle", "radius": -1}}}, "$.draw.shape.radius"),
        ({"draw": {"shape": CIRCLE}, "more": [{}]}, "$.more[0].shape"),
    ):
        with pytest.raises(msgspec.ValidationError) as raised:
            codec.decoder(Frame)(codec.encode({"type": "frame", **value}))
        assert bad_message(raised.value).where == where


class Texts(RootModel[list[str]]):
    pass


class Named(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    tag: Literal["named"] = Field("named", alias="@type")
    name: str = Field(alias="fullName")


class Kind(StrEnum):
    BYE = "bye"


class Bye(BaseModel):
    tag: Literal[Kind.BYE] = Field(Kind.BYE, alias="@type")


class Box(BaseModel, Generic[T]):
    content: T


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, ser_json_bytes="base64", val_json_bytes="base64")
    number: int
    at: pydantic.AwareDatetime
    data: bytes = b"\xff"


class Login(BaseModel):
    type: Literal["login"]
    password: SecretStr = Field(min_length=8)


STRICT = Strict(number=1, at=datetime(2026, 1, 1, tzinfo=UTC), data=b"\xfe")


@ANY_CODEC
@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (Texts(["a"]), ["a"]),
        (Named(name="Ada"), {"@type": "named", "fullName": "Ada"}),
        (Bye(), {"@type": "bye"}),
        (Box[int](content=1), {"content": 1}),
        (STRICT, {"number": 1, "at": "2026-01-01T00:00:00Z", "data": "_g=="}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_sent(codec: BoundCodec, message: Any, sent: Any) -> None:
    data = codec.encode(message)
    assert codec.untyped(data) == sent
    assert codec.decoder(type(message))(data) == message


@ANY_CODEC
def test_a_strict_model_converts_nothing(codec: BoundCodec) -> None:
    sent = {"number": "1", "at": "2026-01-01T00:00:00Z"}
    with pytest.raises(msgspec.ValidationError, match=r"valid integer - at `\$\.number`"):
        codec.decoder(Strict)(codec.encode(sent))


def test_values_that_json_lacks() -> None:
    now = datetime.now(UTC)
    sent = msgspec.msgpack.encode({"number": 1, "at": now, "data": b"\xff\x00"})
    assert MSGPACK.decoder(Strict)(sent) == Strict(number=1, at=now, data=b"\xff\x00")
    with pytest.raises(msgspec.ValidationError, match="not a value that JSON has"):
        MSGPACK.decoder(Box[str])(msgspec.msgpack.encode({"content": b"\xff"}))


def test_json_that_only_pydantic_reads() -> None:
    decode = JSON.decoder(Box[list[float]])
    assert decode(b'{"content":[Infinity]}').content == [float("inf")]
    for wrong, why in ((b"{", "Invalid JSON"), (b'{"content":[NaN,"a"]}', r"at `\$\.content\[1\]")):
        with pytest.raises(msgspec.ValidationError, match=why):
            decode(wrong)


class Shout(msgspec.Struct, tag="shout", tag_field="@type"):
    text: str


class Either(RootModel[Annotated[Circle | Square, Field(discriminator="kind")]]):
    pass


class Line(msgspec.Struct, tag="line", tag_field="kind"):
    length: int


class Sum(Call[Circle | int], tag="sum", tag_field="kind"):
    first: Circle


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: getattr(c, "name", c))
async def test_told_apart_by_whatever_field_they_share(codec: Any) -> None:
    names, shapes = Router("/names", codec=codec), Router("/shapes", codec=codec)

    @names.consumer
    async def named(message: Named | Bye) -> str:
        return type(message).__name__

    @names.consumer
    async def shout(message: Shout) -> str:
        return message.text.upper()

    @shapes.consumer
    async def either(message: Either) -> float:
        assert isinstance(message.root, Circle)
        return message.root.radius

    @shapes.consumer
    async def line(message: Line) -> str:
        return "-" * message.length

    @shapes.consumer
    async def add(message: Sum) -> int | Circle:
        if message.first.radius > 9:
            return message.first
        return 1

    app = Router()
    app.include(names)
    app.include(shapes)
    async with connect(app, "/names") as peer:
        for message, reply in ((Named(name="a"), "Named"), (Bye(), "Bye"), (Shout("a"), "A")):
            await peer.send(message)
            assert await peer.receive(str) == reply
    async with connect(app, "/shapes") as peer:
        await peer.send(Circle(kind="circle", radius=2.5))
        assert await peer.receive(float) == 2.5
        await peer.send(Line(3))
        assert await peer.receive(str) == "---"
        assert await peer.call(Sum(Circle(kind="circle", radius=1))) == 1
        large = Circle(kind="circle", radius=10)
        assert await peer.call(Sum(large)) == large


async def test_one_without_a_tag() -> None:
    app = Router()

    @app.consumer
    async def point(message: Point) -> int:
        return message.x

    @app.consumer
    async def number(message: int) -> int:
        return -message

    async with connect(app, "/") as peer:
        await peer.send({"x": "5"})
        assert await peer.receive(int) == 5
        await peer.send(7)
        assert await peer.receive(int) == -7
        await peer.send([])
        assert (await peer.wait_closed()).reason.startswith("Expected `int`, got `array`")


async def test_a_root_model_beside_the_rest() -> None:
    app = Router()

    @app.consumer
    async def texts(message: Texts) -> str:
        return message.root[0]

    @app.consumer
    async def rest(message: Any) -> None: ...

    for wrong in ([1], {"a": 1}, 5):
        async with connect(app, "/") as peer:
            await peer.send(["a"])
            assert await peer.receive(str) == "a"
            await peer.send(wrong)
            assert (await peer.wait_closed()).code == 1007


async def test_what_is_secret_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    app = Router()
    told: list[InvalidMessage] = []

    @app.consumer
    async def login(message: Login) -> str:
        return message.password.get_secret_value()

    @app.on_error
    async def bad(error: InvalidMessage) -> None:
        told.append(error)

    async with connect(app, "/") as peer:
        await peer.send({"type": "login", "password": "hunter2"})
        await peer.send({"type": "login", "password": "correct horse"})
        assert await peer.receive(str) == "correct horse"
    (error,) = told
    assert (error.where, error.tag) == ("$.password", "login")
    assert "hunter2" not in caplog.text + str(error)
    assert error.__cause__ is None


class Broken(BaseModel):
    text: str

    @pydantic.model_validator(mode="after")
    def fails(self) -> "Broken":
        raise KeyError("of the app")


async def test_a_validator_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    app = Router()

    @app.consumer
    async def broken(message: Broken) -> None: ...

    with caplog.at_level(logging.ERROR):
        async with connect(app, "/") as peer:
            await peer.send({"text": "hi"})
            end = await peer.wait_closed()
    assert (end.code, end.reason) == (1007, "not a valid message")
    assert "KeyError: 'of the app'" in caplog.text


class Event(BaseModel):
    text: str
    id: Annotated[str, EventId()] = ""


@attrs.define
class Note:
    text: str
    id: Annotated[str, EventId()] = ""


News = Annotated[Topic[Event], TopicName("news", history=10)]
Notes = Annotated[Topic[Note], TopicName("notes", history=10)]


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: getattr(c, "name", c))
async def test_they_carry_their_event_id(codec: Any) -> None:
    app = Router(codec=codec)

    @app.on_connect
    async def enter(news: News, notes: Notes) -> None:
        await news.join()
        await notes.join()

    @app.consumer
    async def publish(text: int, news: News, notes: Notes) -> list[str]:
        ids = [await news.publish(Event(text="a")), await notes.publish(Note("b"))]
        read = [(await each.history()).events[0].message.id for each in (news, notes)]
        assert read == ids
        return ids

    async with connect(app, "/") as peer:
        await peer.send(1)
        event, note = await peer.receive(Event), await peer.receive(Note)
        assert [event.id, note.id] == await peer.receive(list)
        assert all([event.id, note.id])


def test_pydantic_is_not_imported() -> None:
    code = """
import sys, wsflow, wsflow.testing, msgspec
from wsflow.wiring.compile import compile_app
class Say(msgspec.Struct, tag="say"):
    text: str
app = wsflow.Router()
@app.consumer
async def say(message: Say) -> Say:
    return message
compile_app(app)
assert not {"pydantic", "pydantic_core", "attr", "attrs"} & {*sys.modules}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)


class Edit(BaseModel):
    type: Literal["edit"] = "edit"
    name: str


class Editor(BaseModel):
    name: str
    roles: list[str]


class Missed(BaseModel):
    type: Literal["missed"] = "missed"


async def test_where_else_a_model_may_stand() -> None:
    app = Router()
    Gaps = Annotated[Topic[Event], TopicName("gaps", gap=Missed())]

    @app.on_connect
    async def enter(gaps: Gaps) -> Editor:
        await gaps.join()
        return Editor(name="ada", roles=["editor"])

    @app.consumer(concurrency=2, key="name")
    async def edit(
        message: Edit,
        editor: Annotated[Editor, Requires("editor")],
        said: Annotated[Connection, Sends(Missed, Event)],
    ) -> str:
        return f"{message.name} by {editor.name}"

    async with connect(app, "/") as peer:
        await peer.send(Edit(name="bob"))
        assert await peer.receive(str) == "bob by ada"


class Tell(BaseModel):
    type: Literal["tell"] = "tell"
    text: str


class Go(BaseModel):
    type: Literal["go"] = "go"
    by: int


class Yell(TypedDict):
    type: Literal["yell"]
    text: str


TellOrGo = TypeAliasType("TellOrGo", Annotated[Tell | Go, Field(discriminator="type")])


class Measure(Call[TellOrGo], tag="measure"):
    what: Tell


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: getattr(c, "name", c))
async def test_aliases_of_unions_on_a_server_and_its_client(codec: Any) -> None:
    server, client = Router("/{room}", codec=codec), Router(codec=codec)
    Room = Annotated[Topic[TellOrGo], TopicName("room.{room}", history=3)]
    around: list[Any] = []
    heard: list[Any] = []
    all_of_it = anyio.Event()

    def note(of: list[Any], message: Any) -> None:
        of.append(message)
        if len(around) == len(heard) == 3:
            all_of_it.set()

    @server.on_message
    async def beside(message: Annotated[TellOrGo | Yell | Measure, TheMessage()]) -> None:
        note(around, message)

    @server.on_connect
    async def enter(room: Room) -> None:
        await room.join()

    @server.consumer
    async def either(message: TellOrGo, room: Room) -> Tell:
        await room.publish(message)
        return Tell(text=type(message).__name__)

    @server.consumer
    async def yell(message: Yell) -> None: ...

    @server.consumer
    async def measure(message: Measure) -> TellOrGo:
        return Go(by=len(message.what.text))

    @client.producer(on_end="keep")
    async def start(connection: Connection) -> AsyncIterator[TellOrGo | Yell]:
        yield Go(by=1)
        yield Yell(type="yell", text="x")
        note(heard, await connection.call(Measure(Tell(text="abc"))))

    @client.consumer
    async def take(message: Annotated[Tell | Go, Field(discriminator="type")]) -> None:
        note(heard, message)

    async with connect(server, "/a", client=client):
        await all_of_it.wait()
    assert all(each in heard for each in (Go(by=1), Tell(text="Go"), Go(by=3)))
    yelled = Yell(type="yell", text="x")
    assert all(each in around for each in (Go(by=1), yelled, Measure(Tell(text="abc"))))
