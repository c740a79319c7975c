"""What the transports of one event loop share."""

from __future__ import annotations

import asyncio
import time

import pytest

from wsflow.transports.shared import Shared


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_date_is_that_of_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared(asyncio.get_running_loop())
    monkeypatch.setattr(time, "time", lambda: 784111777.25)
    assert shared.date == "Sun, 06 Nov 1994 08:49:37 GMT"
    monkeypatch.setattr(time, "time", lambda: 784111777.75)
    assert shared.date is shared.date
    monkeypatch.setattr(time, "time", lambda: 784111778.0)
    assert shared.date == "Sun, 06 Nov 1994 08:49:38 GMT"
