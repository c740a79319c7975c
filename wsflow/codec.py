"""Messages to payloads and back, compiled once per set of types.

JSON travels in text frames and MessagePack in binary ones. Payloads are decoded from bytes and
encoded to bytes, with no ``str`` between. ``str`` and ``bytes`` messages are not encoded: they are
the payload of a raw text or binary frame.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar, Union, cast, final, get_origin

import msgspec
from msgspec import inspect

from wsflow.transports.frames import Frame

T = TypeVar("T")
_NAMES = {"json": msgspec.json, "msgpack": msgspec.msgpack}

Packed = tuple[bytes, bool, bool]
"""A payload, whether it goes as text, and whether it is raw."""


class BadMessage(Exception):
    """The peer sent what cannot be decoded, or a kind of frame that nobody takes.

    Attributes:
        code: 1007 or 1003.
        reason: where and why, for the peer.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


@final
class Codec:
    """One way to write messages as bytes.

    Attributes:
        name: ``"json"`` or ``"msgpack"``.
        subprotocol: what a client offers to choose it.
        text: whether its messages travel in text frames.
        encode: from a message to bytes.
    """

    __slots__ = ("encode", "name", "subprotocol", "text")

    def __init__(self, name: str, encode: Callable[[Any], bytes], *, text: bool) -> None:
        self.name = name
        self.subprotocol = f"wsflow.{name}"
        self.encode = encode
        self.text = text

    def decoder(self, kind: Any) -> Callable[[bytes], Any]:
        """A function from bytes to a value of type ``kind``."""
        return cast("Callable[[bytes], Any]", _NAMES[self.name].Decoder(kind).decode)

    def pack(self, message: object) -> Packed:
        """What carries ``message``: encoded, or raw for ``str`` and ``bytes``."""
        if isinstance(message, str):
            return message.encode(), True, True
        if isinstance(message, bytes | bytearray | memoryview):
            return bytes(message), False, True
        return self.encode(message), self.text, False

    def frame(self, message: object) -> Frame:
        """The frame that carries ``message`` to many."""
        return Frame(*self.pack(message))

    def __repr__(self) -> str:
        return f"<codec {self.name}>"


JSON = Codec("json", msgspec.json.Encoder().encode, text=True)
MSGPACK = Codec("msgpack", msgspec.msgpack.Encoder().encode, text=False)
CODECS: Mapping[str, Codec] = {codec.name: codec for codec in (JSON, MSGPACK)}


@final
class Decoding(Generic[T]):
    """What a path does with what it receives in one codec: decode, and find whose it is.

    Args:
        codec: the codec of the connection.
        kinds: the types that are decoded, each with its taker.
        text: the taker of raw text, if any.
        binary: the taker of raw binary, if any.
    """

    __slots__ = ("_binary", "_classes", "_fallback", "_text")

    def __init__(
        self, codec: Codec, kinds: Mapping[Any, T], text: T | None, binary: T | None
    ) -> None:
        decode = codec.decoder(Union[tuple(kinds)]) if kinds else None  # noqa: UP007
        self._text = (decode, None) if decode and codec.text else (None, text)
        self._binary = (decode, None) if decode and not codec.text else (None, binary)
        self._classes: dict[type, T] = {}
        self._fallback: T | None = None
        for kind, taker in kinds.items():
            for cls in runtime_classes(kind):
                if cls is object:
                    self._fallback = taker
                else:
                    self._classes[cls] = taker

    def __call__(self, data: bytes, text: bool) -> tuple[T, Any]:
        """Decode a payload: who takes it, and the message.

        Raises:
            BadMessage: it is not decodable or not of a declared type (1007), or of a kind of
                frame that no consumer takes (1003).
        """
        decode, taker = self._text if text else self._binary
        if decode is not None:
            message = decode_or_refuse(decode, data)
            found = self._classes.get(type(message), self._fallback)
            return cast("T", found), message
        if taker is not None:
            return taker, (decode_or_refuse(_utf8, data) if text else data)
        raise BadMessage(1003, f"no consumer takes {'text' if text else 'binary'} messages here")


def _utf8(data: bytes) -> str:
    return data.decode()


def decode_or_refuse(decode: Callable[[bytes], T], data: bytes) -> T:
    """The one boundary at which a peer's bytes become a message.

    Raises:
        BadMessage: for anything that decoding can raise. What is not the decoder's own
            verdict (an error in a ``__post_init__``) is its cause, for the log; the peer sees no
            word of it.
    """
    try:
        return decode(data)
    except msgspec.MsgspecError as exc:
        raise BadMessage(1007, str(exc)) from None
    except UnicodeDecodeError as exc:
        raise BadMessage(1007, f"not UTF-8 at byte {exc.start}") from None
    except RecursionError:
        raise BadMessage(1007, "nested too deeply") from None
    except Exception as exc:
        raise BadMessage(1007, "not a valid message") from exc


def runtime_classes(kind: Any) -> Iterable[type]:
    """The classes that values of a type have once decoded; ``object`` if any."""
    return _classes_of(inspect.type_info(kind))


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
