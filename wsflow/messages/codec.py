"""Encoding and decoding of messages, compiled once per set of types.

JSON is sent in text frames and MessagePack in binary ones. Payloads are decoded from bytes and
encoded to bytes, without an intermediate ``str``. ``str`` and ``bytes`` messages are not encoded:
they are the payload of a raw text or binary frame.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar, Union, cast, final, get_origin

import msgspec
from msgspec import inspect

from wsflow.messages.calls import EXPECT_ANSWERS, answer_type
from wsflow.messages.encoded import EncodedMessage

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
        reason: the close reason: what is wrong, and where.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


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
    """

    __slots__ = ("_sendable", "encode", "name", "subprotocol", "text")

    def __init__(self, name: str, encode: Callable[[Any], bytes], *, text: bool) -> None:
        self.name = name
        self.subprotocol = f"wsflow.{name}"
        self.encode = encode
        self.text = text
        self._sendable: set[type] = set()  # classes whose messages may be sent directly

    def decoder(self, kind: Any) -> Callable[[bytes], Any]:
        """A function that decodes bytes to a value of type ``kind``."""
        return cast("Callable[[bytes], Any]", _NAMES[self.name].Decoder(kind).decode)

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

    Args:
        codec: the codec of the connection.
        kinds: the types that are decoded, each with its taker.
        text: the taker of raw text, if any.
        binary: the taker of raw binary, if any.
        call_frames: the types of call frames, which have no taker; none if they could not be told
            apart from ``kinds``.

    Attributes:
        text: how the payload of a text frame is decoded, and its taker.
        binary: the same for a binary frame.
        calls: whether call frames are decoded.
    """

    __slots__ = ("_classes", "_fallback", "binary", "calls", "text")

    def __init__(
        self,
        codec: Codec,
        kinds: Mapping[Any, T],
        text: T | None,
        binary: T | None,
        call_frames: tuple[Any, ...] = (),
    ) -> None:
        self.calls = bool(call_frames) and (text if codec.text else binary) is None
        decode: Callable[[bytes], Any] | None = None
        if kinds:
            decode = codec.decoder(Union[(*kinds, *call_frames)])
        elif self.calls:
            refuse = _nobody_takes_text if codec.text else _nobody_takes_binary
            decode = _or_else(codec.decoder(Union[tuple(call_frames)]), refuse)  # noqa: UP007
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
        self._classes: dict[type, T] = {}
        self._fallback: T | None = None
        for kind, taker in kinds.items():
            for cls in runtime_classes(kind):
                if cls is object:
                    self._fallback = taker
                else:
                    self._classes[cls] = taker

    def taker(self, message: object) -> T | None:
        """The taker of a message, by its class; None for a call frame."""
        return self._classes.get(type(message), self._fallback)


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
        return BadMessage(1007, str(exc))
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


def runtime_classes(kind: Any) -> Iterable[type]:
    """The classes of the decoded values of a type; ``object`` if it can be any."""
    return _classes_of(inspect.type_info(kind))


def sure_classes(kind: Any) -> Iterable[type]:
    """The classes whose every instance a type takes, as far as a class can tell: Structs,
    dataclasses, enums, and what has no constraint and no items."""
    info = inspect.type_info(kind)
    parts = info.types if isinstance(info, inspect.UnionType) else (info,)
    return [
        cls
        for part in parts
        if isinstance(part, _BY_CLASS) or (type(part) in _SCALARS and part == type(part)())
        for cls in _classes_of(part)
    ]


_BY_CLASS = (
    inspect.StructType,
    inspect.DataclassType,
    inspect.EnumType,
)
_PLAIN: Mapping[type, type] = {
    inspect.AnyType: object,
    inspect.NoneType: type(None),
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
    inspect.BytesType: bytes,
    inspect.ByteArrayType: bytearray,
    inspect.MemoryViewType: memoryview,
    inspect.DateTimeType: datetime.datetime,
    inspect.DateType: datetime.date,
    inspect.TimeType: datetime.time,
    inspect.TimeDeltaType: datetime.timedelta,
    inspect.UUIDType: uuid.UUID,
    inspect.DecimalType: decimal.Decimal,
    inspect.RawType: msgspec.Raw,
    inspect.ExtType: msgspec.msgpack.Ext,
    inspect.DictType: dict,
    inspect.TypedDictType: dict,
    inspect.ListType: list,
    inspect.SetType: set,
    inspect.FrozenSetType: frozenset,
    inspect.VarTupleType: tuple,
    inspect.TupleType: tuple,
}

_SCALARS = (
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.BytesType,
    inspect.DateTimeType,
    inspect.DateType,
    inspect.TimeType,
    inspect.UUIDType,
    inspect.DecimalType,
)


def _classes_of(info: Any) -> Iterable[type]:
    if isinstance(info, inspect.Metadata):
        return _classes_of(info.type)
    if isinstance(info, inspect.UnionType):
        return [cls for part in info.types for cls in _classes_of(part)]
    if isinstance(info, inspect.LiteralType):
        return {type(value) for value in info.values}
    if (cls := _PLAIN.get(type(info))) is not None:
        return [cls]
    return [get_origin(info.cls) or info.cls]  # a Struct, dataclass, Enum, NamedTuple
