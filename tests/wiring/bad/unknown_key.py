"""Options of consumers and producers that make no sense."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from wsflow import Router


class Say(msgspec.Struct, tag="say"):
    text: str


@dataclass
class Move:
    to: str


app = Router("/")


@app.consumer(concurrency=4, key="room")
async def say(message: Say) -> None: ...


@app.consumer(concurrency=0)
async def move(message: Move) -> None: ...


other = Router("/other")
app.include(other)


@other.consumer(key="text")
async def ordered(message: Say) -> None: ...


streams = Router("/streams")
app.include(streams)


@streams.consumer(concurrency=2)
async def stream(messages: AsyncIterator[str]) -> None: ...


@streams.producer(on_end="wait")  # type: ignore[call-overload]
async def produce() -> None: ...


raw = Router("/raw")
app.include(raw)


@raw.consumer(concurrency=2, key="room")
async def texts(message: str) -> None: ...


keyed = Router("/keyed")
app.include(keyed)


@keyed.consumer(concurrency=2, key="to")
async def good(message: Move) -> None: ...
