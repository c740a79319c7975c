"""One number for all: everyone may change it, everyone sees it, and how many there are.

Run it: ``wsflow run examples.counter:app``
"""

from collections.abc import AsyncIterator
from typing import Annotated, Literal

import msgspec

from wsflow import Router, Topic


class Change(msgspec.Struct, tag="change"):
    by: Literal[-1, 1]


class Value(msgspec.Struct, tag="value"):
    value: int


class Users(msgspec.Struct, tag="users"):
    count: int


class Counter:
    def __init__(self) -> None:
        self.value = 0


Crowd = Annotated[Topic[Value | Users], "counter"]

app = Router("/counter")


@app.lifespan
async def counter() -> Counter:
    return Counter()


@app.on_connect
async def join(crowd: Crowd) -> None:
    await crowd.join()


@app.producer(on_end="keep")
async def greet(counter: Counter, crowd: Crowd) -> AsyncIterator[Value]:
    yield Value(counter.value)
    await crowd.publish(Users(len(await crowd.members())))


@app.consumer
async def change(message: Change, counter: Counter, crowd: Crowd) -> None:
    counter.value += message.by
    await crowd.publish(Value(counter.value))


@app.on_disconnect
async def leave(crowd: Crowd) -> None:
    await crowd.publish(Users(len(await crowd.members())))
