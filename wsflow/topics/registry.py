"""The connections of the app."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from wsflow.connection import Connection
from wsflow.messages.codec import CODECS, Codec
from wsflow.messages.events import TopicOptions
from wsflow.topics.channels import EVERYBODY, Channels, Subscriber
from wsflow.topics.declared import DeclaredTopics
from wsflow.topics.topic import Topic, excluded_ids
from wsflow.topics.type import TopicType


@dataclass
class Directory:
    """What the process knows of its connections and topics.

    Attributes:
        channels: the topics in use.
        connections: those whose handshake is accepted, by id.
        declared: the topics that the app declares.
        codecs: those that some path allows.
    """

    channels: Channels
    connections: dict[str, Connection] = field(default_factory=dict)
    declared: DeclaredTopics = field(default_factory=DeclaredTopics)
    codecs: tuple[Codec, ...] = tuple(CODECS.values())

    def add(self, connection: Connection, subscriber: Subscriber) -> None:
        """Make an accepted connection known, and have it hear broadcasts."""
        self.connections[connection.id] = connection
        self.channels.accepted(subscriber)
        self.channels.join(EVERYBODY, TopicOptions(), subscriber)


class Registry:
    """All the connections of the app. ``len``, iteration and ``get`` are of this process's."""

    __slots__ = ("_directory", "_subscriber")

    def __init__(self, directory: Directory, subscriber: Subscriber | None = None) -> None:
        self._directory = directory
        self._subscriber = subscriber

    def __len__(self) -> int:
        return len(self._directory.connections)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._directory.connections.values()))

    def get(self, id: str) -> Connection | None:
        """The connection of that id, None if this process has none."""
        return self._directory.connections.get(id)

    async def broadcast(
        self, message: object, exclude: Connection | Iterable[Connection] | None = None
    ) -> None:
        """Send a message to every connection of the app, in every process.

        It is encoded once, and no peer that reads slowly delays it: one that lags more than 1,024
        messages behind is closed with 1013.

        Args:
            message: anything that msgspec encodes; ``str`` and ``bytes`` go as they are.
            exclude: connections that do not get it.

        Raises:
            TypeError: the message cannot be encoded.
            BrokerError: the broker was away for longer than ``publish_timeout``, or refused.
        """
        kind = TopicType((object,), TopicOptions(), self._directory.codecs)
        envelope = kind.envelope(message, excluded_ids(exclude))
        await self._directory.channels.broker.publish(EVERYBODY, envelope, kind.options)

    def counters(self) -> dict[str, int]:
        """How this process does: what is now, and how often things have happened since it began.

        Returns:
            ``connections`` and ``topics`` that are there; ``waiting`` messages of topics for peers
            that lag; ``dropped`` such messages, and connections ``closed`` because of that;
            messages ``published``; ``unreadable`` ones from the broker; how often events of a
            history were ``lost`` to who had joined, and how often the broker was ``reconnected``
            to.
        """
        channels = self._directory.channels
        return {
            "connections": len(self),
            "topics": len(channels),
            "waiting": channels.waiting,
            **channels.counters,
            **channels.broker.counters,
        }

    def topic(self, name: str, *types: Any) -> Topic[Any]:
        """A topic whose name is only known at run time.

        A name that a declared topic's template matches has that topic's options, and its types
        unless some are given. In a handler of a connection it can be joined.

        Args:
            name: the whole name.
            types: the message types that it carries; any without one.
        """
        if not name:
            raise ValueError("a topic needs a name")
        declared = self._directory.declared.find(name)
        kinds: Sequence[Any] = types or (declared.types if declared else (Any,))
        options = declared.options if declared else TopicOptions()
        kind = TopicType(tuple(kinds), options, self._directory.codecs)
        return Topic(name, kind, self._directory.channels, self._subscriber)
