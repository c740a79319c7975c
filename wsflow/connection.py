"""What handlers hold of a connection, and how a connection ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from wsflow.request import Request

Cause = Literal[
    "rejected",
    "peer",
    "vanished",
    "finished",
    "closed",
    "unsupported",
    "invalid",
    "policy",
    "too_large",
    "protocol",
    "error",
    "slow",
    "shutdown",
    "restart",
]

CAUSE_OF_CODE: Mapping[int, Cause] = {
    1002: "protocol",
    1003: "unsupported",
    1007: "invalid",
    1008: "policy",
    1009: "too_large",
}
"""What a close code says when the peer broke a rule."""


@dataclass(frozen=True, slots=True)
class End:
    """How a connection ended.

    Attributes:
        cause: ``rejected`` (no handshake), ``peer`` (it closed), ``vanished`` (it left without a
            word), ``finished`` (a producer or a stream consumer returned), ``closed`` (by ``Close``
            or ``Connection.close``), ``unsupported``, ``invalid``, ``policy``, ``too_large`` and
            ``protocol`` (the peer broke a rule), ``error`` (a handler raised), ``slow`` (the peer
            does not read), ``shutdown`` and ``restart`` (of the server).
        code: the close code (RFC 6455 §7.4), or the HTTP status if ``rejected``.
        reason: the reason that was sent or received.
        error: what a handler raised, None if nothing did.
    """

    cause: Cause
    code: int
    reason: str = ""
    error: BaseException | None = None

    def __str__(self) -> str:
        return f"{self.cause} ({self.code}{' ' * bool(self.reason)}{self.reason})"


class Link(Protocol):
    """What carries out what a handler asks of its connection."""

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

    __slots__ = ("__weakref__", "_link", "id", "request")

    def __init__(self, id: str, request: Request, link: Link) -> None:
        self.id = id
        self.request = request
        self._link = link

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on, None without one."""
        return self._link.subprotocol

    @property
    def end(self) -> End | None:
        """How the connection ended, None while it is open."""
        return self._link.end

    async def send(self, message: object) -> None:
        """Send a message: encoded by the connection's codec, ``str`` and ``bytes`` as they are.

        Safe from many tasks. Waits while the peer's buffer is full, and lets other tasks run at
        least every 64 messages or 16 KiB. During ``on_connect`` it accepts the handshake first.
        Cancelling it is safe: the message went out whole, or not at all. Once the peer has left,
        messages are dropped and counted.

        Raises:
            Disconnected: the connection was ended by this side.
            TypeError: msgspec cannot encode the message.
        """
        await self._link.send(message)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection. The first end counts; a later one changes nothing.

        The connection's functions are cancelled where they next wait, the caller among them. Does
        not wait and does not raise: a code that may not be sent ends with 1011 and is logged.

        Args:
            code: 1000-1003, 1007-1014 or 3000-4999 (RFC 6455 §7.4).
            reason: shown to the peer; cut to 123 bytes at a character.
        """
        self._link.close(code, reason)

    def __repr__(self) -> str:
        return f"<Connection {self.id} {self.request.path}>"
