"""Standard error is a pipe that is full, and nobody reads it: commands do their work, and end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.processes import free_port
from wsflow import Router
from wsflow.server import Settings, serve

pytestmark = pytest.mark.long

APP = """
import asyncio
import logging
from wsflow import Router

app, client = Router("/"), Router("/")


@app.consumer
async def log(message: str) -> str:
    if message == "stubborn":
        while True:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                pass
    for number in range(11_000):
        logging.getLogger("mine").info("%d %s", number, "x" * 1000)
    return message


@client.consumer
async def hear(message: str) -> str:
    return await log(message)
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@asynccontextmanager
async def stuck(*arguments: str, full: bool = True) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command whose standard error is a pipe that nobody reads, killed after the block."""
    reading, writing = os.pipe()
    if full:
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 1024)
        os.set_blocking(writing, True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wsflow", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=writing,
    )
    os.close(writing)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        os.close(reading)


async def ended(process: asyncio.subprocess.Process) -> int:
    return await asyncio.wait_for(process.wait(), 20)


async def opened(port: int) -> ClientConnection:
    """A connection to a server that says nothing of its start."""
    until = time.monotonic() + 60
    while True:
        try:
            return await connect(f"ws://127.0.0.1:{port}/")
        except OSError:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("flags", [["--loop", "uvloop"], ["--log-level", "debug"], ["--workers=2"]])
async def test_a_server_serves_and_stops(folder: Path, flags: list[str], full: bool) -> None:
    port = free_port()
    async with stuck("run", "mine:app", "--port", str(port), *flags, full=full) as process:
        for text in ("one", "two"):
            client = await opened(port)
            async with client:
                await client.send(text)
                assert await client.recv() == text
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0


async def test_a_handler_that_does_not_end(folder: Path) -> None:
    """The process is given up, though nobody hears of it."""
    port = free_port()
    flags = ("--grace", "0.1", "--close-timeout", "0.1")
    async with stuck("run", "mine:app", "--port", str(port), *flags) as process:
        client = await opened(port)
        await client.send("log")
        assert await client.recv() == "log"
        await client.send("stubborn")
        await client.ping()
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(ConnectionClosed):
            await client.recv()
        assert await ended(process) == 1


async def test_a_client_works_and_stops(folder: Path) -> None:
    heard = asyncio.Event()
    app = Router("/")

    @app.producer
    async def say() -> AsyncIterator[str]:
        yield "hello"
        await asyncio.Event().wait()

    @app.consumer
    async def hear(message: str) -> None:
        assert message == "hello"
        heard.set()

    async with serve(app, Settings(port=0)) as server:
        uri = f"ws://127.0.0.1:{server.port}/"
        async with stuck("client", "mine:client", uri) as process:
            await asyncio.wait_for(heard.wait(), 60)
            process.send_signal(signal.SIGTERM)
            assert await ended(process) == 0
        async with stuck("connect", uri) as process:
            assert await ended(process) == 0


async def test_a_command_that_is_refused(folder: Path) -> None:
    async with stuck("run", "mine:nobody") as process:
        assert await ended(process) == 3
    async with stuck("connect", "ws://127.0.0.1:1/") as process:
        assert await ended(process) == 6
