"""Iterators for ``async for`` over a topic: over its messages, and over changes of its members.

An iterator receives from its creation until ``aclose()``, until the end of its connection, or until
it is garbage-collected, which the next event detects.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, TypeVar

import anyio

from wsflow.messages.codec import BadMessage
from wsflow.messages.events import UnreadableError
from wsflow.topics.channels import Channels, Listener
from wsflow.topics.members import MemberJoined, MemberLeft, TopicMember
from wsflow.topics.presence import Observer, Presence
from wsflow.topics.type import TopicType

M = TypeVar("M")
T_co = TypeVar("T_co", covariant=True)


class TopicIterator(Protocol[T_co]):
    """The iterator of a loop over a topic: ``async with aclosing(aiter(topic)) as messages``."""

    def __aiter__(self) -> AsyncIterator[T_co]: ...
    async def __anext__(self) -> T_co: ...
    async def aclose(self) -> object:
        """Stop receiving. Does not wait. Idempotent."""


class MessageIterator(AsyncIterator[M]):
    """One ``async for`` over the messages of a topic."""

    def __init__(self, name: str, type: TopicType, channels: Channels, listener: Listener) -> None:
        self._name = name
        self._type = type
        self._channels = channels
        self._listener = listener
        listener.taken_by(self)

    async def __anext__(self) -> M:
        while True:
            await self._wait()
            event = self._listener.events.popleft()
            try:
                message: M = self._type.decode(event)
            except (UnreadableError, BadMessage) as exc:
                self._channels.unreadable(f"topic {self._name!r}", exc)
            else:
                self._channels.observers.received(self._name, event.envelope.context)
                return message

    async def _wait(self) -> None:
        """Wait until there is an event.

        Raises:
            StopAsyncIteration: no more events will come.
        """
        listener = self._listener
        while not listener.events:
            if listener.lagged:
                raise RuntimeError(
                    f"this loop over topic {self._name!r} lags more than "
                    f"{self._type.options.backlog} messages behind: raise backlog, or choose "
                    "what to drop with when_full"
                )
            if listener.stopped:
                raise StopAsyncIteration
            more = anyio.Event()
            listener.wake = more.set
            await more.wait()

    async def aclose(self) -> None:
        """Stop receiving. Does not wait. Idempotent."""
        self._listener.stop()


class MemberIterator(AsyncIterator[MemberJoined | MemberLeft]):
    """One ``async for`` over changes of a topic's members.

    For each id that it is notified of, it compares the member that it has yielded last with the
    current one. So its memory is bounded by the number of members, however far it lags behind.
    """

    def __init__(self, presence: Presence, observer: Observer) -> None:
        self._presence = presence
        self._observer = observer
        self._known: dict[str, TopicMember] = {}
        self._earlier: set[str] | None = None  # ids of earlier members that were not yielded yet
        observer.taken_by(self)

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
            if observer.stopped:
                raise StopAsyncIteration
            more = anyio.Event()
            observer.wake = more.set
            await more.wait()

    def _compare(self, id: str, earlier: set[str]) -> MemberJoined | MemberLeft | None:
        """The change of a member since it was last yielded; None if there is none."""
        found = self._presence.find(self._observer.roster, id)
        known = self._known.get(id)
        is_earlier = id in earlier
        earlier.discard(id)
        if found is None:
            return MemberLeft(self._known.pop(id)) if known is not None else None
        if known is not None and known.presence == found[0]:
            return None
        member = self._known[id] = TopicMember(id, found[0])
        return MemberJoined(member, is_earlier)

    async def aclose(self) -> None:
        """Stop observing. Does not wait. Idempotent."""
        self._observer.stop()
