"""From a URL to a broker."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import entry_points
from urllib.parse import parse_qsl, urlencode

from wsflow.brokers.base import Broker, BrokerListener
from wsflow.brokers.carried import CarriedBroker
from wsflow.brokers.engine import Engine
from wsflow.brokers.memory import MemoryBroker
from wsflow.brokers.remote import PATIENCE, RemoteBroker
from wsflow.brokers.urls import PREFIX, shown
from wsflow.limits import HISTORY_TOTAL
from wsflow.messages.events import TopicOptions
from wsflow.tasks.detached import on_trio

MEMORY = "memory://"
ENTRY_POINTS = "wsflow.engines"
"""The group of entry points in which packages name their engines, by scheme."""

# Per scheme: the extra that it needs, the module that serves it, and its class.
_BUILT_IN = {
    "redis": ("redis", "wsflow.brokers.redis", "RedisEngine"),
    "rediss": ("redis", "wsflow.brokers.redis", "RedisEngine"),
    "redis+sentinel": ("redis", "wsflow.brokers.redis", "RedisEngine"),
    "rediss+sentinel": ("redis", "wsflow.brokers.redis", "RedisEngine"),
    "nats": ("nats", "wsflow.brokers.nats", "NatsEngine"),
    "tls": ("nats", "wsflow.brokers.nats", "NatsEngine"),
    "workers": ("cluster", "wsflow.brokers.workers", "WorkersEngine"),
}
# What clients of Valkey call the schemes that it shares with Redis.
_SAME = {
    "valkey": "redis",
    "valkeys": "rediss",
    "valkey+sentinel": "redis+sentinel",
    "valkeys+sentinel": "rediss+sentinel",
}
_registered: dict[str, Callable[[str], Engine]] = {}


def register_engine(scheme: str, make: Callable[[str], Engine]) -> None:
    """Have URLs of a scheme served by an engine, in this process.

    Args:
        scheme: what stands before ``://``; not one of wsflow's own.
        make: makes the engine for a URL; a ValueError that it raises says what is wrong with that.

    Raises:
        ValueError: the scheme is wsflow's own, or is none (RFC 3986 §3.1).
    """
    if scheme in _BUILT_IN or f"{scheme}://" == MEMORY:
        raise ValueError(f"{scheme}:// is wsflow's own: choose another scheme")
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise ValueError(
            f"{scheme!r} is no scheme of a URL: lower-case letters, digits, +, . and -"
        )
    _registered[scheme] = make


def engine(url: str) -> Engine:
    """What connects to the broker at ``url``.

    Raises:
        ValueError: it is no such URL, or its client is not installed.
    """
    if url == MEMORY:
        raise ValueError(f"{MEMORY} is a process's own: no other one hears what is said there")
    make = _find(url)
    try:
        return make(url)
    except ValueError as exc:
        raise ValueError(f"{shown(url)!r} cannot be used: {exc}") from None


def _find(url: str) -> Callable[[str], Engine]:
    """What makes the engine for a URL."""
    scheme, between, _ = url.partition("://")
    scheme = scheme.lower()
    if not between:
        scheme = ""
    if scheme in _registered:
        return _registered[scheme]
    if scheme in _BUILT_IN:
        extra, module, name = _BUILT_IN[scheme]
        try:
            built_in: Callable[[str], Engine] = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as exc:
            raise ValueError(
                f"{scheme}:// needs {exc.name}, which is not installed: "
                f"pip install 'wsflow[{extra}]'"
            ) from None
        return built_in
    for entry_point in entry_points(group=ENTRY_POINTS, name=scheme):
        found: Callable[[str], Engine] = entry_point.load()
        return found
    others = {each.name for each in entry_points(group=ENTRY_POINTS)}
    known = ["memory", *_BUILT_IN, *sorted({*_registered, *others})]
    schemes = ", ".join(f"{each}://" for each in known)
    if (same := _SAME.get(scheme)) is not None:
        raise ValueError(f"{shown(url)!r} is no broker: Valkey is reached as Redis: use {same}://")
    raise ValueError(f"{shown(url)!r} is no broker: it begins with one of {schemes}")


def kind(url: str) -> str:
    """What sort of broker a URL names: ``memory``, ``redis``, ``nats``, ``workers``, or the scheme
    of a registered engine."""
    scheme = url.partition("://")[0].lower()
    return _BUILT_IN[scheme][1].rpartition(".")[2] if scheme in _BUILT_IN else scheme


def beside(url: str, suffix: str) -> str:
    """The URL of the same broker for another app beside one: its topics have another prefix. It is
    the same where a broker has no prefix."""
    if kind(url) not in ("redis", "nats"):
        return url
    place, _, query = url.partition("?")
    options = parse_qsl(query, keep_blank_values=True)
    prefix = f"{dict(options).get('prefix', PREFIX)}{suffix}"
    others = [(name, value) for name, value in options if name != "prefix"]
    return f"{place}?{urlencode([*others, ('prefix', prefix)])}"


def broker(
    url: str,
    timeout: float,
    declared: Mapping[str, TopicOptions],
    *,
    history_bytes: int = HISTORY_TOTAL,
) -> Callable[[BrokerListener], Broker]:
    """What makes the broker at ``url``.

    Args:
        url: ``memory://``, or that of an engine: of wsflow's own, or of a registered one.
        timeout: seconds that publishing and joining wait for it.
        declared: the app's topics with history, by template.
        history_bytes: most bytes of all histories together that ``memory://`` keeps.

    Raises:
        ValueError: it is no such URL, or its client is not installed.
    """
    if url == MEMORY:
        return partial(MemoryBroker, history_bytes=history_bytes)
    return partial(remote, engine=engine(url), timeout=timeout, declared=declared)


def remote(
    listener: BrokerListener | None,
    engine: Engine,
    timeout: float,
    declared: Mapping[str, TopicOptions],
) -> RemoteBroker | CarriedBroker:
    """A ``RemoteBroker``, wherever it is used."""
    make = partial(RemoteBroker, engine=engine, timeout=timeout, declared=declared)
    return CarriedBroker(make, listener) if on_trio() else make(listener)


async def reach(url: str) -> None:
    """See that there is a broker at ``url``.

    Raises:
        BrokerError: it cannot be reached.
    """
    broker = remote(None, engine(url), PATIENCE, {})
    await broker.start()
    await broker.stop()
