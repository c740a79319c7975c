"""Handlers that are not async."""

import contextlib
from collections.abc import AsyncIterator

from wsflow import Router

app = Router("/")


@app.consumer
def say(message: str) -> None: ...


@app.producer
def numbers():
    yield 1


@app.lifespan
@contextlib.asynccontextmanager
async def database() -> AsyncIterator[object]:
    yield object()


@app.on_disconnect
async def gone():
    yield
