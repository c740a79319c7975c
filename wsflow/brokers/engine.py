"""What a client of Redis or NATS has to do, so that a broker can stand on it.

An engine connects to a server. Its connection does not reconnect: once it is lost, everything on it
fails with ``ConnectionLostError``. What survives that is in ``remote.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, final

from wsflow.brokers.base import Mark
from wsflow.messages.events import TopicOptions


class ConnectionLostError(Exception):
    """The connection to the broker is lost, or cannot be made: why."""


def settle(waiting: asyncio.Future[Any], value: Any) -> None:
    """Give somebody who waits his answer, or the error that is one; unless he has gone."""
    if waiting.done():
        return
    if isinstance(value, Exception):
        waiting.set_exception(value)
        waiting.exception()  # whoever has gone does not come back for it
    else:
        waiting.set_result(value)


@final
class Failure:
    """Why a connection is lost, once it is."""

    def __init__(self) -> None:
        self._why: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self, exc: Exception) -> ConnectionLostError:
        """The connection is lost; the first reason is kept. Returns what its users are told."""
        settle(self._why, exc)
        return ConnectionLostError(str(exc))

    async def wait(self) -> None:
        """Wait until the connection is lost, and raise why."""
        await asyncio.shield(self._why)

    def check(self) -> None:
        """Raise ConnectionLostError if the connection is lost."""
        if self._why.done():
            raise ConnectionLostError("the connection is closed")


class Stamp(NamedTuple):
    """Where a live event stands in its topic's history.

    Attributes:
        mark: its own place.
        previous: the place of the event before it; empty if the history has none.
    """

    mark: Mark
    previous: tuple[int, ...]


class Stored(NamedTuple):
    """A part of a topic's history.

    Attributes:
        complete: whether nothing is missing between the mark that was asked for and the entries.
        entries: oldest first.
    """

    complete: bool
    entries: Sequence[tuple[Mark, bytes]]


@dataclass(slots=True)
class Attempt:
    """A message that is being published.

    Attributes:
        key: what it is known by, if it must be sent again.
        again: whether an earlier attempt may have gone through.
        age: seconds since the first attempt.
    """

    key: str
    again: bool = False
    age: float = 0.0


class EngineListener(Protocol):
    """Whom a connection reports to; synchronous."""

    def arrived(self, topic: str, stamp: Stamp | None, data: bytes) -> None:
        """A message on a topic; with a stamp if the topic has history."""

    def told(self, data: bytes) -> None:
        """A note from another process."""

    def unreadable(self, where: str, why: object) -> None:
        """Something came that no wsflow has sent."""


class EngineConnection(Protocol):
    """One connection to the broker's server. Every coroutine here may raise ConnectionLostError."""

    @property
    def heard(self) -> int:
        """How many things have come from the server, of whatever kind."""

    async def lost(self) -> None:
        """Wait until the connection is lost.

        Raises:
            ConnectionLostError: always.
        """

    async def ping(self) -> None:
        """Wait until the server has answered on all that the connection consists of."""

    async def subscribe(self, topics: Mapping[str, TopicOptions]) -> None:
        """Return when the server has it."""

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Return when it is on its way."""

    async def publish(
        self, topic: str, data: bytes, options: TopicOptions, attempt: Attempt
    ) -> str:
        """Return the event's id when the server has it; "" without history.

        Raises:
            BrokerError: the server refuses it.
        """

    async def last(self, topic: str, options: TopicOptions) -> Mark:
        """The place of a topic's last event."""

    async def read(self, topic: str, options: TopicOptions, after: Mark, upto: Mark) -> Stored:
        """The events that are later than ``after`` and not later than ``upto``."""

    def tell(self, process: str, data: bytes) -> None:
        """Send a note to a process, or with "" to all; it may be lost."""

    async def declare(self, topics: Mapping[str, TopicOptions]) -> None:
        """Leave word at the server of which topics have history, by template."""

    async def declared(self) -> Mapping[str, TopicOptions]:
        """What others have declared."""

    async def close(self) -> None:
        """Close the connection, whatever state it is in. Raises nothing."""


class Engine(Protocol):
    """Makes connections to one server."""

    @property
    def address(self) -> str:
        """The server's URL without its password, for people."""

    async def connect(self, listener: EngineListener, process: str) -> EngineConnection:
        """Connect. ``process`` is the name that notes are sent to.

        Raises:
            ConnectionLostError: that does not work now.
            BrokerError: it will not work without somebody's doing.
        """
