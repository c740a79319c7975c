"""Every async test runs on asyncio and on Trio, unless it says otherwise."""

from __future__ import annotations

import pytest
import trio.testing


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
def mock_clock() -> object:
    """A backend whose clock jumps to the next timer when nothing else is to do."""
    return ("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})
