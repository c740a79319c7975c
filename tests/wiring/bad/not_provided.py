"""What is no error, what is given anyway, and generators that are none."""

from collections.abc import AsyncIterator

from wsflow import Close, Connection, Router

app = Router("/")


@app.on_connect
async def connection() -> Connection: ...


@app.on_connect
async def forgot() -> AsyncIterator[list[int]]: ...


@app.producer
async def numbers() -> int:
    yield 1


@app.on_error
async def closed(error: Close) -> None: ...


@app.consumer
async def echo(message: str) -> None: ...
