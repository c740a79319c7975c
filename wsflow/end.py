"""How a connection ended, and which close codes and reasons may be sent (RFC 6455 §7.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MAX_REASON = 123
"""Bytes of UTF-8 that fit in a close frame after its code (RFC 6455 §5.5)."""

# RFC 6455 §7.4.1 and the IANA registry: 1004 is reserved; 1005, 1006 and 1015 are never sent.
_SENDABLE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})

Cause = Literal[
    "rejected",
    "unreachable",
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
"""Why a connection has ended: the type of ``End.cause``, which says what each means."""

CAUSE_OF_CODE: Mapping[int, Cause] = {
    1002: "protocol",
    1003: "unsupported",
    1007: "invalid",
    1008: "policy",
    1009: "too_large",
}
"""The cause for a close code that answers a violation by the peer."""


@dataclass(frozen=True, slots=True)
class End:
    """How a connection ended.

    Attributes:
        cause: ``rejected`` (the handshake was refused), ``unreachable`` (a client could not reach
            the server), ``peer`` (the peer closed), ``vanished`` (lost without a close frame),
            ``finished`` (a producer or a consumer that iterates its messages returned), ``closed``
            (by ``Close`` or ``Connection.close``), ``unsupported``, ``invalid``, ``policy``,
            ``too_large`` and ``protocol`` (a violation by the peer), ``error`` (a handler raised),
            ``slow`` (the peer does not read fast enough), ``shutdown`` and ``restart`` (of the
            server).
        code: the close code (RFC 6455 §7.4), or the HTTP status if ``rejected``.
        reason: the reason that was sent or received.
        error: what a handler raised, or a client's ConnectError; None without an error.
    """

    cause: Cause
    code: int
    reason: str = ""
    error: BaseException | None = None

    def __str__(self) -> str:
        return f"{self.cause} ({self.code}{' ' * bool(self.reason)}{self.reason})"


def check_close_code(code: int) -> int:
    """Return ``code`` if a close frame may carry it.

    Raises:
        ValueError: it is not one of 1000-1003, 1007-1014 or 3000-4999 (RFC 6455 §7.4).
    """
    if isinstance(code, int) and (code in _SENDABLE_CODES or 3000 <= code <= 4999):
        return int(code)
    raise ValueError(
        f"{code!r} is not a close code that may be sent: use 1000 for a normal end, "
        "4000 to 4999 for your own, or one of 1001-1003, 1007-1014, 3000-3999"
        + comes_first("code", "Close(4000", code)
    )


def comes_first(what: str, call: str, given: object) -> str:
    """The fix for a text in the place of a number, to add to the error; empty for other values."""
    if not isinstance(given, str) or given.isdecimal():
        return ""
    return f"; the {what} comes first: {call}, {given!r})"


def cut_reason(reason: str) -> str:
    """Cut ``reason`` to 123 bytes of UTF-8, at a character."""
    data = reason.encode("utf-8", "replace")
    return data[:MAX_REASON].decode("utf-8", "ignore")
