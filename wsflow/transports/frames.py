"""Frames that a server sends (RFC 6455 §5.2).

::

      0                   1                   2                   3
      0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
     +-+-+-+-+-------+-+-------------+-------------------------------+
     |F|R|R|R| opcode|M| payload len |  16 bits if len is 126,       |
     |I|S|S|S|  (4)  |A|     (7)     |  64 bits if len is 127        |
     |N|V|V|V|       |S|             |                               |
     +-+-+-+-+-------+-+-------------+-------------------------------+

A server does not mask, so one frame serves every peer: it is built once and the same bytes are
written to all.
"""

from __future__ import annotations

from typing import final

_TEXT = 0x81  # FIN and opcode 1
_BINARY = 0x82  # FIN and opcode 2


@final
class Frame:
    """One whole message on its way out.

    Attributes:
        payload: the message's bytes.
        text: whether it goes as text or as binary.
        raw: whether it is a ``str`` or ``bytes`` as it is, and not encoded by a codec.
    """

    __slots__ = ("_wire", "payload", "raw", "text")

    def __init__(self, payload: bytes, text: bool, raw: bool = False) -> None:
        self.payload = payload
        self.text = text
        self.raw = raw
        self._wire: bytes | None = None

    @property
    def wire(self) -> bytes:
        """The frame's bytes, unmasked and uncompressed, built on first use."""
        wire = self._wire
        if wire is None:
            size = len(self.payload)
            head = _TEXT if self.text else _BINARY
            if size < 126:
                header = bytes((head, size))
            elif size < 65536:
                header = bytes((head, 126)) + size.to_bytes(2, "big")
            else:
                header = bytes((head, 127)) + size.to_bytes(8, "big")
            wire = self._wire = header + self.payload
        return wire
