"""By which field messages are told apart."""

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import msgspec
import pytest
from pydantic import AliasChoices, BaseModel, Field

from tests.messages.kinds import CBOR
from wsflow import Call, Router
from wsflow.messages.apart import apart, tag_field
from wsflow.messages.codec import JSON, BoundCodec
from wsflow.testing import connect


class Old(BaseModel):
    version: Literal[1] = 1
    kind: Literal["a", "b"]
    type: Literal["old"] = "old"


class New(BaseModel):
    version: Literal[1] = 1
    kind: Literal["c"] = "c"
    type: Literal["new"] = "new"


class First(BaseModel):
    version: Literal[1] = 1
    kind: Literal["first", "1st"]


class Second(BaseModel):
    version: Literal[1] = 1
    kind: Literal["second"]


class Numbered(BaseModel):
    version: Literal[1, 2] = 1


@dataclass
class Up:
    direction: Literal["up", "down"]


@dataclass
class Left:
    direction: Literal["left", "right"]


class Listed(msgspec.Struct, tag="listed", array_like=True):
    number: int


class Chosen(BaseModel):
    type: Literal["chosen"] = Field("chosen", validation_alias=AliasChoices("type", "kind"))


class One(TypedDict):
    a: Literal["one"]
    b: Literal["one"]


class Two(TypedDict):
    b: Literal["two"]
    c: Literal["two"]


class Three(TypedDict):
    a: Literal["three"]
    c: Literal["three"]


@pytest.mark.parametrize(
    ("kinds", "field"),
    [
        ([], None),
        ([int], None),
        ([Numbered], None),
        ([Up], None),
        ([Old], "type"),
        ([Old, New], "type"),
        ([Up, Left], "direction"),
        ([First, Second], "kind"),
        ([Old, Up], None),
        ([Numbered, Numbered], "version"),
        ([Chosen], None),
        ([Listed], None),
    ],
)
def test_the_field_of_the_tag(kinds: list[Any], field: str | None) -> None:
    assert tag_field(kinds) == field


@pytest.mark.parametrize(
    ("kinds", "why"),
    [
        ((Up, int, New), "Up has its tag in 'direction', and New in 'version' or 'kind' or 'type'"),
        ((One, Two, Three), "One has its tag in 'a' or 'b', and Three in 'a' or 'c'"),
        ((Old, Chosen), "Chosen has no tag"),
    ],
)
def test_what_has_no_such_field(kinds: tuple[Any, ...], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        JSON.decoder(*kinds)


def test_msgspec_does_what_it_can() -> None:
    assert apart([Up, int]) is apart([Listed, Up, str]) is apart([Old]) is None


class Ask(Call[int], tag="ask"):
    pass


@pytest.mark.parametrize("codec", ["json", CBOR()], ids=["json", "cbor"])
async def test_several_fields_would_do(codec: Any) -> None:
    app = Router(codec=codec)

    @app.consumer
    async def old(message: Old) -> str:
        return f"old {message.kind}"

    @app.consumer
    async def new(message: New) -> str:
        return "new"

    @app.consumer
    async def listed(message: Listed) -> int:
        return message.number

    @app.consumer
    async def rest(message: dict[str, int]) -> str:
        return "rest"

    async with connect(app, "/") as peer:
        for sent, reply in (
            (Old(kind="b"), "old b"),
            (New(), "new"),
            (Listed(5), 5),
            ({"a": 1}, "rest"),
        ):
            await peer.send(sent)
            assert await peer.receive() == reply
        await peer.send({"type": "old", "kind": "c"})
        assert (await peer.wait_closed()).code == 1007


@pytest.mark.parametrize("codec", ["json", CBOR()], ids=["json", "cbor"])
async def test_a_single_type_may_lack_its_tag(codec: Any) -> None:
    app = Router(codec=codec)

    @app.consumer
    async def new(message: New) -> str:
        return "new"

    @app.consumer
    async def ask(message: Ask) -> int:
        return 5

    async with connect(app, "/") as peer:
        await peer.send({})
        assert await peer.receive() == "new"
        assert await peer.call(Ask()) == 5
        await peer.send({"type": "$what"})
        why = "unknown type '$what': this path takes 'new' - at `$.type`"
        assert (await peer.wait_closed()).reason == why


@pytest.mark.parametrize("codec", ["json", CBOR()], ids=["json", "cbor"])
async def test_a_single_type_with_choices(codec: Any) -> None:
    app = Router(codec=codec)

    @app.consumer
    async def move(message: Up) -> str:
        return message.direction

    async with connect(app, "/") as peer:
        await peer.send(Up("down"))
        assert await peer.receive() == "down"
        await peer.send({"direction": "left"})
        end = await peer.wait_closed()
        assert end.reason.startswith("Invalid enum value 'left' - at `$.direction`")


def test_only_objects() -> None:
    for codec in (JSON, BoundCodec(CBOR())):
        decode = codec.decoder(Old, New)
        assert decode(codec.encode(New())) == New()
        for wrong, why in (
            ([1], "Expected `object`, got `"),
            ({}, "Object missing required field `type`"),
            ({"type": "x"}, r"Invalid value 'x' - at `\$\.type`"),
            ({"type": True}, r"Invalid value True - at `\$\.type`"),
        ):
            with pytest.raises(msgspec.ValidationError, match=why):
                decode(codec.encode(wrong))
