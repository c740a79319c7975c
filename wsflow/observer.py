"""Observing an app: who is told what happens to its connections, for logs, metrics and traces."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, final

from wsflow.addresses import Address
from wsflow.connection import Connection
from wsflow.end import End
from wsflow.log import Log
from wsflow.metrics import Histogram

log = Log("wsflow")

Carrier = MutableMapping[str, str]
"""What travels with a message, by name: ``traceparent``, for example."""


@dataclass(frozen=True, slots=True)
class ConnectionSummary:
    """How a connection went.

    Attributes:
        route: its path as it was declared, with parameters as ``{name}``.
        end: how it ended.
        opened: whether its handshake was accepted.
        refused: the HTTP status with which its handshake was refused; None if it was accepted, or
            if the peer left before either.
        received, sent: messages.
        received_bytes, sent_bytes: bytes on the wire, before TLS; of the messages alone where
            another server speaks WebSocket.
        dropped: messages that were not sent, because the peer lagged or had left.
        seconds: from the opening request to the end.
        dialled: whether this side is the client.
    """

    route: str
    end: End | None
    opened: bool
    refused: int | None
    received: int
    sent: int
    received_bytes: int
    sent_bytes: int
    dropped: int
    seconds: float
    dialled: bool


class Observer(Protocol):
    """Is told what happens to the connections of an app: see ``Router.observe``.

    Derive from it, and write the methods that are needed: the others do nothing. All are called in
    the event loop, where every connection waits for them: they must return at once, and cannot
    await. What one raises is logged, and harms no connection. Nothing that they return or change
    decides on a connection.
    """

    def connection_begun(self, connection: Connection, route: str, dialled: bool) -> None:
        """An opening request has come for a path of the app; or this side is the client
        (``dialled``), and begins to connect.

        Context variables that are set here are seen by all functions of this connection.
        """
        return

    def connection_opened(self, connection: Connection, route: str) -> None:
        """The handshake is accepted."""
        return

    def connection_ended(self, connection: Connection, summary: ConnectionSummary) -> None:
        """All that a connection has run is over, and its peer was told. Called once for each that
        was begun, also if its handshake was refused."""
        return

    def request_refused(self, path: str, client: Address | None, status: int) -> None:
        """A request was answered with an HTTP error, before there was a connection.

        Args:
            path: what was asked for; ``""`` if it could not be read. Peers choose it.
            client: who asked, if that is known.
            status: the HTTP status.
        """
        return

    def page_answered(
        self, method: str, path: str, client: Address | None, status: int, seconds: float
    ) -> None:
        """A plain HTTP request was answered by a page or a file."""
        return

    def message_timer(self, route: str, handler: str) -> Histogram | None:
        """What counts how long a consumer took for messages, from its call to its return. One of 16
        messages of a connection is timed, the first among them. None for nothing. Asked once for
        each consumer and connection."""
        return None

    def message_handling(
        self,
        connection: Connection,
        route: str,
        handler: str,
        message: object,
        carried: Mapping[str, str],
    ) -> AbstractContextManager[object] | None:
        """What is to be entered around the handling of a message, ``on_message`` functions
        included, in the task that does it. An exception passes through it. None for nothing.

        Args:
            connection: the connection.
            route: its path as it was declared.
            handler: the name of the consumer.
            message: the message, decoded.
            carried: what the caller has sent along with a call: see ``carry``. Peers choose it.
        """
        return None

    def topic_delivering(
        self, topic: str, members: int, carried: Mapping[str, str]
    ) -> AbstractContextManager[object] | None:
        """What is to be entered around the delivery of a topic's message to its members and
        listeners in this process.

        Args:
            topic: the name of the topic; ``""`` for what is sent to all connections.
            members: how many members it has here.
            carried: what its publisher has sent along: see ``carry``.
        """
        return None

    def topic_received(self, topic: str, carried: Mapping[str, str]) -> None:
        """A loop over a topic gets a message: called in the task of the loop, right before."""
        return

    def carry(self, carrier: Carrier) -> None:
        """A message is published on a topic, a call is made, or a client's opening request is sent:
        put into the carrier, a dict of texts, what is to travel with it, as in
        ``carrier["traceparent"] = …``. Called in the task that does it."""
        return


@final
class Observers:
    """All observers of an app. Asks only for what one of them has written, and raises nothing."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        each = tuple(observers)
        self._begun = _hooks(each, "connection_begun")
        self._opened = _hooks(each, "connection_opened")
        self._ended = _hooks(each, "connection_ended")
        self._refused = _hooks(each, "request_refused")
        self._answered = _hooks(each, "page_answered")
        self._timer = _hooks(each, "message_timer")
        self._handling = _hooks(each, "message_handling")
        self._delivering = _hooks(each, "topic_delivering")
        self._received = _hooks(each, "topic_received")
        self._carry = _hooks(each, "carry")

    @property
    def begins(self) -> bool:
        """Whether one is told of the begin of connections."""
        return bool(self._begun)

    @property
    def around_messages(self) -> bool:
        """Whether one has something to be entered around messages."""
        return bool(self._handling)

    @property
    def around_topics(self) -> bool:
        """Whether one has something to be entered around the delivery of topics' messages."""
        return bool(self._delivering)

    def begun(self, connection: Connection, route: str, dialled: bool) -> None:
        _tell(self._begun, connection, route, dialled)

    def opened(self, connection: Connection, route: str) -> None:
        _tell(self._opened, connection, route)

    def ended(self, connection: Connection, summary: ConnectionSummary) -> None:
        _tell(self._ended, connection, summary)

    def refused(self, path: str, client: Address | None, status: int) -> None:
        _tell(self._refused, path, client, status)

    def answered(
        self, method: str, path: str, client: Address | None, status: int, seconds: float
    ) -> None:
        _tell(self._answered, method, path, client, status, seconds)

    def timer(self, route: str, handler: str) -> Callable[[int], object]:
        """What is told how many nanoseconds a message took."""
        found = _ask(self._timer, route, handler)
        timers = [each.add for each in found if isinstance(each, Histogram)]
        if len(timers) == 1:
            return timers[0]
        return lambda nanoseconds: _tell(timers, nanoseconds)

    def handling(
        self,
        connection: Connection,
        route: str,
        handler: str,
        message: object,
        carried: Mapping[str, str],
    ) -> Around:
        return Around(_ask(self._handling, connection, route, handler, message, carried))

    def delivering(self, topic: str, members: int, carried: Mapping[str, str]) -> Around:
        return Around(_ask(self._delivering, topic, members, carried))

    def received(self, topic: str, carried: Mapping[str, str]) -> None:
        _tell(self._received, topic, carried)

    def carry(self) -> dict[str, str]:
        """What travels with a message that is sent here."""
        carrier: dict[str, str] = {}
        _tell(self._carry, carrier)
        return carrier


_RAISED = (Exception, asyncio.CancelledError)
"""What observers raise. They do not await: that something was cancelled is no word to whom they
observe."""


@final
class Around:
    """What observers have to be entered around something. An exception passes through it, whatever
    they return; what they raise themselves is logged."""

    __slots__ = ("_entered", "_found")

    def __init__(self, found: Sequence[AbstractContextManager[object] | None]) -> None:
        self._found = found
        self._entered: list[AbstractContextManager[object]] = []

    def __enter__(self) -> None:
        for each in self._found:
            if each is not None:
                try:
                    each.__enter__()
                except _RAISED as exc:
                    _failed(each, exc)
                else:
                    self._entered.append(each)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in reversed(self._entered):
            try:
                each.__exit__(kind, exc, trace)
            except _RAISED as raised:
                if raised is not exc:
                    _failed(each, raised)


HOOKS = tuple(name for name in vars(Observer) if not name.startswith("_"))
"""What an observer can have, at least one of them."""


def _hooks(observers: Sequence[Observer], name: str) -> Sequence[Callable[..., Any]]:
    """The methods of that name which are not the Protocol's own."""
    own = getattr(Observer, name)
    return [
        getattr(each, name)
        for each in observers
        if getattr(type(each), name, own) is not own or name in getattr(each, "__dict__", {})
    ]


def _ask(hooks: Sequence[Callable[..., Any]], *values: object) -> list[Any]:
    answers = []
    for hook in hooks:
        try:
            answers.append(hook(*values))
        except _RAISED as exc:
            _failed(hook, exc)
    return answers


def _tell(hooks: Sequence[Callable[..., Any]], *values: object) -> None:
    for hook in hooks:
        try:
            hook(*values)
        except _RAISED as exc:
            _failed(hook, exc)


def _failed(what: object, exc: BaseException) -> None:
    """What an observer raises harms nobody: it is logged, at most once a second with its
    traceback."""
    name = getattr(what, "__qualname__", type(what).__qualname__)
    log.often(logging.ERROR, "an observer failed: %s", f"{name}: {exc!r}", exc_info=exc)


NOBODY = Observers()
