"""From a URL to a broker."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import urlsplit

from wsflow.brokers.base import Broker, BrokerListener
from wsflow.brokers.engine import Engine
from wsflow.brokers.memory import MemoryBroker
from wsflow.brokers.remote import PATIENCE, RemoteBroker
from wsflow.http import without_password
from wsflow.messages.events import TopicOptions

MEMORY = "memory://"
# Per scheme: the extra that it needs, the module that serves it, and its class.
_ENGINES = {
    "redis": ("redis", "wsflow.brokers.redis", "RedisEngine"),
    "rediss": ("redis", "wsflow.brokers.redis", "RedisEngine"),
    "nats": ("nats", "wsflow.brokers.nats", "NatsEngine"),
    "tls": ("nats", "wsflow.brokers.nats", "NatsEngine"),
}


def engine(url: str) -> Engine:
    """What connects to the broker at ``url``.

    Raises:
        ValueError: it is no such URL, or its client is not installed.
    """
    scheme = urlsplit(url).scheme
    if url == MEMORY:
        raise ValueError(f"{MEMORY} is a process's own: no other one hears what is said there")
    if "://" not in url or scheme not in _ENGINES:
        schemes = ", ".join(f"{each}://" for each in ["memory", *_ENGINES])
        raise ValueError(f"{without_password(url)!r} is no broker: it begins with one of {schemes}")
    extra, module, name = _ENGINES[scheme]
    try:
        make: Callable[[str], Engine] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as exc:
        raise ValueError(
            f"{scheme}:// needs {exc.name}, which is not installed: pip install 'wsflow[{extra}]'"
        ) from None
    try:
        return make(url)
    except ValueError as exc:
        raise ValueError(f"{without_password(url)!r} cannot be used: {exc}") from None


def broker(
    url: str, timeout: float, declared: Mapping[str, TopicOptions]
) -> Callable[[BrokerListener], Broker]:
    """What makes the broker at ``url``.

    Args:
        url: ``memory://``, ``redis://``, ``rediss://``, ``nats://`` or ``tls://``.
        timeout: seconds that publishing and joining wait for it.
        declared: the app's topics with history, by template.

    Raises:
        ValueError: it is no such URL, or its client is not installed.
    """
    if url == MEMORY:
        return MemoryBroker
    return partial(RemoteBroker, engine=engine(url), timeout=timeout, declared=declared)


async def reach(url: str) -> None:
    """See that there is a broker at ``url``.

    Raises:
        BrokerError: it cannot be reached.
    """
    broker = RemoteBroker(None, engine(url), PATIENCE, {})
    await broker.start()
    await broker.stop()
