"""How much memory a message takes once it is decoded."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from wsflow import Limits, Router
from wsflow.messages.weight import LIGHT, weight
from wsflow.testing import serve_in_memory

MESSAGES: dict[str, Any] = {
    "empty lists": [[] for _ in range(20_000)],
    "empty dicts": [{} for _ in range(20_000)],
    "dicts": [{"a": 1} for _ in range(20_000)],
    "small ints": [1] * 20_000,
    "ints": [10_000 + each for each in range(20_000)],
    "keys": {f"key{each}": None for each in range(20_000)},
    "nested": [[[[[[each]]]]] for each in range(5_000)],
    "one text": ["x" * 100_000],
    "texts": [f"text {each}" for each in range(20_000)],
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_it_is_not_far_from_what_is_taken(codec: Any, name: str) -> None:
    data = codec.encode(MESSAGES[name])
    decode: Callable[[bytes], Any] = codec.Decoder().decode
    tracemalloc.start()
    message = decode(data)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / 4 < weight(data, message) < 12 * taken


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_an_inbox_full_of_small_ones_takes_what_is_counted(codec: Any) -> None:
    """As many as may wait while a call is pending: 16,384, and 16 MiB of them."""
    for count in range(400):
        data = codec.encode([[] for _ in range(count)])
        tracemalloc.start()
        message = codec.decode(data)
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert taken < 2 * weight(data, message) + 6000


def test_texts_and_light_messages_are_as_heavy_as_on_the_wire() -> None:
    brackets = b"[" * 10_000
    assert weight(brackets, brackets) == weight(brackets, brackets.decode()) == 10_000
    assert weight(b"[]" * (LIGHT // 2), []) == LIGHT
    assert weight(b"", b"") == 0


async def test_an_inbox_is_bounded_in_what_was_decoded() -> None:
    """Forty thousand lists are heavier than what they are on the wire."""
    gate = anyio.Event()
    app = Router("/")

    @app.consumer
    async def wait(message: Any) -> None:
        await gate.wait()

    limits = Limits(inbox_bytes=1_000_000, write_buffer=10**9, close_timeout=1)
    async with serve_in_memory(app, limits=limits) as server, server.connect("/") as peer:
        for _ in range(30):
            await peer.send([[]] * 5_000)  # 15 kB
        await server.idle()
        (session,) = server._app.sessions.values()
        assert session.received <= 4
        gate.set()
        while session.received < 30:
            await anyio.lowlevel.checkpoint()
