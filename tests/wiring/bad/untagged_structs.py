"""Structs in a union that cannot be told apart."""

import msgspec

from wsflow import Router


class Say(msgspec.Struct):
    text: str


class Move(msgspec.Struct):
    to: str


app = Router("/")


@app.consumer
async def handle(message: Say | Move) -> None: ...
