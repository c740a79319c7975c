"""The transport of a connection that an ASGI server has: ASGI 3 events in place of frames.

The server speaks RFC 6455, and wsflow's limits hold as far as events tell. What is read is read in
one task, and what is sent is sent in another one, so that neither waits for the other.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from itertools import chain
from typing import Any, final

from wsflow.limits import WireLimits
from wsflow.log import Log
from wsflow.messages.encoded import EncodedMessage
from wsflow.tasks.detached import start_task
from wsflow.transports.base import NOBODY, OneByOne, Receiver, Transport
from wsflow.transports.handshake import refusal

log = Log("wsflow")

AsgiEvent = MutableMapping[str, Any]
AsgiReceive = Callable[[], Awaitable[AsgiEvent]]
AsgiSend = Callable[[AsgiEvent], Awaitable[None]]


STALLED = 40.0
"""Seconds for the server to take one message; then the peer does not read, or is not there."""

PRIVATE = 4000
"""What a close code of RFC 6455 becomes where a server closes with 1000 and with private codes only
(daphne): 1011 is 4011."""

REST = 0.05
"""Seconds after which nothing more is there to be read."""


PIECE = 64 * 1024
"""Bytes of an answer's body in one event: a server waits between them until the peer takes some."""


def answer_events(
    kind: str, status: int, headers: Iterable[tuple[str, str]], body: bytes
) -> Iterable[AsgiEvent]:
    """An HTTP answer as ASGI events of a kind. A large one ends with an empty event, for which a
    server waits until the peer has taken nearly all."""
    pairs = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in refusal(status, headers, body).headers.raw_items()
        if name not in ("Date", "Connection")  # these are the server's
    ]
    start = {"type": f"{kind}.start", "status": status, "headers": pairs}
    large = range(0, len(body) if len(body) > PIECE else 0, PIECE)
    kept = memoryview(body)
    pieces = (
        {"type": f"{kind}.body", "body": bytes(kept[at : at + PIECE]), "more_body": True}
        for at in large
    )
    return chain([start], pieces, [{"type": f"{kind}.body", "body": b"" if large else body}])


class Phase(enum.IntEnum):
    """The phase of a connection."""

    DECIDING = 1  # the app decides on the opening request
    OPEN = 2
    CLOSING = 3  # what waits is sent, then the end
    CLOSED = 4


DECIDING, OPEN, CLOSING, CLOSED = Phase


@final
class AsgiTransport(OneByOne):
    """One connection of an ASGI server.

    Args:
        limits: its limits.
        receive: returns the next event of the server.
        send: sends the server an event.
        responds: whether the server can send an HTTP response in place of a connection: the
            extension ``websocket.http.response``. Else it answers 403.
    """

    from_loop = False
    dials = False

    def __init__(
        self, limits: WireLimits, receive: AsgiReceive, send: AsgiSend, *, responds: bool
    ) -> None:
        self._limits = limits
        self._receive = receive
        self._send = send
        self._responds = responds
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver = NOBODY
        self._phase = DECIDING
        self._events: deque[tuple[AsgiEvent, int]] = deque()  # to be sent, with their bytes
        self._bytes = 0
        self._received_bytes = self._sent_bytes = 0
        self._more = asyncio.Event()  # there are events, or no more will follow
        self._paused = False  # the receiver knows that there is no room
        self._reads = asyncio.Event()
        self._reads.set()
        self._over = asyncio.Event()
        self._left = False  # the server has said how it ended
        self._reading: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None  # while something is being sent

    # -- called by the runtime

    @property
    def traffic(self) -> tuple[int, int]:
        return self._received_bytes, self._sent_bytes

    def now(self) -> float:
        return self._loop.time()

    def after(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, call)

    def accept(self, subprotocol: str | None) -> None:
        if self._phase is DECIDING:
            self._phase = OPEN
            self._put({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})

    def reject(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        if self._phase is not DECIDING:
            return
        if self._responds:
            for event in answer_events("websocket.http.response", status, headers, body):
                self._put(event)
        else:
            self._put({"type": "websocket.close"})
        self._close()

    def send(self, payload: bytes, text: bool, raw: bool) -> bool:
        if self._phase is OPEN:
            form = {"text": payload.decode()} if text else {"bytes": payload}
            self._put({"type": "websocket.send", **form}, len(payload))
            self._sent_bytes += len(payload)
        return self._bytes > self._limits.write_buffer

    def share(self, message: EncodedMessage) -> None:
        self.send(message.payload, message.text, message.raw)

    def close(self, code: int, reason: str) -> None:
        if self._phase is OPEN:
            self._put({"type": "websocket.close", "code": code, "reason": reason})
            self._close()

    def pause_reading(self, *, briefly: bool = False) -> None:
        if not briefly:
            self._reads.clear()

    def resume_reading(self) -> None:
        self._reads.set()

    def _close(self) -> None:
        """Nothing more follows. What waits may take its time, and no longer."""
        self._phase = CLOSING
        self._deadline = self.after(self._limits.close_timeout, self._over.set)

    # -- its life, in the task of the server

    async def serve(self, begin: Callable[[Transport], Receiver | None]) -> None:
        """Serve the connection until nothing more is to be sent. If it is cancelled, the peer has
        vanished.

        Args:
            begin: begins the connection, or rejects it and returns None.
        """
        if (await self._next())["type"] != "websocket.connect":
            return  # the peer has left
        self._receiver = begin(self) or NOBODY
        self._reading = start_task(self._read(), name="wsflow asgi reads")
        writing = start_task(self._write(), name="wsflow asgi writes")
        try:
            await self._over.wait()
        except asyncio.CancelledError:
            self._vanished()
            await _ended(self._reading)
            await self._take_the_rest()
            raise
        finally:
            self._vanished()
            for timer in (self._deadline, self._stalled):
                if timer is not None:
                    timer.cancel()
            await _ended(self._reading, writing)
            self._receiver = NOBODY

    async def _next(self) -> AsgiEvent:
        event = await self._receive()
        self._left = event["type"] == "websocket.disconnect"
        return event

    async def _take_the_rest(self) -> None:
        """Take what has come and was not read, when the server stops: one of them (hypercorn) waits
        for that, with whatever it has to do."""
        try:
            async with asyncio.timeout(self._limits.close_timeout):
                while not self._left:
                    await asyncio.wait_for(self._next(), REST)
        except Exception as exc:
            log.debug("no more comes: %r", exc)

    def _vanished(self) -> None:
        """The server has lost the connection."""
        was, self._phase = self._phase, CLOSED
        self._over.set()
        if was < CLOSING:
            self._receiver.peer_vanished()

    # -- sending

    def _put(self, event: AsgiEvent, size: int = 0) -> None:
        self._events.append((event, size))
        self._bytes += size
        self._more.set()
        if self._bytes > self._limits.write_buffer and not self._paused:
            self._paused = True
            self._receiver.pause_writing()

    async def _write(self) -> None:
        try:
            while self._phase < CLOSING or self._events:
                await self._more.wait()
                self._more.clear()
                while self._events:
                    self._expect_room()
                    event, size = self._events.popleft()
                    if event["type"] == "websocket.close":
                        await self._say_goodbye(event)
                    else:
                        await self._send(event)
                    self._sent(size)
                assert self._stalled is not None  # there was an event
                self._stalled.cancel()
        except Exception as exc:
            log.debug("the ASGI server cannot send: %r", exc)
            self._vanished()
        self._over.set()

    def _expect_room(self) -> None:
        """A peer that reads nothing for too long is gone: the server may not notice that."""
        if self._stalled is not None:
            self._stalled.cancel()
        self._stalled = self.after(STALLED, self._vanished)

    async def _say_goodbye(self, event: AsgiEvent) -> None:
        """Close the connection. There are servers that close it only while nobody receives
        (granian), and servers that need somebody who takes what still comes (hypercorn)."""
        assert self._reading is not None
        await _ended(self._reading)
        try:
            await self._send(event)
        except Exception as exc:
            if "code" not in event or self._left:
                raise
            log.debug("the ASGI server closes with no such code: %r", exc)
            await self._send({**event, "code": PRIVATE + event["code"] % 1000})
        while "code" in event and not self._left:  # it was open
            await self._next()

    def _sent(self, size: int) -> None:
        self._bytes -= size
        if self._paused and self._bytes <= self._limits.write_buffer // 2:
            self._paused = False
            self._receiver.resume_writing()

    # -- receiving

    async def _read(self) -> None:
        try:
            while self._phase < CLOSED:
                await self._reads.wait()
                event = await self._next()
                if event["type"] == "websocket.receive":
                    await self._received(event)
                elif self._left:
                    self._disconnected(event)
        except Exception as exc:
            log.debug("the ASGI server cannot receive: %r", exc)
            self._vanished()

    async def _received(self, event: AsgiEvent) -> None:
        text = event.get("text")
        data: bytes = event["bytes"] if text is None else text.encode()
        self._received_bytes += len(data)
        if self._phase is OPEN and len(data) > self._limits.max_message_size:
            receiver = self._receiver
            self.close(1009, "message too big")
            receiver.peer_failed(1009, "message too big")
        found = (data, text is not None, len(data))
        while self._phase < CLOSING and not self._receiver.messages_received((found,)):
            await self._reads.wait()

    def _disconnected(self, event: AsgiEvent) -> None:
        """The server says how the connection has ended. It may not know what the peer has sent."""
        code, reason = event.get("code") or 1005, event.get("reason") or ""
        if code == 1006 or self._phase is not OPEN:
            self._vanished()
            return
        self._phase = CLOSED
        if code == 1009:  # a limit of the server
            self._receiver.peer_failed(code, reason)
        else:
            self._receiver.peer_closed(code, reason)
        self._over.set()


async def _ended(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
