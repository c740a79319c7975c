"""Test doubles for calling a handler directly."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar

from websockets.datastructures import Headers

from wsflow.connection import Asks, Connection, check_user
from wsflow.credential import EXPIRED, Credential
from wsflow.declare.markers import TopicName
from wsflow.end import End
from wsflow.errors import CallError, Close, Disconnected
from wsflow.http import header_pairs
from wsflow.messages.calls import Call, Stream
from wsflow.messages.codec import CODECS, BoundCodec, bound
from wsflow.messages.events import Target, TopicOptions
from wsflow.messages.hooks import DecHook, EncHook, Hooks, hooks_of
from wsflow.request import Request
from wsflow.runtime.calls import check_call, check_stream
from wsflow.topics.declared import DeclaredTopics
from wsflow.topics.members import MemberJoined, MemberLeft, TopicMember
from wsflow.topics.registry import Registry, check_claim, find_topic
from wsflow.topics.topic import (
    History,
    HistoryEvent,
    Joined,
    Topic,
    TopicCounters,
    check_kept,
    check_last,
    check_limit,
    excluded_ids,
)
from wsflow.topics.type import TopicType, with_id

M = TypeVar("M")
R = TypeVar("R")
T = TypeVar("T")


class FakeConnection(Connection):
    """A Connection that records what is sent.

    Args:
        target: the path and query of its request.
        path_params: the parameters of the path.
        headers: the headers of its request.
        id: its id.
        subprotocol: the negotiated subprotocol.
        answers: by type of call, a function that returns the answer of the peer for a call: a
            value, or the items of a ``Stream``. It may raise a ``CallError``, as the peer would.
        token: the token of the first message; ``""`` if that is no credential.
        enc_hook: that of the Router.

    Raises:
        TypeError: a parameter of the path is no str, or the headers are not pairs of str.

    Attributes:
        sent: what was sent, in order; calls too.
        credential: the last one that was set; None without one.
    """

    def __init__(
        self,
        target: str = "/",
        *,
        path_params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        id: str = "fake",
        subprotocol: str | None = None,
        answers: Mapping[type, Callable[[Any], Any]] | None = None,
        token: str = "",
        enc_hook: EncHook | None = None,
    ) -> None:
        for name, value in (path_params or {}).items():
            if not isinstance(value, str):
                raise TypeError(
                    f"path_params: {name} is a {type(value).__name__}: the parameters of a path "
                    "are str; what a handler asks for is converted from them"
                )
        request = Request.parse(target, Headers(header_pairs(headers or {})))
        self._recorder = _FakeDriver(subprotocol, answers or {}, token, hooks_of(None, enc_hook))
        super().__init__(id, request.at(path_params or {}), self._recorder)

    @property
    def sent(self) -> list[object]:
        return self._recorder.sent

    @property
    def credential(self) -> Credential | None:
        return self._recorder.credential


class _FakeDriver:
    def __init__(
        self,
        subprotocol: str | None,
        answers: Mapping[type, Callable[[Any], Any]],
        token: str,
        hooks: Hooks,
    ) -> None:
        self._codec = bound("json", hooks)
        self._token = token
        self._answers = answers
        self.subprotocol = subprotocol
        self.user: str | None = None
        self.end: End | None = None
        self.sent: list[object] = []
        self.credential: Credential | None = None

    def set_credential(self, credential: Credential) -> None:
        self.credential = credential

    async def ask_credential(self) -> str:
        if self.sent:
            raise RuntimeError(
                "ask_credential: the connection is open already: call it before anything is sent"
            )
        if not self._token:
            raise Close(EXPIRED, "the first message is no credential")
        return self._token

    def echo(self, subprotocol: str) -> None:
        self.subprotocol = self.subprotocol or subprotocol

    @property
    def calls(self) -> Asks:
        return self

    async def call(self, message: Call[R], timeout: float | None) -> R:
        check_call(message)
        answer: R = await self._answer(message)
        return answer

    def stream(self, message: Stream[T]) -> AbstractAsyncContextManager[AsyncIterator[T]]:
        check_stream(message)
        return self._stream(message)

    @asynccontextmanager
    async def _stream(self, message: Stream[T]) -> AsyncIterator[AsyncIterator[T]]:
        answered = await self._answer(message)

        async def items() -> AsyncIterator[T]:
            for item in answered:
                yield item

        yield items()

    async def _answer(self, message: Any) -> Any:
        self._record(message)
        if type(message) not in self._answers:
            raise CallError("unknown", f"FakeConnection(answers=…) has no answer to {message!r}")
        return self._answers[type(message)](message)

    async def send(self, message: object) -> None:
        self._codec.pack(message)
        self._record(message)

    def _record(self, message: object) -> None:
        if self.end is not None:
            raise Disconnected(self.end)
        self.sent.append(message)

    def identify(self, user: str) -> None:
        check_user(user)
        if self.end is not None:
            raise Disconnected(self.end)
        if self.sent:
            raise RuntimeError(
                "the connection is open already: call identify before anything is sent"
            )
        if self.user not in (None, user):
            raise RuntimeError(f"the user of this connection is {self.user!r} already")
        self.user = user

    def close(self, code: int, reason: str) -> None:
        try:
            closing = Close(code, reason)
        except (TypeError, ValueError) as exc:
            self.end = self.end or End("error", 1011, "", exc)
        else:
            self.end = self.end or End("closed", closing.code, closing.reason)


def _codecs(dec_hook: DecHook | None, enc_hook: EncHook | None) -> tuple[BoundCodec, ...]:
    hooks = hooks_of(dec_hook, enc_hook)
    return tuple(bound(name, hooks) for name in CODECS)


class FakeTopic(Topic[M], Generic[M]):
    """A Topic that records what is published, and yields given messages.

    It refuses what a Topic of these types with this history refuses.

    Args:
        messages: what ``async for`` over it yields.
        members: what ``members`` returns; ``watch_members`` reports them as joined.
        name: its name.
        types: the types of its messages; any type by default.
        history: how many events are kept. With history, ``publish`` returns an event id, and
            ``join(after=…)`` says that all was replayed; ``history`` reads what was published.
        dec_hook: that of the Router.
        enc_hook: that of the Router.

    Raises:
        TypeError: the messages are none that can be yielded.

    Attributes:
        published: what was published, in order.
        joined: whether it is joined.
        presence: the presence of the last ``join``.
    """

    def __init__(
        self,
        messages: Iterable[M] = (),
        *,
        members: Iterable[TopicMember] = (),
        name: str = "fake",
        types: Sequence[Any] = (),
        history: int = 0,
        dec_hook: DecHook | None = None,
        enc_hook: EncHook | None = None,
    ) -> None:
        if isinstance(messages, str | bytes | type) or not isinstance(messages, Iterable):
            raise TypeError(
                f"FakeTopic({messages!r}): pass a list of the messages that it yields, and their "
                "types as types=[Said]"
            )
        self.name = name
        self.published: list[M] = []
        self.joined = False
        self.presence: object = None
        options, codecs = TopicOptions(history=history), _codecs(dec_hook, enc_hook)
        self._type = TopicType(tuple(types) or (Any,), options, codecs)
        self._messages = messages
        self._removed = 0
        self._members = list(members)

    async def join(
        self, presence: object = None, after: str | None = None, *, last: int = 0
    ) -> Joined:
        check_last(self.name, last, self._type.options.history)
        self._type.codecs[0].encode(presence)
        self.joined = True
        self.presence = presence
        return Joined(recovered=bool(after and self._type.options.history))

    async def leave(self) -> None:
        self.joined = False

    async def publish(
        self, message: M, exclude: Connection | Iterable[Connection] | None = None
    ) -> str:
        self._type.envelope(self._type.check(self.name, message), excluded_ids(exclude))
        self.published.append(message)
        return str(len(self.published)) if self._type.options.history else ""

    async def history(self, after: str | None = None, *, limit: int = 100) -> History[M]:
        check_limit(limit)
        check_kept(self.name, "history()", self._type.options.history)
        kept = list(enumerate(self.published, 1))[self._removed :][-self._type.options.history :]
        found = [HistoryEvent(str(number), with_id(each, str(number))) for number, each in kept]
        if not after:
            return History(found[-limit:], recovered=False, more=False)
        ids = [each.id for each in found]
        ids = [str(int(ids[0]) - 1) if ids and int(ids[0]) - 1 > self._removed else "", *ids]
        if after not in ids:
            return History([], recovered=False, more=False)
        found = found[ids.index(after) :]
        return History(found[:limit], recovered=True, more=len(found) > limit)

    async def clear_history(self) -> None:
        check_kept(self.name, "clear_history()", self._type.options.history)
        self._removed = len(self.published)

    async def members(self) -> list[TopicMember]:
        return self._members

    async def count(self) -> int:
        return len(self._members)

    async def watch_members(self) -> AsyncGenerator[MemberJoined | MemberLeft, None]:
        for member in self._members:
            yield MemberJoined(member)

    def counters(self) -> TopicCounters:
        return TopicCounters(joined=int(self.joined))

    async def __aiter__(self) -> AsyncGenerator[M, None]:
        for message in self._messages:
            yield message


class FakeRegistry(Registry):
    """A Registry that records broadcasts, and gives topics that record what is published. What is
    sent to a user is sent to the connections that it has, and ``disconnect`` closes them.

    It refuses what a Registry refuses: a name without its values, options that contradict those of
    the same topic, a claim that is too long. It knows the topics that were declared through it, by
    a ``TopicName``, and not those of an app.

    Args:
        connections: the connections of the app; those that are identified are of their users.
        counters: what ``counters`` returns.
        broker: what ``broker`` is.
        dec_hook: that of the Router.
        enc_hook: that of the Router.

    Attributes:
        broadcasts: what was sent to all, in order.
        topics: the topics that were asked for, by their complete names. Put one there to say what
            it yields.
        claimed: the names that were claimed.
        sent: what was sent to users, in order: the name of each, and the message.
        disconnected: what was disconnected, in order: the name of a user or the id of a connection,
            the code and the reason.
    """

    # fmt: off
    __slots__ = (
        "_broker", "_codecs", "_connections", "_counters", "_declared", "_hooks", "broadcasts",
        "claimed", "disconnected", "sent", "topics",
    )
    # fmt: on

    def __init__(
        self,
        connections: Iterable[Connection] = (),
        *,
        counters: Mapping[str, int] | None = None,
        broker: str = "memory",
        dec_hook: DecHook | None = None,
        enc_hook: EncHook | None = None,
    ) -> None:
        self._broker = broker
        self._hooks = (dec_hook, enc_hook)
        self._codecs = _codecs(dec_hook, enc_hook)
        self._connections = {each.id: each for each in connections}
        self._counters = dict(counters or {})
        self._declared = DeclaredTopics()
        self.broadcasts: list[object] = []
        self.topics: dict[str, FakeTopic[Any]] = {}
        self.claimed: set[str] = set()
        self.sent: list[tuple[str, object]] = []
        self.disconnected: list[tuple[str, int, str]] = []

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._connections.values()))

    @property
    def broker(self) -> str:
        return self._broker

    def get(self, id: str) -> Connection | None:
        return self._connections.get(id)

    def of_user(self, user: str) -> list[Connection]:
        return [each for each in self if each.user == user]

    async def _send_to(
        self,
        target: Target | None,
        message: object,
        exclude: Connection | Iterable[Connection] | None,
    ) -> None:
        TopicType((object,), TopicOptions(), self._codecs).envelope(message, excluded_ids(exclude))
        if target is None:
            self.broadcasts.append(message)
            return
        self.sent.append((target.user, message))
        for each in self._meant(target, exclude):
            await each.send(message)

    async def _disconnect(
        self, target: Target, exclude: Connection | Iterable[Connection] | None
    ) -> None:
        self.disconnected.append((target.user or target.connection, target.code, target.reason))
        for each in self._meant(target, exclude):
            await each.close(target.code, target.reason)

    def _meant(
        self, target: Target, exclude: Connection | Iterable[Connection] | None = None
    ) -> list[Connection]:
        """The connections that are open, of a user or with an id."""
        found = self.of_user(target.user) if target.user else map(self.get, [target.connection])
        ids = excluded_ids(exclude)
        return [each for each in found if each and each.end is None and each.id not in ids]

    async def _ids_of(self, user: str) -> list[str]:
        return [each.id for each in self._meant(Target(user))]

    async def claim(self, name: str, seconds: float) -> bool:
        check_claim(seconds)
        first = name not in self.claimed
        self.claimed.add(name)
        return first

    def counters(self) -> dict[str, int]:
        return {"connections": len(self), "topics": len(self.topics), **self._counters}

    def topic(self, name: str | TopicName, /, *types: Any, **values: str | int) -> FakeTopic[Any]:
        filled, kind, template = find_topic(self._declared, name, types, values, self._codecs)
        if template is not None:
            self._declared.add(template, kind)
        if filled not in self.topics:
            history = kind.options.history
            dec, enc = self._hooks
            self.topics[filled] = FakeTopic(
                name=filled, types=kind.types, history=history, dec_hook=dec, enc_hook=enc
            )
        return self.topics[filled]
