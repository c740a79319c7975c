"""The connections of each user in this process, and who was disconnected.

A user may be disconnected while one of its connections is in its handshake. One that ``identify``
has named already is closed like the others. One that it names later is closed then: what has
authenticated it may have been asked before the user had logged out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, final

from wsflow.messages.events import Envelope, Target

REMEMBERED = 10_000
"""Users that were disconnected and are remembered for handshakes that had begun by then."""


class Identified(Protocol):
    """A connection, in its handshake or after it."""

    @property
    def id(self) -> str: ...
    @property
    def user(self) -> str | None: ...
    @property
    def begun(self) -> int:
        """What ``Users.disconnected`` was when it began."""

    def close(self, code: int, reason: str) -> None: ...


@final
class Users:
    """The connections of each user.

    Args:
        connections: all that have not ended, by id.

    Attributes:
        disconnected: how many users have been disconnected, one after the other.
    """

    def __init__(self, connections: Mapping[str, Identified]) -> None:
        self.disconnected = 0
        self._connections = connections
        self._of: dict[str, dict[str, Identified]] = {}
        # The last time of each, latest last: its number, and the envelope.
        self._remembered: dict[str, tuple[int, Envelope]] = {}

    def __len__(self) -> int:
        return len(self._of)

    def add(self, connection: Identified) -> Target | None:
        """A connection has a user from now on.

        Returns:
            How it must be closed: its user was disconnected since it has begun. None otherwise.
        """
        user = connection.user or ""
        self._of.setdefault(user, {})[connection.id] = connection
        number, envelope = self._remembered.get(user, (0, None))
        if envelope is None or number <= connection.begun or connection.id in envelope.exclude:
            return None
        return envelope.target

    def remove(self, id: str, user: str) -> None:
        """A connection has ended. Idempotent."""
        if (own := self._of.get(user)) is not None:
            own.pop(id, None)
            if not own:
                del self._of[user]

    def ids(self, user: str) -> Collection[str]:
        """The ids of a user's connections, oldest first; of those in their handshake, too."""
        return self._of.get(user, ())

    def targets(self, target: Target) -> list[Identified]:
        """The connections that are meant; those in their handshake, too."""
        if target.user:
            return list(self._of.get(target.user, {}).values())
        meant = self._connections.get(target.connection)
        return [meant] if meant is not None else []

    def close(self, target: Target, envelope: Envelope) -> None:
        """Close the connections that are meant."""
        if target.user:
            self.disconnected += 1
            self._remembered.pop(target.user, None)
            self._remembered[target.user] = self.disconnected, envelope
            if len(self._remembered) > REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
        for connection in self.targets(target):
            if connection.id not in envelope.exclude:
                connection.close(target.code, target.reason)
