"""``wsflow run`` in a process of its own, its log in a file, its memory and time as Linux counts
them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.hardening.board import UnavailableError
from tests.processes import free_port

APP = "tests.hardening.app:app"
MIB = 2**20


class Server:
    """A server in a process of its own.

    Attributes:
        port: its TCP port.
        process: its process; with several workers, the supervisor.
    """

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    @property
    def log(self) -> str:
        """All that it has written until now, to both of its streams."""
        return self._log.read_text(errors="replace")

    async def logged(self, text: str, seconds: float = 20) -> None:
        """Wait until a text stands in its log.

        Raises:
            AssertionError: it has ended, or did not write it in time.
        """
        until = time.monotonic() + seconds
        while text not in self.log:
            assert self.process.returncode is None, self.log[-3000:]
            assert time.monotonic() < until, f"no {text!r} in:\n{self.log[-3000:]}"
            await asyncio.sleep(0.01)

    def tell(self, number: int) -> None:
        self.process.send_signal(number)

    async def ended(self, seconds: float = 60) -> int:
        """Wait until it has ended; its exit code."""
        return await asyncio.wait_for(self.process.wait(), seconds)

    # -- as Linux counts

    def _status(self, name: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024  # type: ignore[index]

    @property
    def memory(self) -> int:
        """Bytes of memory that it uses."""
        return self._status("VmRSS")

    @property
    def peak(self) -> int:
        """The most bytes of memory that it has used since ``forget_peak``."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    @property
    def seconds(self) -> float:
        """How long it has kept a core busy."""
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@asynccontextmanager
async def running(
    *arguments: object, app: str = APP, seconds: float = 20, **options: Any
) -> AsyncIterator[Server]:
    """``wsflow run`` with these arguments, once it listens. If it has not ended with the block, it
    is stopped."""
    if not sys.platform.startswith("linux"):
        raise UnavailableError("memory and time of a process are read from /proc")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="wsflow-board-") as folder:
        log = Path(folder, "log")
        command = [sys.executable, "-m", "wsflow", "run", app, "--port", str(port)]
        out = os.open(log, os.O_WRONLY | os.O_CREAT)
        try:
            process = await asyncio.create_subprocess_exec(
                *command, *map(str, arguments), stdout=out, stderr=out, **options
            )
        finally:
            os.close(out)
        server = Server(process, port, log)
        try:
            await server.logged("stop it with Ctrl-C", seconds)
            yield server
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                    process.terminate()
                    try:
                        await asyncio.wait_for(process.wait(), 30)
                    except TimeoutError:
                        process.kill()
                        await process.wait()


def mib(size: float) -> str:
    return f"{size / MIB:.1f} MiB"


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
