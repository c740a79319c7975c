"""The topics of one process: their members, and the delivery of events to them.

``Channels`` is the listener of the broker, and the local members of ``Presence``.

Nothing here awaits. Leaving is synchronous and idempotent, so that no cancellation can come between
a connection's end and its leaving. A channel is removed with its last member or listener.
"""

from __future__ import annotations

import dataclasses
import logging
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Protocol, final

from wsflow.brokers.base import Broker, BrokerListener, Nothing, OvertakenError, Replay
from wsflow.end import End
from wsflow.errors import BrokerError
from wsflow.log import Log
from wsflow.messages.codec import MSGPACK, BoundCodec
from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.events import Envelope, Event, TopicOptions, UnreadableError, WhenFull
from wsflow.observer import NOBODY, Observers
from wsflow.tasks.waiting import EMPTY, Latch
from wsflow.topics.presence import Presence, nobody
from wsflow.topics.type import TopicType
from wsflow.topics.users import Identified, Users

log = Log("wsflow.topics.topic")

EVERYBODY = ""
"""The name of the topic for broadcasts to all connections; no declared topic can have it."""


def check_options(name: str, there: TopicOptions, here: TopicOptions) -> None:
    """Check that a topic has the same options in two places.

    Raises:
        ValueError: it has not; the message names them.
    """
    others = [
        f"{each.name} is {getattr(there, each.name)!r} there and {getattr(here, each.name)!r} here"
        for each in dataclasses.fields(TopicOptions)
        if getattr(there, each.name) != getattr(here, each.name)
    ]
    if others:
        raise ValueError(
            f"topic {name!r} has other options elsewhere: {', '.join(others)}. Declare it once, "
            "and name it by its template wherever it is used"
        )


class Outlet(Protocol):
    """A connection's outbox, as its topics see it."""

    def deliver(self, membership: Membership, message: EncodedMessage) -> None:
        """Send it now, or when there is room, or drop it, by the topic's policy."""

    def replay(self, membership: Membership) -> None:
        """Send what the member has missed, as there is room."""

    def flush(self) -> None:
        """Send what can be sent."""


class Subscriber(Protocol):
    """A connection, as its topics see it."""

    @property
    def id(self) -> str: ...
    @property
    def codec(self) -> BoundCodec: ...
    @property
    def accepted(self) -> bool: ...
    @property
    def end(self) -> End | None: ...
    @property
    def memberships(self) -> dict[str, Membership]: ...
    @property
    def listeners(self) -> dict[Any, None]:
        """Loops over topics that are stopped with it."""

    @property
    def over(self) -> Latch:
        """Set once it has left all topics: nothing is added any more."""

    @property
    def outbox(self) -> Outlet: ...
    def lagging(self, topic: str) -> None: ...
    def left(self, what: object, exc: BaseException) -> None:
        """An error that ends it."""


_NO_EVENTS: Iterator[Event] = iter(())


@final
class Membership:
    """The membership of one connection in one topic.

    Attributes:
        waiting: messages that wait to be sent to the peer, oldest first.
        dropped: how many messages were dropped because the peer lagged.
        replaying: what the member has missed, and what is published until it has caught up; None if
            it has.
        turns: how many turns it has in the outbox.
        announced: whether its presence was announced.
    """

    __slots__ = (
        "_portion",
        "announced",
        "channel",
        "dropped",
        "presence",
        "replaying",
        "subscriber",
        "turns",
        "waiting",
    )

    def __init__(self, channel: Channel, subscriber: Subscriber, presence: object) -> None:
        self.channel = channel
        self.subscriber = subscriber
        self.presence = presence
        self.announced = False
        self.waiting: deque[EncodedMessage] = EMPTY
        self.dropped = 0
        self.replaying: Replay | None = None
        self._portion = _NO_EVENTS  # of the replay, to be sent next
        self.turns = 0

    def wait(self, message: EncodedMessage) -> None:
        """Add a message that must wait."""
        if self.waiting is EMPTY:
            self.waiting = deque()
        self.waiting.append(message)

    def forget(self) -> None:
        """Drop the messages that wait."""
        self.waiting = EMPTY
        self.turns = 0
        self.replaying = None

    @property
    def options(self) -> TopicOptions:
        return self.channel.options

    def replay(self, replay: Replay) -> None:
        """Send what it has missed, then what is published meanwhile, and go live. Without effect if
        it has left."""
        if isinstance(replay, Nothing):  # which has nothing of what comes meanwhile, either
            self.replaying = None
        elif self.subscriber.memberships.get(self.channel.name) is self:
            self.replaying = replay
            self.subscriber.outbox.replay(self)

    def next(self, ready: Callable[[], None]) -> EncodedMessage | None:
        """The next message of the replay. None if there is none now: it has caught up, and
        ``replaying`` is None; or else ``ready`` is called when there is one."""
        while self.replaying is not None:
            for event in self._portion:
                if self.subscriber.id not in event.envelope.exclude:
                    message = self.channel.encoded(event, self.subscriber.codec)
                    if message is not None:
                        self.channel.replayed()
                        return message
            try:
                events = self.replaying.take(ready)
            except OvertakenError:
                self.channel.lose(self)
                if self.options.when_full == "close":
                    self.replaying = None
                    self.subscriber.lagging(self.channel.name)
                continue
            except BrokerError as exc:
                self.replaying = None
                self.subscriber.left(f"the replay of topic {self.channel.name!r}", exc)
                continue
            if events is None:
                return None
            if not events:
                self.replaying = None
            self._portion = iter(events)
        return None


@final
class Listener:
    """The queue of one ``async for`` over a topic.

    Beyond the backlog ``when_full`` applies, or ``"drop_oldest"`` while no iterator uses it.

    Args:
        channel: the topic.
        subscriber: the connection with which it is stopped, if there is one.
        keeps: whether it continues without its iterator, for the next one.

    Attributes:
        events: the events that were not taken yet.
        lagged: whether it has lost events although its topic's policy is ``"close"``.
        stopped: whether no more events will come.
        wake: called when an event has come, or when it is stopped.
    """

    __slots__ = (
        "_channel",
        "_iterator",
        "_keeps",
        "events",
        "lagged",
        "stopped",
        "subscriber",
        "wake",
    )

    def __init__(self, channel: Channel, subscriber: Subscriber | None, *, keeps: bool) -> None:
        self._channel = channel
        self._keeps = keeps
        self._iterator: Callable[[], object] = nobody
        self.subscriber = subscriber
        self.events: deque[Event] = deque()
        self.wake: Callable[[], object] = nobody
        self.lagged = False
        self.stopped = False
        channel.listeners[self] = None
        if subscriber is not None:
            subscriber.listeners[self] = None
            if subscriber.over.is_set:
                self.stop()

    def taken_by(self, iterator: object) -> None:
        """Give it to an iterator, to which it keeps a weak reference."""
        self._iterator = weakref.ref(iterator)

    @property
    def is_free(self) -> bool:
        """Whether another iterator may take it."""
        return not self.stopped and self._iterator() is None

    def receive(self, event: Event) -> None:
        iterated = self._iterator() is not None
        if not (iterated or self._keeps):
            self.stop()
        elif len(self.events) >= self._channel.options.backlog:
            self._overflow(event, self._channel.options.when_full if iterated else "drop_oldest")
        else:
            self.events.append(event)
        self.wake()

    def _overflow(self, event: Event, policy: WhenFull) -> None:
        if policy == "close":
            self.lagged = True
            if self.subscriber is not None:
                self.subscriber.lagging(self._channel.name)
        elif policy == "drop_oldest":
            self.events.popleft()
            self.events.append(event)
        elif policy == "latest":
            self.events.clear()
            self.events.append(event)

    def stop(self) -> None:
        """Stop receiving. Idempotent."""
        self.stopped = True
        self._channel.listeners.pop(self, None)
        if self.subscriber is not None:
            self.subscriber.listeners.pop(self, None)
        self._channel.forget_if_idle()
        self.wake()


@final
class Channel:
    """One topic in this process: its members and its listeners."""

    __slots__ = ("_channels", "_reading", "listeners", "members", "name", "options", "type")

    def __init__(self, channels: Channels, name: str, type: TopicType) -> None:
        self._channels = channels
        self.name = name
        self.type = type
        self.options = type.options
        self.members: dict[str, Membership] = {}
        self.listeners: dict[Listener, None] = {}
        self._reading = 0

    @property
    def waiting(self) -> int:
        """How many messages wait for members that lag."""
        return sum(len(each.waiting) for each in self.members.values())

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep it subscribed while its history is read."""
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1
            self.forget_if_idle()

    def receive(self, event: Event) -> None:
        """Deliver an event to all members that it is for except those that it excludes, and to
        listeners."""
        observers = self._channels.observers
        if observers.around_topics:
            with observers.delivering(self.name, len(self.members), event.envelope.context):
                self._deliver(event)
        else:
            self._deliver(event)

    def _deliver(self, event: Event) -> None:
        exclude, target = event.envelope.exclude, event.envelope.target
        members = self.members
        if target is not None:
            meant = [each.id for each in self._channels.users.targets(target)]
            members = {id: members[id] for id in meant if id in members}
        messages: dict[BoundCodec, EncodedMessage | None] = {}
        replayed = bool(event.id)  # it is in the history that some members are still sent
        for membership in list(members.values()):
            subscriber = membership.subscriber
            if exclude and subscriber.id in exclude:
                continue
            if replayed and membership.replaying is not None:
                continue
            codec = subscriber.codec
            if codec not in messages:
                messages[codec] = self.encoded(event, codec)
            message = messages[codec]
            if message is not None:
                subscriber.outbox.deliver(membership, message)
        for listener in list(self.listeners):
            if listener.subscriber is None or listener.subscriber.id not in exclude:
                listener.receive(event)

    def encoded(self, event: Event, codec: BoundCodec) -> EncodedMessage | None:
        """The message of an event for members of a codec; None if there is none for them."""
        try:
            return self.type.encoded(event, codec)
        except UnreadableError as exc:
            self._channels.unreadable(f"topic {self.name!r}", exc)
            return None

    def missed(self) -> None:
        """Tell the members that they may have missed messages, if there is a message for that. Who
        replays is not told: what he misses is in the history."""
        gap = self.options.gap
        if gap is None:
            return
        encoded: dict[str, EncodedMessage] = {}
        for membership in list(self.members.values()):
            codec = membership.subscriber.codec
            if codec.name not in encoded:
                encoded[codec.name] = codec.encoded(gap)
            if membership.replaying is None:
                membership.subscriber.outbox.deliver(membership, encoded[codec.name])

    def leave(self, membership: Membership) -> None:
        """Remove a member. Idempotent."""
        if membership.replaying is not None:
            membership.replaying = None
            membership.subscriber.outbox.flush()  # what waits behind the replay
        self.members.pop(membership.subscriber.id, None)
        membership.subscriber.memberships.pop(self.name, None)
        if membership.announced:
            membership.announced = False
            self._channels.presence.left(self.name, membership.subscriber.id)
        self.forget_if_idle()

    def replayed(self) -> None:
        """Count a message of the history that a member is sent."""
        self._channels.counters["replayed"] += 1

    def lose(self, membership: Membership) -> None:
        """Count a message that is dropped because a member lags."""
        membership.dropped += 1
        self._channels.counters["dropped"] += 1
        self._channels.dropped[self._channels.label(self.name)] += 1

    def forget_if_idle(self) -> None:
        if not (self.members or self.listeners or self._reading):
            self._channels.forget(self)

    def announce(self, membership: Membership) -> None:
        """Announce a member whose handshake is accepted, or whose presence has changed."""
        membership.announced = True
        self._channels.presence.joined(self.name, membership.subscriber.id, membership.presence)


class Usage(Protocol):
    """What the processes tell each other of rate limits."""

    def heard(self, note: bytes) -> bool:
        """A note has come. Returns whether it is about rate limits."""

    def appeared(self, process: str) -> None:
        """A process has started, or may have missed notes."""


class NoUsage:
    """Stands where an app has no rate limits."""

    def heard(self, note: bytes) -> bool:
        return False

    def appeared(self, process: str) -> None: ...


@final
class Channels:
    """All topics in use in this process.

    Args:
        broker: creates the broker that carries them between processes.
        presence_type: returns the declared type of a topic's presences.
        connections: the connections of this process that have not ended, by id.
        presences: encodes presences.
        observers: are told what is delivered.
        template_of: returns the template of a topic's name; ``""`` if it is not declared.

    Attributes:
        users: the connections of each user.
        counters: what has happened, by the names of ``Registry.counters``.
        dropped: how many messages were dropped for members that lag, by the topic's template.
        usage: is notified of what other processes tell of rate limits.
        spoken: the names of the codecs that connections here have, or have had.
    """

    def __init__(
        self,
        broker: Callable[[BrokerListener], Broker],
        presence_type: Callable[[str], Any] = lambda _topic: None,
        connections: Mapping[str, Identified] = MappingProxyType({}),
        presences: BoundCodec = MSGPACK,
        observers: Observers = NOBODY,
        template_of: Callable[[str], str] = lambda _topic: "",
    ) -> None:
        self._channels: dict[str, Channel] = {}
        self.spoken: set[str] = set()
        self.presence_type = presence_type
        self.broker = broker(self)
        self.presence = Presence(self.broker, self, presences)
        self.users = Users(connections)
        self.usage: Usage = NoUsage()
        self.observers = observers
        self.template_of = template_of
        self.dropped: Counter[str] = Counter()
        self.counters: Counter[str] = Counter(
            dropped=0,
            closed=0,
            unreadable=0,
            refused=0,
            stalled=0,
            rate_limited=0,
            deferred=0,
            ignored=0,
            missed=0,
            replayed=0,
        )

    async def start(self) -> None:
        """Connect to the broker, and subscribe to broadcasts.

        Raises:
            BrokerError: the broker cannot be reached.
        """
        await self.broker.start()
        self.broker.subscribe(EVERYBODY, TopicOptions())
        await self.broker.subscribed(EVERYBODY)

    def __len__(self) -> int:
        return len(self._channels)

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._channels.values())

    @property
    def waiting(self) -> int:
        """How many messages wait for members that lag."""
        return sum(channel.waiting for channel in self)

    def label(self, name: str) -> str:
        """What a topic is counted under: its template, of which there are few; ``*`` for what is
        sent to all connections, and ``-`` for all topics that are not declared."""
        return "*" if name == EVERYBODY else self.template_of(name) or "-"

    def waiting_by_topic(self) -> Counter[str]:
        """How many messages wait for members that lag, by the topic's template."""
        found: Counter[str] = Counter()
        for channel in self:
            if waiting := channel.waiting:
                found[self.label(channel.name)] += waiting
        return found

    def get(self, name: str) -> Channel | None:
        return self._channels.get(name)

    def use(self, name: str, type: TopicType) -> Channel:
        """Return the channel of that name, created if necessary. The caller must join it or listen
        to it before it awaits.

        Raises:
            ValueError: it is in use with other options.
        """
        self.check(name, type.options)
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(self, name, type)
            if name != EVERYBODY:
                self.broker.subscribe(name, type.options)
        return channel

    def check(self, name: str, options: TopicOptions) -> None:
        """Check that a topic is not in use with other options.

        Raises:
            ValueError: it is.
        """
        channel = self._channels.get(name)
        if channel is not None and channel.options != options:
            check_options(name, channel.options, options)

    def join(
        self, name: str, type: TopicType, subscriber: Subscriber, presence: Any = None
    ) -> Membership | None:
        """Make ``subscriber`` a member. Returns None if it is one already; then only its presence
        is replaced."""
        channel = self.use(name, type)
        if (member := channel.members.get(subscriber.id)) is not None:
            if presence is not None:
                member.presence = presence
                if member.announced:
                    channel.announce(member)
            return None
        membership = Membership(channel, subscriber, presence)
        channel.members[subscriber.id] = subscriber.memberships[name] = membership
        if subscriber.accepted and name != EVERYBODY:
            channel.announce(membership)
        return membership

    def accepted(self, subscriber: Subscriber) -> None:
        """A connection's handshake is accepted: announce it in the topics that it has joined."""
        self.spoken.add(subscriber.codec.name)
        for membership in subscriber.memberships.values():
            membership.channel.announce(membership)

    def forget(self, channel: Channel) -> None:
        if self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
            self.presence.release(channel.name, self)
            if channel.name != EVERYBODY:
                self.broker.unsubscribe(channel.name)

    def leave_all(self, subscriber: Subscriber) -> None:
        """Remove a connection from all topics, and stop its loops over topics."""
        for membership in list(subscriber.memberships.values()):
            membership.channel.leave(membership)
        for listener in list(subscriber.listeners):
            listener.stop()

    def with_context(self, envelope: Envelope) -> Envelope:
        """An envelope with what observers have travel with it."""
        context = self.observers.carry()
        return dataclasses.replace(envelope, context=context) if context else envelope

    # -- for the broker

    def deliver(self, topic: str, event: Event) -> None:
        target = event.envelope.target
        if target is not None and target.code:
            self.users.close(target, event.envelope)
        elif (channel := self._channels.get(topic)) is not None:
            channel.receive(event)

    def missed(self, topic: str) -> None:
        channel = self._channels.get(topic)
        if channel is not None and topic != EVERYBODY:
            self.counters["missed"] += 1
            channel.missed()

    def heard(self, process: str, note: bytes) -> None:
        if not self.usage.heard(note):
            self.presence.heard(process, note)

    def appeared(self, process: str) -> None:
        self.usage.appeared(process)
        self.presence.appeared(process)

    def gone(self, process: str) -> None:
        self.presence.gone(process)

    def unreadable(self, where: str, why: object) -> None:
        """Count an unreadable message; log that at most once per second."""
        self.counters["unreadable"] += 1
        log.often(logging.WARNING, "%s: a message cannot be read: %s", where, why)

    # -- for the presence

    def present(self, topic: str) -> Iterable[tuple[str, object]]:
        channel = self._channels.get(topic)
        members = channel.members.values() if channel is not None else ()
        return [(each.subscriber.id, each.presence) for each in members if each.announced]

    def find(self, topic: str, id: str) -> tuple[Any] | None:
        channel = self._channels.get(topic)
        member = channel.members.get(id) if channel is not None else None
        return (member.presence,) if member is not None and member.announced else None

    def of_user(self, user: str) -> list[str]:
        everybody = self._channels.get(EVERYBODY)
        members = everybody.members if everybody is not None else {}
        return [id for id in self.users.ids(user) if id in members]
