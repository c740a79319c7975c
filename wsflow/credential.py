"""What a connection may be open for: whom it belongs to, and until when."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

GRACE = 25.0
"""Seconds that a peer has after the end of its credential, to renew it."""

EXPIRED = 4401
"""The close code if a credential has ended, or is not accepted: HTTP's 401."""

FORBIDDEN = 4403
"""The close code if a peer may not do what it asks for: HTTP's 403."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a scope function has accepted a connection on: ``connection.set_credential(…)``.

    Without ``expires_in`` the connection may stay open for good. With it, the connection is closed
    with 4401 when the credential ends; or, if ``renew`` is given, ``grace`` seconds later, unless
    the peer has renewed it by a message before that (``docs/protocol.md``).

    Args:
        identity: whom it belongs to, as in the ``sub`` of a token. A renewal by another identity
            closes the connection with 4403.
        expires_in: seconds from now until it ends, 0 or more; None if it does not end.
        renew: called with the token of a renewing message; returns the new credential, or raises
            ``Reject`` if the token is not accepted, which closes with 4401. Any other exception
            ends the connection as that of a handler does. It has ``open_timeout`` to return.
        grace: seconds after the end in which a renewal is still accepted; 25 by default.
        user: what the scope function provides. After a renewal, functions that are called receive
            the user of the new credential in its place; those that run keep what they have.

    Raises:
        ValueError: ``expires_in`` or ``grace`` is negative, or not a number.
        TypeError: the identity is not a str, or one of these is no number.
    """

    identity: str = field(repr=False)
    expires_in: float | None = None
    renew: Callable[[str], Awaitable[Credential]] | None = field(default=None, repr=False)
    grace: float = GRACE
    user: object = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.identity, str):
            raise TypeError(f"identity is a {type(self.identity).__name__}: use a str")
        for name, seconds in (("expires_in", self.expires_in or 0.0), ("grace", self.grace)):
            if not isinstance(seconds, int | float):
                raise TypeError(f"{name} is {seconds!r}: use seconds, 0 or more")
            if not seconds >= 0:
                raise ValueError(f"{name} is {seconds!r}: use seconds, 0 or more")


def same(one: str, other: str) -> bool:
    """Whether two texts are the same; in a time that does not depend on where they differ."""
    first, second = (text.encode("utf-8", "surrogatepass") for text in (one, other))
    return hmac.compare_digest(first, second)
