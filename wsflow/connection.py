"""The ``Connection`` that handlers use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from wsflow.credential import Credential
from wsflow.end import End
from wsflow.http import check_name
from wsflow.messages.calls import Call, Stream
from wsflow.request import Request

R = TypeVar("R")
T = TypeVar("T")


class Asks(Protocol):
    """Carries out calls."""

    async def call(self, message: Call[R], timeout: float | None) -> R: ...
    def stream(self, message: Stream[T]) -> AbstractAsyncContextManager[AsyncIterator[T]]: ...


def check_user(user: object) -> None:
    """Check the name of a user.

    Raises:
        TypeError: it is not a str.
        ValueError: it is empty, or cannot be encoded.
    """
    check_name("the name of a user", user)


class Driver(Protocol):
    """Carries out what handlers do with their connection."""

    @property
    def calls(self) -> Asks: ...

    @property
    def end(self) -> End | None: ...
    @property
    def subprotocol(self) -> str | None: ...
    @property
    def user(self) -> str | None: ...
    def identify(self, user: str) -> None: ...
    async def send(self, message: object) -> None: ...
    def close(self, code: int, reason: str) -> None: ...
    def set_credential(self, credential: Credential) -> None: ...
    async def ask_credential(self) -> str: ...
    def echo(self, subprotocol: str) -> None: ...


class Connection:
    """A connection to one peer, as handlers use it.

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
        """The negotiated subprotocol, None without one."""
        return self._driver.subprotocol

    @property
    def end(self) -> End | None:
        """How the connection ended, None while it is open."""
        return self._driver.end

    @property
    def user(self) -> str | None:
        """The name of its user, as ``identify`` was told; None without one."""
        return self._driver.user

    def identify(self, user: str) -> None:
        """Say whose connection this is: in an ``on_connect`` function, before its ``yield``, once
        the user is authenticated.

        Rate limits per user and ``max_connections_per_user`` count all connections of the same
        user. The name is compared as it is. To repeat it has no effect.

        Args:
            user: what identifies the user: an id or a name. It may appear in the log.

        Raises:
            Reject: 429 with ``Retry-After``: the user has as many connections as
                ``max_connections_per_user`` allows. Let it leave the function.
            RuntimeError: the connection is open already, or has another user.
            Disconnected: the connection has ended meanwhile; or the user was disconnected since
                the opening request, and with it this connection.
            TypeError: the name is not a str.
            ValueError: the name is empty, or has half of a surrogate pair.
        """
        self._driver.identify(user)

    async def send(self, message: object) -> None:
        """Send a message: encoded by the connection's codec, ``str`` and ``bytes`` as they are.

        Safe to use from several tasks. Waits while the write buffer is full (backpressure), and
        lets other tasks run at least every 256 messages or 16 KiB. During ``on_connect`` it accepts
        the handshake first. Cancelling it is safe: the message was sent completely, or not at all.
        Once the peer has left, messages are dropped and counted.

        Raises:
            Disconnected: this side has ended the connection.
            TypeError: msgspec cannot encode the message, or it is a Call or a Stream.
        """
        await self._driver.send(message)

    async def call(self, message: Call[R], *, timeout: float | None = None) -> R:
        """Call the peer, and wait for its answer.

        Many calls may be pending at once, and answers come in any order. An answer bypasses the
        inbox, so that a consumer can call the peer without waiting for itself. While a call is
        pending, reading does not pause; beyond ``inbox_hard_messages`` the connection is closed
        with 1008. Cancelling it cancels the work of the peer.

        Args:
            message: the message to answer. It is not changed.
            timeout: seconds from now until the answer has come; None for as long as the connection
                lasts.

        Raises:
            CallError: the peer has answered with an error, or does not answer such calls.
            TimeoutError: no answer came in time; the work of the peer is cancelled.
            Disconnected: the connection has ended.
            TypeError: the message is not a Call, msgspec cannot encode it, or this path's messages
                have no tags.
        """
        return await self._driver.calls.call(message, timeout)

    def stream(self, message: Stream[T]) -> AbstractAsyncContextManager[AsyncIterator[T]]:
        """Call the peer for a stream: ``async with connection.stream(Count(10)) as ticks``.

        Entering the block sends the call, and iterating the result reads the items, until the
        stream is complete. Leaving the block before that cancels the work of the peer. The peer
        sends at most 64 items ahead of the reader (backpressure).

        Raises:
            CallError: while iterating: as in ``call``.
            Disconnected: on entering or while iterating: the connection has ended.
            TypeError: on entering: as in ``call``.
        """
        return self._driver.calls.stream(message)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection. Only the first end takes effect.

        The connection's functions are cancelled where they next wait, including the caller. Does
        not wait and does not raise: a code that may not be sent ends the connection with 1011 and
        is logged.

        Args:
            code: 1000-1003, 1007-1014 or 3000-4999 (RFC 6455 §7.4).
            reason: shown to the peer; cut to 123 bytes at a character.
        """
        self._driver.close(code, reason)

    def set_credential(self, credential: Credential) -> None:
        """Say on which credential this connection is open, in place of an earlier one. The
        connection is closed with 4401 when it ends, unless the peer renews it: see ``Credential``.

        Call it in ``on_connect`` or in a handler of this connection. Once the peer has left, or
        the server stops, the credential no longer matters.

        Raises:
            RuntimeError: it is a client's connection.
        """
        self._driver.set_credential(credential)

    async def ask_credential(self) -> str:
        """Accept the handshake and wait for the first message, which has to be
        ``{"type": "$auth", "token": "…"}``. Only in ``on_connect``, before anything was sent.

        Until the ``on_connect`` functions have set up, or one of them sends, the connection is in
        no registry, and no message of a topic is sent to it.

        Returns:
            The token, which is not verified: do that next, and raise ``Close(4401)`` if it is not
            accepted.

        Raises:
            Close: with 4401: another message came first, or none within ``open_timeout``.
            RuntimeError: it is called elsewhere, or the handshake is accepted already.
        """
        return await self._driver.ask_credential()

    def _echo(self, subprotocol: str) -> None:
        """Answer the handshake with this subprotocol, unless another is negotiated.

        For a token that a browser offers as its only subprotocol: browsers fail a connection that
        is answered without one of those that they have offered (WHATWG WebSockets).
        """
        self._driver.echo(subprotocol)

    def __repr__(self) -> str:
        return f"<Connection {self.id} {self.request.path}>"
