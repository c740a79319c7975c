"""What one end of the wire may use, and how options describe themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def option(default: Any, help: str, *, group: str) -> Any:
    """A field that says, for people, what it is: the one source of flags, TOML and help."""
    return field(default=default, metadata={"help": help, "group": group})


@dataclass(frozen=True, kw_only=True)
class WireLimits:
    """Limits of every transport, the in-memory one included."""

    max_message_size: int = option(
        1024 * 1024,
        "Largest message accepted, in bytes; beyond it the close code is 1009.",
        group="Limits",
    )
    max_fragments: int = option(
        4096, "Most fragments of one message; beyond it the close code is 1009.", group="Limits"
    )
    write_buffer: int = option(
        64 * 1024, "Bytes buffered for one peer before senders wait.", group="Limits"
    )
    open_timeout: float = option(
        10.0,
        "Seconds for a peer to send its opening request, and for each on_connect function to set "
        "up.",
        group="Timeouts",
    )
    close_timeout: float = option(
        10.0,
        "Seconds for the closing handshake, for consumers to finish after the peer has left, and "
        "for each scope function to tear down.",
        group="Timeouts",
    )


@dataclass(frozen=True, kw_only=True)
class SocketLimits(WireLimits):
    """Limits of transports over sockets."""

    max_header_size: int = option(
        64 * 1024,
        "Largest opening request, in bytes; beyond it the answer is 431. One line is at most "
        "8 KiB, and there are at most 128.",
        group="Limits",
    )
    ping_interval: float = option(
        20.0, "Seconds between keepalive pings; 0 for none.", group="Timeouts"
    )
    ping_timeout: float = option(
        20.0, "Seconds after a ping within which something must come.", group="Timeouts"
    )
    compression: Literal["none", "deflate"] = option(
        "none", "Compress messages with permessage-deflate (RFC 7692).", group="Messages"
    )
