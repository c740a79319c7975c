"""What ``async for`` over a topic runs: over its messages, and over who comes and goes.

An iterator hears from its beginning to ``aclose()``, to the end of its connection, or until it is
dropped: of one that nobody holds any more, the next event finds that out.
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
    """What a loop over a topic iterates: ``async with aclosing(aiter(topic)) as messages``."""

    def __aiter__(self) -> AsyncIterator[T_co]: ...
    async def __anext__(self) -> T_co: ...
    async def aclose(self) -> object:
        """Hear no more. Does not wait; doing it again changes nothing."""


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
                return message

    async def _wait(self) -> None:
        """Wait until there is an event.

        Raises:
            StopAsyncIteration: there will be none.
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
        """Hear no more. Does not wait; doing it again changes nothing."""
        self._listener.stop()


class MemberIterator(AsyncIterator[MemberJoined | MemberLeft]):
    """One ``async for`` over who comes and goes.

    What it has yielded is compared with what is, for each id that it was notified of: however far
    it lags behind, it remembers no more than who is there.
    """

    def __init__(self, presence: Presence, observer: Observer) -> None:
        self._presence = presence
        self._observer = observer
        self._known: dict[str, TopicMember] = {}
        self._earlier: set[str] | None = None  # who was there, and has not been yielded yet
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
        """What has changed for a member since it was last yielded."""
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
        """Observe no more. Does not wait; doing it again changes nothing."""
        self._observer.stop()
