"""What is made of the example: its client, its scripts, and the picture in the README.

``uv run python -m tests.examples.dashboard`` makes them anew.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import wsflow
from examples import dashboard
from tests.brokers.servers import BrokerServer, Kind
from tests.browser import Page, chromium
from tests.node import UNTIL, compile_all
from tests.processes import Server
from wsflow.contract.describe import describe
from wsflow.contract.typescript import typescript
from wsflow.server.loading import wired

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples/dashboard"
PICTURE = ROOT / "docs/dashboard.png"
TARGET = "examples.dashboard:app"
SIZE = (1280, 800)

TALK = [
    ("grace", "Good morning! Do you see the prices move?"),
    ("ada", "I do, twice a second. IDA is up again."),
    ("linus", "I have restarted the server meanwhile. Nothing is gone."),
    ("grace", "And my job? It counts primes. I can cancel it, and the server stops."),
]


def built() -> Mapping[Path, str]:
    """The files that are made, with their texts."""
    client = typescript(describe(wired(TARGET)))
    sources = {each: (FOLDER / each).read_text("utf-8") for each in ("tsconfig.json", "page.ts")}
    made = compile_all({**sources, "client.ts": client}) / "page"
    return {
        FOLDER / "client.ts": client,
        FOLDER / "page/client.js": (made / "client.js").read_text("utf-8"),
        FOLDER / "page/page.js": (made / "page.js").read_text("utf-8"),
    }


def site(*options: str) -> Server:
    return Server(TARGET, "--static", str(FOLDER / "page"), *options)


@asynccontextmanager
async def durable(kind: Kind) -> AsyncIterator[BrokerServer]:
    """A broker that keeps what it has acknowledged."""
    broker = BrokerServer(kind, durable=True)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


TOOLS = (
    UNTIL
    + """
globalThis.find = (id) => document.getElementById(id);
globalThis.texts = () => [...document.querySelectorAll("#messages li")].map(
  (each) => each.querySelector("p:last-child")?.textContent ?? each.textContent);
globalThis.names = () => [...find("names").children].map((each) => each.textContent.slice(1));
"""
)


@asynccontextmanager
async def member(url: str, name: str) -> AsyncIterator[Page]:
    """A page of somebody."""
    async with chromium(url) as page:
        await page.run(TOOLS)
        await page.run(f'find("name").value = "{name}"; find("name").onchange()')
        await until(page, f'names().includes("{name}you")')
        yield page


async def until(page: Page, is_so: str) -> None:
    """Wait until an expression of JavaScript holds."""
    await page.run(f"await until(() => {is_so})")


@asynccontextmanager
async def scene() -> AsyncIterator[Page]:
    """What the picture shows."""
    async with durable("nats") as broker:
        async with wsflow.publisher(broker.url, app=dashboard.app) as publish:
            random.seed(5)
            prices = dashboard.Prices(0, dashboard.FIRST)
            for _ in range(60):
                prices = dashboard.moved(prices)
                await publish("market", prices)
            for ago, (who, text) in zip(range(500, 0, -120), TALK, strict=False):
                await publish("chat", dashboard.Said(who, text, int(time.time()) - ago))
        server = site("--broker", broker.url)
        path = server.url.replace("http", "ws") + "/dashboard?name="
        async with (
            server.up(),
            wsflow.connect(path + "grace"),
            wsflow.connect(path + "linus"),
            member(server.url, "ada") as page,
        ):
            await page.show(*SIZE)
            await until(page, "names().length === 3 && texts().length === 4")
            await page.run('find("run").click()')
            await until(page, 'find("progress").value >= 0.4')
            yield page


async def main() -> None:
    for path, text in built().items():
        path.write_text(text, "utf-8")
    async with scene() as page:
        PICTURE.write_bytes(await page.screenshot())


if __name__ == "__main__":
    asyncio.run(main())
