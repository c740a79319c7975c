"""A consumer with two messages."""

import msgspec

from wsflow import Router


class Say(msgspec.Struct, tag="say"):
    text: str


class Move(msgspec.Struct, tag="move"):
    to: str


app = Router("/")


@app.consumer
async def handle(one: Say, other: Move) -> None: ...
