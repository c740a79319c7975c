"""The event loops that sockets run on.

A module whose tests run on each of them imports the fixture. It stands in place of the one that
runs tests on asyncio and on Trio.
"""

from __future__ import annotations

import pytest
import uvloop

LOOPS: dict[str, object] = {
    "asyncio": "asyncio",
    "uvloop": ("asyncio", {"loop_factory": uvloop.new_event_loop}),
}


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return LOOPS[request.param]
