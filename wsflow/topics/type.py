"""The type of a topic: encoding messages for a broker, and decoding them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Union

import msgspec

from wsflow.messages.codec import (
    CODECS,
    BoundCodec,
    TooLargeError,
    decode_or_refuse,
    decoder_for,
)
from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.events import (
    Carries,
    Envelope,
    Event,
    MissingError,
    TopicOptions,
    UnreadableError,
    event_id_field,
)
from wsflow.messages.families import replaced
from wsflow.messages.shapes import exact_structs, runtime_classes, sure_classes

# The placeholder in an encoded payload until the broker has assigned the event's id. It is random,
# so that no message can contain it, neither by accident nor on purpose.
_ID_TOKEN = os.urandom(12).hex()

_RAW = ((str,), (bytes, bytearray, memoryview))


@dataclass(frozen=True, slots=True)
class TopicType:
    """The message types of a topic, its options and its codecs.

    Attributes:
        types: the message types.
        options: its options.
        codecs: the codecs that events are encoded in.
    """

    types: tuple[Any, ...]
    options: TopicOptions
    codecs: tuple[BoundCodec, ...]

    @property
    def carries_id(self) -> Carries:
        """Which of the messages carry their event id."""
        found = [event_id_field(cls) is not None for cls in _classes(self.types)]
        return "all" if all(found) else "some" if any(found) else ""

    def check(self, name: str, message: object) -> object:
        """Check that a message is of the topic's type: that msgspec decodes one from it.

        An instance of a Struct, a dataclass or a model among the types is right, and so is a value
        of a type like ``int`` that has no constraint: nothing more is looked at. All else is
        encoded and decoded.

        Returns:
            The message; decoded if otherwise the place of its event id were not known.

        Raises:
            TypeError: it is not.
        """
        if type(message) in _sure(self.types) or object in (classes := _classes(self.types)):
            return message
        raw = next((raw for raw in _RAW if isinstance(message, raw)), None)
        try:
            if raw is None:
                return self._decoded(message)
            why = ""
            if any(cls in raw for cls in classes):  # it is sent as it is, not encoded
                msgspec.convert(message, Union[self.types])  # noqa: UP007
                return message
        except msgspec.ValidationError as exc:
            why = f": {exc}"
        names = " | ".join(getattr(kind, "__name__", str(kind)) for kind in self.types)
        raise TypeError(f"topic {name!r} carries {names}, not {type(message).__name__}{why}")

    def _decoded(self, message: Any) -> object:
        for codec in self.codecs:
            try:
                encoded = codec.encode(message)
            except OverflowError:  # another one may have integers as large
                continue
            decoded: object = decoder_for(codec, *self.types)(encoded)
            lacks_id = self.carries_id and event_id_field(message.__class__) is None
            return decoded if lacks_id else message
        return message  # encoding it says so

    def envelope(
        self, message: object, exclude: frozenset[str], spoken: Collection[str] = ()
    ) -> Envelope:
        """Encode a message, once per codec: in the first one, and in those that are ``spoken``
        here. Whoever needs another one encodes the message anew, if that gives the same; else it is
        encoded in each.

        A codec that has no integers as large as the message's is left out: its peers do not get it.

        Raises:
            TypeError: no codec can encode it.
        """
        codecs = self.codecs
        if len(codecs) > 1 and type(message) in _exact(self.types):
            codecs = tuple(each for each in codecs if each is codecs[0] or each.name in spoken)
        token = None
        kind: Any = type(message)
        if self.options.history and event_id_field(kind):
            token = _ID_TOKEN
            message = with_id(message, token)
        payloads: dict[str, EncodedMessage] = {}
        for number, codec in enumerate(codecs, 1):
            try:
                payloads[codec.name] = codec.encoded(message)
            except TooLargeError:
                if number == len(codecs) and not payloads:
                    raise
        return Envelope(payloads, exclude, token)

    def encoded(self, event: Event, codec: BoundCodec) -> EncodedMessage:
        """The message of an event for peers of a codec; encoded anew if it has come in another one.

        Raises:
            UnreadableError: it cannot be encoded in that codec.
        """
        try:
            return event.encoded(codec)
        except MissingError:
            return event.add(codec, self._decoder_of)

    def _decoder_of(self, codec: str) -> Callable[[bytes], Any]:
        known = {**CODECS, **{each.name: each for each in self.codecs}}
        if codec not in known:
            raise UnreadableError(f"no path of this process has the codec {codec}")
        return decoder_for(known[codec], *(self.types if _exact(self.types) else (object,)))

    def decode(self, event: Event) -> Any:
        """The message of an event, for loops over the topic in this process.

        Raises:
            UnreadableError: it has no payload in the topic's codec.
            BadMessage: it is of another type.
        """
        codec = self.codecs[0]
        encoded = event.encoded(codec)
        if encoded.raw:
            return encoded.payload.decode() if encoded.text else encoded.payload
        return decode_or_refuse(decoder_for(codec, *self.types), encoded.payload)


def with_id(message: Any, id: str) -> Any:
    """A message with its event id, if it carries one."""
    kind: Any = type(message)
    field = event_id_field(kind)
    if field is None:
        return message
    return replaced(message, **{field: id})


@lru_cache(maxsize=1024)
def _classes(types: tuple[Any, ...]) -> tuple[type, ...]:
    return tuple({cls for kind in types for cls in runtime_classes(kind)})


@lru_cache(maxsize=1024)
def _sure(types: tuple[Any, ...]) -> frozenset[type]:
    """The classes whose every instance is of one of the types."""
    return frozenset(cls for kind in types for cls in sure_classes(kind))


def _exact(types: tuple[Any, ...]) -> frozenset[type]:
    """The classes whose instances can be encoded anew by who has them in another codec. There are
    none any more once a Struct among them has a subclass."""
    classes, structs = _parts(types)
    return frozenset() if any(each.__subclasses__() for each in structs) else classes


@lru_cache(maxsize=1024)
def _parts(types: tuple[Any, ...]) -> tuple[frozenset[type], frozenset[type]]:
    """These classes, and the Structs within them."""
    found = [exact_structs(kind) for kind in types]
    if None in found:
        return frozenset(), frozenset()
    return frozenset(_classes(types)), frozenset().union(*(each or () for each in found))
