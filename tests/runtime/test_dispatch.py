"""In which order a connection handles what it receives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from tests.loops import anyio_backend as anyio_backend
from tests.raw import frame, raw
from wsflow import Close, InvalidMessage, Router
from wsflow.server import Settings, serve


class Count(msgspec.Struct, tag="count"):
    number: int
    filling: list[list[int]] = []


ODD: dict[str, Callable[[int], Any]] = {
    "invalid": lambda number: {"type": "count", "number": str(number)},
    "heavy": lambda number: Count(number, [[]] * 5000),
}
"""What is not handled where it is read."""

ENCODERS: dict[str, tuple[Callable[[Any], bytes], int]] = {
    "json": (msgspec.json.encode, 1),
    "msgpack": (msgspec.msgpack.encode, 2),
}


DECODERS = {"json": msgspec.json.decode, "msgpack": msgspec.msgpack.decode}


@pytest.mark.parametrize("codec", ENCODERS)
@pytest.mark.parametrize("limited", [False, True], ids=["free", "limited"])
@pytest.mark.parametrize("odd", ODD)
async def test_what_is_read_at_once_is_handled_in_order(
    odd: str, limited: bool, codec: Any
) -> None:
    """Although some is handled where it is read, and some in a task."""
    handled: list[int] = []
    app = Router("/", codec=codec, rate="1000/s" if limited else None)
    encode, opcode = ENCODERS[codec]

    @app.consumer
    async def count(message: Count) -> int:
        handled.append(message.number)
        return message.number

    @app.on_error
    async def invalid(error: InvalidMessage) -> None:
        handled.append(int(DECODERS[codec](error.payload)["number"]))

    def message(number: int) -> bytes:
        made = ODD[odd](number) if number in (1, 4, 5, 8) else Count(number)
        return frame(encode(made), opcode)

    with anyio.fail_after(20):
        async with serve(app, Settings(port=0, close_timeout=0.2)) as server, raw(server) as client:
            await client.opened()
            client.send(message(0))
            await client.frame()  # from now on the connection waits for messages
            client.send(b"".join(map(message, range(1, 10))))
            while (await client.frame())[1] != encode(9):
                pass
    assert handled == [*range(10)]


@pytest.mark.parametrize("raises_at", [0, 1, 40])
@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "at once"])
@pytest.mark.parametrize("later", [False, True], ids=["immediately", "later"])
@pytest.mark.parametrize("raised", [LookupError("x"), Close(4001), "cancelled"])
async def test_whichever_message_it_is_that_raises(
    raises_at: int, at_once: bool, later: bool, raised: Any
) -> None:
    app = Router("/")
    taken: list[int] = []

    @app.consumer
    async def take(message: int) -> int:
        taken.append(message)
        if later:
            await anyio.lowlevel.checkpoint()
        if message == raises_at:
            raise anyio.get_cancelled_exc_class()() if raised == "cancelled" else raised
        return message

    with anyio.fail_after(20):
        async with serve(app, Settings(port=0, close_timeout=0.2)) as server, raw(server) as client:
            await client.opened()
            if at_once:
                client.send(b"".join(frame(b"%d" % each) for each in range(raises_at + 2)))
            for number in range(raises_at):
                if not at_once:
                    client.send(frame(b"%d" % number))
                assert (await client.frame())[1] == b"%d" % number
            if not at_once:
                client.send(frame(b"%d" % raises_at) + frame(b"%d" % (raises_at + 1)))
            code = 4001 if isinstance(raised, Close) else 1011
            assert (await client.frame())[1][:2] == code.to_bytes(2, "big")
    assert taken == [*range(raises_at + 1)]


@pytest.mark.parametrize("raises_at", [0, 1, 40])
async def test_whichever_message_it_is_whose_error_is_handled(raises_at: int) -> None:
    app = Router("/")

    @app.consumer
    async def take(message: int) -> int:
        if message == raises_at:
            raise LookupError(message)
        return message

    @app.on_error
    async def handle(error: LookupError) -> int:
        return -1

    with anyio.fail_after(20):
        async with serve(app, Settings(port=0, close_timeout=0.2)) as server, raw(server) as client:
            await client.opened()
            for number in range(raises_at + 2):
                client.send(frame(b"%d" % number))
                expected = -1 if number == raises_at else number
                assert (await client.frame())[1] == b"%d" % expected
