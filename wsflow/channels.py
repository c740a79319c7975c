"""The topics of one process: who has joined, and how an event reaches them.

Nothing here awaits. Leaving is synchronous and idempotent, so that no cancellation can come between
a connection's end and its leaving; a channel is forgotten with the last who uses it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, final

from wsflow.brokers.base import Broker, Event
from wsflow.codec import Codec
from wsflow.connection import End
from wsflow.declare.markers import TopicOptions
from wsflow.transports.frames import Frame

EMPTY: Final[deque[Any]] = deque()
"""Stands for a queue that nothing has been put into yet: most never need one of their own."""


class Outlet(Protocol):
    """What a connection sends through, as its topics see it."""

    def deliver(self, membership: Membership, frame: Frame, replayed: bool = False) -> None:
        """Send a frame now, or when there is room, or not at all: as the topic's policy says."""


class Subscriber(Protocol):
    """A connection, as its topics see it."""

    @property
    def id(self) -> str: ...
    @property
    def codec(self) -> Codec: ...
    @property
    def accepted(self) -> bool: ...
    @property
    def end(self) -> End | None: ...
    @property
    def memberships(self) -> dict[str, Membership]: ...
    @property
    def listeners(self) -> dict[Listener, None]: ...
    @property
    def outbox(self) -> Outlet: ...
    def lagging(self, topic: str) -> None: ...


@final
class Membership:
    """One connection's part in one topic.

    Attributes:
        waiting: frames that the peer has not taken yet, oldest first.
        dropped: how many frames its lag has cost it.
        held: live events that wait for a replay to end; None when there is none.
        replayed: how many of the waiting are a replay, which no backlog bounds.
        turns: how many turns it has in the connection's order of sending.
    """

    __slots__ = (
        "channel",
        "dropped",
        "held",
        "presence",
        "replayed",
        "subscriber",
        "turns",
        "waiting",
    )

    def __init__(self, channel: Channel, subscriber: Subscriber, presence: object) -> None:
        self.channel = channel
        self.subscriber = subscriber
        self.presence = presence
        self.waiting: deque[Frame] = EMPTY
        self.dropped = 0
        self.held: list[Event] | None = None
        self.replayed = 0
        self.turns = 0

    def wait(self, frame: Frame) -> None:
        """A frame that the peer has no room for."""
        if self.waiting is EMPTY:
            self.waiting = deque()
        self.waiting.append(frame)

    def forget(self) -> None:
        """Nothing of it is to be sent any more."""
        self.waiting.clear()
        self.replayed = self.turns = 0

    @property
    def options(self) -> TopicOptions:
        return self.channel.options

    def receive(self, event: Event) -> None:
        if self.held is not None:
            self.held.append(event)
        else:
            self.subscriber.outbox.deliver(self, event.frame(self.subscriber.codec.name))


@final
class Listener:
    """What one ``async for`` over a topic has not taken yet. ``wake`` is called when there is more.

    While nobody loops, its oldest events give way beyond the backlog; else ``when_full`` holds.
    """

    __slots__ = ("channel", "dropped", "events", "lagged", "looping", "subscriber", "wake")

    def __init__(self, channel: Channel, subscriber: Subscriber | None) -> None:
        self.channel = channel
        self.subscriber = subscriber
        self.events: deque[Event] = deque()
        self.wake: Callable[[], None] = _nobody_waits
        self.looping = False
        self.lagged = False
        self.dropped = 0
        channel.listeners[self] = None
        if subscriber is not None:
            subscriber.listeners[self] = None

    def receive(self, event: Event) -> None:
        if len(self.events) >= self.channel.options.backlog:
            self._overflow(event)
        else:
            self.events.append(event)
        self.wake()

    def _overflow(self, event: Event) -> None:
        policy = self.channel.options.when_full if self.looping else "drop_oldest"
        self.dropped += 1
        if policy == "close":
            self.lagged = True
            if self.subscriber is not None:
                self.subscriber.lagging(self.channel.name)
        elif policy == "drop_oldest":
            self.events.popleft()
            self.events.append(event)
        elif policy == "latest":
            self.events.clear()
            self.events.append(event)

    def stop(self) -> None:
        """Hear no more; doing it again changes nothing."""
        self.channel.listeners.pop(self, None)
        if self.subscriber is not None:
            self.subscriber.listeners.pop(self, None)
        self.channel.forget_if_idle()


def _nobody_waits() -> None:
    """Stands where no reader waits."""


@final
class Channel:
    """One topic in this process: its members and its listeners."""

    __slots__ = ("_channels", "listeners", "members", "name", "options")

    def __init__(self, channels: Channels, name: str, options: TopicOptions) -> None:
        self._channels = channels
        self.name = name
        self.options = options
        self.members: dict[str, Membership] = {}
        self.listeners: dict[Listener, None] = {}

    def receive(self, event: Event) -> None:
        """Hand an event to all members but those it excludes."""
        exclude = event.envelope.exclude
        for id, membership in list(self.members.items()):
            if id not in exclude:
                membership.receive(event)
        for listener in list(self.listeners):
            if listener.subscriber is None or listener.subscriber.id not in exclude:
                listener.receive(event)

    def leave(self, membership: Membership) -> None:
        """Take a member out; doing it again changes nothing."""
        self.members.pop(membership.subscriber.id, None)
        membership.subscriber.memberships.pop(self.name, None)
        self.forget_if_idle()

    def forget_if_idle(self) -> None:
        if not self.members and not self.listeners:
            self._channels.forget(self)

    def present(self) -> Sequence[Membership]:
        """Members whose handshake is accepted."""
        return [each for each in self.members.values() if each.subscriber.accepted]


@final
class Channels:
    """All topics of this process that somebody uses."""

    def __init__(self, broker: Callable[[Callable[[str, Event], None]], Broker]) -> None:
        self._channels: dict[str, Channel] = {}
        self.broker = broker(self._receive)

    def __len__(self) -> int:
        return len(self._channels)

    def get(self, name: str) -> Channel | None:
        return self._channels.get(name)

    def use(self, name: str, options: TopicOptions) -> Channel:
        """The channel of that name; the caller joins it or listens to it before anything awaits."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(self, name, options)
            self.broker.subscribe(name)
        return channel

    def join(
        self, name: str, options: TopicOptions, subscriber: Subscriber, presence: Any = None
    ) -> Membership | None:
        """Make ``subscriber`` a member. None if it is one: then its presence alone is replaced."""
        channel = self.use(name, options)
        if (member := channel.members.get(subscriber.id)) is not None:
            if presence is not None:
                member.presence = presence
            return None
        membership = Membership(channel, subscriber, presence)
        channel.members[subscriber.id] = subscriber.memberships[name] = membership
        return membership

    def forget(self, channel: Channel) -> None:
        if self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
            self.broker.unsubscribe(channel.name)

    def leave_all(self, subscriber: Subscriber) -> None:
        """Take a connection out of every topic, and its loops with it."""
        for membership in list(subscriber.memberships.values()):
            membership.channel.leave(membership)
        for listener in list(subscriber.listeners):
            listener.stop()

    def _receive(self, name: str, event: Event) -> None:
        channel = self._channels.get(name)
        if channel is not None:
            channel.receive(event)
