"""An app with all that a contract can have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, TypedDict

import msgspec

from wsflow import (
    Call,
    Connection,
    Cookie,
    EventId,
    Header,
    Query,
    Router,
    Sends,
    Stream,
    Topic,
    TopicName,
)
from wsflow.auth import Bearer


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Point(msgspec.Struct):
    """A place on the board."""

    x: Annotated[int, msgspec.Meta(description="from the left", ge=0, examples=[3])]
    y: int = 0


class Say(msgspec.Struct, tag="say", rename="camel"):
    """Say something.

    It is shown to everybody.
    """

    the_text: str
    at: Point | None = None
    colors: list[Color] = []
    pair: tuple[int, str] = (1, "a")


class Said(msgspec.Struct, tag="said"):
    text: str
    id: Annotated[str, EventId()] = ""
    by: str = "nobody"


@dataclass
class Plain:
    number: int
    more: int = 0


class Loose(TypedDict, total=False):
    name: str


class Sum(msgspec.Struct):
    value: int
    exact: bool = True


class Add(Call[Sum], tag="add"):
    a: int
    b: int = 0


class Count(Stream[int], tag="count"):
    upto: int


class Sure(Call[bool], tag="sure"):
    """Asks the client."""

    question: str


News = Annotated[Topic[Said], TopicName("n.{room}", history=9)]


class User(msgspec.Struct):
    sub: str


def app_of() -> Router:
    """The app; its functions are new each time."""
    app = Router("/room/{room}", title="Rooms", description="Where people talk.", version="2.1.0")
    old = Router("/old", deprecated=True, codec="msgpack", unknown="ignore")
    app.include(old)

    app.on_connect(Bearer(User, key="k" * 32))

    @app.on_connect
    async def enter(
        room: int,
        after: Annotated[str, Query(resumes=True)] = "",
        tags: Annotated[list[int], Query("tag")] = [],  # noqa: B006
        lang: Annotated[str, Header("Accept-Language")] = "en",
        session: Annotated[str, Cookie()] = "",
    ) -> None: ...

    @app.consumer
    async def say(
        message: Say, news: Annotated[Topic[Said], TopicName("n.{room}", history=9)]
    ) -> None: ...

    @app.consumer
    async def add(message: Add) -> Sum:
        """Adds two numbers."""
        return Sum(message.a + message.b)

    @app.consumer
    async def count(message: Count) -> AsyncIterator[int]:
        for number in range(message.upto):
            yield number

    @app.producer
    async def ask(connection: Annotated[Connection, Sends(Sure)]) -> None: ...

    @old.consumer
    async def raw(message: str) -> bytes:
        return message.encode()

    return app
