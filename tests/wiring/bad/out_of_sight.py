"""What a function asks for is provided, where it does not see it."""

from collections.abc import AsyncIterator
from typing import Annotated

from wsflow import End, Router
from wsflow import Message as Msg

app = Router("/")


class Early: ...


class Late: ...


class Member: ...


@app.on_connect
async def first(late: Late) -> Early: ...


@app.on_connect
async def second(early: Early) -> Late: ...


@app.on_message
async def around() -> Member: ...


@app.lifespan
async def start(member: Late) -> None: ...


@app.producer
async def numbers(member: Member) -> AsyncIterator[int]:
    yield 1


@app.consumer
async def say(
    message: str, whole: Annotated[object, Msg()], end: End, *args: str, **kwargs: str
) -> None: ...
