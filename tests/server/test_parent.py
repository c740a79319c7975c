"""The supervisor, as a worker sees it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from tests.loops import anyio_backend  # noqa: F401
from wsflow.server.assignment import ALIVE, AT_ONCE, HAND_OVER, SERVING
from wsflow.server.parent import Parent


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


class Told:
    """What was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._more = asyncio.Event()

    def note(self, call: str) -> None:
        self.calls.append(call)
        self._more.set()

    async def until(self, *calls: str) -> None:
        async with asyncio.timeout(10):
            while self.calls != list(calls):
                self._more.clear()
                await self._more.wait()


def followed(parent: Parent, told: Told):  # type: ignore[no-untyped-def]
    return parent.followed(
        asyncio.get_running_loop(),
        hand_over=lambda: told.note("hand over"),
        at_once=lambda: told.note("at once"),
        gone=lambda: told.note("gone"),
    )


async def test_it_does_what_it_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    told = Told()
    with followed(Parent(theirs, 0.0), told):
        ours.send(HAND_OVER)
        await told.until("hand over")
        ours.send(AT_ONCE)
        await told.until("hand over", "at once")
        ours.send(HAND_OVER + AT_ONCE)
        await told.until("hand over", "at once", "hand over", "at once")
    ours.send(AT_ONCE)
    await asyncio.sleep(0.01)
    assert len(told.calls) == 4


@pytest.mark.parametrize("unread", [False, True])
async def test_it_is_gone(pair: tuple[socket.socket, socket.socket], unread: bool) -> None:
    ours, theirs = pair
    told = Told()
    parent = Parent(theirs, 1.0)
    with followed(parent, told):
        if unread:  # then the end is a reset
            parent.serves()
        ours.close()
        await told.until("gone")
        parent.serves()


async def test_it_hears_that_the_loop_turns(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.settimeout(10)
    parent = Parent(theirs, 0.1)
    with followed(parent, Told()):
        assert ours.getblocking()
        parent.serves()
        said = await asyncio.to_thread(ours.recv, 1)
        assert said == SERVING
        for _ in range(3):
            assert await asyncio.to_thread(ours.recv, 1) == ALIVE
    await asyncio.sleep(0.02)
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        while ours.recv(1):
            pass
    await asyncio.sleep(0.05)
    with pytest.raises(BlockingIOError):
        ours.recv(1)


async def test_it_wants_no_signs_of_life(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    with followed(Parent(theirs, 0.0), Told()):
        Parent(theirs, 0.0).serves()
        assert ours.recv(10) == SERVING


async def test_one_that_does_not_read_keeps_nobody(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    told = Told()
    with followed(Parent(theirs, 0.001), told):
        with pytest.raises(BlockingIOError):
            while True:
                theirs.send(b"x" * 1024)
        Parent(theirs, 0.0).serves()
        ours.send(HAND_OVER)
        await told.until("hand over")
