"""Two consumers for one message type."""

import msgspec

from wsflow import Router


class Say(msgspec.Struct, tag="say"):
    text: str


app = Router("/")


@app.consumer
async def say(message: Say) -> None: ...


@app.consumer
async def shout(message: Say) -> None: ...
