from collections.abc import AsyncIterator
from typing import Annotated

import msgspec

from wsflow import Query, Requires, Router, Topic
from wsflow.auth import Bearer, Ticket


class User(msgspec.Struct):
    sub: str
    roles: list[str] = []


class Plain(msgspec.Struct):
    sub: str


class Other(msgspec.Struct):
    roles: list[str] = []


class Nobody: ...


class Say(msgspec.Struct, tag="say"):
    text: str


KEY = "0123456789abcdef0123456789abcdef"
app = Router("/requires")


@app.lifespan
async def start(registry: Annotated[Nobody, Requires("admin")]) -> None: ...


app.on_connect(Bearer(User, key=KEY))
app.on_connect(Bearer(User, key=KEY))
app.on_connect(Ticket(Plain, key=KEY))


@app.on_connect
async def other() -> Other:
    return Other()


@app.lifespan
async def database(user: Annotated[User, Requires("admin")] = User("x")) -> None: ...  # noqa: B008


@app.lifespan
async def nobody() -> Nobody:
    return Nobody()


@app.lifespan
async def lives(them: Annotated[Nobody, Requires("admin")]) -> None: ...


@app.consumer
async def say(
    message: Say,
    plain: Annotated[Plain, Requires("admin")],
    either: Annotated[Topic[Say], "either", Requires("admin")],
    absent: Annotated[Topic[Say], "absent", Requires("admin", of=int)],
    any_of: Annotated[Topic[Say], "any_of", Requires(lambda user: True)],
    fine: Annotated[Topic[Say], "fine", Requires("admin", of=User)],
    text: Annotated[str, Query(), Requires("admin")],
    the_class: Annotated[User, Requires],
    unknown: Annotated[set, Requires("admin")] = set(),  # noqa: B006
    as_default: User = Requires("admin"),  # type: ignore[assignment]  # noqa: B008
) -> None: ...


@app.producer
async def produce(user: Annotated[User, Requires("admin")]) -> AsyncIterator[Say]:
    yield Say("fine")


@app.on_disconnect
async def leave(user: Annotated[User, Requires("admin")]) -> None: ...


alone = Router("/alone")


@alone.consumer
async def hear(
    message: Say,
    news: Annotated[Topic[Say], "news", Requires("admin")],
    more: Annotated[Topic[Say], "more", Requires(bool)],
) -> None: ...


first = Router("/first")


@first.consumer
async def no_message(user: Annotated[User, Requires("admin")]) -> None: ...


app.include(first)
root = Router("/")
root.include(app)
root.include(alone)
app = root
