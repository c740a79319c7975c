"""The calls of one connection: those that its functions make, and those that they answer.

Frames of pending calls bypass the inbox: they are processed where they are read, so that a consumer
that calls the peer never waits for itself. ``$cancel`` and ``$more`` are sent at once, ahead of
senders that wait for room. While a call is pending, in either direction, reading does not pause: an
answer, a cancel or a grant may come after the messages that fill the inbox, and their handlers may
be waiting for it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, final

import anyio

from wsflow.end import End
from wsflow.errors import CallError, Disconnected
from wsflow.messages.calls import (
    WINDOW,
    Answer,
    Ask,
    Call,
    Cancel,
    Done,
    Failed,
    More,
    Stream,
    StreamItem,
)
from wsflow.messages.codec import (
    BadMessage,
    BoundCodec,
    answer_decoder,
    bad_message,
    decode_or_refuse,
)
from wsflow.observer import NOBODY, Observers
from wsflow.runtime.inbox import Inbox
from wsflow.runtime.outbox import Outbox
from wsflow.tasks.detached import Signal, signal
from wsflow.tasks.waiting import Condition
from wsflow.transports.deadline import LOOKS, look

R = TypeVar("R")
T = TypeVar("T")

MOST_ASKED = 12_288
"""How many calls one peer may have pending; more wait here. This many fit in the other's inbox."""


class Owner(Protocol):
    """The session, as its calls see it.

    Attributes:
        received: how many messages have come.
    """

    received: int

    @property
    def end(self) -> End | None: ...
    async def send(self, message: object) -> None: ...
    def refuse(self, bad: BadMessage) -> None: ...
    def call_failed(self, what: object, exc: BaseException) -> None: ...


@final
class Asked:
    """A pending call that this side has made.

    Attributes:
        items: items that have come and were not read.
        condition: notified of items and of the end.
        over: what has ended it: ``Done``, an ``Answer``, or the exception for its caller.
        may_come: how many more items the peer may send.
    """

    __slots__ = ("condition", "items", "may_come", "over")

    def __init__(self) -> None:
        self.items: deque[StreamItem] = deque()
        self.over: Answer | Done | Exception | None = None
        self.may_come = WINDOW
        self.condition = Condition()

    def finish(self, over: Answer | Done | Exception) -> None:
        self.over = over
        self.condition.notify_all()


@final
class Answering:
    """A pending call that the peer has made.

    Attributes:
        message: the message to answer.
        carried: what the caller has sent along.
        cancelled: whether the caller no longer waits for the answer.
    """

    __slots__ = ("_calls", "_granted", "_id", "_more", "_scope", "cancelled", "carried", "message")

    def __init__(self, calls: Calls, ask: Ask, message: Any) -> None:
        self._calls = calls
        self._id = ask.id
        self._granted = ask.items
        self._more: Signal | None = None
        self._scope: anyio.CancelScope | None = None
        self.message = message
        self.carried: Mapping[str, str] = ask.context
        self.cancelled = False

    def cancel(self) -> None:
        """The caller no longer waits: cancel the work on it."""
        self.cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    def working(self) -> anyio.CancelScope:
        """The scope of the work on it, which ``cancel`` cancels."""
        self._scope = anyio.CancelScope()
        return self._scope

    def grant(self, items: int) -> None:
        """The caller takes ``items`` more items."""
        self._granted += items
        if self._more is not None:
            self._more.set()

    async def answer(self, value: Any) -> None:
        await self._calls.send(Answer, id=self._id, value=value)

    async def stream(self, items: AsyncGenerator[Any, None]) -> None:
        """Send items. The next one is requested when the last one was sent and the caller has
        granted more."""
        async with aclosing(items):
            while True:
                while self._granted < 1:
                    self._more = more = signal()
                    await more
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    break
                self._granted -= 1
                await self._calls.send(StreamItem, id=self._id, value=item)

    async def end(self) -> None:
        await self._calls.send(Done, id=self._id)

    async def fail(self, error: CallError) -> None:
        await self._calls.send(Failed, id=self._id, code=error.code, message=error.message)

    def refuse(self, code: str, message: str) -> None:
        """Answer with an error at once, instead of a consumer."""
        self._calls.urge(Failed, id=self._id, code=code, message=message)
        self.forget()

    def forget(self) -> None:
        """Remove the call, however it ended."""
        self._calls.forget(self._id)


@final
class Calls:
    """The calls of a connection in both directions; each peer numbers its own.

    Args:
        outbox: sends urgent frames, ahead of senders that wait.
        owner: the session; sending by it accepts the handshake first.
        frames: the call frames, by their class in ``wsflow.messages.calls``.
        inbox: does not pause reading while a call is pending.
        supported: whether call frames can be told apart from the path's messages.
        observers: say what travels with a call.
    """

    __slots__ = (
        "_answering",
        "_asked",
        "_frames",
        "_ids",
        "_inbox",
        "_observers",
        "_outbox",
        "_owner",
        "_room",
        "_supported",
        "_tag_field",
    )

    def __init__(
        self,
        outbox: Outbox,
        owner: Owner,
        frames: Mapping[Any, Any],
        inbox: Inbox,
        supported: bool,
        observers: Observers = NOBODY,
    ) -> None:
        self._outbox = outbox
        self._owner = owner
        self._frames = frames
        self._inbox = inbox
        self._supported = supported
        self._observers = observers
        self._tag_field = frames[Ask].__struct_config__.tag_field
        self._ids = itertools.count(1)
        self._asked: dict[int, Asked] = {}
        self._room: anyio.Event | None = None  # set when there is room for another call
        self._answering: dict[int, Answering] = {}

    async def send(self, frame: Any, **fields: Any) -> None:
        await self._owner.send(self._frames[frame](**fields))

    def urge(self, frame: Any, **fields: Any) -> None:
        self._outbox.urge(self._frames[frame](**fields))

    # -- making calls

    async def call(self, message: Call[R], timeout: float | None) -> R:
        """See ``Connection.call``."""
        check_call(message)
        over = asked = None
        try:
            with anyio.move_on_after(timeout):
                id, asked = await self.ask(message)
                await asked.condition.wait_for(lambda: asked.over is not None)
            if asked is not None:
                await self._look(asked)
        finally:
            if asked is not None:
                over = asked.over
                self.leave(id, asked)
        if over is None:
            raise TimeoutError(f"no answer to {type(message).__name__} within {timeout:g} s")
        if isinstance(over, Exception):
            raise over
        answer: R = self.decode(message, over)
        return answer

    async def _look(self, asked: Asked) -> None:
        """The time of a call is over. Its answer may have come and not be read yet."""
        for _ in range(LOOKS):
            if asked.over is not None:
                break
            before = self._owner.received
            await look()
            if self._owner.received == before:
                break

    def stream(self, message: Stream[T]) -> Items[T]:
        """See ``Connection.stream``."""
        check_stream(message)
        return Items(self, message)

    async def ask(self, message: Call[Any] | Stream[Any]) -> tuple[int, Asked]:
        """Send a call."""
        if not self._supported:
            raise TypeError(
                "this path's messages cannot be told apart from answers: give each message type "
                'that it takes a tag, as in class Say(msgspec.Struct, tag="say")'
            )
        while len(self._asked) >= MOST_ASKED and self._owner.end is None:
            self._room = self._room or anyio.Event()
            await self._room.wait()
        if self._owner.end is not None:
            raise Disconnected(self._owner.end)
        id, asked = next(self._ids), Asked()
        self._asked[id] = asked
        self._inbox.expect()
        try:
            await self.send(Ask, id=id, message=message, context=self._observers.carry())
        except BaseException:
            self._drop(id)  # it was not sent
            raise
        return id, asked

    @property
    def asking(self) -> bool:
        """Whether an answer of the peer is expected."""
        return bool(self._asked)

    def leave(self, id: int, asked: Asked) -> None:
        """The caller no longer waits: if the call is pending, cancel the work of the peer."""
        if asked.over is None:
            self.urge(Cancel, id=id)
            asked.finish(Done(id))  # for a reader in another task
        self._drop(id)

    def _drop(self, id: int) -> None:
        del self._asked[id]
        self._inbox.expected()
        if self._room is not None:
            self._room.set()
            self._room = None

    def grant(self, id: int, asked: Asked, items: int) -> None:
        """Grant the peer ``items`` more items of a stream."""
        asked.may_come += items
        self.urge(More, id=id, items=items)

    def decode(self, message: Any, frame: Any) -> Any:
        """See ``decode_answer``."""
        return decode_answer(message, self._outbox.codec, frame.value)

    # -- receiving; there may be no current task

    def receive(self, frame: Answer | StreamItem | Done | Failed | Cancel | More) -> None:
        """Process a frame of a pending call. A frame of another call is late, and ignored."""
        match frame:
            case Cancel():
                if (answering := self._answering.get(frame.id)) is not None:
                    answering.cancel()
            case More():
                if (answering := self._answering.get(frame.id)) is not None:
                    answering.grant(frame.items)
            case StreamItem():
                if (asked := self._asked.get(frame.id)) is not None:
                    self._item(frame, asked)
            case _:
                if (asked := self._asked.get(frame.id)) is not None and asked.over is None:
                    asked.finish(
                        CallError(frame.code, frame.message) if isinstance(frame, Failed) else frame
                    )

    def _item(self, item: StreamItem, asked: Asked) -> None:
        asked.may_come -= 1
        if asked.may_come < 0:
            self._owner.refuse(BadMessage(1008, f"more items of call {item.id} than were granted"))
        elif asked.over is None:
            asked.items.append(item)
            asked.condition.notify_all()

    def begin(self, ask: Ask, decode: Callable[[Any], Any]) -> Answering | None:
        """Accept a call of the peer. Returns None if it is refused.

        Args:
            ask: the call frame.
            decode: decodes its message.
        """
        if ask.id in self._answering:
            self._owner.refuse(BadMessage(1008, f"call {ask.id} is being answered already"))
            return None
        try:
            message = decode(ask.message)
        except Exception as exc:
            bad = bad_message(exc)
            if bad.code == 1011 and bad.__cause__ is not None:
                self._owner.call_failed("dec_hook", bad.__cause__)
                self.urge(Failed, id=ask.id, code="internal")
                return None
            unknown = bad.code == 1003 or bad.where == f"$.{self._tag_field}"
            code = "unknown" if unknown else "invalid"
            why = "no consumer takes such calls" if unknown else str(bad)
            self.urge(Failed, id=ask.id, code=code, message=why)
            return None
        answering = self._answering[ask.id] = Answering(self, ask, message)
        self._inbox.expect()  # its cancel, or a grant of more items
        return answering

    def forget(self, id: int) -> None:
        """A call of the peer has ended."""
        del self._answering[id]
        self._inbox.expected()

    # -- the end

    def lost(self, end: End) -> None:
        """The connection has ended: fail pending calls, and cancel streams."""
        for asked in self._asked.values():
            if asked.over is None:
                asked.finish(Disconnected(end))
        if self._room is not None:
            self._room.set()
        self.end_streams()

    def end_streams(self) -> None:
        """Cancel the streams that are being answered."""
        for answering in list(self._answering.values()):
            if isinstance(answering.message, Stream):
                answering.cancel()


@final
class Items(Generic[T]):
    """The items of a ``Stream``: enter it, and iterate. Created by ``Connection.stream``."""

    def __init__(self, calls: Calls, message: Stream[T]) -> None:
        self._calls = calls
        self._message = message
        self._read = 0
        self._asked: Asked | None = None

    async def __aenter__(self) -> AsyncIterator[T]:
        self._id, self._asked = await self._calls.ask(self._message)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._asked is not None:
            self._calls.leave(self._id, self._asked)

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        asked = self._asked
        if asked is None:
            raise RuntimeError("enter the stream: async with connection.stream(…) as items")
        await asked.condition.wait_for(lambda: asked.items or asked.over is not None)
        if not asked.items:
            if isinstance(asked.over, Exception):
                raise asked.over
            raise StopAsyncIteration
        item: T = self._calls.decode(self._message, asked.items.popleft())
        self._read += 1
        if self._read == WINDOW // 2 and asked.over is None:
            self._read = 0
            self._calls.grant(self._id, asked, WINDOW // 2)
        return item


def decode_answer(message: Any, codec: BoundCodec, value: Any) -> Any:
    """Decode the value of an answer to a message, or of an item.

    Raises:
        CallError: it is not of the expected type.
        Exception: a hook has raised it.
    """
    try:
        kind: Any = type(message)
        return decode_or_refuse(answer_decoder(kind, codec), value)
    except BadMessage as bad:
        if bad.code == 1011 and bad.__cause__ is not None:
            raise bad.__cause__ from None
        raise CallError("invalid", f"the answer is not valid: {bad}") from bad


def check_call(message: object) -> None:
    """Check a message that is to have an answer.

    Raises:
        TypeError: it is not a Call.
    """
    if not isinstance(message, Call):
        raise TypeError(_no_call(message, Stream, "stream", "call"))


def check_stream(message: object) -> None:
    """Check a message that is to have a stream of answers.

    Raises:
        TypeError: it is not a Stream.
    """
    if not isinstance(message, Stream):
        raise TypeError(_no_call(message, Call, "call", "stream"))


def _no_call(message: object, other: type, right: str, wrong: str) -> str:
    """The error text for a message that cannot be used as a call, or as a stream."""
    if isinstance(message, type):
        return (
            f"{message.__name__} is a class: pass an instance, as in {wrong}({message.__name__}(…))"
        )
    name = type(message).__name__
    if isinstance(message, other):
        return f"{name} is a {other.__name__}: use {right}(…)"
    return f"{name} is not a {wrong.capitalize()}: the peer would not answer it"
