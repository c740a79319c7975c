"""Several processes that serve one app on one address.

A supervisor holds the sockets and starts the workers. A worker that dies is replaced, after a
jittered back-off if it keeps dying; one that hangs, or does not get so far as to serve, is killed.
They communicate by a socket pair: the supervisor sends the assignment, the worker reports that it
serves and lives, and each detects the end of the other by its end of the socket pair.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import msgspec

from wsflow.log import Log
from wsflow.metrics import Family, Report
from wsflow.server.assignment import (
    AT_ONCE,
    HAND_OVER,
    REPORT,
    REPORTED,
    SERVING,
    Assignment,
    beat,
)
from wsflow.server.process import GOING_ON, HURRY
from wsflow.server.reports import SUM, Reports, write
from wsflow.server.service import NOBODY, ServiceManager
from wsflow.server.settings import Settings
from wsflow.tasks.backoff import back_off
from wsflow.tasks.detached import detach

log = Log("wsflow.workers")

STABLE = 10.0
"""Seconds after which a worker counts as stable, and the back-off is reset."""
SPARE = 5.0
"""Seconds that are added to the time in which a worker must stop, before it is killed."""
PATIENCE = 1.0
"""Seconds for a worker to write its report."""
LAST_WORDS = 2.0
"""Seconds that a worker that hangs has to say where, before it is killed."""
SOON = 1.0
"""Seconds that are given instead of these while an app is written."""


class NotStartedError(Exception):
    """A worker ended before it served.

    Attributes:
        code: its exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"a worker {_how(code)} before it served")
        self.code = code


@final
class Worker:
    """One process.

    Attributes:
        began: when it was started (monotonic time).
        served: done once it serves, with a command that connects to it, or nothing.
        leaving: whether it was told to end, since another one takes its place.
        silent: seconds since it has last said that it lives. Counted are those in which the
            supervisor runs: what was suspended along with it is not to blame.
        ended: its exit code, once it has one.
        reported: set when it has written a report.
        asked: called when it was asked for what all workers have measured.
    """

    def __init__(
        self,
        number: int,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._number = number
        self._process = process
        self._reader = reader
        self._writer = writer  # when it is closed, the worker stops
        self._condemned = False
        self.began = time.monotonic()
        self.silent = 0.0
        self.leaving = False
        self.served: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Task[int] = asyncio.create_task(process.wait())
        self.reported = asyncio.Event()
        self.asked: Callable[[Worker], object] = lambda _: None
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, number: int, assignment: Assignment) -> Worker:
        """Start a process, and send it its assignment."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                "-P",  # a file of the app must not take the place of a module that wsflow needs
                "-m",
                "wsflow.server.worker",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno(), *assignment.sockets],
                start_new_session=True,  # Ctrl-C is for the supervisor
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(msgspec.json.encode(assignment, enc_hook=str) + b"\n")
        return cls(number, process, reader, writer)

    @property
    def process(self) -> int:
        """The id of its process."""
        return self._process.pid

    def __str__(self) -> str:
        return f"worker {self._number} (process {self._process.pid})"

    async def _listen(self) -> None:
        """Hear what it says: first that it serves, then that it lives."""
        with contextlib.suppress(ConnectionError):  # it has ended, with something unread
            said = await self._reader.readline()
            self.silent = 0.0
            if said:
                self.served.set_result(said.removeprefix(SERVING).decode().strip())
            while said := await self._reader.read(1024):
                self.silent = 0.0
                if REPORTED in said:
                    self.reported.set()
                if REPORT in said:
                    self.asked(self)

    def forget(self) -> None:
        """Release it, after its end."""
        self._listening.cancel()
        self._writer.close()

    def tell(self, order: bytes) -> None:
        """Send it an order."""
        self._writer.write(order)

    def hand_over(self) -> None:
        """Another one serves: have it leave."""
        self.leaving = True
        self.tell(HAND_OVER)

    def make_way(self) -> None:
        """Have it end at once, whatever it does; kill it if it has not ended soon."""
        self.leaving = True
        self.signal(signal.SIGTERM)  # it may not listen yet
        self.tell(AT_ONCE)
        asyncio.get_running_loop().call_later(SOON, self.signal, signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if not self.ended.done():
            self._process.send_signal(number)

    def check(self, settings: Settings) -> None:
        """Kill it if it has been silent for too long."""
        limit = settings.worker_timeout if self.served.done() else settings.start_timeout
        if self._condemned or not limit or self.silent <= limit:
            return
        self._condemned = True
        if self.served.done():
            log.error("%s hangs since %g s (--worker-timeout): it is killed", self, limit)
        else:
            log.error("%s does not serve after %g s (--start-timeout): it is killed", self, limit)
        self.signal(signal.SIGABRT)
        asyncio.get_running_loop().call_later(LAST_WORDS, self.signal, signal.SIGKILL)


@final
class Supervisor:
    """Keeps the workers of an app.

    Args:
        target: the app, which each worker loads itself.
        settings: how to serve it.
        sockets: for each worker, the sockets that it listens on.
        delays: seconds to wait before each of a worker's replacements.
        manager: the service manager.
        directory: the current directory of the workers.
        dev: whether the app is written meanwhile: tracebacks begin at its own frame, and a worker
            that does not stop is killed soon.

    Attributes:
        codes: the exit codes of the workers that were stopped.
        trials: commands that connect to what serves.
    """

    def __init__(
        self,
        target: str,
        settings: Settings,
        sockets: Sequence[Sequence[socket.socket]],
        delays: Callable[[], Iterator[float]] = back_off,
        manager: ServiceManager = NOBODY,
        *,
        directory: Path = Path(),
        dev: bool = False,
    ) -> None:
        self._delays = delays
        self._directory = directory
        self._dev = dev
        self._target = target
        self._settings = settings
        self._sockets = sockets
        self._manager = manager
        self._reports = Reports()
        self._gathering: asyncio.Task[None] | None = None  # reports
        self._served = False  # all have served
        self._workers: dict[Worker, None] = {}  # that run
        self._renewals: list[asyncio.Event] = [asyncio.Event() for _ in sockets]
        self._renewed: asyncio.Future[bool] | None = None
        self._rolling: asyncio.Task[bool] | None = None
        self._stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._at_once: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.codes: list[int] = []

    async def run(self, serving: Callable[[], None]) -> None:
        """Serve until ``stop``.

        Args:
            serving: called once all workers serve.

        Raises:
            NotStartedError: a worker ended before all served for the first time.
        """
        watching = asyncio.create_task(self._watch())
        keepers: list[asyncio.Task[None]] = []
        try:
            workers = await self._start_all()
            self._served = True
            if not self._stop.done():
                serving()
                self._manager.serving(self._serving)
            keepers = [
                asyncio.create_task(self._keep(slot, worker)) for slot, worker in enumerate(workers)
            ]
            await asyncio.gather(*keepers)
        finally:
            if not self._stop.done():
                self.stop()
            for task in keepers:
                task.cancel()
            await self._end_all()
            watching.cancel()
            if self._rolling is not None:
                self._rolling.cancel()
            self._reports.close()

    @property
    def trials(self) -> list[str]:
        served = [each.served for each in self._workers]
        return [trial for each in served if each.done() and (trial := each.result())]

    @property
    def _serving(self) -> str:
        return f"serving with {len(self._sockets)} workers"

    async def _start_all(self) -> list[Worker]:
        self._manager.busy("starting", self._settings.start_timeout)
        workers = [await self._start(slot) for slot in range(len(self._sockets))]
        served = [asyncio.ensure_future(self._serves(worker)) for worker in workers]
        try:
            await asyncio.gather(*served)
        finally:
            for each in served:
                each.cancel()
        return workers

    async def _start(self, slot: int) -> Worker:
        descriptors = [each.fileno() for each in self._sockets[slot]]
        assignment = Assignment(
            self._target,
            self._settings,
            descriptors,
            self._reports.folder,
            self._directory,
            self._dev,
        )
        worker = await Worker.start(slot + 1, assignment)
        worker.asked = self._asked
        self._workers[worker] = None
        worker.ended.add_done_callback(lambda _: self._ended(worker))
        if self._stop.done():
            worker.signal(signal.SIGTERM)
        return worker

    async def _serves(self, worker: Worker) -> bool:
        """Wait until a worker serves. False if all are to stop.

        Raises:
            NotStartedError: it ended before that.
        """
        await _first_of(worker.served, worker.ended, self._stop)
        if worker.leaving:  # even if it has just said that it serves
            await _first_of(worker.ended, self._stop)
        if self._stop.done():
            return False
        if worker.leaving or not worker.served.done():
            raise NotStartedError(worker.ended.result())
        return True

    def _ended(self, worker: Worker) -> None:
        del self._workers[worker]
        self._reports.ended(worker.process)
        worker.forget()
        code = worker.ended.result()
        if self._stop.done() and code != -signal.SIGTERM:  # that one did not serve yet
            self.codes.append(code)

    # -- watching them all

    async def _watch(self) -> None:
        """Kill workers that are silent for too long."""
        settings = self._settings
        limits = [each for each in (settings.worker_timeout, settings.start_timeout) if each]
        while limits:
            tick = beat(min(limits))
            await asyncio.sleep(tick)
            for worker in self._workers:
                worker.silent += tick
                worker.check(self._settings)

    # -- what they report

    async def gather(self) -> None:
        """Have all workers write a report. One that does not in time is left out."""
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.create_task(self._gather())
        await asyncio.shield(self._gathering)

    async def _gather(self) -> None:
        workers = self._serving_workers
        for worker in workers:
            worker.reported.clear()
            worker.tell(REPORT)
        waits = [asyncio.ensure_future(each.reported.wait()) for each in workers]
        if waits:
            _, late = await asyncio.wait(waits, timeout=PATIENCE)
            for each in late:
                each.cancel()

    @property
    def _serving_workers(self) -> list[Worker]:
        return [each for each in self._workers if each.served.done()]

    def _asked(self, worker: Worker) -> None:
        """A worker was asked for what all have measured: write that."""
        detach(partial(self._tell_sum, worker), name="wsflow metrics")

    async def _tell_sum(self, worker: Worker) -> None:
        if write(self._reports.folder / SUM, Report([], await self.families())):
            worker.tell(REPORTED)

    async def families(self) -> list[Family]:
        """What all workers have measured together, those that have ended included."""
        await self.gather()
        return self._reports.families(each.process for each in self._workers)

    async def unready(self) -> list[str]:
        """Why no connections should be sent to these workers now; empty if one takes them."""
        if not self._served:
            return ["it has not started"]
        if self._stop.done():
            return ["it stops"]
        await self.gather()
        reports = [
            self._reports.of(each.process)
            for each in self._serving_workers
            if each.reported.is_set()
        ]
        why = [each.unready for each in reports if each is not None]
        if not why:
            return ["no worker answers"]
        return [] if [] in why else sorted({reason for each in why for reason in each})

    # -- one worker after another in one slot

    async def _keep(self, slot: int, worker: Worker) -> None:
        """Keep a worker running in a slot, until all workers stop."""
        delays = self._delays()
        while True:
            renewal = asyncio.create_task(self._renewals[slot].wait())
            await _first_of(worker.ended, renewal, self._stop)
            if not (renewal.done() or self._stop.done()):
                if time.monotonic() - worker.began > STABLE:
                    delays = self._delays()
                delay = next(delays)
                how = _how(worker.ended.result())
                log.error("%s %s; another one starts in %.1f s", worker, how, delay)
                await _first_of(renewal, self._stop, timeout=delay)
            renewal.cancel()
            if self._stop.done():
                return
            if self._renewals[slot].is_set():
                self._renewals[slot].clear()
                worker = await self._renew(slot, worker)
            else:
                worker = await self._start(slot)

    # -- renewing them all

    def renew(self) -> None:
        """Replace all workers, one after another; the old ones close with 1012."""
        if self._stop.done():
            log.warning("SIGHUP is ignored: the workers are stopping")
        elif self._rolling is not None and not self._rolling.done():
            log.warning("the workers are being replaced already")
        else:
            log.info("replacing the workers, one after another")
            self._manager.reloading()
            self._rolling = asyncio.create_task(self._roll())

    async def renewed(self) -> bool:
        """Wait until all workers are replaced. False if one could not be, and the old one stays."""
        return self._rolling is None or await asyncio.shield(self._rolling)

    async def _roll(self) -> bool:
        count, settings = len(self._renewals), self._settings
        for number, renewal in enumerate(self._renewals, 1):
            longest = settings.start_timeout + settings.drain_time + SPARE
            self._manager.busy(f"replacing worker {number} of {count}", longest)
            self._renewed = asyncio.get_running_loop().create_future()
            renewal.set()
            if not await self._renewed:
                return False
        log.info("all workers are replaced")
        self._manager.serving(self._serving)
        return True

    async def _renew(self, slot: int, old: Worker) -> Worker:
        """Start another worker, and when it serves, have the old one hand over."""
        assert self._renewed is not None
        new = await self._start(slot)
        try:
            serves = await self._serves(new)
        except NotStartedError as exc:
            if not new.leaving:
                log.error("%s: the others stay as they are", exc)
            self._manager.serving(f"{self._serving}; replacing them has failed, see the log")
            serves = False
        if serves:
            old.hand_over()
            await self._ends(old)
        self._renewed.set_result(serves)
        return new if serves else old

    def supersede(self) -> None:
        """There is something newer: workers that do not serve yet, and those that leave, have to
        end at once. What serves goes on."""
        for worker in self._workers:
            if worker.leaving or not worker.served.done():
                worker.make_way()

    # -- stopping

    def stop(self) -> None:
        """Drain all workers, as on SIGTERM; if they drain already, that goes on."""
        if self._stop.done():
            log.info(GOING_ON)
            return
        self._stop.set_result(None)
        self._manager.stopping(self._settings.drain_time + 3 * SPARE)  # the broker's end included
        for worker in self._workers:
            worker.signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """Drain all workers, as on SIGINT; if they drain already, stop them at once."""
        if not self._stop.done():
            self.stop()
            return
        if not self._at_once.done():
            self._at_once.set_result(None)
        for worker in self._workers:
            worker.tell(AT_ONCE)

    async def _end_all(self) -> None:
        await asyncio.gather(*(self._ends(worker) for worker in self._workers))

    async def _ends(self, worker: Worker) -> None:
        """Wait until a worker that is stopping has ended; kill it if it does not."""
        in_order, at_once = self._patience
        await _first_of(worker.ended, self._at_once, timeout=in_order)
        if self._at_once.done():
            await _first_of(worker.ended, timeout=at_once)
        if not worker.ended.done():
            log.error("%s has not stopped in time: it is killed", worker)
            worker.signal(signal.SIGKILL)
        await asyncio.shield(worker.ended)

    @property
    def _patience(self) -> tuple[float, float]:
        """Seconds that a worker has to stop in order, and to stop at once."""
        settings = self._settings
        if self._dev:  # it may stand in a debugger
            return settings.handlers_time + settings.close_timeout + SOON, SOON
        return settings.drain_time + SPARE, HURRY + SPARE


async def _first_of(*waits: asyncio.Future[Any], timeout: float | None = None) -> None:
    """Wait for the first of these, or for so many seconds."""
    await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


def _how(code: int) -> str:
    """How a process ended, as readable text."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
