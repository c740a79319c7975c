"""Options that a client passes on to ``websockets.connect``, and what replaces the others."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from websockets.asyncio.client import connect

LIMITS = "limits=ClientLimits({})"
ELSEWHERE: Mapping[str, str] = {
    "additional_headers": "headers=…",
    "compression": LIMITS.format('compression="none"'),
    "create_connection": "nothing: wsflow creates the connection",
    "close_timeout": LIMITS.format("close_timeout=…"),
    "logger": 'the logger "wsflow.client"',
    "max_queue": LIMITS.format("inbox_messages=…"),
    "max_size": LIMITS.format("max_message_size=…"),
    "open_timeout": LIMITS.format("open_timeout=…"),
    "ping_interval": LIMITS.format("ping_interval=…"),
    "ping_timeout": LIMITS.format("ping_timeout=…"),
    "process_exception": "reconnect=Reconnect(when=…)",
    "reconnect_delays": "reconnect=Reconnect(initial_delay=…, max_delay=…)",
    "write_limit": LIMITS.format("write_buffer=…"),
}
"""Arguments of ``websockets.connect`` that have another name here."""

SOCKETS = frozenset(
    {
        *("all_errors", "family", "flags", "happy_eyeballs_delay", "host", "interleave"),
        *("local_addr", "path", "port", "proto", "server_hostname", "sock", "ssl"),
        *("ssl_handshake_timeout", "ssl_shutdown_timeout", "unix"),
    }
)
"""Arguments that it passes on to ``loop.create_connection``."""

KNOWN = frozenset(inspect.signature(connect.__init__).parameters) - {
    *("self", "uri", "subprotocols", "kwargs"),
    *ELSEWHERE,
}


def check_options(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``options`` if ``websockets.connect`` takes them.

    Raises:
        TypeError: it does not take one of them, or wsflow has another argument for it.
    """
    for name in options:
        if name in ELSEWHERE:
            raise TypeError(f"{name}=… is for websockets.connect: here, use {ELSEWHERE[name]}")
        if name not in KNOWN | SOCKETS and not name.startswith("proxy_"):
            near = get_close_matches(name, KNOWN | SOCKETS | {"headers", "limits"}, 1)
            raise TypeError(
                f"there is no option {name!r}" + (f": did you mean {near[0]}?" if near else "")
            )
    return options
