"""Presence: the members of topics, in all processes of the app.

Each process knows its own members. When it needs the members of a topic, it sends ``Watch`` to the
other processes. They answer with their members and report changes, until it sends ``Unwatch``. Each
process remembers which processes watch a topic, and sends notes only to them. When a process ends,
its members are removed.

How many members a topic has, and which connections a user has, is asked once: by a ``Watch`` with a
number, which the others answer with ``Answer``, and do not remember.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, final

import anyio
import msgspec

from wsflow.brokers.base import Broker
from wsflow.messages.codec import MSGPACK, BoundCodec, decoder_for
from wsflow.messages.events import UNREADABLE
from wsflow.tasks.waiting import Latch

Shown = tuple[str, bytes] | None
"""An encoded presence: the name of its type, and its bytes; None for no presence."""


class Watch(msgspec.Struct, tag="watch", array_like=True, frozen=True):
    """A request for the members of topics, and for their changes.

    Attributes:
        topics: their names.
        number: of a question that is answered once: how many members the one topic has. Versions
            that do not know it answer with all members; 0 for none.
        user: the user whose connections are asked for instead; the topic is that of broadcasts, in
            which no presence is announced.
    """

    topics: list[str]
    number: int = 0
    user: str = ""


class Unwatch(msgspec.Struct, tag="unwatch", array_like=True, frozen=True):
    """Ends a Watch."""

    topics: list[str]


class Present(msgspec.Struct, tag="present", array_like=True, frozen=True):
    """All members of a topic in the sending process."""

    topic: str
    members: dict[str, Shown]


class Changes(msgspec.Struct, tag="changes", array_like=True, frozen=True):
    """Members that have joined, or have changed their presence, and ids that have left."""

    topic: str
    joined: dict[str, Shown]
    left: list[str]


class Answer(msgspec.Struct, tag="answer", array_like=True, frozen=True):
    """The answer of the sending process to a ``Watch`` with a number.

    Attributes:
        number: that of the question.
        count: how many there are.
        ids: their ids, if a user's connections are asked for.
    """

    number: int
    count: int
    ids: list[str] = []


Note = Watch | Unwatch | Present | Changes | Answer

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Note).decode


class Local(Protocol):
    """The members that this process has."""

    def present(self, topic: str) -> Iterable[tuple[str, object]]:
        """Id and presence of the members whose handshake is accepted."""

    def find(self, topic: str, id: str) -> tuple[Any] | None:
        """The presence of one of them, in a tuple; None if it is not a member."""

    def presence_type(self, topic: str) -> Any:
        """The declared type of a topic's presences, None if there is none."""

    def of_user(self, user: str) -> list[str]:
        """The ids of the user's connections whose handshake is accepted."""

    def unreadable(self, where: str, why: object) -> None:
        """Something came from another process that cannot be read: count it."""


class Awaiting:
    """What other processes were asked.

    Attributes:
        awaited: processes that have not answered yet.
    """

    def __init__(self, processes: Iterable[str]) -> None:
        self.awaited = set(processes)
        self._answered: anyio.Event | None = None

    def answered(self, process: str) -> None:
        """A process need not be waited for any more."""
        self.awaited.discard(process)
        if self._answered is not None and not self.awaited:
            self._answered.set()

    async def complete(self) -> None:
        """Wait until every process has answered, or has ended."""
        while self.awaited:
            if self._answered is None or self._answered.is_set():
                self._answered = anyio.Event()
            await self._answered.wait()


@final
class Question(Awaiting):
    """A question that each process answers once.

    Attributes:
        note: what is asked.
        answers: the answers, by process.
    """

    def __init__(self, note: Watch, processes: Iterable[str]) -> None:
        super().__init__(processes)
        self.note = note
        self.answers: dict[str, Answer] = {}

    def answer(self, process: str, answer: Answer | None) -> None:
        """A process has answered; or has ended, with None."""
        self.answers.pop(process, None)
        if answer is not None:
            self.answers[process] = answer
        self.answered(process)


@final
class Roster(Awaiting):
    """The members of one topic in other processes, as far as they are known here.

    Attributes:
        topic: its name.
        elsewhere: the members, by process.
        users: the users that keep it up to date.
        observers: are notified of members that join, change or leave.
    """

    def __init__(self, topic: str, processes: Iterable[str]) -> None:
        super().__init__(processes)
        self.topic = topic
        self.elsewhere: dict[str, dict[str, Any]] = {}
        self.users: dict[object, None] = {}
        self.observers: dict[Observer, None] = {}

    def replace(self, process: str, members: dict[str, Any]) -> None:
        """A process has sent all its members."""
        before = self.elsewhere.pop(process, {})
        if members:
            self.elsewhere[process] = members
        self.answered(process)
        for id in {**before, **members}:
            if id not in before or id not in members or before[id] != members[id]:
                self.notify(id)

    def change(self, process: str, joined: dict[str, Any], left: list[str]) -> None:
        """A process has sent changes of its members."""
        members = self.elsewhere.setdefault(process, {})
        members.update(joined)
        for id in left:
            members.pop(id, None)
        for id in (*joined, *left):
            self.notify(id)

    def notify(self, id: str) -> None:
        for observer in list(self.observers):
            observer.notify(id)


class Listening(Protocol):
    """A connection, as the owner of loops that are stopped with it."""

    @property
    def listeners(self) -> dict[Any, None]: ...
    @property
    def over(self) -> Latch: ...


@final
class Observer:
    """Collects the ids of members of a topic that join, change or leave; each id once.

    Attributes:
        roster: the members of the topic.
        notified: the ids of changed members.
        stopped: whether no more changes will come.
        wake: called when a member has changed, or when it is stopped.
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
            if subscriber.over.is_set:
                self.stop()

    def taken_by(self, iterator: object) -> None:
        """Give it to an iterator, to which it keeps a weak reference."""
        self._iterator = weakref.ref(iterator)

    def notify(self, id: str) -> None:
        """A member has joined, changed or left."""
        if self._iterator() is None:
            self.stop()
        self.notified[id] = None
        self.wake()

    def stop(self) -> None:
        """Stop observing. Idempotent."""
        self.stopped = True
        self.roster.observers.pop(self, None)
        self._presence.release(self.roster.topic, self)
        if self._subscriber is not None:
            self._subscriber.listeners.pop(self, None)
        self.wake()


def nobody() -> None:
    """A placeholder without effect, where no task waits or iterates."""


@final
class Presence:
    """The members of all topics.

    Args:
        broker: carries the notes between processes.
        local: the members of this process.
    """

    def __init__(self, broker: Broker, local: Local, codec: BoundCodec = MSGPACK) -> None:
        self._broker = broker
        self._local = local
        self._codec = codec
        self._rosters: dict[str, Roster] = {}
        self._questions: dict[int, Question] = {}  # that are not answered yet
        self._numbers = itertools.count(1)
        self._watchers: dict[str, dict[str, None]] = {}  # per topic, processes
        self._types: dict[str, type] = {}  # those that connections here have joined with

    # -- for users

    def use(self, topic: str, user: object) -> Roster:
        """The roster of a topic. The same user must release it."""
        roster = self._rosters.get(topic)
        if roster is None:
            roster = self._rosters[topic] = Roster(topic, self._broker.processes)
            self._tell("", Watch([topic]))
        roster.users[user] = None
        return roster

    def release(self, topic: str, user: object) -> None:
        """Release a roster. Idempotent."""
        roster = self._rosters.get(topic)
        if roster is not None and user in roster.users:
            del roster.users[user]
            if not roster.users:
                del self._rosters[topic]
                self._tell("", Unwatch([topic]))

    async def complete(self, roster: Roster) -> None:
        """Wait until a roster is complete.

        Raises:
            BrokerError: the broker is unreachable.
        """
        await self._broker.settled(roster.complete)

    def members(self, roster: Roster) -> Iterator[tuple[str, Any]]:
        """Id and presence of all members."""
        yield from self._local.present(roster.topic)
        for members in roster.elsewhere.values():
            yield from members.items()

    async def count(self, topic: str) -> int:
        """How many members a topic has.

        Raises:
            BrokerError: the broker is unreachable.
        """
        answers = await self._ask(topic)
        return len(list(self._local.present(topic))) + sum(each.count for each in answers)

    async def of_user(self, topic: str, user: str) -> list[str]:
        """The ids of a user's connections.

        Args:
            topic: the one for broadcasts.
            user: the name of the user.

        Raises:
            BrokerError: the broker is unreachable.
        """
        answers = await self._ask(topic, user)
        return [*self._local.of_user(user), *(id for each in answers for id in each.ids)]

    async def _ask(self, topic: str, user: str = "") -> Iterable[Answer]:
        """Ask the other processes once."""
        number = next(self._numbers)
        question = Question(Watch([topic], number, user), self._broker.processes)
        self._questions[number] = question
        self._tell("", question.note)
        try:
            await self._broker.settled(question.complete)
        finally:
            del self._questions[number]
        return question.answers.values()

    def find(self, roster: Roster, id: str) -> tuple[Any] | None:
        """The presence of a member, in a tuple; None if it is not a member."""
        if (found := self._local.find(roster.topic, id)) is not None:
            return found
        for members in roster.elsewhere.values():
            if id in members:
                return (members[id],)
        return None

    # -- events in this process

    def learn(self, presence: object) -> None:
        """A connection joins with this presence: remember its type.

        Raises:
            TypeError: msgspec cannot encode it.
        """
        if presence is None:
            return
        self._show(presence)
        self._types[_name(type(presence))] = type(presence)

    def joined(self, topic: str, id: str, presence: object) -> None:
        """A member has joined, or has changed its presence."""
        if self._notify(topic, id):
            self._tell_watchers(Changes(topic, {id: self._show(presence)}, []))

    def left(self, topic: str, id: str) -> None:
        """A member has left."""
        if self._notify(topic, id):
            self._tell_watchers(Changes(topic, {}, [id]))

    def _notify(self, topic: str, id: str) -> bool:
        """Notify the observers in this process. Returns whether another process watches the
        topic."""
        if (roster := self._rosters.get(topic)) is not None:
            roster.notify(id)
        return topic in self._watchers

    def _tell_watchers(self, changes: Changes) -> None:
        note = _encode(changes)
        for process in self._watchers[changes.topic]:
            self._broker.tell(process, note)

    # -- events from other processes

    def appeared(self, process: str) -> None:
        """A process has started, or one of the two may have missed notes of the other."""
        if self._rosters:
            for roster in self._rosters.values():
                roster.awaited.add(process)
            self._tell(process, Watch(list(self._rosters)))
        for question in self._questions.values():
            question.awaited.add(process)
            self._tell(process, question.note)

    def gone(self, process: str) -> None:
        """A process has ended: remove its members."""
        for roster in list(self._rosters.values()):
            roster.replace(process, {})
        for question in self._questions.values():
            question.answer(process, None)
        for topic in [topic for topic, asked in self._watchers.items() if process in asked]:
            self._unwatch(topic, process)

    def heard(self, process: str, note: bytes) -> None:
        """A note from another process has come."""
        try:
            told = _decode(note)
        except UNREADABLE as exc:
            self._local.unreadable("the notes between processes", exc)
            return
        match told:
            case Watch() if told.number:
                self._tell(process, self._answer(told))
            case Answer():
                if (question := self._questions.get(told.number)) is not None:
                    question.answer(process, told)
            case Watch():
                for topic in told.topics:
                    self._watchers.setdefault(topic, {})[process] = None
                    members = {id: self._show(one) for id, one in self._local.present(topic)}
                    self._tell(process, Present(topic, members))
            case Unwatch():
                for topic in told.topics:
                    self._unwatch(topic, process)
            case _:
                if isinstance(told, Present):
                    self._answered_in_full(process, told)
                roster = self._rosters.get(told.topic)
                if roster is None:
                    self._tell(process, Unwatch([told.topic]))
                elif isinstance(told, Present):
                    roster.replace(process, self._read(told.topic, told.members))
                else:
                    roster.change(process, self._read(told.topic, told.joined), told.left)

    def _answer(self, asked: Watch) -> Answer:
        if asked.user:
            ids = self._local.of_user(asked.user)
            return Answer(asked.number, len(ids), ids)
        return Answer(asked.number, sum(len(list(self._local.present(t))) for t in asked.topics))

    def _answered_in_full(self, process: str, told: Present) -> None:
        """A process has sent all members of a topic: it may know no question, and then there is no
        other answer."""
        for number, question in self._questions.items():
            if question.note.topics == [told.topic]:
                question.answer(process, Answer(number, len(told.members)))

    def _tell(self, process: str, note: Note) -> None:
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
                    read[id] = decoder_for(self._codec, kind)(data)
                except Exception as exc:  # of msgspec, or of the type's own code
                    self._local.unreadable(f"a presence in topic {topic!r}", exc)
        return read

    def _show(self, presence: object) -> Shown:
        """Encode a presence for other processes.

        Raises:
            TypeError: msgspec cannot encode it.
        """
        if presence is None:
            return None
        return _name(type(presence)), self._codec.encode(presence)

    def _unwatch(self, topic: str, process: str) -> None:
        if (asked := self._watchers.get(topic)) is not None:
            asked.pop(process, None)
            if not asked:
                del self._watchers[topic]


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"
