"""The connections of the app."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

from wsflow.brokers.base import MAX_CLAIM
from wsflow.connection import Connection
from wsflow.declare.markers import TopicName
from wsflow.messages.codec import CODECS, Codec
from wsflow.messages.events import TopicOptions
from wsflow.topics.channels import EVERYBODY, Channels, Subscriber, check_options
from wsflow.topics.declared import DeclaredTopics
from wsflow.topics.names import said
from wsflow.topics.topic import Topic, excluded_ids
from wsflow.topics.type import TopicType

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


@dataclass
class Directory:
    """The connections and topics of the process.

    Attributes:
        channels: the topics in use.
        connections: the connections whose handshake is accepted, by id.
        declared: the topics that the app declares.
        codecs: the codecs that any path allows.
        users: the connections of each user, by id.
    """

    channels: Channels
    connections: dict[str, Connection] = field(default_factory=dict)
    declared: DeclaredTopics = field(default_factory=DeclaredTopics)
    codecs: tuple[Codec, ...] = tuple(CODECS.values())
    users: dict[str, dict[str, Connection]] = field(default_factory=dict)

    @property
    def anything(self) -> TopicType:
        """The type of what is sent to all connections."""
        return TopicType((object,), TopicOptions(), self.codecs)

    def add(self, connection: Connection, subscriber: Subscriber) -> None:
        """Add an accepted connection, and subscribe it to broadcasts."""
        self.connections[connection.id] = connection
        if connection.user is not None:
            self.users.setdefault(connection.user, {})[connection.id] = connection
        self.channels.accepted(subscriber)
        self.channels.join(EVERYBODY, self.anything, subscriber)

    def remove(self, connection: Connection) -> None:
        """Remove a connection. Idempotent."""
        self.connections.pop(connection.id, None)
        user = connection.user
        if user is not None and (own := self.users.get(user)) is not None:
            own.pop(connection.id, None)
            if not own:
                del self.users[user]


class Registry:
    """The connections of the app. ``len``, iteration and ``get`` are limited to this process."""

    __slots__ = ("_directory", "_subscriber")

    def __init__(self, directory: Directory, subscriber: Subscriber | None = None) -> None:
        self._directory = directory
        self._subscriber = subscriber

    def __len__(self) -> int:
        return len(self._directory.connections)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._directory.connections.values()))

    def get(self, id: str) -> Connection | None:
        """The connection with that id, None if this process has none."""
        return self._directory.connections.get(id)

    def of_user(self, user: str) -> list[Connection]:
        """The connections of a user in this process, oldest first, as ``Connection.identify`` has
        named it."""
        return list(self._directory.users.get(user, {}).values())

    async def broadcast(
        self, message: object, exclude: Connection | Iterable[Connection] | None = None
    ) -> None:
        """Send a message to all connections of the app, in all processes.

        It is encoded once, and a slow peer does not delay it: a peer that lags more than 1,024
        messages behind is closed with 1013.

        Args:
            message: anything that msgspec encodes; ``str`` and ``bytes`` are sent as they are.
            exclude: connections that do not receive it.

        Raises:
            TypeError: the message cannot be encoded.
            BrokerError: the broker was unreachable for longer than ``publish_timeout``, or refused
                the message.
        """
        kind = self._directory.anything
        envelope = kind.envelope(message, excluded_ids(exclude))
        await self._directory.channels.broker.publish(EVERYBODY, envelope, kind.options)

    async def claim(self, name: str, seconds: float) -> bool:
        """Claim a name, for something that has to happen once among all processes of the app.

        Args:
            name: the name, unique among all that the app claims.
            seconds: how long the claim is kept at least: more than 0, up to 30 days.

        Returns:
            True for the first who claims it, False for all others. With ``memory://`` that is
            within this process. On Redis a claim can be lost in a failover.

        Raises:
            ValueError: ``seconds`` is out of bounds.
            BrokerError: the broker was unreachable for longer than ``publish_timeout`` (at least 3
                seconds), or cannot do it: on NATS it needs JetStream.
        """
        check_claim(seconds)
        return await self._directory.channels.broker.claim(name, seconds)

    def counters(self) -> dict[str, int]:
        """Current values and counters of this process.

        Returns:
            Current values: ``connections``, ``topics`` in use, and ``waiting`` messages of topics
            for peers that lag. Counters since the process started: ``dropped`` messages for peers
            that lagged, connections ``closed`` because they lagged, messages ``published``,
            ``unreadable`` messages from the broker, connections ``refused`` because there were too
            many, how often the event loop was blocked (``stalled``; only by ``wsflow run``), how
            often events of a history were ``lost`` for members, how often the connection to the
            broker was lost (``reconnected``), events of histories that were dropped because all
            histories in this process were too large (``history_dropped``), messages that were over
            a rate limit (``rate_limited``), whatever became of them, large messages that waited
            until there was memory to decode them (``deferred``), messages with an unknown tag that
            were ``ignored``, and how often the members of a topic here may have ``missed``
            messages, because the broker was away, or had lost some.
        """
        channels = self._directory.channels
        return {
            "connections": len(self),
            "topics": len(channels),
            "waiting": channels.waiting,
            **channels.counters,
            **channels.broker.counters,
        }

    @overload
    def topic(self, name: str | TopicName, /, **values: str | int) -> Topic[Any]: ...
    @overload
    def topic(self, name: str | TopicName, kind: type[A], /, **values: str | int) -> Topic[A]: ...
    @overload
    def topic(
        self, name: str | TopicName, kind: type[A], other: type[B], /, **values: str | int
    ) -> Topic[A | B]: ...
    @overload
    def topic(
        self,
        name: str | TopicName,
        kind: type[A],
        other: type[B],
        third: type[C],
        /,
        **values: str | int,
    ) -> Topic[A | B | C]: ...
    @overload
    def topic(self, name: str | TopicName, /, *types: Any, **values: str | int) -> Topic[Any]: ...
    def topic(self, name: str | TopicName, /, *types: Any, **values: str | int) -> Topic[Any]:
        """A topic by its template and values, which need not be those of the path.

        ``registry.topic("room.{room}", Said, room=room)``. Values are percent-encoded outside of
        ``[A-Za-z0-9_-]``, as those of a path are, so that ``room`` may have any characters.

        If a declared topic's template makes the name, it has the options of that topic, and its
        types unless ``types`` are given. Else a ``TopicName`` declares it from now on, with all its
        options; a ``str`` has the default options. In a handler of a connection it can be joined.

        Args:
            name: the template, or the complete name. A ``TopicName`` has options as well.
            types: the message types that it carries; any type by default.
            values: a value for each parameter of the template, a ``str`` or an ``int``.

        Raises:
            ValueError: a value is missing, empty, or one too many; the template is malformed; the
                complete name can be none of a declared topic, though it looks like one; an option
                is out of bounds, or other than where the topic is declared or used; or more than
                1,000 topics have been declared here.
            TypeError: a value is neither a ``str`` nor an ``int``.
        """
        channels, declared = self._directory.channels, self._directory.declared
        filled, kind, template = find_topic(declared, name, types, values, self._directory.codecs)
        channels.check(filled, kind.options)
        if template is not None:
            stored = declared.add(template, kind)
            if kind.options.history:
                channels.broker.declare(template, stored)
        return Topic(filled, kind, channels, self._subscriber)


def find_topic(
    declared: DeclaredTopics,
    name: str | TopicName,
    types: Sequence[Any],
    values: Mapping[str, str | int],
    codecs: tuple[Codec, ...],
) -> tuple[str, TopicType, str | None]:
    """What ``Registry.topic`` is asked for: the topic's name, its type, and the template that it
    declares by that, None if it declares none.

    Raises:
        ValueError, TypeError: as ``Registry.topic``.
    """
    template = name.template if isinstance(name, TopicName) else name
    filled, found = declared.name(template, values, cure_of)
    kinds = types or (found.types if found else (Any,))
    options = found.options if found else TopicOptions()
    if isinstance(name, TopicName):
        if (wrong := name._problem()) is not None:
            raise ValueError(f"topic {template!r}: {wrong[0]} Fix: {wrong[1]}")
        if found is not None:
            check_options(filled, options, name._options)
        options = name._options
    new = template if isinstance(name, TopicName) and found is None else None
    return filled, TopicType(tuple(kinds), options, codecs), new


def check_claim(seconds: float) -> None:
    """Check how long a claim is kept.

    Raises:
        ValueError: it is out of bounds.
    """
    if not 0 < seconds <= MAX_CLAIM:
        raise ValueError(f"seconds is {seconds!r}: use more than 0, and at most 30 days")


def cure_of(template: str, values: Mapping[str, str]) -> str:
    """How a topic is asked for."""
    return f"registry.topic({template!r}, {said(values)})"
