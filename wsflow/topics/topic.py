"""Topics: named, typed streams of messages that connections join."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from wsflow.connection import Connection
from wsflow.errors import BrokerError, Disconnected
from wsflow.topics.channels import Channels, Listener, Membership, Subscriber
from wsflow.topics.iterators import MemberIterator, MessageIterator, TopicIterator
from wsflow.topics.members import MemberJoined, MemberLeft, TopicMember
from wsflow.topics.presence import Observer
from wsflow.topics.type import TopicType

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Joined:
    """What ``join`` tells.

    Attributes:
        recovered: whether all events after the given one were replayed. False if none was given,
            or if the history no longer reaches back to it, or was lost.
    """

    recovered: bool


@dataclass(frozen=True, slots=True)
class TopicCounters:
    """What this process knows of a topic's members; see ``Topic.counters``.

    Attributes:
        joined: members in this process.
        lagging: those of them that have messages waiting.
        waiting: messages that wait for them.
        dropped: messages that those who are members now did not get, because they lagged.
    """

    joined: int = 0
    lagging: int = 0
    waiting: int = 0
    dropped: int = 0


class Topic(Generic[M]):
    """A named stream of messages of type ``M``.

    Ask for one by ``Annotated[Topic[Said], "room.{room}"]``, or by ``Registry.topic``.

    Attributes:
        name: the topic's name, with path parameters filled in.
    """

    __slots__ = ("_channels", "_keeps_hearing", "_listener", "_subscriber", "_type", "name")

    def __init__(
        self,
        name: str,
        type: TopicType,
        channels: Channels,
        subscriber: Subscriber | None,
        *,
        keeps_hearing: bool = False,
    ) -> None:
        self.name = name
        self._type = type
        self._channels = channels
        self._subscriber = subscriber
        self._keeps_hearing = keeps_hearing
        self._listener: Listener | None = None  # that hears between two loops

    async def join(self, presence: object = None, after: str | None = None) -> Joined:
        """Have what is published sent to this connection, until it leaves or ends.

        What is published once it has returned is received. Joining again changes the presence and
        nothing else: nothing is replayed to a member. Before the handshake is accepted, messages
        wait, bounded by the topic's backlog. Cancelled, it may have joined; the connection's end
        undoes that.

        Args:
            presence: what ``members`` tells of this connection: anything that msgspec encodes.
            after: an event id: what came after it is replayed first, then it goes live, with no
                gap and nothing twice. Needs a topic with ``history``; ``""`` is as None.

        Raises:
            BrokerError: the broker was away for longer than ``publish_timeout``.
            TypeError: the presence cannot be encoded.
            RuntimeError: there is no connection here (in a ``lifespan``, in ``Registry.topic`` of
                a ``lifespan``): only a connection can join.
            Disconnected: the connection has ended.
        """
        subscriber = self._connected("join")
        if subscriber.end is not None:
            raise Disconnected(subscriber.end)
        self._channels.presence.learn(presence)
        membership = self._channels.join(self.name, self._type.options, subscriber, presence)
        if membership is None:
            return Joined(recovered=False)
        if after:
            membership.held = []
        try:
            await self._channels.broker.subscribed(self.name)
            return Joined(await self._replay(membership, after) if after else False)
        except BrokerError:
            membership.channel.leave(membership)
            raise

    async def _replay(self, membership: Membership, after: str) -> bool:
        """Send what came after an event, then what came meanwhile. Returns whether it was all."""

        def begin() -> None:
            membership.held = []  # what came before is part of the replay

        try:
            replay = await self._channels.broker.replay(self.name, after, begin)
            membership.replay(replay.events)
        finally:
            membership.go_live()
        return replay.recovered

    async def leave(self) -> None:
        """Stop receiving. Leaving what was not joined changes nothing.

        Raises:
            RuntimeError: there is no connection here.
        """
        subscriber = self._connected("leave")
        if membership := subscriber.memberships.get(self.name):
            membership.channel.leave(membership)

    def _connected(self, verb: str) -> Subscriber:
        if self._subscriber is None:
            raise RuntimeError(
                f"{verb} needs a connection, and topic {self.name!r} was injected where there is "
                f"none: {verb} it in on_connect or in a handler of the connection"
            )
        return self._subscriber

    async def publish(
        self, message: M, exclude: Connection | Iterable[Connection] | None = None
    ) -> str:
        """Send a message to all who have joined, in every process.

        It is encoded once, and no peer that reads slowly delays it.

        Args:
            message: of the topic's type.
            exclude: connections that do not get it.

        Returns:
            The event's id on a topic with history, else ``""``.

        Raises:
            TypeError: the message is not of the topic's type, or cannot be encoded.
            BrokerError: the broker was away for longer than ``publish_timeout``, or refused. Unless
                that says so, nobody has got the message. Cancelled, it may have been published.
        """
        if not isinstance(message, self._type.classes):
            names = " | ".join(getattr(kind, "__name__", str(kind)) for kind in self._type.types)
            raise TypeError(f"topic {self.name!r} carries {names}, not {type(message).__name__}")
        envelope = self._type.envelope(message, excluded_ids(exclude))
        return await self._channels.broker.publish(self.name, envelope, self._type.options)

    async def members(self) -> list[TopicMember]:
        """Who has joined, in every process: connections whose handshake is accepted.

        Those of a process that was killed are listed until it has been silent for three seconds.

        Raises:
            BrokerError: the broker was away for longer than ``publish_timeout``, so that other
                processes could not be asked.
        """
        presence = self._channels.presence
        user: object = self._channels if self._channels.get(self.name) else object()
        roster = presence.use(self.name, user)
        try:
            await presence.complete(roster)
            return [TopicMember(id, value) for id, value in presence.members(roster)]
        finally:
            if user is not self._channels:
                presence.release(self.name, user)

    def watch_members(self) -> TopicIterator[MemberJoined | MemberLeft]:
        """Iterate who comes and who goes, in every process.

        It begins with those who are there, ``earlier``. Everybody is yielded once, and once more
        for each change; a visit that is over before the loop comes to it is left out. Joining is
        not needed. Cancelling it is safe. It ends with ``aclose()``, or with its connection.

        Raises:
            BrokerError: as ``members``, when the loop begins.
        """
        presence = self._channels.presence
        return MemberIterator(presence, Observer(presence, self.name, self._subscriber))

    def counters(self) -> TopicCounters:
        """How the topic's members in this process keep up."""
        channel = self._channels.get(self.name)
        members = list(channel.members.values()) if channel else []
        waiting = [len(each.waiting) for each in members]
        return TopicCounters(
            joined=len(members),
            lagging=sum(map(bool, waiting)),
            waiting=sum(waiting),
            dropped=sum(each.dropped for each in members),
        )

    def __aiter__(self) -> TopicIterator[M]:
        """Iterate what is published from now on: hearing begins when ``async for`` does.

        What is published from then on is heard, and what has not been taken yet is bounded by
        ``backlog``; beyond that ``when_full`` holds, as for a peer. Loops that run at the same time
        hear every message each. Over a Topic that was injected into a producer, hearing goes on
        when a loop is left: the next one begins with what was published meanwhile, as far as the
        backlog goes. Elsewhere each loop begins anew. Cancelling it is safe. A loop ends with
        ``aclose()`` of its iterator, or with its connection.

        Raises:
            RuntimeError: outside of a connection, the loop lags more than ``backlog`` behind and
                the topic is not one that drops.
        """
        listener = self._listener
        if listener is None or not listener.is_free:
            keeps = self._keeps_hearing and (listener is None or listener.stopped)
            channel = self._channels.use(self.name, self._type.options)
            listener = Listener(channel, self._subscriber, keeps=keeps)
            if keeps:
                self._listener = listener
        return MessageIterator(self.name, self._type, self._channels, listener)

    def __repr__(self) -> str:
        return f"<Topic {self.name}>"


def excluded_ids(exclude: Connection | Iterable[Connection] | None) -> frozenset[str]:
    """The ids of the connections to leave out."""
    if exclude is None:
        return frozenset()
    if isinstance(exclude, Connection):
        return frozenset({exclude.id})
    return frozenset(connection.id for connection in exclude)
