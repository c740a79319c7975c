"""Servers for the tests of brokers. The engines' clients run on asyncio."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.brokers.servers import BrokerServer, Kind


@pytest.fixture
def server_of() -> Iterator[Callable[..., BrokerServer]]:
    """Starts servers of the test's own: ``server_of("valkey", durable=True)``."""
    started: list[BrokerServer] = []

    def start(kind: Kind, *, durable: bool = False) -> BrokerServer:
        server = BrokerServer(kind, durable=durable)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()
