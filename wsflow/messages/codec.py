"""Encoding and decoding of messages, compiled once per set of types.

JSON is sent in text frames and MessagePack in binary ones. Payloads are decoded from bytes and
encoded to bytes, without an intermediate ``str``. ``str`` and ``bytes`` messages are not encoded:
they are the payload of a raw text or binary frame. A ``Codec`` of others encodes plain values, to
which msgspec converts messages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import (
    Any,
    Final,
    Generic,
    Protocol,
    TypeVar,
    Union,
    cast,
    final,
    is_typeddict,
    runtime_checkable,
)

import msgspec

from wsflow.messages.apart import Decode, NotAnObjectError, decoder_of, tag_field
from wsflow.messages.calls import EXPECT_ANSWERS, answer_type, class_of, with_raw, without_raw
from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.families import is_model, members, model_of, model_of_json, tags_of
from wsflow.messages.hooks import NO_HOOKS, HookError, Hooks
from wsflow.messages.shapes import Shapes, has_raw, runtime_classes, takes_the_rest

T = TypeVar("T")
_RAW: Final = (bytes, bytearray, memoryview)
"""What is sent as it is, beside ``str``."""

_BINARY: Final = (bytes, bytearray)
"""What a codec of binary frames encodes as it is."""

Packed = tuple[bytes, bool, bool]
"""A payload, whether it is sent as text, and whether it is raw."""

Packing = tuple[Callable[[Any], bytes], bool, bool]
"""What makes the payload of messages of a class, and the rest of ``Packed``. It raises an
OverflowError for an integer that cannot be encoded."""

MAX_PACKINGS = 1024
"""For how many message classes a codec keeps that."""


@runtime_checkable
class Codec(Protocol):
    """An encoding of messages of your own: ``Router(codec=CBOR())``.

    Messages are converted from and to plain values: None, bool, int, float, str, list, dict, and
    bytes if it is not text. What ``decode`` raises refuses the message, with 1007.

    Attributes:
        name: its name. A client chooses it with the subprotocol ``wsflow.<name>``.
        text: whether its messages are sent in text frames; they are UTF-8 then.
    """

    @property
    def name(self) -> str: ...
    @property
    def text(self) -> bool: ...
    def encode(self, value: Any, /) -> bytes:
        """Encode a plain value."""

    def decode(self, data: bytes, /) -> Any:
        """Decode a plain value.

        Raises:
            Exception: it is malformed.
        """


class BadMessage(Exception):
    """The peer has sent a message that is not accepted.

    Attributes:
        code: the close code: 1007 if it cannot be decoded, 1003 if no consumer takes its kind of
            frame, 1008 if it violates the rules of calls, or a rate limit; 1011 if a hook has
            failed, which is no fault of the peer.
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


@final
class _Native:
    """JSON or MessagePack, by msgspec: from bytes to messages, with nothing in between."""

    def __init__(self, name: str, hooks: Hooks) -> None:
        module: Any = getattr(msgspec, name)
        self._decoder = module.Decoder
        self._json = name == "json"
        self._hooks = hooks
        self.encode: Callable[[Any], bytes] = module.Encoder(enc_hook=hooks.encode).encode
        self.untyped: Decode[bytes] = module.Decoder().decode

    def decoder(self, kinds: tuple[Any, ...]) -> Decode[bytes]:
        return decoder_of(kinds, self)

    def one(self, kind: Any) -> Decode[bytes]:
        model = class_of(kind)
        if not is_model(model):
            return self.whole((kind,))
        if self._json:
            return lambda data: model_of_json(model, bytes(data))
        return lambda data: model_of(model, self.untyped(data))

    def whole(self, kinds: tuple[Any, ...]) -> Decode[bytes]:
        found = self._decoder(Union[kinds], dec_hook=self._hooks.decode).decode  # noqa: UP007
        return cast("Decode[bytes]", found)

    def tag(self, field: str) -> Decode[bytes]:
        tagged = msgspec.defstruct("Tagged", [("tag", Any, None)], rename={"tag": field})
        decode = self._decoder(tagged).decode

        def tag_of(data: bytes) -> Any:
            try:
                return decode(data).tag
            except msgspec.ValidationError as exc:
                raise NotAnObjectError(str(exc)) from None

        return tag_of


@final
class Plain:
    """Messages from plain values.

    Args:
        hooks: the hooks.
        encode: encodes what is not decoded yet, of call frames.
        strict: whether a text is no number.
    """

    def __init__(
        self, hooks: Hooks, encode: Callable[[Any], bytes], *, strict: bool = True
    ) -> None:
        self._hooks = hooks
        self._encode = encode
        self._strict = strict

    def one(self, kind: Any) -> Decode[Any]:
        model = class_of(kind)
        return partial(model_of, model) if is_model(model) else self.whole((kind,))

    def whole(self, kinds: tuple[Any, ...]) -> Decode[Any]:
        plain = tuple(map(without_raw, kinds))
        frames = {each: kind for each, kind in zip(plain, kinds, strict=True) if each is not kind}
        union: Any = Union[plain]  # noqa: UP007

        def convert(value: Any) -> Any:
            hook = self._hooks.decode
            message = msgspec.convert(value, union, strict=self._strict, dec_hook=hook)
            frame = frames.get(type(message))
            return message if frame is None else with_raw(frame, message, self._encode)

        return convert

    def tag(self, field: str) -> Decode[Any]:
        def tag_of(value: Any) -> Any:
            if isinstance(value, dict):
                return value.get(field)
            raise NotAnObjectError(f"Expected `object`, got `{type(value).__name__}`")

        return tag_of


@final
class _OfValues:
    """A ``Codec``: from bytes to plain values, and from these to messages."""

    def __init__(self, codec: Codec, hooks: Hooks) -> None:
        self._codec = codec
        self._hooks = hooks
        self._builtin = () if codec.text else _BINARY
        self._plain = Plain(hooks, self.encode)

    def encode(self, message: Any) -> bytes:
        value = msgspec.to_builtins(message, builtin_types=self._builtin, enc_hook=self._value)
        data: object = self._codec.encode(value)
        if not isinstance(data, bytes):
            raise TypeError(
                f"the codec {self._codec.name!r} has encoded a message to "
                f"{type(data).__name__}, and not to bytes"
            )
        return data

    def _value(self, value: Any) -> Any:
        if isinstance(value, msgspec.Raw):
            return self.untyped(bytes(value))
        return self._hooks.encode(value)

    def untyped(self, data: bytes) -> Any:
        try:
            return self._codec.decode(bytes(data))
        except Exception as exc:
            raise msgspec.DecodeError(f"not valid {self._codec.name}") from exc

    def decoder(self, kinds: tuple[Any, ...]) -> Decode[bytes]:
        if kinds == (msgspec.Raw,):
            return self._raw
        convert: Decode[Any] = decoder_of(kinds, self._plain)
        return lambda data: convert(self.untyped(data))

    def _raw(self, data: bytes) -> msgspec.Raw:
        self.untyped(data)
        return msgspec.Raw(data)


@final
class BoundCodec:
    """A codec, as the paths use it that have the same hooks.

    Attributes:
        codec: ``"json"``, ``"msgpack"`` or a ``Codec``.
        hooks: its hooks.
        name: its name.
        subprotocol: the subprotocol by which a client chooses it.
        text: whether its messages are sent in text frames.
        encode: encodes a message to bytes.
        untyped: decodes bytes to whatever they are: to look at them.
    """

    __slots__ = (
        "_format",
        "_packings",
        "codec",
        "encode",
        "hooks",
        "name",
        "subprotocol",
        "text",
        "untyped",
    )

    def __init__(self, codec: str | Codec, hooks: Hooks = NO_HOOKS) -> None:
        self.codec = codec
        self.hooks = hooks
        self._format: _Native | _OfValues
        if isinstance(codec, str):
            self.name = codec
            self.text = codec == "json"
            self._format = _Native(codec, hooks)
        else:
            self.name = codec.name
            self.text = codec.text
            self._format = _OfValues(codec, hooks)
        self.subprotocol = f"wsflow.{self.name}"
        self.encode: Callable[[Any], bytes] = self._format.encode
        self.untyped: Decode[bytes] = self._format.untyped
        self._packings: dict[type, Packing] = {}

    @property
    def is_native(self) -> bool:
        """Whether it is one of msgspec's."""
        return isinstance(self.codec, str)

    def decoder(self, *kinds: Any) -> Callable[[bytes], Any]:
        """A function that decodes bytes to a value of one of the types.

        Raises:
            TypeError: they cannot be told apart.
        """
        return self._format.decoder(tuple(part for kind in kinds for part in members(kind)))

    def with_id(self, payload: bytes, token: str, id: str) -> bytes:
        """A payload whose event id is ``id``, in place of ``token``."""
        if self.is_native:
            return payload.replace(self.encode(token), self.encode(id), 1)
        message = self.untyped(payload)  # it may say somewhere how long it is
        return self.encode({key: id if each == token else each for key, each in message.items()})

    def pack(self, message: object) -> Packed:
        """Encode ``message``; ``str`` and ``bytes`` are raw.

        Raises:
            TypeError: msgspec cannot encode it, or it is a Call or a Stream, which must be sent
                inside a call frame.
        """
        if isinstance(message, str):
            return message.encode(), True, True
        encode, text, raw = self._packings.get(type(message)) or self.packing(type(message))
        try:
            return encode(message), text, raw
        except OverflowError as exc:
            raise TooLargeError(self.name, exc) from None

    def packing(self, kind: type) -> Packing:
        """How messages of a class are packed.

        Raises:
            TypeError: they must be sent inside a call frame.
        """
        found = self._packings.get(kind)
        if found is not None:
            return found
        if issubclass(kind, str):
            found = str.encode, True, True
        elif issubclass(kind, _RAW):
            found = bytes, False, True
        elif issubclass(kind, EXPECT_ANSWERS):
            raise TypeError(f"{kind.__name__} expects an answer: send it with call(…) or stream(…)")
        else:
            found = self.encode, self.text, False
        if len(self._packings) > MAX_PACKINGS:
            self._packings.clear()  # classes that are created dynamically must not accumulate
        self._packings[kind] = found
        return found

    def encoded(self, message: object) -> EncodedMessage:
        """Encode ``message`` once for many peers.

        Raises:
            TypeError: as ``pack``.
        """
        return EncodedMessage(*self.pack(message))

    def __repr__(self) -> str:
        return f"<codec {self.name}>"


JSON = BoundCodec("json")
MSGPACK = BoundCodec("msgpack")
CODECS: Mapping[str, BoundCodec] = {codec.name: codec for codec in (JSON, MSGPACK)}


def bound(codec: str | Codec, hooks: Hooks) -> BoundCodec:
    """A codec with hooks."""
    if isinstance(codec, str) and hooks is NO_HOOKS:
        return CODECS[codec]
    return BoundCodec(codec, hooks)


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
        taker: the taker of a message, by its class; of a TypedDict, which is a dict like any other,
            by its tag. None for a call frame.
    """

    __slots__ = (
        "_asked",
        "_classes",
        "_codec",
        "_dicts",
        "_fallback",
        "_named",
        "_shapes",
        "binary",
        "calls",
        "taker",
        "text",
    )

    def __init__(
        self,
        codec: BoundCodec,
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
        field = tag_field((*typed, *call_frames))
        self._named = Shapes(typed, field)
        self._asked = Shapes(asked, field)
        self._shapes = Shapes((*typed, *call_frames), field)
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
        self._dicts = {
            tag: kinds[kind]
            for kind in typed
            if is_typeddict(class_of(kind))
            for tag in tags_of(kind).get(field or "", ())
        }
        self.taker: Callable[[object], T | None] = self._by_tag if self._dicts else self._by_class
        self._classes: dict[type, T | None] = dict.fromkeys(call_frames)
        self._fallback: T | None = None
        for kind, taker in kinds.items():
            for cls in runtime_classes(kind):
                if cls is object:
                    self._fallback = taker
                else:
                    self._classes[cls] = taker

    def is_sure(self, cls: type) -> bool:
        """Whether all messages of a class have the same taker."""
        return cls is not dict or not self._dicts

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

    def _by_class(self, message: object) -> T | None:
        return self._classes.get(type(message), self._fallback)

    def _by_tag(self, message: object) -> T | None:
        if type(message) is dict and (tag := self._shapes.tag_of(message)) in self._dicts:
            return self._dicts[tag]
        return self._by_class(message)


def _decoder(
    codec: BoundCodec, typed: tuple[Any, ...], rest: Sequence[Any], shapes: Shapes
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
    first: Callable[[bytes], Any], rest: Callable[[bytes], Any], shapes: Shapes, codec: BoundCodec
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


def _decoder_of_rest(codec: BoundCodec, rest: Sequence[Any]) -> Callable[[bytes], Any]:
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
        reason, *places = str(exc).split(" - at `")  # a hook's is within msgspec's
        within = [each.removesuffix("`").partition("$")[2] for each in reversed(places)]
        bad = BadMessage(1007, reason, "$" + "".join(within))
        if type(exc) is msgspec.DecodeError:
            bad.__cause__ = exc.__cause__  # of the code of a codec
        return bad
    if isinstance(exc, HookError):
        bad = BadMessage(1011, "")
        bad.__cause__ = exc.__cause__
        return bad
    if isinstance(exc, UnicodeDecodeError):
        return BadMessage(1007, f"not UTF-8 at byte {exc.start}")
    if isinstance(exc, RecursionError):
        return BadMessage(1007, "nested too deeply")
    bad = BadMessage(1007, "not a valid message")
    bad.__cause__ = exc
    return bad


@lru_cache(maxsize=1024)
def decoder_for(codec: BoundCodec, *kinds: Any) -> Callable[[Any], Any]:
    """``codec.decoder``, for types that are asked for again."""
    return codec.decoder(*kinds)


def answer_decoder(kind: Any, codec: BoundCodec) -> Callable[[Any], Any]:
    """The decoder of the answers to messages of a type."""
    return decoder_for(codec, answer_type(kind))
