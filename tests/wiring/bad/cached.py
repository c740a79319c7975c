"""Async functions that are cached, and numbers of messages at a time that are none."""

from functools import cache, lru_cache

import msgspec

from wsflow import Call, Router

app = Router("/")


class Say(msgspec.Struct, tag="say"):
    text: str


class Load(Call[str], tag="load"):
    text: str


@app.on_connect
@cache
async def settings() -> dict[str, str]:
    return {}


@app.consumer
@lru_cache(maxsize=1)
async def say(message: Say) -> None: ...


@app.consumer(concurrency=1, key="text")
async def load(message: Load) -> str:
    return ""


@app.consumer(concurrency=True)
async def raw(message: bytes) -> None: ...
