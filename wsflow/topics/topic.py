"""Topics: named, typed streams of messages that connections join."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import anyio.lowlevel

from wsflow.brokers.base import PORTION, Nothing, Page
from wsflow.connection import Connection
from wsflow.errors import Disconnected
from wsflow.messages.codec import BadMessage
from wsflow.messages.events import UnreadableError
from wsflow.topics.channels import Channels, Listener, Subscriber
from wsflow.topics.iterators import MemberIterator, MessageIterator, TopicIterator
from wsflow.topics.members import MemberJoined, MemberLeft, TopicMember
from wsflow.topics.presence import Observer
from wsflow.topics.type import TopicType

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Joined:
    """The result of ``join``.

    Attributes:
        recovered: whether all events after the given id were replayed. False if no id was given,
            also where the latest events were replayed (``last``), or if the history does not reach
            back to it, or was lost.
    """

    recovered: bool


@dataclass(frozen=True, slots=True)
class HistoryEvent(Generic[M]):
    """A message of a topic's history.

    Attributes:
        id: the event's id, for ``after``.
        message: what was published.
    """

    id: str
    message: M


@dataclass(frozen=True, slots=True)
class History(Generic[M]):
    """What ``Topic.history`` has read.

    Attributes:
        events: oldest first.
        recovered: whether nothing is missing between the given id and the last one of these; as of
            ``Joined``.
        more: whether others follow, which ``limit`` has left out: read on after the last one.
    """

    events: list[HistoryEvent[M]]
    recovered: bool
    more: bool


@dataclass(frozen=True, slots=True)
class TopicCounters:
    """Counters of a topic's members in this process; see ``Topic.counters``.

    Attributes:
        joined: members in this process.
        lagging: members for which messages are waiting.
        waiting: messages that wait for members.
        dropped: messages that were dropped for current members, because they lagged.
    """

    joined: int = 0
    lagging: int = 0
    waiting: int = 0
    dropped: int = 0


class Topic(Generic[M]):
    """A named stream of messages of type ``M``.

    Ask for one by ``Annotated[Topic[Said], "room.{room}"]``, or by ``Registry.topic``. Connections
    ``join`` it to be sent its messages; ``async for message in topic`` iterates them.

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
        self._listener: Listener | None = None  # that receives between two loops

    async def join(
        self, presence: object = None, after: str | None = None, *, last: int = 0
    ) -> Joined:
        """Subscribe this connection to the topic, until it leaves or ends.

        All messages that are published after ``join`` has returned are received. Joining again only
        changes the presence; nothing is replayed to a member. Before the handshake is accepted,
        messages wait, bounded by the topic's backlog. If it is cancelled, the connection may have
        joined; it leaves when it ends.

        Args:
            presence: a value that ``members`` lists for this connection: anything that msgspec
                encodes.
            after: an event id: the events after it are replayed first, then live events follow,
                without gaps or duplicates. Needs a topic with ``history``; ``""`` is the same as
                None.
            last: without ``after``, how many of the latest events are replayed first, at most; all
                that the history has if that is fewer. 0, the default, replays nothing.

        Raises:
            ValueError: ``last`` is negative, or the topic has no ``history``; or it is used with
                other options elsewhere.
            BrokerError: the broker was unreachable for longer than ``publish_timeout`` (at least 3
                seconds), or refuses the subscription.
            TypeError: the presence cannot be encoded.
            RuntimeError: there is no connection here (in a ``lifespan``, or for a topic from the
                ``Registry`` of a ``lifespan``): only a connection can join.
            Disconnected: the connection has ended.
        """
        subscriber = self._connected("join")
        if subscriber.end is not None:
            raise Disconnected(subscriber.end)
        check_last(self.name, last, self._type.options.history)
        self._channels.presence.learn(presence)
        membership = self._channels.join(self.name, self._type, subscriber, presence)
        if membership is None:
            return Joined(recovered=False)
        replays = after or last
        if replays:
            membership.replaying = Nothing()  # until it is known with which event it begins
        try:
            await self._channels.broker.subscribed(self.name)
            if not replays:
                return Joined(recovered=False)
            replay = await self._channels.broker.replay(self.name, after or "", last)
        except BaseException:
            membership.channel.leave(membership)
            raise
        membership.replay(replay)
        return Joined(replay.recovered)

    async def leave(self) -> None:
        """Stop receiving. Without effect if the connection has not joined.

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
        """Send a message to all members, in all processes.

        It is encoded once, and a slow peer does not delay it. If this is cancelled, the message may
        have been published.

        Args:
            message: of the topic's type: what msgspec decodes to it once it is encoded, as an
                ``int`` where the type is ``float``. In an instance of a Struct or a dataclass of
                that type nothing more is looked at.
            exclude: connections that do not receive it.

        Returns:
            The event's id on a topic with history, else ``""``.

        Raises:
            TypeError: the message is not of the topic's type, or cannot be encoded.
            ValueError: the topic is used with other options elsewhere.
            BrokerError: the broker was unreachable for longer than ``publish_timeout``, or refused
                the message. Unless the error says otherwise, the message was not published.
        """
        checked = self._type.check(self.name, message)
        self._channels.check(self.name, self._type.options)
        spoken = self._channels.spoken
        envelope = self._type.envelope(checked, excluded_ids(exclude), spoken)
        envelope = self._channels.with_context(envelope)
        return await self._channels.broker.publish(self.name, envelope, self._type.options)

    async def history(self, after: str | None = None, *, limit: int = 100) -> History[M]:
        """Read what the topic's history has, whether or not this connection has joined.

        All that was published before is seen. Messages are given whomever they excluded. Cancelling
        it is safe.

        Args:
            after: an event id: the first events after it are read; without it, or with ``""``, the
                latest ones.
            limit: how many events are read, at most; 100 by default.

        Raises:
            ValueError: ``limit`` is not at least 1, or the topic has no ``history``; or it is used
                with other options elsewhere.
            BrokerError: the broker was unreachable for longer than ``publish_timeout`` (at least 3
                seconds), or refuses.
        """
        check_limit(limit)
        check_kept(self.name, "history()", self._type.options.history)
        channels, broker = self._channels, self._channels.broker
        events: list[HistoryEvent[M]] = []
        recovered = True
        with channels.use(self.name, self._type).reading():
            await broker.subscribed(self.name)
            while True:  # again, if some of them cannot be decoded
                page = await broker.read(self.name, after or "", limit - len(events))
                recovered = recovered and page.recovered
                events += await self._decoded(page)
                if not page.more or len(events) == limit:
                    return History(events, recovered, page.more)
                after = page.events[-1].id

    async def _decoded(self, page: Page) -> list[HistoryEvent[M]]:
        """The events of a page, without those that cannot be decoded."""
        events: list[HistoryEvent[M]] = []
        for number, event in enumerate(page.events):
            try:
                events.append(HistoryEvent(event.id, self._type.decode(event)))
            except (UnreadableError, BadMessage) as exc:
                self._channels.unreadable(f"topic {self.name!r}", exc)
            if not number % PORTION:
                await anyio.lowlevel.checkpoint()  # others have their turn
        return events

    async def clear_history(self) -> None:
        """Remove all that the topic's history has, for all processes. Members stay, and receive
        what is published from now on.

        It is not replayed or read any more. To who comes back with an id of before, ``recovered``
        is false, also if it was the last one. What waits to be sent to slow peers is sent.

        If it is cancelled or raises, some or all of it may still be there: call it again.

        Raises:
            ValueError: the topic has no ``history``, or is used with other options elsewhere.
            BrokerError: the broker was unreachable for longer than ``publish_timeout`` (at least 3
                seconds), or refuses.
        """
        check_kept(self.name, "clear_history()", self._type.options.history)
        self._channels.check(self.name, self._type.options)
        await self._channels.broker.clear(self.name, self._type.options)

    async def members(self) -> list[TopicMember]:
        """The members, in all processes: connections that have joined and whose handshake is
        accepted.

        Members of a killed process are listed until three seconds after its last heartbeat.

        Raises:
            BrokerError: the broker was unreachable for longer than ``publish_timeout`` (at least 3
                seconds), so that the members in other processes are not known.
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

    async def count(self) -> int:
        """How many connections are members, in all processes, whose handshake is accepted.

        It is less to send than ``members``: the processes tell each other only a number.

        Raises:
            BrokerError: as ``members``.
        """
        return await self._channels.presence.count(self.name)

    def watch_members(self) -> TopicIterator[MemberJoined | MemberLeft]:
        """Iterate members that join and leave, in all processes.

        It begins with the current members, marked ``earlier``. Each member is yielded once, and
        again for each change; changes that cancel each other out before the loop gets to them are
        skipped. The connection need not join. Cancelling it is safe. It ends with ``aclose()``, or
        with its connection.

        Raises:
            BrokerError: as ``members``, when the loop begins.
        """
        presence = self._channels.presence
        return MemberIterator(presence, Observer(presence, self.name, self._subscriber))

    def counters(self) -> TopicCounters:
        """Counters of the topic's members in this process."""
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
        """Iterate the messages that are published from now on.

        Receiving begins with ``async for``. The messages that the loop has not taken yet are
        bounded by ``backlog``; beyond that ``when_full`` applies, as for a peer. Each of several
        concurrent loops receives every message. A Topic that was injected into a producer keeps
        receiving after a loop was left: the next loop begins with the messages that were published
        meanwhile, up to the backlog. Elsewhere each loop starts with new messages. Cancelling it is
        safe. A loop ends with ``aclose()`` of its iterator, or with its connection.

        Raises:
            RuntimeError: outside of a connection, the loop lags more than ``backlog`` messages
                behind, and ``when_full`` is ``"close"``.
        """
        listener = self._listener
        if listener is None or not listener.is_free:
            keeps = self._keeps_hearing and (listener is None or listener.stopped)
            channel = self._channels.use(self.name, self._type)
            listener = Listener(channel, self._subscriber, keeps=keeps)
            if keeps:
                self._listener = listener
        return MessageIterator(self.name, self._type, self._channels, listener)

    def __repr__(self) -> str:
        return f"<Topic {self.name}>"


def check_last(topic: str, last: object, history: int) -> None:
    """Check the ``last`` of ``join``.

    Raises:
        ValueError: it is no number of events, or there is no history.
    """
    if isinstance(last, bool) or not isinstance(last, int) or last < 0:
        raise ValueError(f"last is {last!r}: use a number of events, at least 0")
    if last:
        check_kept(topic, f"join(last={last})", history, last)


def check_limit(limit: object) -> None:
    """Check the ``limit`` of ``history``.

    Raises:
        ValueError: it is no number of events.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(f"limit is {limit!r}: use a number of events, at least 1")


def check_kept(topic: str, what: str, history: int, wanted: int = 100) -> None:
    """Check that a topic has a history.

    Raises:
        ValueError: it has none.
    """
    if not history:
        raise ValueError(
            f"{what} needs a history, and topic {topic!r} has none: declare it with "
            f'TopicName("…", history={wanted})'
        )


def excluded_ids(exclude: Connection | Iterable[Connection] | None) -> frozenset[str]:
    """The ids of the connections to leave out.

    Raises:
        TypeError: they are no connections.
    """
    if exclude is None:
        return frozenset()
    if isinstance(exclude, Connection):
        return frozenset({exclude.id})
    found = [exclude] if isinstance(exclude, str) or not isinstance(exclude, Iterable) else exclude
    return frozenset(map(_id_of, found))


def _id_of(connection: object) -> str:
    if not isinstance(connection, Connection):
        shown = "the str of an id" if isinstance(connection, str) else type(connection).__name__
        raise TypeError(
            f"exclude takes a Connection, or several, and not {shown}: exclude=connection"
        )
    return connection.id
