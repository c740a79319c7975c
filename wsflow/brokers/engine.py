"""The interface of a broker's engine: what a Redis or NATS client must implement.

An engine connects to a server. Its connection does not reconnect: once it is lost, every operation
on it raises ``ConnectionLostError``. Reconnecting is in ``remote.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, final

from wsflow.brokers.base import Mark
from wsflow.errors import BrokerError
from wsflow.messages.events import TopicOptions

PAGE = 500
"""Events that are read from a history at a time, at most, about."""

PAGE_BYTES = 512 * 1024
"""Bytes of events after which a read ends."""


RETRY = 1.0
"""Seconds after which a request is repeated that was not answered, or had no room."""


class ConnectionLostError(Exception):
    """The connection to the broker is lost, or cannot be made; the message says why."""


class NoAnswerError(BrokerError):
    """The server is there, and a part of it does not answer: the history of a topic, say, whose
    leader has died. A retry may succeed; other topics are not affected."""


class NoRoomError(BrokerError):
    """The server is full: what it would have to store is refused, and all else goes on."""


def loop_time() -> float:
    """Seconds on the clock of the event loop's timers. uvloop's own is read once per iteration,
    before it knows how long that takes: there it is the system's."""
    loop = asyncio.get_running_loop()
    return loop.time() if isinstance(loop, asyncio.BaseEventLoop) else time.monotonic()


def settle(waiting: asyncio.Future[Any], value: Any) -> None:
    """Set the result of a future, or the exception if ``value`` is one, unless it is done."""
    if waiting.done():
        return
    if isinstance(value, Exception):
        waiting.set_exception(value)
        waiting.exception()  # retrieved here, since the waiting task may have been cancelled
    else:
        waiting.set_result(value)


@final
class Failure:
    """The reason why a connection was lost, once it is."""

    def __init__(self) -> None:
        self._why: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self, exc: Exception) -> ConnectionLostError:
        """The connection is lost; the first reason is kept. Returns the error for its users."""
        settle(self._why, exc)
        return ConnectionLostError(str(exc))

    async def wait(self) -> None:
        """Wait until the connection is lost, and raise the reason."""
        await asyncio.shield(self._why)

    def check(self) -> None:
        """Raise ConnectionLostError if the connection is lost."""
        if self._why.done():
            raise ConnectionLostError("the connection is closed")


class Stamp(NamedTuple):
    """Where a live event stands in its topic's history.

    Attributes:
        mark: its own place.
        previous: the place of the event before it; empty if there is none in the history.
    """

    mark: Mark
    previous: tuple[int, ...]


class Stored(NamedTuple):
    """A part of a topic's history.

    Attributes:
        complete: whether nothing is missing between the mark that was asked for and the entries.
        entries: oldest first.
        upto: the place up to which they are all. Only if it is the one that was asked for, the part
            is read to its end, however few entries there are.
    """

    complete: bool
    entries: Sequence[tuple[Mark, bytes]]
    upto: Mark


@dataclass(slots=True)
class Attempt:
    """A message that is being published.

    Attributes:
        key: identifies the message, to deduplicate it if it must be sent again.
        again: whether an earlier attempt may have been successful.
        age: seconds since the first attempt.
    """

    key: str
    again: bool = False
    age: float = 0.0


class EngineListener(Protocol):
    """What a connection reports to; synchronous."""

    def arrived(self, topic: str, stamp: Stamp | None, data: bytes) -> None:
        """A message has come on a topic; with a stamp if the topic has history."""

    def told(self, data: bytes) -> None:
        """A note has come from another process."""

    def refused(self, topic: str, exc: BrokerError) -> None:
        """A topic that was subscribed to is refused from now on."""

    def unreadable(self, where: str, why: object) -> None:
        """A message has come that wsflow has not sent, or cannot read."""


class EngineConnection(Protocol):
    """One connection to the broker's server. Every coroutine here may raise ConnectionLostError, if
    all else that uses it fails, too; ``NoAnswerError`` if this request alone is not answered; and
    BrokerError if the server refuses it. A refusal concerns what was asked for: one topic that may
    not be used, or has no room, hurts no other."""

    @property
    def heard(self) -> int:
        """How many messages and answers have come from the server."""

    async def lost(self) -> None:
        """Wait until the connection is lost.

        Raises:
            ConnectionLostError: always.
        """

    async def ping(self) -> None:
        """Wait until the server has answered on every socket of the connection."""

    async def subscribe(self, topics: Mapping[str, TopicOptions]) -> None:
        """Return when the server has processed it.

        Raises:
            BrokerError: one of them is refused. Then they are tried one by one.
        """

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Return when the request is queued or sent."""

    async def publish(
        self, topic: str, data: bytes, options: TopicOptions, attempt: Attempt
    ) -> str:
        """Return the event's id when the server has acknowledged it; "" without history.

        Raises:
            BrokerError: the server refuses it.
        """

    async def last(self, topic: str, options: TopicOptions) -> Mark:
        """The place of a topic's last event."""

    async def read(self, topic: str, options: TopicOptions, after: Mark, upto: Mark) -> Stored:
        """The events that are later than ``after`` and not later than ``upto``, or the first of
        them: about ``PAGE`` events or ``PAGE_BYTES`` bytes, but at least one."""

    async def latest(
        self, topic: str, options: TopicOptions, upto: Mark, count: int
    ) -> Sequence[tuple[Mark, bytes]]:
        """The last ``count`` events that are not later than ``upto``, oldest first; fewer if there
        are fewer, and none if the history is another one by now than that of ``upto``."""

    async def remove(self, topic: str, options: TopicOptions, before: Mark) -> None:
        """Remove the events of a topic that are earlier than a place.

        An engine may go without it. Then no history can be cleared.
        """

    async def claim(self, name: str, seconds: float, attempt: Attempt) -> bool:
        """Claim a name, atomically, for all that use this server with the same prefix.

        An engine may go without it. Then nothing that needs it starts: a ``Ticket`` of
        ``wsflow.auth``.

        Args:
            name: the name, of any characters.
            seconds: how long the claim is kept at least; up to 30 days.
            attempt: which claim it is: it is the first one again if it is repeated.

        Returns:
            Whether it is the first one, or a repetition of that.

        Raises:
            BrokerError: the server refuses it.
        """

    def tell(self, process: str, data: bytes) -> None:
        """Send a note to a process, or with "" to all of them; it may be lost."""

    async def declare(self, topics: Mapping[str, TopicOptions]) -> None:
        """Store at the server which topics have history, by template.

        Raises:
            NoRoomError, NoAnswerError: not now. The connection is used, and it is tried again.
            BrokerError: the server cannot keep histories: the connection is not used.
        """

    async def declared(self) -> Mapping[str, TopicOptions]:
        """The topics with history that are stored at the server, by template."""

    async def forget_idle(self, topics: Mapping[str, TopicOptions]) -> None:
        """Forget the histories of these topics, by template, that are idle. It is called every
        half a minute.

        An engine may go without it, if its server forgets them by itself.
        """

    async def close(self) -> None:
        """Close the connection, whatever state it is in. Raises nothing."""


class Engine(Protocol):
    """Creates connections to one server."""

    @property
    def address(self) -> str:
        """The server's URL without its password, for messages and logs."""

    async def connect(self, listener: EngineListener, process: str) -> EngineConnection:
        """Connect. ``process`` is the name that notes are sent to.

        Raises:
            ConnectionLostError: connecting failed; a retry may succeed.
            BrokerError: connecting failed; a retry does not help (for example, a wrong password).
                It ends the start at once.
        """
