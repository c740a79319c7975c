"""Markers where a default stands, as in other frameworks, and a path where none belongs."""

from typing import Annotated

from wsflow import Header, Query, Router

app = Router("/")


@app.on_connect
async def enter(name: str = Query("name"), token: Annotated[str, "x"] = Header()) -> None: ...


@app.consumer("/path")
async def say(message: str) -> None: ...


@app.consumer
async def echo(message: str) -> None: ...
