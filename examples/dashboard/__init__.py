"""A dashboard in the browser: live prices, who is there, a chat, and a job that can be cancelled.

Run it: ``wsflow run examples.dashboard:app --static examples/dashboard/page``, and open
http://127.0.0.1:8000/ in two windows. The chat is lost when the server ends. A broker that writes
to disk keeps it: ``nats-server -js -sd /tmp/nats``, and ``--broker nats://127.0.0.1`` behind the
command above. Restart the server then, and see the pages come back.

The page is ``page.ts``, on the client that wsflow writes for this app. After a change of either:
``wsflow schema examples.dashboard:app --format typescript -o examples/dashboard/client.ts``, and
``npx -p typescript@5.9.3 tsc -p examples/dashboard``.
"""

import logging
import os
import random
import time
from collections.abc import AsyncIterator
from typing import Annotated

import anyio
import msgspec
from anyio.abc import TaskGroup

from wsflow import (
    BrokerError,
    Call,
    CallError,
    Connection,
    EventId,
    MemberJoined,
    MemberLeft,
    Query,
    Registry,
    Router,
    Sends,
    Stream,
    Topic,
    TopicName,
)

TICK = 0.5  # seconds between two prices
FIRST = {"ADA": 4200, "BOB": 1700, "EVE": 905, "IDA": 12840}
STEP = 1000  # numbers that the job looks at, at a time

log = logging.getLogger("dashboard")

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=24)]


class Prices(msgspec.Struct, tag="prices"):
    number: int
    cents: dict[str, int]


class Hello(msgspec.Struct, tag="hello"):
    """Which member the page is, who serves it, and the prices so far."""

    you: str
    broker: str
    process: int
    at: int  # seconds since 1970
    prices: list[Prices]


class Member(msgspec.Struct):
    name: str


class Came(msgspec.Struct, tag="came"):
    """Somebody is there: first all who are, then who comes."""

    id: str
    name: str
    earlier: bool  # it was there before the page


class Went(msgspec.Struct, tag="went"):
    id: str


class Say(Call[None], tag="say"):
    """Answered once the message is kept."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class Said(msgspec.Struct, tag="said"):
    who: str
    text: str
    at: int  # seconds since 1970
    id: Annotated[str, EventId()] = ""


class Gap(msgspec.Struct, tag="gap"):
    """Messages of the chat may be missing: read it anew."""


class Progress(msgspec.Struct):
    done: int
    found: int


class Count(Stream[Progress], tag="count"):
    """Count the primes below a number."""

    below: Annotated[int, msgspec.Meta(ge=STEP, le=1_000_000)]


# A page that does not keep up is sent the latest prices, and not those before. Their history is
# what the charts of newcomers begin with, and where the prices go on after a restart.
Market = Annotated[Topic[Prices], TopicName("market", history=60, backlog=1, when_full="latest")]
Chat = Annotated[Topic[Said], TopicName("chat", history=500, presence=Member, gap=Gap())]

app = Router("/dashboard", title="Dashboard")


@app.lifespan
async def open_market(market: Market, registry: Registry, tasks: TaskGroup) -> None:
    async def trade() -> None:
        while True:
            await anyio.sleep(TICK - time.time() % TICK)
            tick = round(time.time() / TICK)
            try:
                if await registry.claim(f"market.{tick}", 60):  # one of several workers has it
                    kept = (await market.history(limit=1)).events
                    await market.publish(moved(kept[0].message if kept else Prices(0, FIRST)))
            except BrokerError as error:
                log.warning("no prices: %s", error)

    tasks.start_soon(trade)


def moved(before: Prices) -> Prices:
    """The next prices: each has changed by a little."""
    cents = {
        symbol: max(1, round(value * random.gauss(1, 0.004)))
        for symbol, value in before.cents.items()
    }
    return Prices(before.number + 1, cents)


@app.on_connect
async def enter(
    registry: Registry,
    connection: Annotated[Connection, Sends(Hello, Gap)],
    market: Market,
    chat: Chat,
    name: Annotated[Name, Query()],
    after: Annotated[str, Query(resumes=True)] = "",  # the client fills it in when it comes back
) -> Member:
    member = Member(name)
    await market.join()
    prices = [event.message for event in (await market.history()).events]
    about = connection.id, registry.broker, os.getpid(), int(time.time())
    await connection.send(Hello(*about, prices))
    joined = await chat.join(member, after=after, last=50)
    if after and not joined.recovered:
        await connection.send(Gap())
    return member


@app.producer
async def roster(chat: Chat) -> AsyncIterator[Came | Went]:
    async for change in chat.watch_members():
        match change:
            case MemberJoined(member, earlier):
                yield Came(member.id, member.presence.name, earlier)
            case MemberLeft(member):
                yield Went(member.id)


@app.consumer
async def say(call: Say, member: Member, chat: Chat) -> None:
    try:
        await chat.publish(Said(member.name, call.text, int(time.time())))
    except BrokerError as error:
        raise CallError("unavailable", "the broker is away") from error


@app.consumer
async def count(call: Count, member: Member) -> AsyncIterator[Progress]:
    done = found = 0
    log.info("%s: counting the primes below %d", member.name, call.below)
    try:
        while done < call.below:
            step = range(max(2, done), min(done + STEP, call.below))
            found += sum(all(n % each for each in range(2, int(n**0.5) + 1)) for n in step)
            done = min(done + STEP, call.below)
            yield Progress(done, found)
            await anyio.sleep(0.05)  # others have their turn, and there is something to watch
    finally:  # done, or cancelled: the page has left its loop, or has gone
        log.info("%s: counted up to %d of %d", member.name, done, call.below)
