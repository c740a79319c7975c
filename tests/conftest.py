"""Every async test runs on asyncio and on Trio, unless it says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import hypothesis  # noqa: F401  (it must be there before a test freezes the heap)
import pytest
import trio.testing

from tests import compiled
from tests.brokers.servers import BrokerServer, Kind


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
def mock_clock() -> object:
    """A backend whose clock jumps to the next timer when nothing else is to do."""
    return ("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})


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


def pytest_collection_finish(session: pytest.Session) -> None:
    """What takes long to build is begun at once."""
    if any("compiled_form" in item.name for item in session.items):
        compiled.begin()
