"""The peer's end of a connection under test."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from types import UnionType
from typing import Any, TypeVar, get_origin, is_typeddict, overload

import anyio
import msgspec

from wsflow.end import Cause, End
from wsflow.errors import CallError, Disconnected, Reject
from wsflow.messages.apart import tag_field
from wsflow.messages.calls import (
    Answer,
    Ask,
    Call,
    Cancel,
    Done,
    Failed,
    More,
    Stream,
    StreamItem,
    call_frames,
)
from wsflow.messages.codec import JSON, BoundCodec, decoder_for
from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.families import members
from wsflow.messages.shapes import Shapes, taken_by
from wsflow.runtime.calls import check_call, check_stream, decode_answer
from wsflow.runtime.session import Session
from wsflow.tasks.waiting import Condition
from wsflow.testing.idle import wait_idle
from wsflow.topics.registry import Registry
from wsflow.transports.memory import MemoryTransport, Rejection
from wsflow.wiring.messages import union_problem

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

Kind = type[Any] | UnionType | None
"""A message type."""

PATIENCE = 5.0
"""Seconds within which the app must do what the test waits for, such as to read a close frame."""


def _is_type(kind: object) -> bool:
    return isinstance(kind, type) or get_origin(kind) is not None or kind is None or kind is Any


@functools.lru_cache(maxsize=256)
def _classes(kinds: tuple[Any, ...]) -> tuple[type, ...]:
    """The classes of the decoded values of some types; TypedDicts with tags are themselves."""
    return tuple({cls for kind in kinds for part in members(kind) for cls in taken_by(part)})


def _is_one_of(value: object, kinds: tuple[Any, ...]) -> bool:
    """Whether a value is of one of some types; a ``dict`` with a tag is of the TypedDict
    that has it."""
    dicts = [each for each in _classes(kinds) if is_typeddict(each)]
    others = tuple(each for each in _classes(kinds) if each not in dicts)
    return isinstance(value, others) or any(
        Shapes([each], tag_field([each])).has(value) for each in dicts
    )


class PeerEnd:
    """How a connection ended, for one of the peers. Reading ``error`` marks its errors as seen."""

    def __init__(self, end: End, seen: Callable[[], None]) -> None:
        self._end = end
        self._seen = seen

    @property
    def cause(self) -> Cause:
        return self._end.cause

    @property
    def code(self) -> int:
        return self._end.code

    @property
    def reason(self) -> str:
        return self._end.reason

    @property
    def error(self) -> BaseException | None:
        self._seen()
        return self._end.error

    def __repr__(self) -> str:
        return repr(self._end)


class MemoryPeer:
    """Sends to an app and receives from it, as a client. Created by ``connect``.

    A wait that exceeds its timeout raises AssertionError, since the test has failed by then. (That
    of ``wsflow.Peer``, the peer of a real client, raises TimeoutError.)

    ``Disconnected`` and ``Reject`` have the error of the handler that ended the connection as their
    cause. A handshake that was refused fails the test when it leaves the block, unless the test has
    seen that: by ``rejected``, ``end``, ``wait_closed``, or the ``Reject`` of another method.

    Attributes:
        registry: the connections and topics of the app, as ``Registry`` in a ``lifespan``.
    """

    def __init__(
        self,
        transport: MemoryTransport,
        session: Session | None,
        condition: Condition,
        registry: Registry,
        why_refused: Callable[[Reject], str] | None = None,
    ) -> None:
        self.registry = registry
        self._why_refused = why_refused  # by the server, before a session began
        self._transport = transport
        self._session = session  # None if it was refused at once
        self._condition = condition  # of the transport
        self._unread: dict[int, EncodedMessage] = {}  # by the order in which they came
        self._came = 0  # how many have ever been unread
        self._errors_seen = 0
        self._asked = 0
        self._unfinished = ""
        self._looked = False  # at a refusal of the handshake

    async def _opened(self) -> None:
        """Wait for the answer to the handshake."""
        wire = self._transport
        await self._condition.wait_for(lambda: wire.accepted or wire.closing is not None)

    # -- state

    @property
    def rejected(self) -> Rejection:
        """The HTTP answer that refused the handshake: status, body and headers.

        Raises:
            AssertionError: it was accepted.
        """
        self._looked = True
        if self._transport.rejection is None:
            raise AssertionError("the handshake was accepted")
        return self._transport.rejection

    @property
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol, None without one."""
        return self._transport.subprotocol

    @property
    def close_code(self) -> int | None:
        """The close code that the peer received, 1006 without a close frame; None while the
        connection is open."""
        return self._transport.closing[0] if self._transport.closing else None

    @property
    def close_reason(self) -> str | None:
        """The close reason that the peer received; None while the connection is open."""
        return self._transport.closing[1] if self._transport.closing else None

    @property
    def end(self) -> PeerEnd | None:
        """How the connection ended in the server, None while it is open."""
        self._looked = self._looked or self._transport.rejection is not None
        if self._session is None:
            code, reason = self._transport.closing or (0, "")
            rejection = self._transport.rejection or Rejection(code - 4000, reason, ())
            return PeerEnd(End("rejected", rejection.status, rejection.body), self._see)
        return PeerEnd(self._session.end, self._see) if self._session.end else None

    def _see(self) -> None:
        if self._session is not None:
            self._errors_seen = len(self._session.ending.errors)

    @property
    def _codec(self) -> BoundCodec:
        return self._session.codec if self._session else JSON

    # -- sending

    async def send(self, message: object, *, fragments: int = 1, timeout: float = PATIENCE) -> None:
        """Send a message: encoded, or raw for ``str`` and ``bytes``. Waits while the app does not
        read.

        Args:
            message: what to send.
            fragments: in how many fragments it is sent.
            timeout: seconds.

        Raises:
            AssertionError: the app did not read within that time.
            Disconnected: the connection has ended.
            Reject: the handshake was refused.
        """
        self._check_open()
        with anyio.move_on_after(timeout):
            await self._condition.wait_for(lambda: self._transport.peer_can_send)
        if not self._transport.peer_can_send:
            raise AssertionError(self._reads_no_more(timeout))
        self._check_open()
        encoded = self._codec.encoded(message)
        self._transport.peer_send(encoded.payload, encoded.text, fragments)

    def _check_open(self) -> None:
        if (rejection := self._transport.rejection) is not None:
            self._looked = True
            refused = Reject(rejection.status, rejection.body, rejection.headers)
            if (why := self._why(refused)) != refused.body.strip():
                refused.add_note(why)
            raise refused from self._error
        if self._transport.closing is not None:
            raise self._over()

    def _why(self, refused: Rejection | Reject) -> str:
        """Why the handshake was refused: what the peer is told, or else what the server knows."""
        if self._session is not None or self._why_refused is None:
            return refused.body.strip()
        return self._why_refused(Reject(refused.status, refused.body))

    def _over(self) -> Disconnected:
        """What a wait raises once the connection has ended. Its cause is the error that ended it,
        so that the traceback of a failing handler is shown."""
        over = Disconnected(self._session.end if self._session else None)
        over.__cause__ = self._error
        return over

    @property
    def _error(self) -> BaseException | None:
        """The error that ended the connection."""
        end = self._session.end if self._session else None
        return end.error if end is not None else None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame. Does not wait for the end of the connection: see ``wait_closed``."""
        self._transport.peer_close(code, reason)

    async def vanish(self) -> None:
        """Lose the connection without a close frame, as if a cable was cut."""
        self._transport.peer_vanish()

    async def wait_closed(self, timeout: float = PATIENCE) -> PeerEnd:
        """Wait until the connection has ended in the server. Returns how it ended.

        Raises:
            AssertionError: it has not ended within ``timeout`` seconds.
        """
        if self._session is not None:
            with anyio.move_on_after(timeout) as scope:
                await self._session.over.wait()
            if scope.cancelled_caught:
                raise AssertionError(
                    f"the connection did not end within {timeout:g} s; "
                    f"running: {', '.join(self._session.running) or 'nothing'}"
                )
        end = self.end  # it counts as looking
        assert end is not None  # since it is over
        return end

    # -- receiving

    @overload
    async def receive(self, *, timeout: float = PATIENCE) -> Any: ...
    @overload
    async def receive(self, kind: type[A], /, *, timeout: float = PATIENCE) -> A: ...
    @overload
    async def receive(
        self, kind: type[A], other: type[B], /, *, timeout: float = PATIENCE
    ) -> A | B: ...
    @overload
    async def receive(
        self, kind: type[A], other: type[B], third: type[C], /, *, timeout: float = PATIENCE
    ) -> A | B | C: ...
    @overload
    async def receive(self, *kinds: Kind, timeout: float = PATIENCE) -> Any: ...
    async def receive(self, *kinds: Any, timeout: float = PATIENCE) -> Any:
        """Wait for the first message of these types, or for any message without types.

        Messages of other types stay unread, in their order.

        Args:
            kinds: message types; ``str`` and ``bytes`` for raw ones.
            timeout: seconds.

        Raises:
            AssertionError: none came in time; the error lists the messages that did.
            Disconnected: none came, and the connection has ended.
            Reject: the handshake was refused.
        """
        self._check_kinds(kinds, "receive", "timeout")
        if self._transport.rejection is not None:
            self._check_open()
        found: list[Any] = []
        look = self._search(lambda frame: self._matches(frame, kinds, found))
        with anyio.move_on_after(timeout):
            await self._condition.wait_for(lambda: look() or self._ended)
        if found or look():  # it may have come at the last moment
            return found[0]
        if self._ended:
            raise self._over()
        wanted = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds) or "message"
        raise AssertionError(f"no {wanted} came within {timeout:g} s; {self._said_unread()}")

    @property
    def _ended(self) -> bool:
        return self._transport.closing is not None

    def _search(self, matches: Callable[[EncodedMessage], bool]) -> Callable[[], bool]:
        """What looks for a message among the unread, then among those on the wire, and takes it. It
        looks at none a second time."""
        at = next(iter(self._unread), self._came)

        def look() -> bool:
            nonlocal at
            for number in range(at, self._came):
                frame = self._unread.get(number)
                if frame is not None and matches(frame):
                    del self._unread[number]
                    return True
            while (taken := self._transport.peer_take()) is not None:
                if matches(taken):
                    return True
                self._unread[self._came] = taken
                self._came += 1
            at = self._came
            return False

        return look

    def _matches(self, frame: EncodedMessage, kinds: tuple[Any, ...], found: list[Any]) -> bool:
        value, known = self._decode(frame)
        if not kinds or _is_one_of(value, kinds):
            found.append(value)
            return True
        if known or frame.text != self._codec.text:
            return False
        try:  # it is not of a type that the app declares to send: it may be of one of ``kinds``
            found.append(decoder_for(self._codec, *kinds)(frame.payload))
        except (msgspec.MsgspecError, TypeError):
            return False
        return True

    def _decode(self, frame: EncodedMessage) -> tuple[Any, bool]:
        """The message of a frame, and whether it is of a type that the app declares to send."""
        if frame.raw:
            return (frame.payload.decode() if frame.text else frame.payload), False
        sends: tuple[Any, ...] = self._session.plan.sends if self._session else ()
        known = tuple(kind for kind in sends if kind not in (str, bytes, Any))
        if known and union_problem(known) is None:
            try:
                return decoder_for(self._codec, *known)(frame.payload), True
            except msgspec.MsgspecError:
                pass  # the app has sent another type
        return self._codec.untyped(frame.payload), False

    def _said_unread(self) -> str:
        frames = [*self._unread.values(), *self._transport.peer_unread()]
        said = ", ".join(repr(self._decode(frame)[0]) for frame in frames)
        return f"unread: {said}" if said else "nothing is unread"

    # -- calls

    async def call(self, message: Call[A], *, timeout: float = PATIENCE) -> A:
        """Call the app, and wait for its answer; other messages stay unread.

        Raises:
            CallError: the app has answered with an error, or with what is not of the expected type.
            AssertionError: no answer came in time; the work on it is cancelled.
            Disconnected: the connection has ended.
            TypeError: the message is not a Call.
        """
        check_call(message)
        id = await self._ask(message)
        try:
            frame = await self._answer(id, message, timeout)
        except AssertionError:
            await self._send_frame(Cancel, id=id)
            raise
        answer: A = self._value(message, frame)
        return answer

    @asynccontextmanager
    async def stream(
        self, message: Stream[A], *, timeout: float = PATIENCE
    ) -> AsyncIterator[AsyncIterator[A]]:
        """Call the app for a stream: ``async with peer.stream(Count(3)) as ticks``.

        Args:
            message: the message to answer.
            timeout: seconds for each item.

        Raises:
            CallError: while iterating: as in ``call``.
            AssertionError: while iterating: no item came in time.
            TypeError: on entering: the message is not a Stream.
        """
        check_stream(message)
        id = await self._ask(message)
        over = False

        async def items() -> AsyncGenerator[A, None]:
            nonlocal over
            while True:
                frame = await self._answer(id, message, timeout)
                over = not isinstance(frame, StreamItem)
                if isinstance(frame, Done):
                    return
                yield self._value(message, frame)
                await self._send_frame(More, id=id, items=1)

        try:
            async with aclosing(items()) as each:
                yield each
        finally:
            if not (over or self._ended):
                await self._send_frame(Cancel, id=id)

    @property
    def _frames(self) -> Mapping[Any, Any]:
        return self._session.plan.call_frames if self._session else call_frames("type")

    async def _send_frame(self, kind: Any, **fields: Any) -> None:
        await self.send(self._frames[kind](**fields))

    async def _ask(self, message: Call[Any] | Stream[Any]) -> int:
        self._asked += 1
        await self._send_frame(Ask, id=self._asked, message=message)
        return self._asked

    async def _answer(self, id: int, message: Any, timeout: float) -> Any:
        """The next frame that answers a call."""
        frames = self._frames
        kinds = tuple(frames[each] for each in (Answer, StreamItem, Done, Failed))
        decode = decoder_for(self._codec, *kinds)
        found: list[Any] = []

        def answers(frame: EncodedMessage) -> bool:
            try:
                answer = decode(frame.payload)
            except msgspec.MsgspecError:
                return False
            if answer.id == id:
                found.append(answer)
            return bool(found)

        look = self._search(answers)
        with anyio.move_on_after(timeout):
            await self._condition.wait_for(lambda: look() or self._ended)
        if found:
            return found[0]
        if self._ended:
            raise self._over()
        name = type(message).__name__
        raise AssertionError(f"no answer to {name} came within {timeout:g} s")

    def _value(self, message: Any, frame: Any) -> Any:
        if isinstance(frame, Failed):
            raise CallError(frame.code, frame.message)
        return decode_answer(message, self._codec, frame.value)

    async def receive_nothing(self, *kinds: Kind, within: float = 0.1) -> None:
        """Check that no message of these types is unread, and none comes within ``within`` seconds;
        no message at all without types.

        Args:
            kinds: message types, as for ``receive``; messages of other types stay unread.
            within: seconds.

        Raises:
            AssertionError: there is one; the error lists all unread messages. Or the handshake was
                refused, and the test has not looked at that.
            TypeError: one of ``kinds`` is no type.
        """
        self._check_kinds(kinds, "receive_nothing", "within")
        self._check_seen()
        came: list[Any] = []
        with anyio.move_on_after(within):
            await self._condition.wait_for(lambda: self._any(kinds, came))
        if came or self._any(kinds, came):
            raise AssertionError(f"a message came; {self._said_unread()}")

    def _any(self, kinds: tuple[Any, ...], came: list[Any]) -> bool:
        """Whether a message of these types is unread."""
        frames = [*self._unread.values(), *self._transport.peer_unread()]
        return any(self._matches(frame, kinds, came) for frame in frames)

    def _check_kinds(self, kinds: tuple[Any, ...], verb: str, option: str) -> None:
        if not all(map(_is_type, kinds)):
            raise TypeError(
                f"{verb} takes message types, not {kinds!r}; pass {option} as a keyword argument"
            )

    def _check_seen(self) -> None:
        """Fail if the handshake was refused and the test has not looked at that.

        Raises:
            AssertionError: it has not.
        """
        rejection = self._transport.rejection
        if rejection is not None and not self._looked:
            raise AssertionError(
                f"the handshake was refused with {rejection.status}: {self._why(rejection)}; if "
                "that is expected, read the peer's rejected"
            ) from self._error

    async def idle(self, timeout: float = 1) -> None:
        """Wait until nothing in the app can go on by itself: see ``MemoryServer.idle``."""
        await wait_idle(timeout)

    # -- leaving

    async def _leave(self) -> None:
        """Close, and wait for the end. If the app does not read the close frame, lose the
        connection."""
        self._transport.peer_close(1000, "")
        try:
            with anyio.move_on_after(PATIENCE, shield=True):
                await self._condition.wait_for(lambda: self._transport.closing is not None)
        finally:
            if self._transport.closing is None:
                self._unfinished = self._reads_no_more(PATIENCE)
                self._transport.peer_vanish()
            if self._session is not None:
                await self._session.join()

    def _reads_no_more(self, seconds: float) -> str:
        running = self._session.running if self._session is not None else ()
        return (
            f"the app has not read what was sent within {seconds:g} s; "
            f"running: {', '.join(running) or 'nothing'}"
        )

    def _check(self, known: Callable[[str], bool]) -> None:
        """Fail if the connection has left anything behind.

        Raises:
            AssertionError: a task, a registry entry, a membership, an error that was not read, or
                messages that the app has not read.
        """
        if self._unfinished:
            raise AssertionError(self._unfinished)
        self._check_seen()
        if self._session is not None:
            check(self._session, known, self._errors_seen)


def check(session: Session, known: Callable[[str], bool], errors_seen: int) -> None:
    """Fail if a connection has left anything behind.

    Raises:
        AssertionError: a task, a registry entry, a membership, or an error that was not read.
    """
    if session.ending.left_behind:
        raise AssertionError(
            f"still running after the connection's end: {', '.join(session.ending.left_behind)}"
        )
    if known(session.id):
        raise AssertionError(f"the registry still has connection {session.id}")
    if session.memberships:
        raise AssertionError(f"still a member of {', '.join(session.memberships)}")
    if unseen := session.ending.errors[errors_seen:]:
        error = unseen[0]
        raise AssertionError(
            f"a handler raised {type(error).__name__}: {error}; if that is expected, "
            "read the peer's end.error"
        ) from error
