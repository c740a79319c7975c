"""What the service manager is told: by sockets as systemd has them."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.loops import anyio_backend  # noqa: F401
from tests.processes import running
from tests.server.test_process import gated  # noqa: F401
from wsflow.server.service import ServiceManager
from wsflow.tasks.loops import event_loop


class Manager:
    """A service manager, as far as it listens."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0"))
        self._socket.setblocking(False)
        self.told: list[str] = []

    async def until(self, *wanted: str) -> str:
        """Wait for a message that begins like this; the others are kept in ``told``."""
        loop = event_loop()
        with anyio.fail_after(60):
            while True:
                readable = anyio.Event()
                loop.add_reader(self._socket, readable.set)
                await readable.wait()
                loop.remove_reader(self._socket)
                self.told.append(self._socket.recv(4096).decode())
                if self.told[-1].startswith(wanted):
                    return self.told[-1]

    def unread(self) -> bool:
        try:
            return bool(self._socket.recv(4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
async def manager(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Manager]:
    name = f"@wsflow-{secrets.token_hex(8)}"
    listening = Manager(name if request.param == "abstract" else str(tmp_path / "notify"))
    yield listening
    listening.close()


async def test_signs_of_life_come_as_long_as_the_loop_turns(manager: Manager) -> None:
    environment = {
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": "100000",
        "WATCHDOG_PID": str(os.getpid()),
        "OTHER": "stays",
    }
    service = ServiceManager(environment)
    assert environment == {"OTHER": "stays"}
    with service.kept_alive(event_loop()):
        await manager.until("WATCHDOG=1")
        began = time.monotonic()
        await manager.until("WATCHDOG=1")
        assert time.monotonic() - began > 0.03
    await anyio.sleep(0.06)
    assert not manager.unread()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "10000", "WATCHDOG_PID": "1"},  # that of another process
        {"WATCHDOG_USEC": "soon"},
    ],
)
async def test_no_sign_of_life_is_wanted(manager: Manager, environment: dict[str, str]) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": manager.address, **environment})
    with service.kept_alive(event_loop()):
        await anyio.sleep(0.02)
    assert not manager.unread()


async def test_a_reload_says_when_it_began(manager: Manager) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": manager.address})
    before = time.monotonic_ns() // 1000
    service.reloading()
    _, at = (await manager.until("RELOADING=1")).split("\n")
    assert before <= int(at.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    service.busy("working", 1.5)
    assert await manager.until("STATUS") == "STATUS=working\nEXTEND_TIMEOUT_USEC=1500000"


def test_a_manager_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nowhere")}).serving("serving")
    ServiceManager({"NOTIFY_SOCKET": "vsock:2:1234"}).serving("serving")
    assert len(caplog.records) == 1  # once a second
    assert "cannot be told at NOTIFY_SOCKET" in caplog.text
    assert "No such file or directory" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("manager", ["path"], indirect=True)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
async def test_a_process(manager: Manager, gated: dict[str, Any], loop: str) -> None:  # noqa: F811
    gated["env"] |= {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"}
    flags = ("--port", "0", "--grace", "5", "--drain-delay", "1", "--drain-over", "2")
    async with running("mine:app", *flags, "--loop", loop, **gated) as run:
        assert await manager.until("READY") == "READY=1\nSTATUS=serving"
        await run.until("try it")
        manager.told.clear()
        await manager.until("WATCHDOG=1")
        run.process.terminate()
        await manager.until("STOPPING=1")
        line = await manager.until("STATUS")
        assert line == "STATUS=draining\nEXTEND_TIMEOUT_USEC=41000000"
        run.process.send_signal(signal.SIGINT)
        assert await run.ended() == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("manager", ["path"], indirect=True)
async def test_workers(manager: Manager, gated: dict[str, Any]) -> None:  # noqa: F811
    """Nothing is said by a worker, or by the broker."""
    (gated["cwd"] / "mine.py").write_text(
        "import os\nassert 'NOTIFY_SOCKET' not in os.environ\n"
        "assert 'WATCHDOG_USEC' not in os.environ\n" + (gated["cwd"] / "mine.py").read_text()
    )
    gated["env"] |= {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "60000000"}
    async with running("mine:app", "--workers", "2", "--port", "0", **gated) as run:
        assert await manager.until("READY") == "READY=1\nSTATUS=serving with 2 workers"
        assert manager.told[:2] == ["WATCHDOG=1", "STATUS=starting\nEXTEND_TIMEOUT_USEC=120000000"]
        await run.until("try it")
        manager.told.clear()
        run.process.send_signal(signal.SIGHUP)
        assert await manager.until("READY") == "READY=1\nSTATUS=serving with 2 workers"
        assert manager.told[0].startswith("RELOADING=1\nMONOTONIC_USEC=")
        statuses = [each.split("\n")[0] for each in manager.told[1:-1]]
        assert statuses == ["STATUS=replacing worker 1 of 2", "STATUS=replacing worker 2 of 2"]
        (gated["cwd"] / "mine.py").write_text("nothing")
        run.process.send_signal(signal.SIGHUP)
        failed = "READY=1\nSTATUS=serving with 2 workers; replacing them has failed, see the log"
        assert await manager.until("READY") == failed
        manager.told.clear()
        run.process.terminate()
        await manager.until("STOPPING=1")
        assert (await manager.until("STATUS")).startswith("STATUS=draining\n")
        assert await run.ended() == 0
        assert not manager.unread()
