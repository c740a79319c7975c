"""The type of a topic: encoding messages for a broker, and decoding them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Union

import msgspec

from wsflow.messages.codec import CODECS, Codec, TooLargeError, decode_or_refuse
from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.events import Envelope, Event, TopicOptions, event_id_field
from wsflow.messages.shapes import runtime_classes

# The placeholder in an encoded payload until the broker has assigned the event's id. It is random,
# so that no message can contain it, neither by accident nor on purpose.
_ID_TOKEN = os.urandom(12).hex()


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
    codecs: tuple[Codec, ...]

    @property
    def classes(self) -> tuple[type, ...]:
        return _classes(self.types)

    def envelope(self, message: object, exclude: frozenset[str]) -> Envelope:
        """Encode a message, once per codec.

        A codec that has no integers as large as the message's is left out: its peers do not get it.

        Raises:
            TypeError: no codec can encode it.
        """
        token = None
        kind: Any = type(message)
        if self.options.history and (field := event_id_field(kind)):
            token = _ID_TOKEN
            change: Any = (
                msgspec.structs.replace
                if isinstance(message, msgspec.Struct)
                else dataclasses.replace
            )
            message = change(message, **{field: token})
        payloads: dict[str, EncodedMessage] = {}
        for number, codec in enumerate(self.codecs, 1):
            try:
                payloads[codec.name] = codec.encoded(message)
            except TooLargeError:
                if number == len(self.codecs) and not payloads:
                    raise
        return Envelope(payloads, exclude, token)

    def decode(self, event: Event) -> Any:
        """The message of an event, for loops over the topic in this process.

        Raises:
            UnreadableError: it has no payload in the topic's codec.
            BadMessage: it is of another type.
        """
        codec = self.codecs[0]
        encoded = event.encoded(codec.name)
        if encoded.raw:
            return encoded.payload.decode() if encoded.text else encoded.payload
        return decode_or_refuse(_decoder(codec.name, self.types), encoded.payload)


@lru_cache(maxsize=1024)
def _classes(types: tuple[Any, ...]) -> tuple[type, ...]:
    found = tuple({cls for kind in types for cls in runtime_classes(kind)})
    return (object,) if float in found and int not in found and len(found) == 1 else found


@lru_cache(maxsize=1024)
def _decoder(codec: str, types: tuple[Any, ...]) -> Callable[[bytes], Any]:
    return CODECS[codec].decoder(Union[types])  # noqa: UP007
