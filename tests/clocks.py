"""Tests in fake time, which jumps to the next timer when nothing else is to do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio.testing

from tests.loops import EAGER
from wsflow.testing import FakeClock


class InFakeTime:
    """A class of such tests, on each event loop that has it, inherits this."""

    @pytest.fixture(params=["asyncio", *EAGER, "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> object:
        if request.param == "trio":
            return ("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})
        return EAGER.get(request.param, request.param)

    @pytest.fixture(autouse=True)
    async def clock(self, anyio_backend: object) -> AsyncIterator[FakeClock]:
        async with FakeClock() as clock:
            yield clock
