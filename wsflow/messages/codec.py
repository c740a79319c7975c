"""Encoding and decoding of messages, compiled once per set of types.

JSON is sent in text frames and MessagePack in binary ones. Payloads are decoded from bytes and
encoded to bytes, without an intermediate ``str``. ``str`` and ``bytes`` messages are not encoded:
they are the payload of a raw text or binary frame.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, Union, cast, final

import msgspec

from wsflow.messages.calls import EXPECT_ANSWERS, answer_type
from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.shapes import Shapes, has_raw, runtime_classes, takes_the_rest

T = TypeVar("T")
_NAMES = {"json": msgspec.json, "msgpack": msgspec.msgpack}

Packed = tuple[bytes, bool, bool]
"""A payload, whether it is sent as text, and whether it is raw."""

MAX_SENDABLE = 1024
"""How many message classes a codec caches."""


class BadMessage(Exception):
    """The peer has sent a message that is not accepted.

    Attributes:
        code: the close code: 1007 if it cannot be decoded, 1003 if no consumer takes its kind of
            frame, 1008 if it violates the rules of calls, or a rate limit.
        reason: what is wrong.
        where: where in the message, as a JSONPath.
        tag: its tag; None if none could be read.
        known: whether the tag is one that is taken, or there is none.
    """

    def __init__(
        self, code: int, reason: str, where: str = "$", tag: Any = None, known: bool = True
    ) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.where = where
        self.tag = tag
        self.known = known

    def __str__(self) -> str:
        return self.reason if self.where == "$" else f"{self.reason} - at `{self.where}`"


@final
class TooLargeError(TypeError):
    """A message has an integer that its codec cannot encode."""

    def __init__(self, codec: str, exc: OverflowError) -> None:
        super().__init__(f"the message cannot be encoded as {codec}: {exc}")


class Codec:
    """An encoding of messages.

    Attributes:
        name: ``"json"`` or ``"msgpack"``.
        subprotocol: the subprotocol by which a client chooses it.
        text: whether its messages are sent in text frames.
        encode: encodes a message to bytes.
        untyped: decodes bytes to whatever they are: to look at them.
    """

    __slots__ = ("_sendable", "encode", "name", "subprotocol", "text", "untyped")

    def __init__(self, name: str, encode: Callable[[Any], bytes], *, text: bool) -> None:
        self.name = name
        self.subprotocol = f"wsflow.{name}"
        self.encode = encode
        self.text = text
        self.untyped = self.decoder(Any)
        self._sendable: set[type] = set()  # classes whose messages may be sent directly

    def decoder(self, *kinds: Any) -> Callable[[bytes], Any]:
        """A function that decodes bytes to a value of one of the types."""
        union: Any = Union[kinds]  # noqa: UP007
        return cast("Callable[[bytes], Any]", _NAMES[self.name].Decoder(union).decode)

    def pack(self, message: object) -> Packed:
        """Encode ``message``; ``str`` and ``bytes`` are raw.

        Raises:
            TypeError: msgspec cannot encode it, or it is a Call or a Stream, which must be sent
                inside a call frame.
        """
        if type(message) in self._sendable:
            try:
                return self.encode(message), self.text, False
            except OverflowError as exc:
                raise TooLargeError(self.name, exc) from None
        if isinstance(message, str):
            return message.encode(), True, True
        if isinstance(message, bytes):
            return message, False, True
        return self._pack_new(message)

    def _pack_new(self, message: object) -> Packed:
        """Encode a message of a class that is not cached."""
        if isinstance(message, bytearray | memoryview):
            return bytes(message), False, True
        if isinstance(message, EXPECT_ANSWERS):
            name = type(message).__name__
            raise TypeError(f"{name} expects an answer: send it with call(…) or stream(…)")
        if len(self._sendable) > MAX_SENDABLE:
            self._sendable.clear()  # classes that are created dynamically must not accumulate
        self._sendable.add(type(message))
        return self.pack(message)

    def encoded(self, message: object) -> EncodedMessage:
        """Encode ``message`` once for many peers.

        Raises:
            TypeError: as ``pack``.
        """
        return EncodedMessage(*self.pack(message))

    def __repr__(self) -> str:
        return f"<codec {self.name}>"


JSON = Codec("json", msgspec.json.Encoder().encode, text=True)
MSGPACK = Codec("msgpack", msgspec.msgpack.Encoder().encode, text=False)
CODECS: Mapping[str, Codec] = {codec.name: codec for codec in (JSON, MSGPACK)}


Way = tuple[Callable[[bytes], Any], T | None]
"""How a kind of frame is decoded, and its taker; None if that depends on the message's class.

``bad_message`` translates what decoding raises."""


@final
class Decoding(Generic[T]):
    """How a path decodes the messages of one codec, and which consumer takes them.

    Types that take the rest (``Any``, ``msgspec.Raw``, ``dict``) get what belongs to none of the
    others: it is decoded once more for them.

    Args:
        codec: the codec of the connection.
        kinds: the types that are decoded, each with its taker.
        text: the taker of raw text, if any.
        binary: the taker of raw binary, if any.
        call_frames: the types of call frames, which have no taker; none if they could not be told
            apart from ``kinds``.
        asked: the types of the calls that are taken inside of call frames.

    Attributes:
        text: how the payload of a text frame is decoded, and its taker.
        binary: the same for a binary frame.
        calls: whether call frames are decoded.
    """

    __slots__ = (
        "_asked",
        "_classes",
        "_codec",
        "_fallback",
        "_named",
        "_shapes",
        "binary",
        "calls",
        "text",
    )

    def __init__(
        self,
        codec: Codec,
        kinds: Mapping[Any, T],
        text: T | None,
        binary: T | None,
        call_frames: tuple[Any, ...] = (),
        asked: tuple[Any, ...] = (),
    ) -> None:
        self.calls = bool(call_frames) and (text if codec.text else binary) is None
        self._codec = codec
        typed = [kind for kind in kinds if not takes_the_rest(kind)]
        rest = [Any if kind is object else kind for kind in kinds if takes_the_rest(kind)]
        self._named = Shapes(typed)
        self._asked = Shapes(asked)
        self._shapes = Shapes((*typed, *call_frames))
        decode: Callable[[bytes], Any] | None = None
        if kinds:
            decode = _decoder(codec, (*typed, *call_frames), rest, self._shapes)
        elif self.calls:
            refuse = _nobody_takes_text if codec.text else _nobody_takes_binary
            decode = _or_else(codec.decoder(*call_frames), refuse)
        self.text: Way[T] = (_nobody_takes_text, None)
        self.binary: Way[T] = (_nobody_takes_binary, None)
        if text is not None:
            self.text = (bytes.decode, text)
        if binary is not None:
            self.binary = (bytes, binary)
        if decode and codec.text:
            self.text = (decode, None)
        elif decode:
            self.binary = (decode, None)
        self._classes: dict[type, T | None] = dict.fromkeys(call_frames)
        self._fallback: T | None = None
        for kind, taker in kinds.items():
            for cls in runtime_classes(kind):
                if cls is object:
                    self._fallback = taker
                else:
                    self._classes[cls] = taker

    def explain(self, exc: Exception, data: bytes) -> BadMessage:
        """What is wrong with a message that cannot be decoded."""
        bad = bad_message(exc)
        with contextlib.suppress(Exception):  # it is malformed
            value = self._codec.untyped(data)
            bad.tag = tag = self._shapes.tag_of(value)
            bad.known = tag is None or tag in self._shapes.tags(value)
            if not bad.known:
                what = self._shapes.tag_field if isinstance(value, dict) else "tag"
                taken = ", ".join(map(repr, self._named.tags(value))) or "nothing"
                bad.reason = f"unknown {what} {tag!r}: this path takes {taken}"
                if tag in self._asked.tags(value):
                    frame = f'{{"{what}":"$call","id":1,"message":…}}'
                    bad.reason = f"{tag!r} is a call: send it as {frame}"
        return bad

    def taker(self, message: object) -> T | None:
        """The taker of a message, by its class; None for a call frame."""
        return self._classes.get(type(message), self._fallback)


def _decoder(
    codec: Codec, typed: tuple[Any, ...], rest: Sequence[Any], shapes: Shapes
) -> Callable[[bytes], Any]:
    """The decoder of the types of a path, and of those that take what belongs to none of them."""
    if typed and rest:
        decode = _in_turn(codec.decoder(*typed), _decoder_of_rest(codec, rest), shapes, codec)
    elif rest:
        decode = _decoder_of_rest(codec, rest)
    else:
        decode = codec.decoder(*typed)
    if codec.text or not any(map(has_raw, (*typed, *rest))):
        return decode

    def check(data: bytes) -> Any:
        """What is not decoded is passed on, and must not fail elsewhere. Text was checked."""
        message = decode(data)
        codec.untyped(data)
        return message

    return check


def _in_turn(
    first: Callable[[bytes], Any], rest: Callable[[bytes], Any], shapes: Shapes, codec: Codec
) -> Callable[[bytes], Any]:
    """A decoder of what belongs to none of the types of the ``first`` one by the ``rest``."""

    def decode(data: bytes) -> Any:
        try:
            return first(data)
        except msgspec.ValidationError:
            if shapes.has(codec.untyped(data)):
                raise
        return rest(data)

    return decode


def _decoder_of_rest(codec: Codec, rest: Sequence[Any]) -> Callable[[bytes], Any]:
    """The decoder of ``Any`` or ``msgspec.Raw``; and of ``dict``, for objects."""
    objects = [kind for kind in rest if {*runtime_classes(kind)} == {dict}]
    others = [kind for kind in rest if kind not in objects]
    if not objects or not others:
        return codec.decoder(*rest)
    decode_object, decode_other = codec.decoder(*objects), codec.decoder(*others)

    def decode(data: bytes) -> Any:
        is_object = isinstance(codec.untyped(data), dict)
        return decode_object(data) if is_object else decode_other(data)

    return decode


def _or_else(
    decode: Callable[[bytes], Any], refuse: Callable[[bytes], None]
) -> Callable[[bytes], Any]:
    """``decode``, with ``refuse`` for what it does not know."""

    def attempt(data: bytes) -> Any:
        try:
            return decode(data)
        except msgspec.MsgspecError:
            refuse(data)

    return attempt


def _nobody_takes_text(data: bytes) -> None:
    raise BadMessage(1003, "no consumer takes text messages here")


def _nobody_takes_binary(data: bytes) -> None:
    raise BadMessage(1003, "no consumer takes binary messages here")


def decode_or_refuse(decode: Callable[[bytes], T], data: bytes) -> T:
    """Decode a payload that was received.

    Raises:
        BadMessage: it cannot be decoded.
    """
    try:
        return decode(data)
    except Exception as exc:
        bad = bad_message(exc)
        raise bad from bad.__cause__


def bad_message(exc: Exception) -> BadMessage:
    """The BadMessage for an exception of decoding.

    An exception that is not the decoder's own (an error in a ``__post_init__``) becomes its
    ``__cause__``, for the log; the peer does not receive its text.
    """
    if isinstance(exc, BadMessage):
        return exc
    if isinstance(exc, msgspec.MsgspecError):
        reason, _, where = str(exc).partition(" - at `")
        return BadMessage(1007, reason, where.removesuffix("`") or "$")
    if isinstance(exc, UnicodeDecodeError):
        return BadMessage(1007, f"not UTF-8 at byte {exc.start}")
    if isinstance(exc, RecursionError):
        return BadMessage(1007, "nested too deeply")
    bad = BadMessage(1007, "not a valid message")
    bad.__cause__ = exc
    return bad


@functools.cache
def answer_decoder(kind: Any, codec: Codec) -> Callable[[Any], Any]:
    """The decoder of the answers to messages of a type."""
    return codec.decoder(answer_type(kind))
