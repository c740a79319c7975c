"""What the generated client is tried on, beside the examples: served in processes of its own."""

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, NamedTuple

import jwt
import msgspec

from wsflow import (
    Call,
    CallError,
    Connection,
    EventId,
    Query,
    Router,
    Sends,
    Stream,
    Topic,
    TopicName,
)
from wsflow.auth import Bearer

KEY = "only for tests, and 32 bytes long"
TOKEN_LASTS = 3

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Id = Annotated[int, msgspec.Meta(extra_json_schema={"format": "int64"})]


class User(msgspec.Struct):
    sub: str


class Write(msgspec.Struct, tag="write"):
    text: str


class Note(msgspec.Struct, tag="note"):
    """What somebody has written. Not */ more."""

    text: str
    id: Annotated[str, EventId()] = ""


Notes = Annotated[Topic[Note], TopicName("notes", history=1000)]

notes = Router("/notes/{room}", title="Notes", description="They are kept.")
notes.on_connect(Bearer(User, key=KEY))


@notes.on_connect
async def join(notes: Notes, after: Annotated[str, Query(resumes=True)] = "") -> None:
    await notes.join(after=after)


@notes.consumer
async def write(message: Write, notes: Notes) -> None:
    await notes.publish(Note(message.text))


class Pair(NamedTuple):
    small: int
    large: Int64 = 0


class Tree(msgspec.Struct, tag="tree"):
    id: Id
    children: "list[Tree]" = []
    names: dict[str, Id] = {}


class Leaf(msgspec.Struct, tag="leaf"):
    id: int


class Numbers(msgspec.Struct, tag="numbers"):
    tree: Tree
    pair: Pair
    maybe: Int64 | None = None
    either: Tree | Leaf | None = None
    other: dict[str, Any] = {}
    unset: int | msgspec.UnsetType = msgspec.UNSET


class Sum(Call[Id], tag="sum"):
    ids: list[Id]


class Trees(Stream[Tree], tag="trees"):
    first: Id


class Twice(Call[Id], tag="twice"):
    id: Id


class Upto(Stream[int], tag="upto"):
    number: int


class Ask(msgspec.Struct, tag="ask"):
    """The server asks back."""


class Total(msgspec.Struct, tag="total"):
    total: Id


numbers = Router("/numbers/{id}")


@numbers.consumer
async def echo(
    message: Numbers,
    id: int,
    only: Annotated[list[int], Query()] = [],  # noqa: B006
) -> Numbers:
    return message


@numbers.consumer
async def sum_of(call: Sum) -> int:
    if not call.ids:
        raise CallError("empty", "there is nothing to add")
    return sum(call.ids)


@numbers.consumer
async def trees(call: Trees) -> AsyncIterator[Tree]:
    for id in range(call.first, call.first + 1000):
        yield Tree(id)


@numbers.consumer(concurrency=2)
async def ask(
    message: Ask, connection: Annotated[Connection, Sends(Twice, Upto)]
) -> AsyncIterator[Total]:
    yield Total(await connection.call(Twice(2**60 + 1)))
    total = 0
    async with connection.stream(Upto(500)) as items:
        async for item in items:
            total += item
    yield Total(total)


whispers = Router("/whispers")
whispers.on_connect(Bearer(User, key=KEY, sources=("message",)))


@whispers.consumer
async def whisper(message: Write, user: User) -> Note:
    return Note(f"{user.sub}: {message.text}")


class One(msgspec.Struct, tag=1, tag_field="kind"):
    text: str


class Two(msgspec.Struct, tag=2, tag_field="kind"):
    text: str


kinds = Router("/kinds", deprecated=True)


@kinds.consumer
async def kind(message: One) -> Two:
    return Two(message.text)


class Shout(msgspec.Struct, tag="shout", tag_field="op"):
    text: str


ops = Router("/ops")


@ops.consumer
async def shout(message: Shout) -> None: ...


feed = Router("/feed")


@feed.producer(on_end="keep")
async def shouts() -> AsyncIterator[Shout]:
    yield Shout("hear, hear")


values = Router("/values")


@values.consumer
async def value(message: list[int]) -> list[int] | None:
    return message


async def token() -> str:
    """A token that ends soon."""
    return jwt.encode({"sub": "ada", "exp": int(time.time()) + TOKEN_LASTS}, KEY, "HS256")


app = Router("/")
app.include(notes)
for each in (numbers, whispers, kinds, ops, feed, values):
    app.include(each)
app.get("/token")(token)
