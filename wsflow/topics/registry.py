"""The connections of the app."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, overload

from wsflow.brokers.base import MAX_CLAIM
from wsflow.connection import Connection, check_user
from wsflow.declare.markers import TopicName
from wsflow.errors import Close
from wsflow.http import check_name
from wsflow.messages.codec import CODECS, BoundCodec
from wsflow.messages.events import Envelope, Target, TopicOptions
from wsflow.metrics import Family
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
        measure: returns what is measured in this process.
        broker: the sort of the broker.
    """

    channels: Channels
    connections: dict[str, Connection] = field(default_factory=dict)
    declared: DeclaredTopics = field(default_factory=DeclaredTopics)
    codecs: tuple[BoundCodec, ...] = tuple(CODECS.values())
    measure: Callable[[], list[Family]] = list
    broker: str = "memory"

    @property
    def anything(self) -> TopicType:
        """The type of what is sent to all connections."""
        return TopicType((object,), TopicOptions(), self.codecs)

    def add(self, connection: Connection, subscriber: Subscriber) -> None:
        """Add an accepted connection, and subscribe it to broadcasts."""
        self.connections[connection.id] = connection
        self.channels.accepted(subscriber)
        self.channels.join(EVERYBODY, self.anything, subscriber)

    def remove(self, connection: Connection) -> None:
        """Remove a connection. Idempotent."""
        self.connections.pop(connection.id, None)
        if connection.user is not None:
            self.channels.users.remove(connection.id, connection.user)


@dataclass(frozen=True, slots=True)
class UserConnection:
    """A connection of a user, in this process or in another one.

    Attributes:
        id: the connection's id, for ``Registry.disconnect``.
    """

    id: str


class RegistryUser:
    """The connections of one user, in all processes of the app, whether or not there are any.

    Ask for one by ``Registry.user``.

    Attributes:
        name: the name of the user, as ``Connection.identify`` was told.
    """

    __slots__ = ("_registry", "name")

    def __init__(self, registry: Registry, name: str) -> None:
        self._registry = registry
        self.name = name

    async def send(
        self, message: object, exclude: Connection | Iterable[Connection] | None = None
    ) -> None:
        """Send a message to all connections of the user, as ``Registry.broadcast`` does to those of
        all users. If there are none, the message is lost.

        Args:
            message: anything that msgspec encodes; ``str`` and ``bytes`` are sent as they are.
            exclude: connections that do not receive it.

        Raises:
            TypeError: the message cannot be encoded.
            BrokerError: the broker was unreachable for longer than ``publish_timeout``, or refused
                the message.
        """
        await self._registry._send_to(Target(self.name), message, exclude)

    async def disconnect(
        self,
        code: int = 1000,
        reason: str = "",
        exclude: Connection | Iterable[Connection] | None = None,
    ) -> None:
        """Close all connections of the user, each as by ``Connection.close``.

        Those in their handshake are closed, too, also if ``identify`` names the user only later: no
        connection whose opening request a process has got before it has heard of this stays open.
        That a new one is refused, the app has to see to beforehand.

        It returns once the broker has it; the processes then close their connections, within
        moments. The caller is cancelled if its own connection is among them: see ``exclude``.

        Args:
            code: 1000-1003, 1007-1014 or 3000-4999 (RFC 6455 §7.4).
            reason: shown to the peers; cut to 123 bytes at a character.
            exclude: connections that stay open.

        Raises:
            ValueError: the code may not be sent.
            TypeError: the reason is not a str.
            BrokerError: the broker was unreachable for longer than ``publish_timeout``, or refused
                it. Connections may then be open in every process.
        """
        closing = Close(code, reason)
        target = Target(self.name, "", closing.code, closing.reason)
        await self._registry._disconnect(target, exclude)

    async def connections(self) -> list[UserConnection]:
        """The connections of the user whose handshake is accepted, in all processes.

        Those of a killed process are listed until three seconds after its last heartbeat.

        Raises:
            BrokerError: as ``Topic.members``.
        """
        return [UserConnection(id) for id in await self._registry._ids_of(self.name)]

    def __repr__(self) -> str:
        return f"<RegistryUser {self.name}>"


class Registry:
    """The connections of the app, its users and its topics. Injected by its type.

    ``len(registry)``, ``for connection in registry``, ``get``, ``of_user`` and ``counters`` are
    limited to this process; all else reaches all processes of the app.
    """

    __slots__ = ("_directory", "_subscriber")

    def __init__(self, directory: Directory, subscriber: Subscriber | None = None) -> None:
        self._directory = directory
        self._subscriber = subscriber

    def __len__(self) -> int:
        return len(self._directory.connections)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._directory.connections.values()))

    @property
    def broker(self) -> str:
        """What carries the app's topics: ``"memory"``, whose histories end with the process;
        ``"redis"`` or ``"nats"``, also if ``--workers`` has started it; or the scheme of an engine
        of your own."""
        return self._directory.broker

    def get(self, id: str) -> Connection | None:
        """The connection with that id, None if this process has none."""
        return self._directory.connections.get(id)

    def of_user(self, user: str) -> list[Connection]:
        """The connections of a user in this process, oldest first, as ``Connection.identify`` has
        named it."""
        connections = self._directory.connections
        ids = self._directory.channels.users.ids(user)
        return [connections[id] for id in ids if id in connections]

    def user(self, name: str) -> RegistryUser:
        """A user of the app, to send to its connections or to close them, in all processes.

        Args:
            name: the name, as ``Connection.identify`` was told.

        Raises:
            TypeError: it is not a str.
            ValueError: it is empty, or has half of a surrogate pair.
        """
        check_user(name)
        return RegistryUser(self, name)

    async def disconnect(self, id: str, code: int = 1000, reason: str = "") -> None:
        """Close one connection of the app, whichever process it is in, as by ``Connection.close``;
        in its handshake, too. Without effect if it has ended, or there is none.

        It returns once the broker has it.

        Args:
            id: the connection's id.
            code: as that of ``RegistryUser.disconnect``.
            reason: as that of ``RegistryUser.disconnect``.

        Raises:
            ValueError: the code may not be sent, or the id is empty.
            TypeError: the id or the reason is not a str.
            BrokerError: as ``RegistryUser.disconnect``.
        """
        check_name("the id of a connection", id)
        closing = Close(code, reason)
        await self._disconnect(Target("", id, closing.code, closing.reason), None)

    async def _send_to(
        self,
        target: Target | None,
        message: object,
        exclude: Connection | Iterable[Connection] | None,
    ) -> None:
        envelope = self._directory.anything.envelope(message, excluded_ids(exclude))
        envelope = self._directory.channels.with_context(envelope)
        await self._tell_everybody(replace(envelope, target=target))

    async def _disconnect(
        self, target: Target, exclude: Connection | Iterable[Connection] | None
    ) -> None:
        await self._tell_everybody(Envelope({}, excluded_ids(exclude), target=target))

    async def _tell_everybody(self, envelope: Envelope) -> None:
        """Send to all processes."""
        await self._directory.channels.broker.publish(EVERYBODY, envelope, TopicOptions())

    async def _ids_of(self, user: str) -> list[str]:
        return await self._directory.channels.presence.of_user(EVERYBODY, user)

    async def broadcast(
        self, message: object, exclude: Connection | Iterable[Connection] | None = None
    ) -> None:
        """Send a message to all connections of the app, in all processes.

        It is encoded once, and a slow peer does not delay it: a peer that lags more than 1,024
        messages behind is closed with 1013. If this is cancelled, the message may have been sent.

        Args:
            message: anything that msgspec encodes; ``str`` and ``bytes`` are sent as they are.
            exclude: connections that do not receive it.

        Raises:
            TypeError: the message cannot be encoded.
            BrokerError: the broker was unreachable for longer than ``publish_timeout``, or refused
                the message.
        """
        await self._send_to(None, message, exclude)

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
            were ``ignored``, how often the members of a topic here may have ``missed`` messages,
            because the broker was away, or had lost some, and messages of histories that were
            ``replayed`` to members that had missed them.
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
    codecs: tuple[BoundCodec, ...],
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
        if (wrong := name._problem(codecs[0].hooks)) is not None:
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
