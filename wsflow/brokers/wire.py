"""The format of messages at the broker: a small versioned header, and one payload per codec.

A MessagePack array: version, sender, number, whether it is sent again, excluded ids, the
placeholder of the event's id, and per codec the payload with its kind. A payload has the exact
bytes that are sent to the peers.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.events import UNREADABLE, Envelope, UnreadableError

VERSION: Literal[1] = 1
MAX_SIZE = 64 * 1024 * 1024
"""Bytes of the largest message that is accepted from a broker."""

_TEXT, _RAW = 1, 2


class Packet(msgspec.Struct, array_like=True, frozen=True):
    """A published message at the broker.

    Attributes:
        version: version of this format.
        sender: the process that has published it.
        number: its number among those of the sender, to deduplicate it.
        again: whether an earlier attempt to publish it may have been successful.
        exclude: ids of connections that do not receive it.
        token: the placeholder of the event's id in the payloads, "" if there is none.
        payloads: per codec, the kind and the bytes.
    """

    version: Literal[1]
    sender: str
    number: int
    again: bool
    exclude: list[str]
    token: str
    payloads: dict[str, tuple[int, bytes]]

    @property
    def envelope(self) -> Envelope:
        payloads = {
            codec: EncodedMessage(payload, bool(kind & _TEXT), bool(kind & _RAW))
            for codec, (kind, payload) in self.payloads.items()
        }
        return Envelope(payloads, frozenset(self.exclude), self.token or None)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Packet).decode


def pack(envelope: Envelope, sender: str, number: int, again: bool) -> bytes:
    """Encode a message for the broker."""
    payloads = {
        codec: (_TEXT * message.text | _RAW * message.raw, message.payload)
        for codec, message in envelope.payloads.items()
    }
    token = envelope.id_token or ""
    return _encode(Packet(VERSION, sender, number, again, list(envelope.exclude), token, payloads))


def unpack(data: bytes) -> Packet:
    """Decode a message from the broker.

    Raises:
        UnreadableError: the bytes are not a message of this format, or too many, or it has a text
            that is not UTF-8, which no peer takes.
    """
    if len(data) > MAX_SIZE:
        raise UnreadableError(f"{len(data)} bytes, more than {MAX_SIZE}")
    try:
        packet = _decode(data)
        for kind, payload in packet.payloads.values():
            if kind & _TEXT and not payload.isascii():
                payload.decode()
        return packet
    except UNREADABLE as exc:
        raise UnreadableError(f"{exc}") from None
