"""Devices and their server: each calls the other, and a device comes back when the line was lost.

Run the server: ``wsflow run examples.devices:app``. Run a device:
``wsflow client examples.devices:device ws://127.0.0.1:8000/devices/attic``. Ask how warm it is
there: ``curl http://127.0.0.1:8000/devices/attic/temperature``. Stop either, and start it again.
"""

import contextlib
import random
from typing import Annotated

import anyio
import msgspec

from wsflow import Call, CallError, Connection, Disconnected, Registry, Reject, Router, Sends


class Settings(msgspec.Struct):
    every: float  # seconds between two reports


class Configure(Call[Settings], tag="configure"):
    """A device asks what it shall do."""


class Report(Call[None], tag="report"):
    """A device says how warm it is. It is answered once that is kept."""

    celsius: float


class Measure(Call[float], tag="measure"):
    """The server asks a device how warm it is now."""


class Kept:
    """The last report of each device. In life a database."""

    def __init__(self) -> None:
        self.celsius: dict[str, float] = {}


app = Router("/devices/{name}")


@app.lifespan
async def keep() -> Kept:
    return Kept()


@app.on_connect
async def enter(
    name: str, connection: Annotated[Connection, Sends(Measure)], registry: Registry
) -> None:
    connection.identify(name)  # in life a token says which device it is: see members
    await registry.user(name).disconnect(4409, "it has come anew", exclude=connection)


@app.consumer
async def configure(call: Configure) -> Settings:
    return Settings(every=10)


@app.consumer
async def report(call: Report, name: str, kept: Kept) -> None:
    kept.celsius[name] = call.celsius


@app.get("/temperature")
async def temperature(name: str, registry: Registry, kept: Kept) -> dict[str, float | bool]:
    for connection in registry.of_user(name):  # of this process
        with contextlib.suppress(CallError, TimeoutError, Disconnected):
            return {"celsius": await connection.call(Measure(), timeout=3), "now": True}
    if name not in kept.celsius:
        raise Reject(404, f"nothing is known of {name}")
    return {"celsius": kept.celsius[name], "now": False}


device = Router("/devices/{name}")


@device.consumer
async def measure(call: Measure) -> float:
    return round(random.gauss(21, 2), 1)


@device.producer
async def run(connection: Connection) -> None:
    settings = await connection.call(Configure(), timeout=5)
    while True:
        await connection.call(Report(await measure(Measure())), timeout=5)
        await anyio.sleep(settings.every)
