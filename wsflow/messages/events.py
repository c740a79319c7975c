"""What a broker carries: the options of topics, envelopes, events."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal, final, get_args

import msgspec

from wsflow.messages.codec import BoundCodec
from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.families import marked_fields

WhenFull = Literal["close", "drop_oldest", "drop_newest", "latest"]

Carries = Literal["", "some", "all"]
CARRIES: tuple[Carries, ...] = get_args(Carries)

HISTORY_BYTES = 16 * 1024 * 1024
"""The default of ``history_bytes``."""


@dataclass(frozen=True, slots=True)
class TopicOptions:
    """The options of a topic: its history, and its policy for slow peers.

    Attributes:
        history: how many of the last events are kept for ``join(after=…)``; 0 keeps none.
        max_age: how many seconds an event is kept; 0 for no limit.
        history_bytes: how many bytes of events are kept; 0 for no limit. Without ``history`` it
            has no meaning.
        backlog: how many messages one peer may lag behind.
        when_full: what happens beyond that: ``close`` the connection with 1013, ``drop_oldest``,
            ``drop_newest``, or keep only the ``latest``.
        presence: the type of the members' presence, None if it is not declared.
        gap: the message that members are sent where they may have missed some, None if there is
            none.
        event_id: as a broker has stored it, whether messages carry their event id: ``"all"`` of
            them, ``"some"`` of the types, or ``""``.
        idle: how many seconds after the last event the history is forgotten; 0 for never.
    """

    history: int = 0
    max_age: float = 0
    history_bytes: int = HISTORY_BYTES
    backlog: int = 1024
    when_full: WhenFull = "close"
    presence: Any = None
    gap: Any = dataclasses.field(default=None, hash=False)
    event_id: Carries = ""
    idle: float = 0

    @property
    def lifetime(self) -> float:
        """Seconds after the last event after which the history has none any more; 0 for no
        limit."""
        return min(filter(None, (self.max_age, self.idle)), default=0)


class EventId:
    """Marks the field of a message type that carries its event id on a topic with history.

    ``id: Annotated[str, EventId()] = ""``. The broker assigns the id, and ``publish`` returns it.
    The published object is not changed. Elsewhere, on a topic without history or when it is sent to
    one peer, the field goes out as it is.
    """


def event_id_fields(kind: Any) -> list[tuple[str, Any, Any]]:
    """The fields of a message type that are marked with ``EventId()``, or with the class by
    mistake: each with its type and the mark."""
    return [
        (name, inner, mark)
        for name, inner, marks in marked_fields(kind)
        for mark in marks
        if mark is EventId or isinstance(mark, EventId)
    ]


@lru_cache(maxsize=1024)
def event_id_field(kind: Any) -> str | None:
    """The field of a message type that is marked with ``EventId()``."""
    return next((name for name, _, _ in event_id_fields(kind)), None)


UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no message."""


class UnreadableError(Exception):
    """A message from the broker is not one of wsflow's; the message says why."""


class MissingError(UnreadableError):
    """A message has come in another codec."""


class Target(msgspec.Struct, array_like=True, frozen=True):
    """Whose connections an envelope is for, if not everybody's; or which it closes. Those of other
    users, and other connections, do not learn of it.

    Attributes:
        user: the name of a user; ``""`` for the one connection.
        connection: the id of a connection; ``""`` for all of the user.
        code: the close code; 0 for a message.
        reason: the close reason.
    """

    user: str = ""
    connection: str = ""
    code: int = 0
    reason: str = ""


_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def _no_context() -> Mapping[str, str]:
    return _NOTHING


@dataclass(frozen=True, slots=True)
class Envelope:
    """A published message: a payload per codec.

    Attributes:
        payloads: per codec name, the encoded message.
        exclude: ids of connections that do not receive it.
        id_token: the placeholder of the event's id in the payloads, None if there is none.
        target: whom it is for; None for all members of the topic.
        clears: whether it is no message, and what came before it in the history is removed.
        context: what travels with it for traces.
    """

    payloads: Mapping[str, EncodedMessage]
    exclude: frozenset[str] = frozenset()
    id_token: str | None = None
    target: Target | None = None
    clears: bool = False
    context: Mapping[str, str] = dataclasses.field(default_factory=_no_context)


@final
class Event:
    """An envelope with the id that the broker has assigned; ``""`` on a topic without history."""

    __slots__ = ("_messages", "envelope", "id")

    def __init__(self, id: str, envelope: Envelope) -> None:
        self.id = id
        self.envelope = envelope
        self._messages: Mapping[str, EncodedMessage]
        self._messages = envelope.payloads if envelope.id_token is None else {}

    def encoded(self, codec: BoundCodec) -> EncodedMessage:
        """The message for peers of this codec, with the event's id; built once.

        Raises:
            MissingError: there is no payload in this codec.
        """
        message = self._messages.get(codec.name)
        if message is None:
            raw = self.envelope.payloads.get(codec.name)
            if raw is None:
                raise MissingError(f"it has no payload in {codec.name}")
            payload = codec.with_id(raw.payload, self.envelope.id_token or "", self.id)
            message = EncodedMessage(payload, raw.text, raw.raw)
            self._messages = {**self._messages, codec.name: message}
        return message

    def add(
        self, codec: BoundCodec, decoder_of: Callable[[str], Callable[[bytes], Any]]
    ) -> EncodedMessage:
        """Encode the message in a codec in which it has not come.

        Args:
            codec: the codec.
            decoder_of: returns what decodes the message, by the name of a codec.

        Raises:
            UnreadableError: it has come in none that can be read, or cannot be encoded.
        """
        payloads = self.envelope.payloads
        name, raw = next(iter(payloads.items()), ("", None))
        if raw is None:
            raise UnreadableError("it has no payload")
        try:
            new = raw if raw.raw else codec.encoded(decoder_of(name)(raw.payload))
        except Exception as exc:  # of msgspec, or of the type's own code
            raise UnreadableError(f"it cannot be encoded as {codec.name}: {exc}") from None
        added = {**payloads, codec.name: new}
        self.envelope = dataclasses.replace(self.envelope, payloads=added)
        if self.envelope.id_token is None:
            self._messages = added
        return self.encoded(codec)
