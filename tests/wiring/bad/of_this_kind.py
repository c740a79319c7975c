"""What is asked for under another name in functions of some kinds."""

from typing import Annotated, Any

import msgspec

from wsflow import Message, Router


class Say(msgspec.Struct, tag="say"):
    text: str


class Bye(msgspec.Struct, tag="bye"):
    text: str


app = Router("/")


@app.on_message
async def typed(message: Say) -> None: ...


@app.on_message
async def untyped(message) -> None: ...  # type: ignore[no-untyped-def]


@app.on_message
async def narrow(message: Annotated[Say, Message()], all: Annotated[Any, Message()]) -> None: ...


class Base(msgspec.Struct):
    text: str


class Hello(Base, tag="hello"): ...


@app.on_message
async def based(message: Annotated[Base | Say | Bye, Message()]) -> None: ...


@app.on_message
async def wide(message: Annotated[Say | Bye | Hello, Message()]) -> None: ...


@app.on_disconnect
async def code(code: int, reason: str) -> None: ...


@app.on_disconnect
async def error(error: Exception) -> None: ...


@app.consumer
async def say(message: Say) -> None: ...


@app.consumer
async def bye(message: Bye) -> None: ...


@app.consumer
async def hello(message: Hello) -> None: ...
