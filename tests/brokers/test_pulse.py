"""Whether a server that is slow, or a process that is busy, is taken for a lost connection."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anyio
import pytest

from wsflow.brokers.engine import ConnectionLostError
from wsflow.brokers.pulse import LOOKS, MOST, watch

PATIENCE = 0.12


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Pinged:
    """A link whose pings are answered when the test says."""

    def __init__(self) -> None:
        self.heard = 0
        self.pings: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def ping(self) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pings.put_nowait(answer)
        await answer

    async def pinged(self) -> asyncio.Future[None]:
        """The next ping; a failure if none comes."""
        with anyio.fail_after(5):
            return await self.pings.get()


def watched() -> tuple[Pinged, asyncio.Task[None]]:
    link: Any = Pinged()
    return link, asyncio.create_task(watch(link, PATIENCE, 0))


async def test_silence_is_a_lost_connection() -> None:
    link, watching = watched()
    (await link.pinged()).set_result(None)
    await link.pinged()
    with pytest.raises(ConnectionLostError, match=r"no answer within 0.12 s"):
        await watching


async def test_an_answer_may_stand_behind_many_messages() -> None:
    link, watching = watched()
    answer = await link.pinged()
    for _ in range(2 * LOOKS):
        link.heard += 1
        await asyncio.sleep(PATIENCE / LOOKS)
    answer.set_result(None)
    await link.pinged()
    assert not watching.done()
    watching.cancel()


async def test_it_has_to_come_nonetheless() -> None:
    link, watching = watched()
    while not watching.done():
        link.heard += 1
        await asyncio.sleep(0.001)
    with pytest.raises(ConnectionLostError, match=f"no answer within {MOST * PATIENCE:g} s"):
        await watching


async def test_a_stall_of_the_loop_is_no_silence() -> None:
    link, watching = watched()
    answer = await link.pinged()
    await asyncio.sleep(0)
    time.sleep(2 * PATIENCE)  # noqa: ASYNC251
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    answer.set_result(None)
    await link.pinged()
    assert not watching.done()
    watching.cancel()


async def test_what_the_ping_says() -> None:
    link, watching = watched()
    (await link.pinged()).set_exception(ConnectionLostError("gone"))
    with pytest.raises(ConnectionLostError, match="gone"):
        await watching
