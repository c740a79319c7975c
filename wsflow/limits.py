"""Limits of an app, of a connection and of a transport; each option carries its help text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from textwrap import fill, indent
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

HISTORY_TOTAL = 256 * 1024 * 1024
"""Bytes of all histories together, unless a broker is told otherwise."""


def option(default: Any, help: str, *, group: str, command: str = "") -> Any:
    """A field with its help text: the single source of flags, TOML keys and ``--help``.

    Args:
        default: its default.
        help: what it does.
        group: where it stands in the help.
        command: if only ``wsflow run`` does it: what a program does in its place.
    """
    return field(default=default, metadata={"help": help, "group": group, "command": command})


def documented(cls: type[T]) -> type[T]:
    """Put the fields of a dataclass of options into its docstring, so that ``help`` shows them."""
    lines = []
    for each in fields(cls):  # type: ignore[arg-type]
        command = each.metadata["command"]
        instead = f" For ``wsflow run`` only; in a program: {command}." if command else ""
        text = f"{each.name}: {each.metadata['help']} {each.default!r} by default.{instead}"
        body = fill(text, 88, subsequent_indent="    ", break_on_hyphens=False)
        lines.append(indent(body, " " * 8))
    told = (cls.__doc__ or "").rstrip()
    cls.__doc__ = f"{told}\n\n    Attributes:\n" + "\n".join(lines) + "\n    "
    return cls


LEAST_ONE = {
    **dict.fromkeys(
        ("open_timeout", "max_header_size", "max_handshakes"), "no client could connect"
    ),
    **dict.fromkeys(
        ("max_message_size", "max_fragments", "inbox_messages", "inbox_bytes"),
        "nothing could be received",
    ),
    "workers": "no process would serve",
}
"""What must not be 0, and why."""


def check_types(settings: Any) -> None:
    """Check that each field of a dataclass of settings has its type, and that numbers are finite
    and not negative, nor 0 where nothing could work.

    Raises:
        TypeError: a value is of another type.
        ValueError: a number is out of bounds, or a text none of those that are allowed.
    """
    for name, kind in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        if not any(_is_of(value, each) for each in kinds):
            if get_origin(kind) is Literal:
                allowed = ", ".join(map(repr, get_args(kind)))
                raise ValueError(f"{name} is {value!r}: use one of {allowed}")
            wanted = " or ".join(_KINDS.get(each, str(each)) for each in kinds)
            shown = f"{value!r}, " if kind in (int, float) else ""  # others may be secret
            raise TypeError(f"{name} is {shown}a {type(value).__name__}: use {wanted}")
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            least = "more than 0" if name in LEAST_ONE else "0 or more"
            raise ValueError(f"{name} is {value}: it must be {least}, and finite")
        if name in LEAST_ONE and value == 0:
            raise ValueError(f"{name} is 0: {LEAST_ONE[name]}")


def check_is(value: object, cls: type, what: str) -> None:
    """Check an argument.

    Raises:
        TypeError: it is not of its class.
    """
    if not isinstance(value, cls):
        raise TypeError(f"{what} is a {type(value).__name__}: pass a {cls.__name__}")


_KINDS: Mapping[Any, str] = {
    int: "an int",
    float: "a float, in seconds",
    bool: "True or False",
    str: "a str",
    Path: "a pathlib.Path",
    NoneType: "None",
    tuple[str, ...]: "a tuple of str",
}


def _is_of(value: object, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return not isinstance(kind, type) or isinstance(value, kind)


@dataclass(frozen=True, kw_only=True)
class WireLimits:
    """Limits of every transport, the in-memory one included.

    Raises:
        TypeError: a value is of another type, or a fraction where a whole number is needed.
        ValueError: a number is negative, infinite or NaN, or with it nothing could work.
    """

    def __post_init__(self) -> None:
        check_types(self)

    max_message_size: int = option(
        1024 * 1024,
        "Largest message accepted, in bytes; a larger one is closed with 1009.",
        group="Limits",
    )
    max_fragments: int = option(
        4096, "Most fragments of one message; more are closed with 1009.", group="Limits"
    )
    write_buffer: int = option(
        64 * 1024, "Bytes buffered for one peer before senders wait.", group="Limits"
    )
    open_timeout: float = option(
        10.0,
        "Seconds for a client to send its opening request, for each on_connect function to set up, "
        "and for a page to answer.",
        group="Timeouts",
    )
    close_timeout: float = option(
        10.0,
        "Seconds for the closing handshake, for consumers to finish after the peer has left, for "
        "each scope function to tear down, and for the peer to take more of an HTTP answer.",
        group="Timeouts",
    )


@dataclass(frozen=True, kw_only=True)
class SocketLimits(WireLimits):
    """Limits of transports over sockets."""

    max_header_size: int = option(
        64 * 1024,
        "Largest opening request, in bytes; a larger one is answered with 431. One line is at most "
        "8 KiB, and there are at most 128.",
        group="Limits",
    )
    ping_interval: float = option(
        20.0, "Seconds between keepalive pings; 0 for none.", group="Timeouts"
    )
    ping_timeout: float = option(
        20.0,
        "Seconds after a ping for the peer to answer it, and for what waits to be sent to move. A "
        "peer that is sending a long message has message_timeout to answer, and one whose messages "
        "this side does not read at the moment need not.",
        group="Timeouts",
    )
    message_timeout: float = option(
        60.0,
        "Seconds for a message to be complete once it has begun to come; a slower one is closed "
        "with 1008. 0 for no limit.",
        group="Timeouts",
    )
    compression: Literal["none", "deflate"] = option(
        "none", "Compress messages with permessage-deflate (RFC 7692).", group="Messages"
    )


@documented
@dataclass(frozen=True, kw_only=True)
class Limits(WireLimits):
    """Limits of the runtime: of an app under ``wsflow.asgi``, and of a test. They are those of each
    process.

    Raises:
        TypeError: a value is of another type, or a fraction where a whole number is needed.
        ValueError: a number is negative, infinite or NaN, or with it nothing could work.
    """

    inbox_messages: int = option(
        256,
        "Received messages that may wait for one connection's consumers before reading pauses.",
        group="Limits",
    )
    inbox_bytes: int = option(
        1024 * 1024,
        "Bytes of received messages that may wait for one connection's consumers before reading "
        "pauses; about as many as they take once they are decoded.",
        group="Limits",
    )
    inbox_hard_messages: int = option(
        16_384,
        "Received messages that may wait for one connection's consumers while a call is pending, "
        "when reading cannot pause; more are closed with 1008.",
        group="Limits",
    )
    inbox_hard_bytes: int = option(
        16 * 1024 * 1024,
        "Bytes of received messages that may wait for one connection's consumers while a call is "
        "pending; more are closed with 1008.",
        group="Limits",
    )
    inbox_total_bytes: int = option(
        64 * 1024 * 1024,
        "Bytes that received messages of all connections take once they are decoded, about: a "
        "large one that does not fit waits until others are handled, and each connection reads one "
        "at a time while so many small ones wait. Plain text and binary data are not among these "
        "while they are handled. 0 for no limit.",
        group="Limits",
    )
    backlog_bytes: int = option(
        16 * 1024 * 1024,
        "Bytes of topic messages that may wait for one peer, in addition to each topic's backlog.",
        group="Limits",
    )
    history_total_bytes: int = option(
        HISTORY_TOTAL,
        "Bytes of all topics' histories in this process, with memory://; beyond that the oldest "
        "events of the topic that has not been used for longest are dropped. 0 for no limit.",
        group="Limits",
    )
    max_connections: int = option(
        10_000,
        "Most connections of each process at a time; further ones are answered with 503. 0 for no "
        "limit.",
        group="Limits",
    )
    max_connections_per_client: int = option(
        0,
        "Most connections of each process with one client: an IPv4 address, or a /64 network of "
        "IPv6; further ones are answered with 429. 0 for no limit.",
        group="Limits",
    )
    max_connections_per_user: int = option(
        0,
        "Most connections of each process with one user, as Connection.identify has named it; "
        "further ones are answered with 429. 0 for no limit.",
        group="Limits",
    )
    publish_timeout: float = option(
        10.0,
        "Seconds that publishing, joining and listing members wait for an unreachable broker. With "
        "0, publishing fails at once; joining and listing members wait up to 3 seconds.",
        group="Timeouts",
    )
    origin: tuple[str, ...] = option(
        (),
        "Allow browsers to connect from pages of this origin, as in https://example.com, in "
        "addition to pages of the same host. The first label of the host may be *; "
        '"*" alone allows any page. Repeatable.',
        group="Security",
    )
    allowed_host: tuple[str, ...] = option(
        (),
        "Name or address under which clients may ask for the server, as in example.com or "
        '*.example.com; "*" allows any. Repeatable. By default localhost and loopback addresses, '
        "if the server listens on one of them and trusts no proxy, else any.",
        group="Security",
    )
