"""What is published on a topic, on its way through a broker: options, envelopes, events."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, final, get_args, get_origin, get_type_hints

import msgspec

from wsflow.messages.codec import CODECS
from wsflow.messages.encoded import EncodedMessage

WhenFull = Literal["close", "drop_oldest", "drop_newest", "latest"]


@dataclass(frozen=True, slots=True)
class TopicOptions:
    """How a topic treats those who lag, and what it keeps.

    Attributes:
        history: how many of the last events are kept for ``join(after=…)``; 0 keeps none.
        max_age: how many seconds an event is kept; 0 for no limit.
        backlog: how many messages one peer may lag behind.
        when_full: what happens beyond that: ``close`` the connection with 1013, ``drop_oldest``,
            ``drop_newest``, or keep only the ``latest``.
        presence: the type of what connections join with, None if that is not declared.
    """

    history: int = 0
    max_age: float = 0
    backlog: int = 1024
    when_full: WhenFull = "close"
    presence: Any = None


class EventId:
    """Marks the field of a message type that carries its event id on a topic with history.

    ``id: Annotated[str, EventId()] = ""``. The broker assigns the id; the published object is not
    changed, and ``publish`` returns it.
    """


@lru_cache(maxsize=1024)
def event_id_field(kind: Any) -> str | None:
    """The field of a Struct or dataclass that is marked with ``EventId()``."""
    if not (issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind)):
        return None
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if get_origin(hint) is Annotated and any(
            isinstance(mark, EventId) for mark in get_args(hint)[1:]
        ):
            return name
    return None


class UnreadableError(Exception):
    """What came from the broker is nothing that wsflow has sent: why."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A published message on its way: a payload per codec.

    Attributes:
        payloads: per codec name, the message as it goes to the peers.
        exclude: ids of connections that do not get it.
        id_token: what stands in the payloads where the event's id belongs, None if nowhere.
    """

    payloads: Mapping[str, EncodedMessage]
    exclude: frozenset[str] = frozenset()
    id_token: str | None = None


@final
class Event:
    """An envelope with the id that the broker gave it; ``""`` on a topic without history."""

    __slots__ = ("_messages", "envelope", "id")

    def __init__(self, id: str, envelope: Envelope) -> None:
        self.id = id
        self.envelope = envelope
        self._messages: Mapping[str, EncodedMessage]
        self._messages = envelope.payloads if envelope.id_token is None else {}

    def encoded(self, codec: str) -> EncodedMessage:
        """The message for peers of this codec, made once, with the id in its place.

        Raises:
            UnreadableError: there is no payload for them.
        """
        message = self._messages.get(codec)
        if message is None:
            raw = self.envelope.payloads.get(codec)
            if raw is None:
                raise UnreadableError(f"it has no payload in {codec}")
            encode = CODECS[codec].encode
            payload = raw.payload.replace(encode(self.envelope.id_token), encode(self.id), 1)
            message = EncodedMessage(payload, raw.text, raw.raw)
            self._messages = {**self._messages, codec: message}
        return message
