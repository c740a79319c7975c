"""What ``async for`` over a topic runs: over its messages, and over who comes and goes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio

from wsflow.brokers.base import UnreadableError
from wsflow.channels import Channels, Listener
from wsflow.codec import BadMessage
from wsflow.presence import Observer, Presence
from wsflow.topic_type import TopicType

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class TopicMember:
    """Somebody who has joined a topic.

    Attributes:
        id: the connection's id.
        presence: what it joined with, None if nothing.
    """

    id: str
    presence: Any


@dataclass(frozen=True, slots=True)
class MemberJoined:
    """Somebody has joined a topic, or has joined it again with another presence.

    Attributes:
        member: who, and with which presence.
        earlier: whether that was before the loop over ``Topic.watch_members`` began.
    """

    member: TopicMember
    earlier: bool = False


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """Somebody has left a topic, or is gone.

    Attributes:
        member: who, with the presence that was last.
    """

    member: TopicMember


class MessageLoop(AsyncIterator[M]):
    """One ``async for`` over a topic: it listens as long as it exists, or the connection does.

    What a producer was given listens between its loops too: ``keep``.
    """

    def __init__(
        self, name: str, type: TopicType, channels: Channels, listener: Listener, *, keep: bool
    ) -> None:
        self._name = name
        self._type = type
        self._channels = channels
        self._listener = listener
        self._keep = keep
        listener.looping = True

    async def __anext__(self) -> M:
        while True:
            await self._wait()
            event = self._listener.events.popleft()
            try:
                message: M = self._type.decode(event)
            except (UnreadableError, BadMessage) as exc:
                self._channels.unreadable(f"topic {self._name!r}", exc)
            else:
                return message

    async def _wait(self) -> None:
        """Wait until there is an event."""
        listener = self._listener
        while not listener.events:
            if listener.lagged:
                raise RuntimeError(
                    f"this loop over topic {self._name!r} lags more than "
                    f"{self._type.options.backlog} messages behind: raise backlog, or choose "
                    "what to drop with when_full"
                )
            more = anyio.Event()
            listener.wake = more.set
            await more.wait()

    def __del__(self) -> None:
        self._listener.looping = False
        if not self._keep:
            self._listener.stop()


class MembersLoop(AsyncIterator[MemberJoined | MemberLeft]):
    """One ``async for`` over who comes and goes: it observes as long as it exists.

    What it has told is compared with what is, for each id that it was notified of: however far it
    lags behind, it remembers no more than who is there.
    """

    def __init__(self, presence: Presence, observer: Observer) -> None:
        self._presence = presence
        self._observer = observer
        self._told: dict[str, TopicMember] = {}
        self._earlier: set[str] | None = None  # whom it has not told of yet

    async def __anext__(self) -> MemberJoined | MemberLeft:
        observer = self._observer
        if self._earlier is None:
            await self._presence.complete(observer.roster)
            self._earlier = {id for id, _ in self._presence.members(observer.roster)}
            observer.notified.update(dict.fromkeys(self._earlier))
        while True:
            while observer.notified:
                id, _ = observer.notified.popitem()
                if (change := self._compare(id, self._earlier)) is not None:
                    return change
            more = anyio.Event()
            observer.wake = more.set
            await more.wait()

    def _compare(self, id: str, earlier: set[str]) -> MemberJoined | MemberLeft | None:
        """What has changed for a member since it was last told of."""
        found = self._presence.find(self._observer.roster, id)
        told = self._told.get(id)
        is_earlier = id in earlier
        earlier.discard(id)
        if found is None:
            return MemberLeft(self._told.pop(id)) if told is not None else None
        if told is not None and told.presence == found[0]:
            return None
        member = self._told[id] = TopicMember(id, found[0])
        return MemberJoined(member, is_earlier)

    def __del__(self) -> None:
        self._observer.stop()
