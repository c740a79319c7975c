"""Nobody provides what a consumer asks for."""

import msgspec

from wsflow import Router


class Say(msgspec.Struct, tag="say"):
    text: str


class Database: ...


class Member: ...


app = Router("/")


@app.on_connect
async def enter() -> Member: ...


@app.consumer
async def say(message: Say, db: Database) -> None: ...
