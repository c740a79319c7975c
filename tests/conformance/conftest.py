"""Each transport, on each event loop that it runs on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.wires import memory, sockets
from tests.loops import EAGER, LOOPS

TRANSPORTS = {
    "memory-asyncio": (memory, ("asyncio", {})),
    "memory-trio": (memory, ("trio", {})),
    "sockets-asyncio": (sockets, ("asyncio", {})),
    "sockets-uvloop": (sockets, LOOPS["uvloop"]),
    **{
        f"{name}-{loop}": (wire, backend)
        for name, wire in {"memory": memory, "sockets": sockets}.items()
        for loop, backend in EAGER.items()
    },
}


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def anyio_backend(transport: str) -> object:
    return TRANSPORTS[transport][1]


@pytest.fixture
def serving(transport: str) -> Any:
    """Serves an app: ``async with serving(app, **limits) as wire``."""
    return TRANSPORTS[transport][0]
