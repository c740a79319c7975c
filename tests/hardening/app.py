"""The app that the scoreboard is about: a path for each kind of load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import msgspec

from wsflow import Cookie, Header, Query, Registry, Request, Router, Topic, TopicName

BACKLOG = 64


class Work(msgspec.Struct, tag="work"):
    number: int
    seconds: float = 0.0


class Block(msgspec.Struct, tag="block"):
    seconds: float


class Fail(msgspec.Struct, tag="fail"):
    text: str


class Done(msgspec.Struct, tag="done"):
    number: int


class Tell(msgspec.Struct, tag="tell"):
    """Ask for so many beats of so many bytes, so many in a second."""

    count: int
    size: int
    rate: float


class Beat(msgspec.Struct, tag="beat"):
    number: int
    sent: float
    filling: str


app = Router("/")
echo = Router("/")
anything = Router("/any")
parsed = Router("/typed")
work = Router("/work")
idle = Router("/idle")
secret = Router("/secret")
who = Router("/who")
count = Router("/count")


@echo.consumer
async def text(message: str) -> str:
    return message


@echo.consumer
async def binary(message: bytes) -> bytes:
    return message


@anything.consumer
async def take_anything(message: Any) -> None:
    """Decode it, and that is all."""


class Item(msgspec.Struct):
    name: str
    values: list[int | float | str]


class Items(msgspec.Struct, tag="items"):
    items: list[Item]
    more: dict[str, Any] = {}


@parsed.consumer
async def take_items(message: Items) -> None:
    """The same with types."""


@work.consumer
async def do_work(message: Work) -> Done:
    await anyio.sleep(message.seconds)
    return Done(message.number)


@work.consumer
async def block_the_loop(message: Block) -> Done:
    time.sleep(message.seconds)  # noqa: ASYNC251  (that is what it is for)
    return Done(0)


@work.consumer
async def fail(message: Fail) -> None:
    raise RuntimeError(message.text)


@idle.producer
async def tick() -> AsyncIterator[Done]:
    for number in range(1_000_000):
        await asyncio.sleep(60)
        yield Done(number)


@secret.on_connect
async def see(
    request: Request,
    token: Annotated[str, Query()],
    session: Annotated[str, Cookie()] = "",
    authorization: Annotated[str, Header()] = "",
    number: Annotated[int, Query()] = 0,
) -> None:
    """Takes what must not be shown."""


@secret.consumer
async def use(message: Fail) -> None:
    raise RuntimeError(message.text)


@who.consumer
async def who_is_it(message: str, request: Request) -> str:
    return request.client.host if request.client else "-"


@count.consumer
async def how_many(message: str, registry: Registry) -> dict[str, int]:
    return registry.counters()


async def _tell(message: Tell, topic: Topic[Beat]) -> None:
    filling = "x" * message.size
    begin = asyncio.get_running_loop().time()
    for number in range(message.count):
        await topic.publish(Beat(number, time.monotonic(), filling))
        late = begin + (number + 1) / message.rate - asyncio.get_running_loop().time()
        await anyio.sleep(max(0.0, late))


def _topic(policy: Any) -> Router:
    """A topic with a policy: who connects hears it, and may ask for beats."""
    router = Router(f"/hear/{policy}")
    Heard = Annotated[Topic[Beat], TopicName(policy, backlog=BACKLOG, when_full=policy)]

    async def join(topic: Any) -> None:
        await topic.join()

    async def tell(message: Tell, topic: Any) -> Done:
        await _tell(message, topic)
        return Done(message.count)

    join.__annotations__["topic"] = tell.__annotations__["topic"] = Heard
    router.on_connect(join)
    router.consumer(tell)
    return router


POLICIES = ("close", "drop_oldest", "drop_newest", "latest")
for each in (echo, anything, parsed, work, idle, secret, who, count, *map(_topic, POLICIES)):
    app.include(each)
