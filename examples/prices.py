"""Prices: a snapshot first, then every change, until the peer leaves.

Run it: ``wsflow run examples.prices:app``
"""

import random
from collections.abc import AsyncIterator
from typing import Annotated

import anyio
import msgspec

from wsflow import Query, Router


class Price(msgspec.Struct, tag="price"):
    symbol: str
    cents: int


class Snapshot(msgspec.Struct, tag="snapshot"):
    prices: list[Price]


class Market:
    """Prices that wander."""

    def __init__(self) -> None:
        self.cents = {"ADA": 4200, "BOB": 1700, "EVE": 900}
        self.changed = anyio.Event()

    def move(self) -> None:
        symbol = random.choice(list(self.cents))
        self.cents[symbol] = max(1, self.cents[symbol] + random.randint(-50, 50))
        self.changed.set()
        self.changed = anyio.Event()

    async def run(self) -> None:
        while True:
            self.move()
            await anyio.sleep(0.5)


app = Router("/prices")


@app.lifespan
async def market() -> AsyncIterator[Market]:
    market = Market()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(market.run)
        yield market
        tasks.cancel_scope.cancel()


@app.producer(on_end="keep")  # its end does not end the connection
async def snapshot(market: Market) -> AsyncIterator[Snapshot]:
    yield Snapshot([Price(symbol, cents) for symbol, cents in market.cents.items()])


@app.producer
async def changes(
    market: Market,
    symbols: Annotated[list[str], Query("symbol")] = [],  # noqa: B006
) -> AsyncIterator[Price]:
    known = dict(market.cents)
    while True:
        await market.changed.wait()
        for symbol, cents in market.cents.items():
            if cents != known[symbol] and (not symbols or symbol in symbols):
                yield Price(symbol, cents)
        known = dict(market.cents)
