"""What signals do to one process: a real one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.processes import free_port, running
from wsflow.server.process import engine
from wsflow.server.settings import Settings
from wsflow.transports import frames

ROOT = Path(__file__).parents[2]
GATED = """
import time
from pathlib import Path
from typing import Annotated
import anyio
from wsflow import Connection, Router, Topic, TopicName

app = Router("/")
Kept = Annotated[Topic[str], TopicName("kept", history=10)]


@app.consumer
async def work(message: str, connection: Connection, kept: Kept) -> str:
    await connection.send("started")
    if message == "block":
        time.sleep(1000)
    while message == "gate" and not Path("open").exists():
        await anyio.sleep(0.01)
    if message == "gate":
        await kept.publish("done")
    return message
"""
"""An app whose handler is at work until a file is there, and publishes then."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def gated(tmp_path: Path) -> dict[str, Any]:
    """Options to run that app."""
    (tmp_path / "mine.py").write_text(GATED)
    return {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}


async def at_work(client: Any) -> None:
    await client.send("gate")
    assert await client.recv() == "started"


async def finished(client: Any) -> int:
    """What was at work is answered. Returns the close code."""
    assert await asyncio.wait_for(client.recv(), 30) == "gate"
    with pytest.raises(ConnectionClosed) as closed:
        await asyncio.wait_for(client.recv(), 30)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize(
    ("second", "says"),
    [
        (signal.SIGTERM, "the drain goes on; SIGINT (Ctrl-C) stops at once"),
        (signal.SIGHUP, "SIGHUP is ignored"),  # SendSIGHUP=yes of systemd
    ],
)
async def test_a_drain_that_goes_on(
    gated: dict[str, Any], loop: str, second: signal.Signals, says: str
) -> None:
    port = free_port()
    async with running("mine:app", "--port", str(port), "--loop", loop, **gated) as run:
        await run.until("try it")
        async with connect(f"ws://127.0.0.1:{port}/") as client:
            await at_work(client)
            run.process.terminate()
            await run.until("stopping: draining for at most 20 s")
            for _ in range(2):
                run.process.send_signal(second)
                await run.until(says)
            (gated["cwd"] / "open").touch()
            assert await finished(client) == 1001
        assert await run.ended() == 0
        assert "stopping at once" not in run.log


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
async def test_newcomers_come_while_peers_are_closed_later(
    gated: dict[str, Any], loop: str
) -> None:
    port = free_port()
    flags = ("--port", str(port), "--loop", loop, "--drain-delay", "1000", "--drain-over", "1000")
    async with running("mine:app", *flags, **gated) as run:
        await run.until("try it")
        async with connect(f"ws://127.0.0.1:{port}/") as client:
            run.process.terminate()
            await run.until("stopping: draining for at most 2020 s")
            async with connect(f"ws://127.0.0.1:{port}/") as newcomer:
                await newcomer.send("hello")
                assert [await newcomer.recv() for _ in range(2)] == ["started", "hello"]
                run.process.send_signal(signal.SIGINT)
                await run.until("stopping at once")
                for each in (client, newcomer):
                    with pytest.raises(ConnectionClosed, match="1001"):
                        await each.recv()
        assert await run.ended() == 0


def test_the_fastest_event_loop_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "__file__", "/x/frames.py")
    assert engine(Settings()) == "uvloop; frames are in Python"
    assert engine(Settings(loop="trio")) == "trio; frames are in Python"
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setattr(frames, "__file__", "/x/frames.so")
    assert engine(Settings()) == "asyncio; frames are compiled"
