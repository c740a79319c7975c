"""Message types that msgspec does not know."""

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec

from wsflow import Query, Router


class Model: ...


class Say(msgspec.Struct, tag="say"):
    by: list[Model]


app = Router("/{where}")


@app.on_connect
async def enter(where: Model, at: Annotated[Model, Query()]) -> None: ...


@app.consumer
async def say(message: Say) -> Model: ...


@app.producer
async def models() -> AsyncIterator[Model]:
    yield Model()


@app.on_error
async def failed(error: ValueError) -> Model: ...
