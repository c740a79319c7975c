"""Messages with tags that are wsflow's."""

from typing import Annotated

import msgspec

from wsflow import Router, Topic

app = Router("/")


class Ask(msgspec.Struct, tag="$call"): ...


class Mine(msgspec.Struct, tag="$mine"): ...


@app.on_connect
async def enter(mine: Annotated[Topic[Mine], "mine"]) -> None:
    await mine.join()


@app.consumer
async def taken(message: Ask) -> None: ...


@app.producer
async def given() -> Mine:
    return Mine()
