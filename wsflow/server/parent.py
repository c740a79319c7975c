"""The supervisor, as its worker sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import final

from wsflow.log import Log
from wsflow.metrics import Measured, Report
from wsflow.server.assignment import (
    ALIVE,
    AT_ONCE,
    HAND_OVER,
    REPORT,
    REPORTED,
    SERVING,
    beat,
)
from wsflow.server.exits import Exit
from wsflow.server.reports import SUM, read, write
from wsflow.tasks.loops import event_loop

log = Log("wsflow")

PATIENCE = 2.0
"""Seconds for the supervisor to say what all processes have measured."""


@final
class Parent:
    """Tells the supervisor that this process serves and lives, and does what it says.

    Args:
        link: the socket to it.
        timeout: seconds of silence after which the supervisor takes this process for dead; 0 if it
            does not.
        reports: the directory of the reports.
    """

    def __init__(self, link: socket.socket, timeout: float, reports: Path) -> None:
        self._link = link
        self._timeout = timeout
        self._reports = reports
        self._waiting: list[Callable[[Measured], None]] = []  # for what all have measured
        self._late: asyncio.TimerHandle  # when that does not come in time
        self._beating: asyncio.TimerHandle | None = None
        self._followed = False

    def end_with_it(self, longest: float) -> None:
        """From now on, whatever this process does, it ends when the supervisor has ended.

        Args:
            longest: seconds that it has for that once it follows the supervisor. Before, it has
                nothing to end in order.
        """
        threading.Thread(
            target=self._end_with_it, args=[longest], name="wsflow supervisor", daemon=True
        ).start()

    def _end_with_it(self, longest: float) -> None:
        end = select.poll()
        end.register(self._link, 0)  # that it is closed is always told
        end.poll()
        if self._followed:
            time.sleep(min(longest, threading.TIMEOUT_MAX))
        os._exit(Exit.FAILED)

    @contextlib.contextmanager
    def followed(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        hand_over: Callable[[], None],
        at_once: Callable[[], None],
        gone: Callable[[], None],
        report: Callable[[], Report],
    ) -> Iterator[None]:
        """Follow it, as long as the block runs.

        Args:
            loop: the event loop.
            hand_over: called when another process has taken this one's place.
            at_once: called when this process must not drain any longer.
            gone: called when the supervisor has ended.
            report: returns how this process is.
        """

        def told() -> None:
            try:
                said = self._link.recv(64)
            except ConnectionError:  # it has left unread what this process has said
                said = b""
            if not said:
                log.error("the supervisor is gone")
                loop.remove_reader(self._link)
                gone()
            if HAND_OVER in said:
                hand_over()
            if AT_ONCE in said:
                at_once()
            if REPORT in said and self._write(report()):
                self._say(REPORTED)
            if REPORTED in said and self._waiting:
                self._late.cancel()
                self._measured(read(self._reports / SUM))

        self._followed = True
        self._link.setblocking(False)
        loop.add_reader(self._link, told)
        try:
            yield
        finally:
            self._write(report())
            loop.remove_reader(self._link)
            if self._beating is not None:
                self._beating.cancel()

    def _write(self, report: Report) -> bool:
        return write(self._reports / str(os.getpid()), report)

    def measured(self, take: Callable[[Measured], None]) -> None:
        """Ask for what all processes have measured; it is None if that does not come in time."""
        self._waiting.append(take)
        if len(self._waiting) == 1:
            self._say(REPORT)
            self._late = event_loop().call_later(PATIENCE, self._measured, None)

    def _measured(self, found: Report | None) -> None:
        waiting, self._waiting = self._waiting, []
        for take in waiting:
            take(None if found is None else found.families)

    def serves(self, trial: str = "") -> None:
        """This process serves. From now on the supervisor is told that its event loop turns.

        Args:
            trial: a command that connects to it.
        """
        self._say(SERVING + trial.encode() + b"\n")
        if self._timeout:
            self._beat()

    def _beat(self) -> None:
        self._say(ALIVE)
        loop = event_loop()
        self._beating = loop.call_later(beat(self._timeout), self._beat)

    def _say(self, what: bytes) -> None:
        # The queue of a supervisor that is stopped may be full. That of one that is gone is read.
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._link.send(what)
