"""What one app and one connection may use."""

from __future__ import annotations

from dataclasses import dataclass

from wsflow.transports.limits import WireLimits, option


@dataclass(frozen=True, kw_only=True)
class Limits(WireLimits):
    """Limits of the runtime."""

    inbox_messages: int = option(
        256, "Received messages that may wait for one connection's consumers.", group="Limits"
    )
    inbox_bytes: int = option(
        1024 * 1024, "Bytes of received messages that may wait likewise.", group="Limits"
    )
    inbox_hard_messages: int = option(
        16_384,
        "The same while a call is under way on the connection, when reading cannot pause; beyond "
        "it the close code is 1008.",
        group="Limits",
    )
    inbox_hard_bytes: int = option(
        16 * 1024 * 1024, "Bytes of received messages that may wait likewise.", group="Limits"
    )
    backlog_bytes: int = option(
        16 * 1024 * 1024,
        "Bytes of topic messages that may wait for one peer, besides each topic's own backlog.",
        group="Limits",
    )
    max_connections: int = option(
        10_000,
        "Most connections at a time; beyond it the answer is 503. 0 for no limit.",
        group="Limits",
    )
    max_connections_per_client: int = option(
        0, "Most connections from one client address; 0 for no limit.", group="Limits"
    )
    publish_timeout: float = option(
        10.0,
        "Seconds that publishing, joining and asking who is there wait for a broker that is away; "
        "0 to fail at once.",
        group="Timeouts",
    )
    origin: tuple[str, ...] = option(
        (),
        "Allow browsers' connections from pages of this origin, as in https://example.com, besides "
        'those of the same host; "*" allows any. Repeatable.',
        group="Security",
    )
