"""An app under the ASGI servers of others, each of them in the process of the test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import uvicorn
from granian.constants import Interfaces
from granian.server.embed import Server as Granian
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config as HypercornConfig
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from tests.conformance.wires import LIMITS, SocketWire
from wsflow import AsgiApp, Limits, Router, asgi
from wsflow.testing.conformance.transports import Wire
from wsflow.uvicorn import Protocol


@dataclass
class AsgiWire(SocketWire):
    """A client's way to an app under an ASGI server, at a port."""

    app: AsgiApp
    at: int

    @property
    def port(self) -> int:
        return self.at

    @property
    def server(self) -> Any:
        """The app that runs, as the suites look at it."""
        running = self.app._running[asyncio.get_running_loop()]
        return SimpleNamespace(_app=running.app, registry=running.registry)

    async def stop(self, restart: bool = False) -> None:
        await self.app.stop(restart=restart)


Serve = Callable[[Any, socket.socket], Any]


@asynccontextmanager
async def uvicorn_server(
    app: Any, listener: socket.socket, ws: Any = "auto"
) -> AsyncIterator[None]:
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1, ws=ws)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve([listener]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def hypercorn_server(app: Any, listener: socket.socket) -> AsyncIterator[None]:
    config = HypercornConfig()
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = 1
    config.errorlog = config.accesslog = None
    stop = asyncio.Event()
    serving = asyncio.create_task(hypercorn_serve(app, config, shutdown_trigger=stop.wait))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait([serving])
        if not serving.cancelled():  # hypercorn cancels itself where something is beside Quart
            serving.result()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def granian_server(app: Any, listener: socket.socket) -> AsyncIterator[None]:
    port = listener.getsockname()[1]
    listener.close()
    server = Granian(app, port=port, interface=Interfaces.ASGI, log_enabled=False)
    started = asyncio.Event()
    server.on_startup(started.set)
    serving = asyncio.create_task(server.serve())
    try:
        await started.wait()
        while not listens(port):
            await asyncio.sleep(0.005)
        yield
    finally:
        server.stop()
        await serving


SERVERS: dict[str, Serve] = {
    "uvicorn": uvicorn_server,
    "hypercorn": hypercorn_server,
    "granian": granian_server,
}


LACKS: dict[str, dict[str, str]] = {
    "test_the_peer_closes": {
        "hypercorn": "always 1006",
        "granian": "the code alone",
    },
    "test_the_peer_closes_without_a_code": {"hypercorn": "always 1006"},
    "test_the_peer_vanishes": {"uvicorn": "as a close without a code", "granian": "the same"},
    "test_too_many_fragments": dict.fromkeys(SERVERS, "the server puts them together"),
}
"""What the servers do not do, by test: what is so instead. ``docs/asgi.md`` has a table of it."""


def taken_over(app: Any, listener: socket.socket) -> Any:
    """uvicorn with wsflow's own transport, which lacks nothing."""
    return uvicorn_server(app, listener, Protocol)


def serving_under(serve: Serve) -> Any:
    """Serves an app under that server: ``async with serving(app, **limits) as wire``."""

    @asynccontextmanager
    async def serving(router: Router, **limits: Any) -> AsyncIterator[Wire]:
        trusts = limits.pop("trusted_proxy", ())
        app = asgi(router, Limits(**{**LIMITS, **limits}))
        served = ProxyHeadersMiddleware(app, list(trusts)) if trusts else app
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            async with serve(served, listener):
                await app.start()  # not every server waits for that
                yield AsgiWire(app, port)

    return serving
