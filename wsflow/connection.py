"""What handlers hold of a connection, and how a connection ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from wsflow.end import End
from wsflow.messages.calls import Call, Stream
from wsflow.request import Request

R = TypeVar("R")
T = TypeVar("T")


class Asks(Protocol):
    """What carries out calls."""

    async def call(self, message: Call[R], timeout: float | None) -> R: ...
    def stream(self, message: Stream[T]) -> AbstractAsyncContextManager[AsyncIterator[T]]: ...


class Driver(Protocol):
    """What carries out what a handler asks of its connection."""

    @property
    def calls(self) -> Asks: ...

    @property
    def end(self) -> End | None: ...
    @property
    def subprotocol(self) -> str | None: ...
    async def send(self, message: object) -> None: ...
    def close(self, code: int, reason: str) -> None: ...


class Connection:
    """One peer, as a handler sees it.

    Attributes:
        id: unique among the connections of the app, 16 hexadecimal digits.
        request: the opening request.
    """

    __slots__ = ("__weakref__", "_driver", "id", "request")

    def __init__(self, id: str, request: Request, driver: Driver) -> None:
        self.id = id
        self.request = request
        self._driver = driver

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on, None without one."""
        return self._driver.subprotocol

    @property
    def end(self) -> End | None:
        """How the connection ended, None while it is open."""
        return self._driver.end

    async def send(self, message: object) -> None:
        """Send a message: encoded by the connection's codec, ``str`` and ``bytes`` as they are.

        Safe from many tasks. Waits while the peer's buffer is full, and lets other tasks run at
        least every 64 messages or 16 KiB. During ``on_connect`` it accepts the handshake first.
        Cancelling it is safe: the message went out whole, or not at all. Once the peer has left,
        messages are dropped and counted.

        Raises:
            Disconnected: the connection was ended by this side.
            TypeError: msgspec cannot encode the message, or it is a Call or a Stream.
        """
        await self._driver.send(message)

    async def call(self, message: Call[R], *, timeout: float | None = None) -> R:
        """Ask the other end, and wait for its answer.

        Many calls may be under way at once, and answers come in any order. The answer bypasses the
        inbox: a consumer that asks does not wait for itself. While an answer is awaited reading
        does not pause; beyond ``inbox_hard_messages`` the connection is closed with 1008.
        Cancelling it cancels the work at the other end.

        Args:
            message: what is asked. It is not changed.
            timeout: seconds, from now until the answer has come; None for as long as the connection
                lasts.

        Raises:
            CallError: the other end says that it failed, or does not answer such calls.
            TimeoutError: no answer came in time; the work at the other end is cancelled.
            Disconnected: the connection has ended.
            TypeError: the message is no Call, msgspec cannot encode it, or this path's messages
                have no tags.
        """
        return await self._driver.calls.call(message, timeout)

    def stream(self, message: Stream[T]) -> AbstractAsyncContextManager[AsyncIterator[T]]:
        """Ask the other end for a stream: ``async with connection.stream(Count(10)) as ticks``.

        Entering the block asks, and iterating what it gives reads the items, until the other end
        has no more. Leaving the block before that cancels the work at the other end. At most 64
        items come ahead of the reader: a slow one slows the other end.

        Raises:
            CallError: while iterating: as in ``call``.
            Disconnected: on entering or while iterating: the connection has ended.
            TypeError: on entering: as in ``call``.
        """
        return self._driver.calls.stream(message)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection. The first end counts; a later one changes nothing.

        The connection's functions are cancelled where they next wait, the caller among them. Does
        not wait and does not raise: a code that may not be sent ends with 1011 and is logged.

        Args:
            code: 1000-1003, 1007-1014 or 3000-4999 (RFC 6455 §7.4).
            reason: shown to the peer; cut to 123 bytes at a character.
        """
        self._driver.close(code, reason)

    def __repr__(self) -> str:
        return f"<Connection {self.id} {self.request.path}>"
