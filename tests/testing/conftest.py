"""In memory: on asyncio, also where each task begins where it is created, and on Trio."""

from __future__ import annotations

import pytest

from tests.loops import EAGER


@pytest.fixture(params=["asyncio", *EAGER, "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return EAGER.get(request.param, request.param)
