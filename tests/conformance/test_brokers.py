"""The suite of brokers, on each broker of wsflow."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.brokers.servers import KINDS, BrokerServer
from tests.loops import EAGER
from wsflow.testing.conformance.brokers import *  # noqa: F403


@pytest.fixture(params=["asyncio", *EAGER])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return EAGER.get(request.param, request.param)


@pytest.fixture(scope="module", params=["memory", *KINDS])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a broker; its server is shared by the tests of this file."""
    if request.param == "memory":
        yield "memory://"
        return
    server = BrokerServer(request.param)
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def broker(engine: str) -> str:
    """The same, for one test: with names of its own."""
    return engine if engine == "memory://" else f"{engine}?prefix=test{os.urandom(4).hex()}"
