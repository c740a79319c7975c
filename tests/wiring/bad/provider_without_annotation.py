"""Values that are missed, and scope functions that do not say what they provide."""

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec

from wsflow import Router


class User(msgspec.Struct):
    name: str


class Database: ...


class Nothing: ...


app = Router("/")


@app.lifespan
async def open_database():
    yield Database()


part = Router("/part")
app.include(part)


@part.on_connect
async def log(database: Database):
    return


@part.on_connect
async def load(name: str = ""):
    if name:
        return User(name)


@part.consumer
async def say(message: str, user: User) -> None: ...


other = Router("/other")
app.include(other)


@other.on_connect
async def one() -> Annotated[User, "one"]: ...


@other.on_connect
async def two() -> AsyncIterator[Annotated[User, "two"]]:
    yield User("two")


@other.consumer
async def hear(message: str, user: Annotated[User, "tow"]) -> None: ...
