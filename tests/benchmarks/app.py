"""The app that is measured: plain decorated functions, served by ``wsflow run``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import anyio

from tests.benchmarks.model import PUSH, Ack, Chat, Join, Move, Order, Reply, Shop
from wsflow import Router, Topic, asgi

app = Router()
echo, typed, everybody, published, pushed, full = (
    Router(path) for path in ("/echo", "/json", "/bcast", "/publish", "/push", "/full")
)
for each in (echo, typed, everybody, published, pushed, full):
    app.include(each)

All = Annotated[Topic[str], "all"]


@app.lifespan
async def shop() -> Shop:
    return Shop()


@echo.consumer
async def say_it_again(message: str) -> str:
    return message


@typed.consumer
async def on_chat(message: Chat, shop: Shop) -> Reply:
    return Reply("chat", message.seq, True, message.text)


@typed.consumer
async def on_join(message: Join, shop: Shop) -> Reply:
    return Reply("join", message.seq, True, message.client)


@typed.consumer
async def on_move(message: Move, shop: Shop) -> Reply:
    return Reply("move", message.seq, message.grounded, message.obj)


@typed.consumer
async def on_order(message: Order, shop: Shop) -> Reply:
    return Reply("order", message.seq, message.qty >= shop.least, message.note)


@typed.consumer
async def on_ack(message: Ack, shop: Shop) -> Reply:
    return Reply("ack", message.seq, message.ok, message.detail)


@everybody.on_connect
async def enter(topic: All) -> None:
    await topic.join()


@everybody.consumer
async def tell(message: str, topic: All) -> None:
    await topic.publish(message)


published.on_connect(enter)
published.consumer(concurrency=64)(tell)


@pushed.consumer
async def go(message: str) -> None: ...


@pushed.producer
async def push() -> AsyncIterator[str]:
    while True:
        yield PUSH


@full.on_connect
async def greet() -> None: ...


@full.consumer
async def repeat(message: str) -> str:
    return message


@full.producer
async def wait() -> AsyncIterator[str]:
    await anyio.sleep_forever()
    yield ""


sockets = asgi(app)
