"""Scope functions that provide what cannot be provided."""

from collections.abc import AsyncIterator

from wsflow import Router

app = Router("/")


@app.lifespan
async def number() -> int: ...


@app.on_connect
async def words() -> list[str]:
    yield ["a"]


@app.on_connect
async def allowed() -> bool: ...


@app.on_message
async def fine() -> AsyncIterator[None]:
    yield


@app.consumer
async def say(message: str) -> None: ...
