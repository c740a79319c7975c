"""Several processes that serve one app on one address.

A supervisor holds the sockets and starts the workers. A worker that dies is replaced, after a
jittered back-off if it keeps dying. They communicate by a socket pair: the supervisor sends the
assignment, the worker reports when it serves, and each detects the end of the other by its end of
the socket pair.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import msgspec

from wsflow.log import Log
from wsflow.server.assignment import READY, Assignment
from wsflow.server.settings import Settings
from wsflow.tasks.backoff import back_off

log = Log("wsflow.workers")

STABLE = 10.0
"""Seconds after which a worker counts as stable, and the back-off is reset."""
SPARE = 5.0
"""Seconds that are added to the time in which a worker must stop, before it is killed."""


class NotStartedError(Exception):
    """A worker ended before it served.

    Attributes:
        code: its exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"a worker ended before it served, with exit code {code}")
        self.code = code


@final
class Worker:
    """One process.

    Attributes:
        began: when it was started (monotonic time).
        ended: its exit code, once it has one.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer  # when it is closed, the worker stops
        self.began = time.monotonic()
        self.ended: asyncio.Task[int] = asyncio.create_task(process.wait())

    @classmethod
    async def start(cls, assignment: Assignment) -> Worker:
        """Start a process, and send it its assignment."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "wsflow.server.worker",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno(), *assignment.sockets],
                start_new_session=True,  # Ctrl-C is for the supervisor
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(msgspec.json.encode(assignment, enc_hook=str) + b"\n")
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def serves(self) -> None:
        """Wait until it serves.

        Raises:
            NotStartedError: it ended before that.
        """
        try:
            said = await self._reader.readline()
        except ConnectionError:  # it ended before it had read its assignment
            said = b""
        if said != READY:
            raise NotStartedError(await asyncio.shield(self.ended))

    def forget(self) -> None:
        """Release it, after its end."""
        self._writer.close()

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if not self.ended.done():
            self._process.send_signal(number)


@final
class Supervisor:
    """Keeps the workers of an app.

    Args:
        target: the app, which each worker loads itself.
        settings: how to serve it.
        sockets: for each worker, the sockets that it listens on.
        delays: seconds to wait before each of a worker's replacements.

    Attributes:
        codes: the exit codes of the workers that were stopped.
    """

    def __init__(
        self,
        target: str,
        settings: Settings,
        sockets: Sequence[Sequence[socket.socket]],
        delays: Callable[[], Iterator[float]] = back_off,
    ) -> None:
        self._delays = delays
        self._target = target
        self._settings = settings
        self._sockets = sockets
        self._workers: dict[Worker, None] = {}  # that run
        self._renewals: list[asyncio.Event] = [asyncio.Event() for _ in sockets]
        self._renewed: asyncio.Future[bool] | None = None
        self._rolling: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self.codes: list[int] = []

    async def run(self, serving: Callable[[], None]) -> None:
        """Serve until ``stop``.

        Args:
            serving: called once all workers serve.

        Raises:
            NotStartedError: a worker ended before all served for the first time.
        """
        stopping = asyncio.create_task(self._stop.wait())
        keepers: list[asyncio.Task[None]] = []
        try:
            workers = await self._start_all()
            serving()
            keepers = [
                asyncio.create_task(self._keep(slot, worker, stopping))
                for slot, worker in enumerate(workers)
            ]
            await asyncio.gather(*keepers)
        finally:
            if not self._stop.is_set():
                self.stop()
            for task in keepers:
                task.cancel()
            await self._end_all()
            stopping.cancel()
            if self._rolling is not None:
                self._rolling.cancel()

    async def _start_all(self) -> list[Worker]:
        workers = [await self._start(slot) for slot in range(len(self._sockets))]
        served = [asyncio.ensure_future(worker.serves()) for worker in workers]
        try:
            await asyncio.gather(*served)
        except NotStartedError:
            if not self._stop.is_set():
                raise
        finally:
            for each in served:
                each.cancel()
        return workers

    async def _start(self, slot: int) -> Worker:
        descriptors = [each.fileno() for each in self._sockets[slot]]
        worker = await Worker.start(Assignment(self._target, self._settings, descriptors))
        self._workers[worker] = None
        worker.ended.add_done_callback(lambda _: self._ended(worker))
        if self._stop.is_set():
            worker.signal(signal.SIGTERM)
        return worker

    def _ended(self, worker: Worker) -> None:
        del self._workers[worker]
        worker.forget()
        code = worker.ended.result()
        if self._stop.is_set() and code != -signal.SIGTERM:  # that one did not serve yet
            self.codes.append(code)

    # -- one worker after another in one slot

    async def _keep(self, slot: int, worker: Worker, stopping: asyncio.Task[Any]) -> None:
        """Keep a worker running in a slot, until all workers stop."""
        delays = self._delays()
        while True:
            renewal = asyncio.create_task(self._renewals[slot].wait())
            await asyncio.wait(
                [worker.ended, renewal, stopping], return_when=asyncio.FIRST_COMPLETED
            )
            renewal.cancel()
            if self._stop.is_set():
                return
            if worker.ended.done():
                if time.monotonic() - worker.began > STABLE:
                    delays = self._delays()
                worker = await self._replace(slot, worker, delays, stopping) or worker
            else:
                self._renewals[slot].clear()
                worker = await self._renew(slot, worker)

    async def _replace(
        self, slot: int, dead: Worker, delays: Iterator[float], stopping: asyncio.Task[Any]
    ) -> Worker | None:
        """Start another worker after one has died."""
        delay = next(delays)
        log.error(
            "worker %d (process %d) %s; another one starts in %.1f s",
            slot + 1,
            dead.pid,
            _how(dead.ended.result()),
            delay,
        )
        await asyncio.wait([stopping], timeout=delay)
        if self._stop.is_set():
            return None
        return await self._start(slot)

    # -- renewing them all

    def renew(self) -> None:
        """Replace all workers, one after another; the old ones close with 1012."""
        if self._renewed is not None:
            log.warning("the workers are being replaced already")
            return
        log.info("replacing the workers, one after another")
        self._rolling = asyncio.create_task(self._roll())

    async def _roll(self) -> None:
        for renewal in self._renewals:
            self._renewed = asyncio.get_running_loop().create_future()
            renewal.set()
            renewed = await self._renewed
            self._renewed = None
            if not renewed:
                return
        log.info("all workers are replaced")

    async def _renew(self, slot: int, old: Worker) -> Worker:
        """Start another worker, and when it serves, have the old one hand over."""
        assert self._renewed is not None
        new = await self._start(slot)
        try:
            await new.serves()
        except NotStartedError as exc:
            if not self._stop.is_set():
                log.error("%s: the others stay as they are", exc)
            self._renewed.set_result(False)
            return old
        old.signal(signal.SIGHUP)
        await self._ends(old)
        self._renewed.set_result(True)
        return new

    # -- stopping

    def stop(self) -> None:
        """Drain all workers, as on SIGTERM; a second call stops them at once."""
        self._stop.set()
        for worker in self._workers:
            worker.signal(signal.SIGTERM)

    async def _end_all(self) -> None:
        for worker in list(self._workers):
            await self._ends(worker)

    async def _ends(self, worker: Worker) -> None:
        """Wait until a worker that is stopping has ended; kill it if it does not."""
        settings = self._settings
        patience = settings.grace + 3 * settings.close_timeout + SPARE
        await asyncio.wait([worker.ended], timeout=patience)
        worker.signal(signal.SIGKILL)
        await asyncio.shield(worker.ended)


def _how(code: int) -> str:
    """How a process ended, as readable text."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
