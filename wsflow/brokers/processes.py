"""Which processes of the app are there.

Each says so once per ``beat`` seconds, and at once when it comes and when another one comes. Who
was silent for three beats is taken to have ended. A process that has lost its connection to the
broker counts up its generation: the others know by it that it may have missed what they told.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Literal, final

import msgspec

from wsflow.brokers.base import BrokerListener
from wsflow.messages.events import UnreadableError

Kind = Literal["hello", "beat", "bye", "note"]


class Told(msgspec.Struct, array_like=True, frozen=True):
    """What a process tells others.

    Attributes:
        version: of this format.
        kind: ``hello`` (answer with a beat), ``beat``, ``bye``, or a ``note`` for the listener.
        process: who tells it.
        generation: how often it has connected.
        note: of a note.
    """

    version: Literal[1]
    kind: Kind
    process: str
    generation: int
    note: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Told).decode


@final
class Processes:
    """The other processes of the app.

    Args:
        listener: is told who comes and who goes, and gets the notes.
        beat: seconds between two signs of life.
        send: sends bytes to a process, or with "" to all.

    Attributes:
        own: the id of this process.
        settled: set when all processes that are there are known.
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
        """Those that are there."""
        return list(self._heard)

    def tell(self, process: str, kind: Kind, note: bytes = b"") -> None:
        """Send to a process, or with "" to all."""
        self._send(process, _encode(Told(1, kind, self.own, self._generation, note)))

    def told(self, data: bytes) -> None:
        """Something came from a process, this one included.

        Raises:
            UnreadableError: from no process.
        """
        try:
            told = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise UnreadableError(str(exc)) from None
        process = told.process
        if process == self.own:
            return
        if told.kind == "bye":
            self._gone(process)
            return
        self._heard[process] = time.monotonic()
        if self._generations.get(process) != told.generation:
            self._generations[process] = told.generation
            self._listener.appeared(process)
        if told.kind == "hello":
            self.tell(process, "beat")
        elif told.kind == "note":
            self._listener.heard(process, told.note)

    async def live(self) -> None:
        """Say that this process is there, for as long as it is connected."""
        self._generation += 1
        now = time.monotonic()
        self._heard = dict.fromkeys(self._heard, now)  # while it was away, it heard nobody
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
                now, before = time.monotonic(), now
                if now - before < self._beat:  # else this process was held up, and heard nobody
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
