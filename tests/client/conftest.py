"""Clients on sockets, on each event loop: also where each task begins where it is created."""

from __future__ import annotations

import pytest

from tests.loops import EAGER


@pytest.fixture(params=["asyncio", "trio", *EAGER])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return EAGER.get(request.param, request.param)
