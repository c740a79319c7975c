"""A lifespan that asks for what only a connection has."""

from collections.abc import AsyncIterator
from typing import Annotated

from wsflow import Connection, Query, Router, Topic

app = Router("/chat/{room}")


@app.lifespan
async def database(
    connection: Connection,
    room: Annotated[Topic[str], "room.{room}"],
    name: Annotated[str, Query()],
) -> AsyncIterator[object]:
    yield object()


@app.consumer
async def say(message: str) -> None: ...
