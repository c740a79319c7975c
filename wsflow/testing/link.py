"""The transport of a client in memory, and the link to the server, which can simulate faults."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol, cast, final

import anyio
from websockets.datastructures import Headers

from wsflow.errors import ConnectError
from wsflow.limits import WireLimits
from wsflow.log import shown_uri
from wsflow.messages.encoded import EncodedMessage
from wsflow.tasks.detached import detach
from wsflow.tasks.waiting import Condition
from wsflow.transports.base import Begin, OneByOne
from wsflow.transports.client import Target, aimed
from wsflow.transports.connect_errors import refusal_error
from wsflow.transports.memory import MemoryClock, MemoryTransport

Open = Callable[[Target, Callable[[], None]], MemoryTransport]
"""Begins a connection in the server; the callable is called on changes of its transport."""


class LinkEnd(Protocol):
    """One of the connections over a link."""

    def cut(self) -> None:
        """Break it, without a close frame or anything like it."""

    def changed(self) -> None:
        """Look again whether what waits may go on."""


class Link:
    """The link between a client and a server in memory.

    Attributes:
        delay: seconds that each message takes, in both directions.
        down: whether new connections are refused, as if no server listened.
    """

    def __init__(self) -> None:
        self.delay = 0.0
        self.down = False
        self.stalled = False
        self.ends: set[LinkEnd] = set()

    def cut(self) -> None:
        """Break the connection: both peers lose it without a close frame (1006)."""
        for each in list(self.ends):
            each.cut()

    def stall(self) -> None:
        """Hold all messages back, until ``resume``: buffers fill."""
        self.stalled = True

    def resume(self) -> None:
        """Deliver the messages that wait, and further ones."""
        self.stalled = False
        for each in list(self.ends):
            each.changed()


@final
class MemoryDialler(MemoryClock, OneByOne):
    """The Transport of a client in memory.

    Args:
        target: called when it connects; returns where to.
        begin: begins the connection; called once, by the constructor.
        open: begins the connection in the server.
        link: the link to the server.
        limits: its limits.
    """

    from_loop = False
    dials = True

    def __init__(
        self,
        target: Callable[[], Target],
        begin: Begin,
        open: Open,
        link: Link,
        limits: WireLimits,
    ) -> None:
        self._target = target
        self._open = open
        self._link = link
        self._limits = limits
        self._server: MemoryTransport | None = None
        self._uri = ""
        self._is_open = False
        self._condition = Condition()
        self.changed = self._condition.notify_all  # wakes the pumps
        self._out: deque[tuple[float, EncodedMessage | tuple[int, str]]] = deque()
        self._out_bytes = 0
        self._writing_paused = False
        self._reading_paused = False
        self._closing = False
        self._pumps = 0
        self.over = False
        self._receiver = begin(self)

    async def _wait_for(self, ready: Callable[[], object]) -> None:
        await self._condition.wait_for(lambda: self.over or ready())

    # -- called by the runtime

    @property
    def traffic(self) -> tuple[int, int]:
        received, sent = (0, 0) if self._server is None else self._server.traffic
        return sent, received

    def accept(self, subprotocol: str | None) -> None:
        self._pumps = 2
        self._link.ends.add(self)
        detach(self._inward, name="wsflow link")
        detach(self._outward, name="wsflow link")

    def reject(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """Does nothing: a client that is rejected does not connect."""

    def send(self, payload: bytes, text: bool, raw: bool) -> bool:
        self.share(EncodedMessage(payload, text, raw))
        return False

    def share(self, message: EncodedMessage) -> None:
        if not self._is_open or self._closing:
            return
        self._out.append((self.now() + self._link.delay, message))
        self._out_bytes += len(message.payload)
        if self._out_bytes > self._limits.write_buffer and not self._writing_paused:
            self._writing_paused = True
            self._receiver.pause_writing()
        self.changed()

    def close(self, code: int, reason: str) -> None:
        if self._closing:
            return
        self._closing = True
        if self._is_open:
            self._out.append((self.now() + self._link.delay, (code, reason)))
            self.changed()
        else:
            self.cut()

    def pause_reading(self, *, briefly: bool = False) -> None:
        self._reading_paused = self._reading_paused or not briefly

    def resume_reading(self) -> None:
        self._reading_paused = False
        self.changed()

    async def closed(self) -> None:
        """Wait until it is closed; the closing handshake has a timeout."""
        with anyio.move_on_after(self._limits.close_timeout):
            await self._wait_for(lambda: False)
        self.cut()
        await self._condition.wait_for(lambda: not self._pumps)

    # -- the link

    def cut(self) -> None:
        """Break the connection without a close frame."""
        if self.over:
            return
        if self._server is not None:
            self._server.peer_vanish()
        self._finish()
        if self._is_open:
            self._receiver.peer_vanished()
        else:
            self._receiver.refused(
                ConnectError(f"{self._uri} closed the connection without an answer".strip())
            )

    def _finish(self) -> None:
        self.over = True
        self._link.ends.discard(self)
        self.changed()

    def _passes(self) -> bool:
        return not self._link.stalled

    async def _wait_until(self, due: float) -> None:
        if due > self.now():
            await anyio.sleep(due - self.now())

    async def _outward(self) -> None:
        """The pump from the client to the server."""
        await self._wait_for(lambda: self._is_open)
        while not self.over:
            await self._wait_for(lambda: self._out and self._passes() and self._taken_on())
            if self._out and not self.over:
                due, what = self._out.popleft()
                await self._wait_until(due)
                self._pass_on(what)
        self._pump_ended()

    def _taken_on(self) -> bool:
        return self._server is not None and self._server.peer_can_send

    def _pass_on(self, what: EncodedMessage | tuple[int, str]) -> None:
        server = cast(MemoryTransport, self._server)
        if not isinstance(what, EncodedMessage):
            server.peer_close(*what)
            return
        self._out_bytes -= len(what.payload)
        server.peer_send(what.payload, what.text)
        if self._writing_paused and self._out_bytes <= self._limits.write_buffer // 2:
            self._writing_paused = False
            self._receiver.resume_writing()

    async def _inward(self) -> None:
        """The pump from the server to the client."""
        await self._wait_for(self._passes)
        if not self.over:
            try:
                await self._begin()
            except BaseException as exc:  # which nobody else would see
                self._finish()
                self._receiver.refused(exc)
        while not self.over:
            await self._wait_for(lambda: self._passes() and self._has_come())
            if not self.over:
                await self._hand_over()
        self._pump_ended()

    def _pump_ended(self) -> None:
        self._pumps -= 1
        self.changed()

    async def _begin(self) -> None:
        target = aimed(self._target)
        self._uri = shown_uri(target.uri)
        await self._wait_until(self.now() + self._link.delay)
        if self._link.down:
            self._finish()
            self._receiver.refused(ConnectError(f"{self._uri} cannot be reached: the link is down"))
            return
        server = self._server = self._open(target, self.changed)
        await self._wait_for(lambda: self._passes() and (server.accepted or server.closing))
        await self._wait_until(self.now() + self._link.delay)
        if self.over:
            return
        if server.rejection is not None:
            self._finish()
            answer = server.rejection
            headers = Headers(answer.headers)
            self._receiver.refused(refusal_error(self._uri, answer.status, headers, answer.body))
        else:
            self._is_open = True
            self._receiver.opened(server.subprotocol)
            self.changed()

    def _has_come(self) -> bool:
        server = cast(MemoryTransport, self._server)
        if server.peer_unread():
            return not self._reading_paused
        return server.closing is not None

    async def _hand_over(self) -> None:
        server = cast(MemoryTransport, self._server)
        frame = server.peer_take()
        await self._wait_until(self.now() + self._link.delay)
        if self.over:
            return
        if frame is not None:
            if not self._closing:
                found = (frame.payload, frame.text, len(frame.payload))
                self._receiver.messages_received([found])
            return
        self._finish()
        if not self._closing:  # else it is the answer to the client's close frame
            self._receiver.peer_closed(*cast("tuple[int, str]", server.closing))
