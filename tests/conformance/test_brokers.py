"""The suite of brokers, on each broker of wsflow."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.brokers.servers import KINDS, BrokerServer
from tests.loops import EAGER
from wsflow.testing import FakeBroker
from wsflow.testing.conformance.brokers import *  # noqa: F403


@pytest.fixture(params=["asyncio", "trio", *EAGER])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return EAGER.get(request.param, request.param)


@pytest.fixture(scope="module", params=["memory", "fake", *KINDS])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a broker; its server is shared by the tests of this file."""
    if request.param in ("memory", "fake"):
        yield f"{request.param}://"
        return
    server = BrokerServer(request.param)
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def broker(engine: str) -> Iterator[str]:
    """The same, for one test: with names of its own."""
    if engine == "memory://":
        yield engine
    elif engine == "fake://":
        fake = FakeBroker()
        yield fake.url
    else:
        yield f"{engine}?prefix=test{os.urandom(4).hex()}"
