"""What the service manager that has started this process is told: sd_notify(3) of systemd."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, MutableMapping
from typing import final

from wsflow.log import Log

log = Log("wsflow")


@final
class ServiceManager:
    """The service manager, if it wants to be told how this process does; else nothing is sent.

    Messages are datagrams to the socket that ``NOTIFY_SOCKET`` names. Sending never waits: what
    cannot be sent is logged.

    Args:
        environment: the process's. What is meant for this process is removed, so that none of its
            children speaks in its place.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        process = environment.pop("WATCHDOG_PID", "")
        meant = process in ("", str(os.getpid()))
        self._watchdog = int(microseconds) / 1e6 if meant and microseconds.isdecimal() else 0.0

    def serving(self, status: str) -> None:
        """It serves: for the first time, or again after a reload."""
        self._tell(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """It has begun to replace its workers."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, seconds: float) -> None:
        """It drains, and may take that long."""
        self._tell("STOPPING=1")
        self.busy("draining", seconds)

    def busy(self, status: str, seconds: float) -> None:
        """It may take that long until it says something else than that it lives: timeouts of the
        manager are extended."""
        self._tell(f"STATUS={status}\nEXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    @contextlib.contextmanager
    def kept_alive(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Send signs of life from the event loop, as long as the block runs and the loop turns."""
        timer: asyncio.TimerHandle | None = None

        def beat() -> None:
            nonlocal timer
            self._tell("WATCHDOG=1")
            timer = loop.call_later(self._watchdog / 2, beat)

        if self._watchdog:
            beat()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):
            address = f"\0{address[1:]}"  # in the abstract namespace
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(message.encode(), address)
        except OSError as exc:
            log.often(
                logging.WARNING,
                "the service manager cannot be told at NOTIFY_SOCKET (%s): %s",
                self._address,
                exc.strerror or exc,
            )


NOBODY = ServiceManager({})
"""No service manager."""
