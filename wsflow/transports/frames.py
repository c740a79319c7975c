"""Frames on the fast path (RFC 6455 §5.2): those that carry one complete, small message, and
control frames between messages.

::

      0                   1                   2                   3
      0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
     +-+-+-+-+-------+-+-------------+-------------------------------+
     |F|R|R|R| opcode|M| payload len |    Extended payload length    |
     |I|S|S|S|  (4)  |A|     (7)     |  16 bits if payload len is 126|
     |N|V|V|V|       |S|             |  64 bits if payload len is 127|
     | |1|2|3|       |K|             |                               |
     +-+-+-+-+-------+-+-------------+-------------------------------+
     |            Masking key, 32 bits, if MASK is set               |
     +---------------------------------------------------------------+
     |                         Payload data                          |
     +---------------------------------------------------------------+

Most frames have 0x81 or 0x82 as their first byte (FIN set, RSV bits not set, opcode text or
binary), a length of at most 16 bits, and MASK set if a client sends them, not set if a server does.
``split`` parses such frames, and ``control`` the control frames between those of a client. They
stop at the first other frame, which is for the protocol of ``websockets``: fragments and what comes
between them, compressed and long messages, and malformed data. ``Boundary`` finds where such a
frame ends, and where the fast path may continue.

A server does not mask, so one frame serves every peer: it is built once (``EncodedMessage.wire``),
and the same bytes are written to all.

This module may be compiled by mypyc; it works the same without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # the library's extension module is not available
    from websockets.utils import apply_mask

TEXT: Final = 0x81  # FIN and opcode 1
BINARY: Final = 0x82  # FIN and opcode 2
CLOSE: Final = 0x88  # FIN and opcode 8
PING: Final = 0x89
PONG: Final = 0x8A
MASKED: Final = 0x80  # MASK is set: what a client sends
UNMASKED: Final = 0
_16_BITS: Final = 126
_64_BITS: Final = 127

_SMALL_TEXT: Final = [bytes((TEXT, size)) for size in range(_16_BITS)]
_SMALL_BINARY: Final = [bytes((BINARY, size)) for size in range(_16_BITS)]

BATCH: Final = 64
"""The most messages that are parsed at once, since a receiver may take only a part of them."""

Found = tuple[bytes, bool, int]
"""A message's payload, whether it is text, and where its frame ends."""


def split(data: bytes, start: int, mask: int, largest: int, found: list[Found]) -> int:
    """Parse complete messages in ``data``.

    Args:
        data: what was read.
        start: where a frame begins.
        mask: ``MASKED`` or ``UNMASKED``; others are not parsed.
        largest: the largest payload that is parsed, in bytes.
        found: the messages are appended here.

    Returns:
        Where the first frame begins that was not parsed: it is incomplete, or not for the fast
        path, or ``BATCH`` messages were parsed.
    """
    end = len(data)
    least = 6 if mask else 2
    last = end - least
    for _ in range(BATCH):
        if start > last:
            break
        first = data[start]
        if first != TEXT and first != BINARY:
            break
        size = data[start + 1] ^ mask
        begin = start + least
        if size >= _16_BITS:
            if size != _16_BITS or end - begin < 2:
                break
            size = (data[start + 2] << 8) | data[start + 3]
            begin += 2
        stop = begin + size
        if stop > end or size > largest:
            break
        payload = data[begin:stop]
        if mask:
            payload = apply_mask(payload, data[begin - 4 : begin])
        found.append((payload, first == TEXT, stop))
        start = stop
    return start


def only(data: bytes, mask: int, largest: int) -> Found | None:
    """The message, if ``data`` is one frame for ``split`` and nothing else, as most often it is.
    In fewer steps than that."""
    end = len(data)
    if end < 4:
        return None
    text = data[0] == TEXT
    if not text and data[0] != BINARY:
        return None
    size = data[1] ^ mask
    begin = 6 if mask else 2
    if size >= _16_BITS:
        if size != _16_BITS:
            return None
        size = (data[2] << 8) | data[3]
        begin += 2
    if begin + size != end or size > largest:
        return None
    payload = data[begin:]
    if mask:
        payload = apply_mask(payload, data[begin - 4 : begin])
    return payload, text, end


def waits(data: bytes, start: int, mask: int, largest: int) -> bool:
    """Whether the bytes from ``start`` on may be an incomplete frame for ``split``."""
    have = len(data) - start
    if have == 0:
        return True
    if data[start] != TEXT and data[start] != BINARY:
        return False
    if have == 1:
        return True
    size = data[start + 1] ^ mask
    if size == _16_BITS:
        return have < 4 or ((data[start + 2] << 8) | data[start + 3]) <= largest
    return size < _16_BITS and size <= largest


def control(data: bytes, start: int) -> bytes | None:
    """The payload of the control frame of a client at ``start``; None if that is another frame,
    incomplete, or malformed."""
    if len(data) - start < 6 or not CLOSE <= data[start] <= PONG:
        return None
    size = data[start + 1] ^ MASKED
    begin = start + 6
    if size >= _16_BITS or begin + size > len(data):
        return None
    return apply_mask(data[begin : begin + size], data[start + 2 : begin])


class Boundary:
    """Finds where one frame ends, in data that comes in parts."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._head = b""
        self._left = -1  # bytes until the end; unknown before the length has come

    def take(self, data: bytes, start: int) -> int:
        """Where the frame ends in ``data``; the end of ``data`` if it is incomplete."""
        end = len(data)
        while self._left < 0:
            if start == end:
                return end
            self._head += data[start : start + 1]
            start += 1
            self._measure()
        stop = min(end, start + self._left)
        self._left -= stop - start
        return stop

    @property
    def reached(self) -> bool:
        """Whether the complete frame has come."""
        return self._left == 0

    def _measure(self) -> None:
        head = self._head
        if len(head) < 2:
            return
        size = head[1] & 0x7F
        extended = 2 if size == _16_BITS else 8 if size == _64_BITS else 0
        if len(head) < 2 + extended:
            return
        if extended:
            size = int.from_bytes(head[2:], "big")
        self._left = size + (4 if head[1] & MASKED else 0)


def whole(payload: bytes, text: bool) -> bytes:
    """The frame of a message that a server sends: neither masked nor compressed."""
    size = len(payload)
    if size < _16_BITS:
        return (_SMALL_TEXT[size] if text else _SMALL_BINARY[size]) + payload
    first = TEXT if text else BINARY
    if size < 65536:
        return bytes((first, _16_BITS, size >> 8, size & 0xFF)) + payload
    return bytes((first, _64_BITS)) + size.to_bytes(8, "big") + payload


def all_whole(messages: Sequence[tuple[bytes, bool, bool]]) -> bytes:
    """The frames of messages that a server sends: each is a payload, whether it is text, and
    something else."""
    return b"".join(
        [
            (_SMALL_TEXT[len(payload)] if text else _SMALL_BINARY[len(payload)]) + payload
            if len(payload) < _16_BITS
            else whole(payload, text)
            for payload, text, _ in messages
        ]
    )


def short(first: int, payload: bytes) -> bytes:
    """A control frame that a server sends."""
    return bytes((first, len(payload))) + payload
