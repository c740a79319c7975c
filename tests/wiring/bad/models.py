"""Models of pydantic, and other types with tags, that cannot be taken."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

import msgspec
import pydantic

from wsflow import Call, EventId, Query, Router, Topic

if TYPE_CHECKING:
    from decimal import Decimal


class Say(pydantic.BaseModel):
    type: Literal["say"] = "say"
    text: str


class Tell(pydantic.BaseModel):
    type: Literal["say"] = "say"


class Move(pydantic.BaseModel):
    kind: Literal["move"] = "move"
    by: int


class Bare(pydantic.BaseModel):
    text: str


class Open(pydantic.BaseModel):
    price: Decimal


class Texts(pydantic.RootModel[list[str]]):
    pass


@pydantic.dataclasses.dataclass
class Checked:
    number: int = pydantic.Field(gt=0)


class Around(msgspec.Struct):
    checked: Checked


class News(TypedDict):
    text: str
    id: Annotated[str, EventId()]


class Optional(TypedDict, total=False):
    type: Literal["optional"]


@dataclasses.dataclass
class Other:
    type: Literal["other"]


class Ask(Call[Say | Move], tag="ask"):
    pass


class Meet(msgspec.Struct, tag="meet"):
    pass


app = Router()


def path(name: str, *kinds: object) -> None:
    router = Router(f"/{name}")
    for each in kinds:
        add(router, each)
    app.include(router)


def add(router: Router, kind: object) -> None:
    @router.consumer
    async def take(message: kind) -> None: ...


path("one-tag", Say, Tell)
path("two-fields", Say, Move)
path("no-tag", Say, Bare)
path("a-struct", Meet, Move)
path("no-object", Say, Texts)
path("open", Open)
path("checked", Around)
path("may-lack-it", Other, Optional)
path("twice", Say, Say)
path("an-answer", Ask)


@app.consumer
async def take(
    message: str,
    topic: Annotated[Topic[News], "news"],
    two: Annotated[Topic[Say | Tell], "two"],
    model: Annotated[Say, Query()],
) -> None: ...
