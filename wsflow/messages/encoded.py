"""An encoded message for many peers."""

from __future__ import annotations

from typing import final


@final
class EncodedMessage:
    """One message, encoded once for all its receivers.

    Attributes:
        payload: its bytes.
        text: whether it is sent as text or as binary.
        raw: whether it is a raw ``str`` or ``bytes``, not encoded by a codec.
        wire: the bytes of its frame without an extension, once a transport has built them.
        forms: the bytes of its frame by the parameters of an extension.
    """

    __slots__ = ("forms", "payload", "raw", "text", "wire")

    def __init__(self, payload: bytes, text: bool, raw: bool = False) -> None:
        self.payload = payload
        self.text = text
        self.raw = raw
        self.wire: bytes | None = None
        self.forms: dict[object, bytes] = {}
