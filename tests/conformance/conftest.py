"""Each transport, on each event loop that it runs on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.asgi_wires import LACKS, SERVERS, serving_under, taken_over
from tests.conformance.wires import memory, sockets
from tests.loops import EAGER, LOOPS

TRANSPORTS = {
    "memory-asyncio": (memory, ("asyncio", {})),
    "memory-trio": (memory, ("trio", {})),
    "sockets-asyncio": (sockets, ("asyncio", {})),
    "sockets-uvloop": (sockets, LOOPS["uvloop"]),
    "sockets-trio": (sockets, ("trio", {})),
    **{
        f"{name}-{loop}": (wire, backend)
        for name, wire in {"memory": memory, "sockets": sockets}.items()
        for loop, backend in EAGER.items()
    },
    **{name: (serving_under(serve), ("asyncio", {})) for name, serve in SERVERS.items()},
    "takeover-asyncio": (serving_under(taken_over), ("asyncio", {})),
    "takeover-uvloop": (serving_under(taken_over), LOOPS["uvloop"]),
}


@pytest.hookimpl(wrapper=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """What an ASGI server lacks has to fail; else the table is wrong."""
    for item in items:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        server = item.callspec.params.get("transport")
        if (why := LACKS.get(item.originalname, {}).get(server)) is not None:
            item.add_marker(pytest.mark.xfail(reason=f"{server}: {why}", strict=True))
        if (
            str(server).partition("-")[0] in (*SERVERS, "takeover")
            and item.path.name != "test_close_codes.py"
        ):
            first = server in ("uvicorn", "takeover-asyncio")
            item.add_marker(pytest.mark.long if first else pytest.mark.hardening)
    yield


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
