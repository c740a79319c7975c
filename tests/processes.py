"""``wsflow run`` in a process of its own, whose log is read along."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

_FIRST = 10_000 + 2_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_PORTS = iter(random.sample(range(_FIRST, _FIRST + 2_000), 2_000))
"""Each of the processes that run tests side by side has its own."""


def free_port() -> int:
    """A port that nobody listens on, and that the system gives to nobody who asks for any."""
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


class Run:
    """A server in a process of its own.

    Attributes:
        process: the process.
        lines: its log, as far as it was read.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def until(self, text: str) -> str:
        """Read the log until a line has ``text``; give up when nothing was logged for a minute."""
        assert self.process.stderr is not None
        while line := (await asyncio.wait_for(self.process.stderr.readline(), 60)).decode():
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"no {text!r} in:\n{''.join(self.lines)}")

    async def ended(self) -> int:
        assert self.process.stderr is not None
        rest = (await self.process.stderr.read()).decode()
        self.lines.append(rest)
        return await self.process.wait()

    @property
    def log(self) -> str:
        return "".join(self.lines)


@asynccontextmanager
async def running(
    *arguments: str, command: str = "run", flags: Sequence[str] = (), **options: Any
) -> AsyncIterator[Run]:
    """A command with these arguments, killed if it has not ended with the block.

    Args:
        arguments: those behind the command.
        command: which one.
        flags: those of the interpreter.
        options: of the process.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *flags,
        "-m",
        "wsflow",
        command,
        *arguments,
        stderr=asyncio.subprocess.PIPE,
        **options,
    )
    try:
        yield Run(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Server:
    """A server that can be started again, in the same place."""

    def __init__(self, target: str, *options: str) -> None:
        self._target = target
        self._port = free_port()
        self._options = options
        self.url = f"http://127.0.0.1:{self._port}"

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Run]:
        """Serve for as long as the block."""
        command = [self._target, "--port", str(self._port), *self._options]
        async with running(*command) as run:
            await run.until("try it")
            yield run
            if run.process.returncode is None:
                run.process.terminate()
                await run.ended()
