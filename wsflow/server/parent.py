"""The supervisor, as its worker sees it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import final

from wsflow.log import Log
from wsflow.server.assignment import ALIVE, AT_ONCE, HAND_OVER, SERVING, beat

log = Log("wsflow")


@final
class Parent:
    """Tells the supervisor that this process serves and lives, and does what it says.

    Args:
        link: the socket to it.
        timeout: seconds of silence after which the supervisor takes this process for dead; 0 if it
            does not.
    """

    def __init__(self, link: socket.socket, timeout: float) -> None:
        self._link = link
        self._timeout = timeout
        self._beating: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def followed(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        hand_over: Callable[[], None],
        at_once: Callable[[], None],
        gone: Callable[[], None],
    ) -> Iterator[None]:
        """Follow it, as long as the block runs.

        Args:
            loop: the event loop.
            hand_over: called when another process has taken this one's place.
            at_once: called when this process must not drain any longer.
            gone: called when the supervisor has ended.
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

        self._link.setblocking(False)
        loop.add_reader(self._link, told)
        try:
            yield
        finally:
            loop.remove_reader(self._link)
            if self._beating is not None:
                self._beating.cancel()

    def serves(self) -> None:
        """This process serves. From now on the supervisor is told that its event loop turns."""
        self._say(SERVING)
        if self._timeout:
            self._beat()

    def _beat(self) -> None:
        self._say(ALIVE)
        loop = asyncio.get_running_loop()
        self._beating = loop.call_later(beat(self._timeout), self._beat)

    def _say(self, what: bytes) -> None:
        # The queue of a supervisor that is stopped may be full. That of one that is gone is read.
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._link.send(what)
