"""How much memory a message takes once it is decoded."""

from __future__ import annotations

from typing import Final

LIGHT: Final = 64
"""Bytes up to which a message is not weighed: an inbox counts its messages, too."""

HEAVY: Final = 256 * 1024
"""Bytes beyond which a decoded message is heavy: all connections have a bound for them together."""

LARGE: Final = 4096
"""Bytes on the wire that a heavy message has at least."""

PIECE: Final = 64
"""Bytes that a list, a dict, a key or an item of them takes, roughly, in CPython."""

_JSON: Final = b"[{,:"
_MSGPACK: Final = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
"""The first bytes of maps and arrays in MessagePack. Their items may be one byte each."""
_SLOT: Final = 8


def weight(data: bytes, message: object) -> int:
    """The bytes that a received message takes, about: an empty list in JSON is three bytes on the
    wire, and sixty-four decoded.

    Args:
        data: what was received.
        message: what it was decoded to.
    """
    if len(data) <= LIGHT or isinstance(message, str | bytes):
        return len(data)
    return estimated(data)


def estimated(data: bytes) -> int:
    """The same before it is decoded: at most so many bytes, about."""
    size = len(data)
    if data[0] >= 0x80:
        return size * _SLOT + PIECE * (size - len(data.translate(None, _MSGPACK)))
    return size + PIECE * (size - len(data.translate(None, _JSON)))
