"""Who is in the topics of the app, in every process.

Each process knows its own members. It asks the others about a topic when somebody here wants to
know, and is told of changes from then on, until nobody here does. Who asked is remembered by those
who were asked, so that nothing is told to nobody; a process that is gone takes its members with it.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, final

import anyio
import msgspec

from wsflow.brokers.base import Broker

log = logging.getLogger("wsflow.topics.presence")

Shown = tuple[str, bytes] | None
"""A presence on its way: the name of its type, and it; None for no presence."""


class Watch(msgspec.Struct, tag="watch", array_like=True, frozen=True):
    """Tell me who is in these topics, and what changes."""

    topics: list[str]


class Unwatch(msgspec.Struct, tag="unwatch", array_like=True, frozen=True):
    """I do not want to know any more."""

    topics: list[str]


class Present(msgspec.Struct, tag="present", array_like=True, frozen=True):
    """All of my members of a topic."""

    topic: str
    members: dict[str, Shown]


class Changes(msgspec.Struct, tag="changes", array_like=True, frozen=True):
    """Who has joined, or joined with something else, and who has left."""

    topic: str
    joined: dict[str, Shown]
    left: list[str]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Watch | Unwatch | Present | Changes).decode


class Local(Protocol):
    """The members that this process has."""

    def present(self, topic: str) -> Iterable[tuple[str, object]]:
        """Id and presence of those whose handshake is accepted."""

    def find(self, topic: str, id: str) -> tuple[Any] | None:
        """The presence of one of them, in a tuple; None if it is not there."""

    def presence_type(self, topic: str) -> Any:
        """The declared type of a topic's presences, None if there is none."""


@final
class Roster:
    """Who is in one topic, as far as this process has heard.

    Attributes:
        topic: its name.
        elsewhere: the members of other processes.
        awaited: processes that have not answered yet.
        users: who wants it kept.
        observers: are notified of whoever comes, changes or goes.
    """

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.elsewhere: dict[str, dict[str, Any]] = {}
        self.awaited: set[str] = set()
        self.users: dict[object, None] = {}
        self.observers: dict[Observer, None] = {}
        self._answered: anyio.Event | None = None

    def replace(self, process: str, members: dict[str, Any]) -> None:
        """A process has told all of its members."""
        before = self.elsewhere.pop(process, {})
        if members:
            self.elsewhere[process] = members
        self.answered(process)
        for id in {**before, **members}:
            if id not in before or id not in members or before[id] != members[id]:
                self.notify(id)

    def change(self, process: str, joined: dict[str, Any], left: list[str]) -> None:
        """A process has told who has come, changed or gone."""
        members = self.elsewhere.setdefault(process, {})
        members.update(joined)
        for id in left:
            members.pop(id, None)
        for id in (*joined, *left):
            self.notify(id)

    def answered(self, process: str) -> None:
        """A process need not be waited for."""
        self.awaited.discard(process)
        if self._answered is not None and not self.awaited:
            self._answered.set()

    async def complete(self) -> None:
        """Wait until every process has answered, or is gone."""
        while self.awaited:
            if self._answered is None or self._answered.is_set():
                self._answered = anyio.Event()
            await self._answered.wait()

    def notify(self, id: str) -> None:
        for observer in list(self.observers):
            observer.notify(id)


class Listening(Protocol):
    """A connection, as far as it hears what must be stopped with it."""

    @property
    def listeners(self) -> dict[Any, None]: ...


@final
class Observer:
    """Collects the ids of those of a topic who come, change or go; of each once.

    Attributes:
        roster: who is there.
        notified: whom something has happened to.
        stopped: whether nothing more will come.
        wake: is called when there is more, or nothing more will come.
    """

    __slots__ = (
        "_iterator",
        "_presence",
        "_subscriber",
        "notified",
        "roster",
        "stopped",
        "wake",
    )

    def __init__(self, presence: Presence, topic: str, subscriber: Listening | None) -> None:
        self._presence = presence
        self._subscriber = subscriber
        self._iterator: Callable[[], object] = nobody
        self.notified: dict[str, None] = {}
        self.wake: Callable[[], object] = nobody
        self.stopped = False
        self.roster = presence.use(topic, self)
        self.roster.observers[self] = None
        if subscriber is not None:
            subscriber.listeners[self] = None

    def taken_by(self, iterator: object) -> None:
        """It is this iterator's, as long as somebody holds that."""
        self._iterator = weakref.ref(iterator)

    def notify(self, id: str) -> None:
        """Something has happened to a member."""
        if self._iterator() is None:
            self.stop()
        self.notified[id] = None
        self.wake()

    def stop(self) -> None:
        """Observe no more; doing it again changes nothing."""
        self.stopped = True
        self.roster.observers.pop(self, None)
        self._presence.release(self.roster.topic, self)
        if self._subscriber is not None:
            self._subscriber.listeners.pop(self, None)
        self.wake()


def nobody() -> None:
    """Stands where nobody waits or iterates."""


@final
class Presence:
    """Who is in which topic.

    Args:
        broker: carries the notes between processes.
        local: the members of this process.
    """

    def __init__(self, broker: Broker, local: Local) -> None:
        self._broker = broker
        self._local = local
        self._rosters: dict[str, Roster] = {}
        self._watchers: dict[str, dict[str, None]] = {}  # per topic, processes
        self._types: dict[str, type] = {}  # those that connections here have joined with

    # -- for those who want to know

    def use(self, topic: str, user: object) -> Roster:
        """The roster of a topic, to be released by the same user."""
        roster = self._rosters.get(topic)
        if roster is None:
            roster = self._rosters[topic] = Roster(topic)
            roster.awaited.update(self._broker.processes)
            self._tell("", Watch([topic]))
        roster.users[user] = None
        return roster

    def release(self, topic: str, user: object) -> None:
        """Doing it again changes nothing."""
        roster = self._rosters.get(topic)
        if roster is not None and user in roster.users:
            del roster.users[user]
            if not roster.users:
                del self._rosters[topic]
                self._tell("", Unwatch([topic]))

    async def complete(self, roster: Roster) -> None:
        """Wait until a roster has everybody.

        Raises:
            BrokerError: the broker is away, so that nobody can be asked.
        """
        await self._broker.settled(roster.complete)

    def members(self, roster: Roster) -> Iterator[tuple[str, Any]]:
        """Id and presence of everybody."""
        yield from self._local.present(roster.topic)
        for members in roster.elsewhere.values():
            yield from members.items()

    def find(self, roster: Roster, id: str) -> tuple[Any] | None:
        """The presence of a member, in a tuple; None if it is not there."""
        if (found := self._local.find(roster.topic, id)) is not None:
            return found
        for members in roster.elsewhere.values():
            if id in members:
                return (members[id],)
        return None

    # -- what happens here

    def learn(self, presence: object) -> None:
        """A connection joins with this.

        Raises:
            TypeError: msgspec cannot encode it, so that no other process could know it.
        """
        if presence is None:
            return
        _show(presence)
        self._types[_name(type(presence))] = type(presence)

    def joined(self, topic: str, id: str, presence: object) -> None:
        """A member has come, or has changed its presence."""
        if self._notify(topic, id):
            self._tell_watchers(Changes(topic, {id: _show(presence)}, []))

    def left(self, topic: str, id: str) -> None:
        """A member has gone."""
        if self._notify(topic, id):
            self._tell_watchers(Changes(topic, {}, [id]))

    def _notify(self, topic: str, id: str) -> bool:
        """Tell who observes here. Returns whether another process wants to know, too."""
        if (roster := self._rosters.get(topic)) is not None:
            roster.notify(id)
        return topic in self._watchers

    def _tell_watchers(self, changes: Changes) -> None:
        note = _encode(changes)
        for process in self._watchers[changes.topic]:
            self._broker.tell(process, note)

    # -- what other processes tell

    def appeared(self, process: str) -> None:
        """A process is there, or may have missed something, or we may have."""
        if self._rosters:
            for roster in self._rosters.values():
                roster.awaited.add(process)
            self._tell(process, Watch(list(self._rosters)))

    def gone(self, process: str) -> None:
        """A process has ended, and its members with it."""
        for roster in list(self._rosters.values()):
            roster.replace(process, {})
        for topic in [topic for topic, asked in self._watchers.items() if process in asked]:
            self._unwatch(topic, process)

    def heard(self, process: str, note: bytes) -> None:
        """A process tells something."""
        try:
            told = _decode(note)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            log.warning("a process tells what cannot be read: %s", exc)
            return
        match told:
            case Watch():
                for topic in told.topics:
                    self._watchers.setdefault(topic, {})[process] = None
                    members = {id: _show(one) for id, one in self._local.present(topic)}
                    self._tell(process, Present(topic, members))
            case Unwatch():
                for topic in told.topics:
                    self._unwatch(topic, process)
            case _:
                roster = self._rosters.get(told.topic)
                if roster is None:
                    self._tell(process, Unwatch([told.topic]))
                elif isinstance(told, Present):
                    roster.replace(process, self._read(told.topic, told.members))
                else:
                    roster.change(process, self._read(told.topic, told.joined), told.left)

    def _tell(self, process: str, note: Watch | Unwatch | Present | Changes) -> None:
        self._broker.tell(process, _encode(note))

    def _read(self, topic: str, members: dict[str, Shown]) -> dict[str, Any]:
        declared = self._local.presence_type(topic)
        read: dict[str, Any] = {}
        for id, shown in members.items():
            read[id] = None
            if shown is not None:
                name, data = shown
                kind = declared if declared is not None else self._types.get(name, Any)
                try:
                    read[id] = msgspec.msgpack.decode(data, type=kind)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
                    log.warning("a presence in topic %r cannot be read: %s", topic, exc)
        return read

    def _unwatch(self, topic: str, process: str) -> None:
        if (asked := self._watchers.get(topic)) is not None:
            asked.pop(process, None)
            if not asked:
                del self._watchers[topic]


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _show(presence: object) -> Shown:
    """A presence for other processes.

    Raises:
        TypeError: msgspec cannot encode it.
    """
    return None if presence is None else (_name(type(presence)), _encode(presence))
