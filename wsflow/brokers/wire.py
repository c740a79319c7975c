"""The format of messages at the broker: a small versioned header, and one payload per codec.

A MessagePack array: version, sender, number, whether it is sent again, excluded ids, the
placeholder of the event's id, per codec the payload with its kind, whom it is for, and what travels
with it for traces. A payload has the exact bytes that are sent to the peers.

Fields are added at the end, with a default: a reader ignores those that it does not know. What it
must not ignore has a version of its own: a reader that knows only version 1 would give what is for
one user to all, and must not take for a message what is none.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from wsflow.end import check_close_code
from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.events import UNREADABLE, Envelope, Target, UnreadableError

VERSION: Literal[1] = 1
TARGETED: Literal[2] = 2
"""The version of what is not for all members of its topic."""
CLEARS: Literal[3] = 3
"""The version of what is no message: the history begins anew with it."""
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
        target: whom it is for, in version 2; None for all members of the topic.
        context: what travels with it for traces.
    """

    version: Literal[1, 2, 3]
    sender: str
    number: int
    again: bool
    exclude: list[str]
    token: str
    payloads: dict[str, tuple[int, bytes]]
    target: Target | None = None
    context: dict[str, str] = {}

    @property
    def envelope(self) -> Envelope:
        payloads = {
            codec: EncodedMessage(payload, bool(kind & _TEXT), bool(kind & _RAW))
            for codec, (kind, payload) in self.payloads.items()
        }
        return Envelope(
            payloads,
            frozenset(self.exclude),
            self.token or None,
            self.target,
            clears=self.version == CLEARS,
            context=self.context,
        )


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Packet).decode


def pack(envelope: Envelope, sender: str, number: int, again: bool) -> bytes:
    """Encode a message for the broker."""
    payloads = {
        codec: (_TEXT * message.text | _RAW * message.raw, message.payload)
        for codec, message in envelope.payloads.items()
    }
    target = envelope.target
    packet = Packet(
        CLEARS if envelope.clears else VERSION if target is None else TARGETED,
        sender,
        number,
        again,
        list(envelope.exclude),
        envelope.id_token or "",
        payloads,
        target,
        dict(envelope.context),
    )
    return _encode(packet)


def unpack(data: bytes) -> Packet:
    """Decode a message from the broker.

    Raises:
        UnreadableError: the bytes are not a message of this format, or too many; or it has a text
            that is not UTF-8, or a close code that may not be sent, which no peer takes.
    """
    if len(data) > MAX_SIZE:
        raise UnreadableError(f"{len(data)} bytes, more than {MAX_SIZE}")
    try:
        packet = _decode(data)
        for kind, payload in packet.payloads.values():
            if kind & _TEXT and not payload.isascii():
                payload.decode()
        if (packet.target is None) is (packet.version == TARGETED):
            raise UnreadableError(f"version {packet.version}, and it is for {packet.target}")
        if packet.payloads and packet.version == CLEARS:
            raise UnreadableError(f"version {packet.version}, and it has a payload")
        if packet.target is not None and packet.target.code:
            check_close_code(packet.target.code)
        return packet
    except (*UNREADABLE, ValueError) as exc:
        raise UnreadableError(f"{exc}") from None
