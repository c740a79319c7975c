"""The one way out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from wsflow.messages.codec import JSON
from wsflow.runtime.outbox import Outbox


class Wire:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, payload: bytes, text: bool, raw: bool) -> bool:
        self.sent.append(payload)
        return False


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_is_cancelled_when_he_has_his_turn_passes_it_on() -> None:
    wire: Any = Wire()
    outbox = Outbox(wire, JSON, 1000, lambda _topic: None)
    outbox.open()
    outbox.pause()
    tasks = [asyncio.create_task(outbox.send(name)) for name in (b"a", b"b")]
    drained = asyncio.create_task(outbox.drained())
    await asyncio.sleep(0)
    outbox.resume()
    tasks[0].cancel()
    await asyncio.gather(*tasks, drained, return_exceptions=True)
    assert wire.sent == [b"b"]
    await outbox.send(b"c")
    assert wire.sent == [b"b", b"c"]
