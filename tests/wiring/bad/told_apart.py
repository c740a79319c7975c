"""Messages of several consumers that msgspec cannot tell apart."""

import msgspec

from wsflow import Router


class Say(msgspec.Struct):
    text: str


app = Router("/")


@app.consumer
async def one(message: dict[str, int]) -> None: ...


@app.consumer
async def other(message: Say) -> None: ...
