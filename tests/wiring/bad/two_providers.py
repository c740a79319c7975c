"""Two functions of one kind provide one type."""

import msgspec

from wsflow import Router


class Say(msgspec.Struct, tag="say"):
    text: str


class Member: ...


app = Router("/")


@app.on_connect
async def enter() -> Member: ...


@app.on_connect
async def log_in() -> Member: ...


@app.consumer
async def say(message: Say, member: Member) -> None: ...
