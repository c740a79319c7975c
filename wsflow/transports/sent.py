"""How far what was sent has come: whether a peer that is silent still reads."""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
from typing import Any, final

fcntl: Any = importlib.import_module("fcntl") if sys.platform != "win32" else None
_TIOCOUTQ = 0x5411 if sys.platform == "linux" else 0x40047473
"""Of termios.h, which Python has on Unix only."""

_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
_BYTES_ACKED = slice(120, 128)
"""Where the ``tcp_info`` of Linux has the bytes that were acknowledged, in all."""

RECORD = 64
"""Bytes that TLS adds to what is written at once, at most; and to each 8 KiB of it."""

TICKETS = 16 * 1024
"""Bytes that TLS sends on its own, at most: the end of the handshake, and tickets."""


@final
class Sent:
    """Counts what is written to a socket, and knows how much of it the peer's host has
    acknowledged.

    Positions are in bytes and grow. Over TLS a part of what was written is where it cannot be seen,
    between TLS and the socket. So positions are those of the kernel, and what TLS adds is
    estimated, not too low, and anew whenever nothing is on its way.

    Args:
        transport: the socket.

    Attributes:
        bytes: how many were written.
        writes: in how many pieces, over TLS.
        tls: whether it is over TLS.
    """

    __slots__ = ("_acknowledged", "_before", "_from", "_transport", "bytes", "tls", "writes")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.bytes = 0
        self.writes = 0
        self.tls = transport.get_extra_info("ssl_object") is not None
        # Over TLS, where the estimate begins: the position, and the bytes that were written before.
        self._from = _acknowledged(transport) if self.tls else None
        self._before = 0
        self._acknowledged = self._from or 0

    def position(self) -> int:
        """The position behind all that was written."""
        if self._from is None:
            return self.bytes
        done = self.acknowledged()
        size = self.bytes - self._before
        if not _queued(self._transport) and done >= self._from + size:
            self._from = done
            self._before = self.bytes
            self.writes = 0
            return done
        return self._from + size + (size // 8192 + self.writes) * RECORD + TICKETS

    def acknowledged(self) -> int:
        """The position up to which the peer's host has acknowledged what was written, as far as
        that is known; where the socket is closed, what it was at last."""
        if self._from is None:
            return self.bytes - self._transport.get_write_buffer_size() - _queued(self._transport)
        now = _acknowledged(self._transport)
        if now is not None:
            self._acknowledged = now
        return self._acknowledged


def _acknowledged(transport: asyncio.Transport) -> int | None:
    """The bytes that were acknowledged since the socket was connected; None where the kernel does
    not say."""
    if _TCP_INFO is None:
        return None
    try:
        info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 256)
    except (AttributeError, OSError, ValueError):  # it is closed, or no TCP socket
        return None
    return int.from_bytes(info[_BYTES_ACKED], sys.byteorder) if len(info) >= 128 else None


def _queued(transport: asyncio.Transport) -> int:
    """The bytes in the kernel's send buffer that are not acknowledged; 0 where it does not say."""
    if fcntl is None:
        return 0
    try:
        said = fcntl.ioctl(transport.get_extra_info("socket").fileno(), _TIOCOUTQ, bytes(4))
    except (AttributeError, OSError, ValueError):  # it is closed
        return 0
    return int.from_bytes(said, sys.byteorder)
