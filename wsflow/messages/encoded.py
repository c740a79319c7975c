"""A message in bytes, on its way to many peers."""

from __future__ import annotations

from typing import final


@final
class EncodedMessage:
    """One message, encoded once for all who get it.

    Attributes:
        payload: its bytes.
        text: whether it goes as text or as binary.
        raw: whether it is a ``str`` or ``bytes`` as it is, and not encoded by a codec.
        wire: the bytes of its frame without an extension, once a transport has built them.
        forms: the same for peers that share an extension's parameters.
    """

    __slots__ = ("forms", "payload", "raw", "text", "wire")

    def __init__(self, payload: bytes, text: bool, raw: bool = False) -> None:
        self.payload = payload
        self.text = text
        self.raw = raw
        self.wire: bytes | None = None
        self.forms: dict[object, bytes] = {}
