"""Consumers without a message."""

from typing import Annotated

from wsflow import Connection, Query, Router

app = Router("/")


class Member: ...


@app.on_connect
async def enter() -> Member: ...


@app.consumer
async def nothing() -> None: ...


@app.consumer
async def connected(connection: Connection) -> None: ...


@app.consumer
async def asked(name: Annotated[str, Query()]) -> None: ...


@app.consumer
async def member(who: Member) -> None: ...


@app.consumer
async def untyped(message) -> None: ...


@app.consumer
async def named(*, message: str) -> None: ...
