"""Membership of processes: which processes of the app are alive.

Each sends a heartbeat once per ``beat`` seconds, when it starts, and in answer to one that starts.
A process without a heartbeat for three intervals is considered dead. A process that reconnects to
the broker increments its generation, so that the others know that it may have missed their notes.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from typing import Literal, final

import msgspec

from wsflow.brokers.base import BrokerListener
from wsflow.brokers.engine import loop_time
from wsflow.messages.events import UNREADABLE, UnreadableError

Kind = Literal["hello", "beat", "bye", "note"]


class Told(msgspec.Struct, array_like=True, frozen=True):
    """A message from one process to others.

    Attributes:
        version: version of this format.
        kind: ``hello`` (answer with a heartbeat), ``beat`` (a heartbeat), ``bye``, or a ``note``
            for the listener.
        process: the sender.
        generation: how often the sender has connected.
        note: the content of a note.
    """

    version: Literal[1]
    kind: Kind
    process: str
    generation: int
    note: bytes = b""


_NAME = re.compile(r"[0-9A-Za-z_-]{1,64}")
"""The id of a process: it is a part of the channel on which it is told something."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Told).decode


@final
class Processes:
    """The other processes of the app.

    Args:
        listener: notified of processes that appear and end, and of notes.
        beat: seconds between two heartbeats.
        send: sends bytes to a process, or with "" to all of them.

    Attributes:
        own: the id of this process.
        settled: set when all live processes are known.
    """

    def __init__(
        self, listener: BrokerListener, beat: float, send: Callable[[str, bytes], None]
    ) -> None:
        self.own = os.urandom(8).hex()
        self.settled = asyncio.Event()
        self._listener = listener
        self._beat = beat
        self._send = send
        self._generation = 0
        self._generations: dict[str, int] = {}
        self._heard: dict[str, float] = {}

    @property
    def others(self) -> list[str]:
        """The other processes that are alive."""
        return list(self._heard)

    def tell(self, process: str, kind: Kind, note: bytes = b"") -> None:
        """Send to a process, or with "" to all of them."""
        self._send(process, _encode(Told(1, kind, self.own, self._generation, note)))

    def told(self, data: bytes) -> None:
        """A message from a process has come; from this one, too.

        Raises:
            UnreadableError: it is not such a message.
        """
        try:
            told = _decode(data)
        except UNREADABLE as exc:
            raise UnreadableError(str(exc)) from None
        process = told.process
        if _NAME.fullmatch(process) is None:
            raise UnreadableError("it comes from a process without a valid id")
        if process == self.own:
            return
        if told.kind == "bye":
            self._gone(process)
            return
        self._heard[process] = loop_time()
        if self._generations.get(process) != told.generation:
            self._generations[process] = told.generation
            self._listener.appeared(process)
        if told.kind == "hello":
            self.tell(process, "beat")
        elif told.kind == "note":
            self._listener.heard(process, told.note)

    async def live(self) -> None:
        """Send heartbeats, as long as this process is connected."""
        self._generation += 1
        now = loop_time()
        self._heard = dict.fromkeys(self._heard, now)  # none was received while disconnected
        self.tell("", "hello")
        for process in self.others:
            self._listener.appeared(process)
        try:
            tick = 0
            while True:
                await asyncio.sleep(self._beat / 2)
                tick += 1
                if tick % 2 == 0:
                    self.tell("", "beat")
                if tick == 3:
                    self.settled.set()
                now, before = loop_time(), now
                if now - before < self._beat:  # else the event loop was blocked, and received none
                    self._miss(now - 3 * self._beat)
        finally:
            self.settled.clear()

    def _miss(self, since: float) -> None:
        for process, heard in list(self._heard.items()):
            if heard < since:
                self._gone(process)

    def _gone(self, process: str) -> None:
        if self._heard.pop(process, None) is not None:
            del self._generations[process]
            self._listener.gone(process)
