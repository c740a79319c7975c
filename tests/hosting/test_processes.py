"""Under the servers of others, each in a process of its own: beside FastAPI, and beside Django."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.processes import free_port

COMMANDS: dict[str, Callable[[str, int], list[str]]] = {
    "uvicorn": lambda app, port: ["uvicorn", app, "--port", f"{port}"],
    "hypercorn": lambda app, port: ["hypercorn", app, "--bind", f"127.0.0.1:{port}"],
    "granian": lambda app, port: ["granian", "--interface", "asgi", "--port", f"{port}", app],
    "daphne": lambda app, port: ["daphne", "-p", f"{port}", app],
    "takeover": lambda app, port: [
        *("uvicorn", app, "--port", f"{port}", "--ws", "wsflow.uvicorn:Protocol")
    ],
    "gunicorn": lambda app, port: [
        *("gunicorn", app, "-b", f"127.0.0.1:{port}", "-k", "wsflow.gunicorn.Worker")
    ],
}
STOPPED = {"hypercorn": 1011, "granian": 1006, "daphne": 1006}
"""What the peer sees when the server gets SIGTERM, if it is not 1012. It is the server's doing."""
REFUSED = {"daphne": 403}
INVALID = {"daphne": 4007}

pytestmark = pytest.mark.long


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Process:
    """A server in a process of its own, with its log."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.log = ""

    async def until(self, text: str) -> None:
        """Read the log until a line has this text."""
        assert self.process.stdout is not None
        while line := (await self.process.stdout.readline()).decode():
            self.log += line
            if text in line:
                return
        raise AssertionError(self.log)

    async def connect(self, path: str) -> ClientConnection:
        return await connect(f"ws://127.0.0.1:{self.port}{path}")

    async def rest(self) -> str:
        """What it says until it has ended."""
        assert self.process.stdout is not None
        return (await self.process.stdout.read()).decode()

    async def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.log += await self.rest()
        await self.process.wait()


@asynccontextmanager
async def running(server: str, app: str) -> AsyncIterator[Process]:
    port = free_port()
    command = COMMANDS[server](f"tests.hosting.apps:{app}", port)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    run = Process(process, port)
    try:
        async with asyncio.timeout(120):
            while True:
                assert process.returncode is None
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
            yield run
    except TimeoutError:
        process.kill()
        raise AssertionError(run.log + await run.rest()) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.parametrize("server", COMMANDS)
@pytest.mark.parametrize(("app", "prefix"), [("in_fastapi", "/ws"), ("in_django", "")])
async def test_one_port_for_pages_and_sockets(server: str, app: str, prefix: str) -> None:
    async with running(server, app) as run, httpx2.AsyncClient() as client:
        socket = await run.connect(f"{prefix}/chat/lobby")
        await socket.send('{"type":"said","text":"hi"}')
        assert json.loads(await socket.recv()) == {"type": "said", "text": "hi"}
        uri = f"http://127.0.0.1:{run.port}/say/lobby?text=posted"
        method = "POST" if app == "in_fastapi" else "GET"
        assert (await client.request(method, uri)).status_code == 200
        assert json.loads(await socket.recv()) == {"type": "said", "text": "posted"}
        with pytest.raises(InvalidStatus) as refused:
            await run.connect(f"{prefix}/nowhere")
        assert refused.value.response.status_code == REFUSED.get(server, 404)
        other = await run.connect(f"{prefix}/chat/lobby")
        await other.send('{"type":"said","text":1}')
        with pytest.raises(ConnectionClosed) as closed:
            await other.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == INVALID.get(server, 1007)
        await run.stop()
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert (closed.value.rcvd.code if closed.value.rcvd else 1006) == STOPPED.get(server, 1012)
        lines = run.log.splitlines()
        assert (lines.count("up"), lines.count("down")) == (1, int(server != "daphne"))
        assert "wsflow/" not in run.log  # no traceback of it


@pytest.mark.parametrize("server", ["takeover", "gunicorn"])
async def test_at_full_speed(server: str) -> None:
    """The sockets of the outer app stay as they were, and what was accepted is answered."""
    async with running(server, "in_fastapi") as run:
        own = await run.connect("/own")
        await own.send("hi")
        assert await own.recv() == "own hi"
        socket, idle = [await run.connect("/ws/chat/lobby") for _ in range(2)]
        await socket.send('{"type":"work"}')
        await run.until("begun")
        run.process.send_signal(signal.SIGTERM)
        assert await socket.recv() == "done"
        for each in (socket, idle, own):
            with pytest.raises(ConnectionClosed) as closed:
                await each.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        await run.until("down")
        await run.process.wait()
        assert "Traceback" not in run.log
