"""Time in the hands of a test, on asyncio, also where tasks begin at once, and on Trio."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing
import uvloop

from tests.loops import EAGER
from wsflow import Close, Reconnect, Router
from wsflow.limits import Limits
from wsflow.testing import FakeClock, clock, connect, sweep_cancellation


@pytest.fixture(params=["asyncio", *EAGER, "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    if request.param == "trio":
        return ("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})
    return EAGER.get(request.param, request.param)


@pytest.fixture(autouse=True)
def nobody_waits() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 5


class Ticks:
    """Notes when it was woken."""

    def __init__(self, *pauses: float, times: int = 1) -> None:
        self.pauses = pauses
        self.times = times
        self.at: list[float] = []

    async def __call__(self) -> None:
        for _ in range(self.times):
            for each in self.pauses:
                await anyio.sleep(each)
                self.at.append(round(anyio.current_time(), 6))


async def test_time_passes_timer_by_timer() -> None:
    async with FakeClock() as clock, anyio.create_task_group() as tasks:
        began = anyio.current_time()
        one, two = Ticks(10, 20, 30), Ticks(15)
        tasks.start_soon(one)
        tasks.start_soon(two)
        await clock.advance(14.5)
        assert (clock.time, anyio.current_time()) == (14.5, began + 14.5)
        assert [len(each.at) for each in (one, two)] == [1, 0]
        await clock.advance(15.5)
        assert clock.time == 30
        assert [each - began for each in one.at] == pytest.approx([10, 30])
        assert [each - began for each in two.at] == pytest.approx([15])
        await clock.advance(29.9)
        assert len(one.at) == 2
        await clock.advance(0.1)
        assert (len(one.at), clock.time) == (3, 60)
        await clock.advance(0)
        assert clock.time == 60


async def test_many_short_times_are_as_long_as_a_long_one() -> None:
    async with FakeClock() as clock, anyio.create_task_group() as tasks:
        ticks = Ticks(0.1, times=200)
        tasks.start_soon(ticks)
        await clock.advance(20)
        assert (len(ticks.at), clock.time) == (200, 20)
        for _ in range(200):
            await clock.advance(0.1)
        assert clock.time == 40


async def test_times_so_large_that_they_are_coarse() -> None:
    async with FakeClock() as clock:
        await clock.advance(1e9)
        await anyio.sleep(0.5)
        await clock.advance(0.5)
        assert clock.time == pytest.approx(1e9 + 1, abs=1e-6)


async def test_what_a_timer_begins_comes_to_rest_before_the_next_one() -> None:
    seen: list[str] = []

    async def begins() -> None:
        await anyio.sleep(1)
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        seen.append("done")
        await anyio.sleep(0.5)
        seen.append("later")

    async def next_one() -> None:
        await anyio.sleep(1.001)
        seen.append("next")

    async with FakeClock() as clock, anyio.create_task_group() as tasks:
        tasks.start_soon(begins)
        tasks.start_soon(next_one)
        await clock.advance(2)
    assert seen == ["done", "next", "later"]


async def test_a_timer_that_was_cancelled() -> None:
    async with FakeClock() as clock:
        with anyio.move_on_after(5):
            await anyio.sleep(1)
        assert clock.time == 1
        await clock.advance(10)
        assert clock.time == 11


async def test_a_receive_for_which_nothing_comes_fails_at_once() -> None:
    router = Router("/")

    @router.consumer
    async def nothing(message: str) -> None: ...

    async with FakeClock() as clock, connect(router) as peer:
        with pytest.raises(AssertionError, match="no message came within 40 s"):
            await peer.receive(timeout=40)
        await peer.receive_nothing(within=20)
        assert clock.time == 60


async def test_a_producer_of_hours() -> None:
    router = Router("/")

    @router.producer
    async def hourly() -> AsyncIterator[int]:
        for hour in range(1, 4):
            await anyio.sleep(3600)
            yield hour

    async with FakeClock() as clock, connect(router) as peer:
        await clock.advance(3599)
        await peer.receive_nothing(within=0.5)
        await clock.advance(0.5)
        assert await peer.receive() == 1
        assert await peer.receive(timeout=4000) == 2
        assert clock.time == 7200
        assert await peer.receive(timeout=4000) == 3
        assert (await peer.wait_closed()).code == 1000


async def test_a_client_comes_back_when_its_pause_is_over() -> None:
    server, client = Router("/"), Router("/")
    opened: list[float] = []

    @server.on_connect
    async def enter() -> None:
        opened.append(anyio.current_time())

    for each in (server, client):

        @each.consumer
        async def nothing(message: str) -> None: ...

    patient = Reconnect(initial_delay=600, max_delay=600)
    async with FakeClock() as clock:
        async with connect(server, client=client, reconnect=patient) as linked:
            linked.link.down = True
            linked.link.cut()
            await clock.advance(3600)
            assert len(opened) == 1
            linked.link.down = False
            await clock.advance(600)
            assert len(opened) == 2
            assert opened[1] - opened[0] > 3600
            linked.link.cut()
            await linked.connected(3)  # time jumps to the end of the pause
            assert len(opened) == 3


async def test_handlers_that_take_too_long(caplog: pytest.LogCaptureFixture) -> None:
    router = Router("/")

    @router.on_connect
    async def enter() -> AsyncIterator[None]:
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(3600)

    @router.consumer
    async def close(message: str) -> None:
        raise Close(4000, "bye")

    def logged() -> bool:
        return "cancelled 30 seconds ago and still running: on_connect enter" in caplog.text

    limits = Limits(close_timeout=30)
    async with FakeClock() as clock:
        try:
            with pytest.raises(AssertionError, match="still running after the connection's end"):
                async with connect(router, limits=limits) as peer:
                    await peer.send("close")
                    await clock.advance(59.9)  # 30 to tear down, and 30 to notice its cancellation
                    assert not logged()
                    await clock.advance(0.1)
                    assert logged()
                    assert peer.end is not None
        finally:
            await clock.advance(3600)  # it ends at last


# -- what never ends


async def forever() -> None:
    while True:
        await anyio.lowlevel.checkpoint()


async def test_what_never_rests_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "RESTS", 0.05)
    async with FakeClock() as fake, anyio.create_task_group() as tasks:
        tasks.start_soon(forever)
        with pytest.raises(AssertionError, match=r"something still goes on by itself after 0.05 s"):
            await fake.advance(1)
        tasks.cancel_scope.cancel()


async def test_timeouts_pass_also_if_something_never_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "BUSY", 0.05)
    async with FakeClock(), anyio.create_task_group() as tasks:
        tasks.start_soon(forever)
        with anyio.move_on_after(1) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        tasks.cancel_scope.cancel()


async def test_time_stands_still_while_something_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for longer than a test may be busy, if it rests meanwhile."""
    monkeypatch.setattr(clock, "BUSY", 0.05)
    async with FakeClock() as fake, anyio.create_task_group() as tasks:
        tasks.start_soon(Ticks(0.01, times=200))
        until, steps = time.thread_time() + 0.15, 0
        while time.thread_time() < until:
            await fake.advance(0.01)
            steps += 1
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
        assert fake.time == pytest.approx(steps * 0.01)
        tasks.cancel_scope.cancel()


async def test_a_timer_that_is_always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "RESTS", 0.05)

    async def again() -> None:
        while True:
            with anyio.CancelScope(deadline=anyio.current_time()):
                await anyio.sleep_forever()

    async with FakeClock() as fake, anyio.create_task_group() as tasks:
        tasks.start_soon(again)
        with pytest.raises(AssertionError, match=r"something still goes on by itself after 0.05 s"):
            await fake.advance(1)
        tasks.cancel_scope.cancel()


# -- mistakes


async def test_what_is_no_time() -> None:
    async with FakeClock() as clock:
        for wrong in (-1, math.inf, math.nan):
            with pytest.raises(ValueError, match="pass how many seconds pass, 0 or more"):
                await clock.advance(wrong)
        assert clock.time == 0


async def test_a_clock_that_does_not_run() -> None:
    clock = FakeClock()
    with pytest.raises(RuntimeError, match="async with FakeClock"):
        await clock.advance(1)
    with pytest.raises(RuntimeError, match="async with FakeClock"):
        assert clock.time
    async with clock:
        await clock.advance(7)
    assert clock.time == 7
    with pytest.raises(RuntimeError, match="async with FakeClock"):
        await clock.advance(1)
    async with clock:
        assert clock.time == 0


async def test_one_task_advances() -> None:
    async with FakeClock() as clock, anyio.create_task_group() as tasks:

        async def other() -> None:
            await anyio.sleep(5)
            with pytest.raises(RuntimeError, match="another task advances this clock"):
                await clock.advance(1)

        tasks.start_soon(other)
        await clock.advance(10)
        assert clock.time == 10
        await clock.advance(10)


async def test_time_does_not_go_back() -> None:
    before = anyio.current_time()
    async with FakeClock() as clock:
        await clock.advance(3600)
        inside = anyio.current_time()
    assert before + 3600 <= inside <= anyio.current_time()
    async with FakeClock() as clock:
        await clock.advance(60)
    assert anyio.current_time() >= before + 3660


def test_asyncios_time_is_given_back() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with FakeClock():
            while time.monotonic() <= loop.time() + 0.01:
                await asyncio.sleep(0)
        assert abs(loop.time() - time.monotonic()) < 0.01
        async with FakeClock() as clock:
            await clock.advance(3600)
            with pytest.raises(RuntimeError, match="is a fake one already: one FakeClock"):
                await FakeClock().__aenter__()
        assert loop.time() - time.monotonic() == pytest.approx(3600, abs=0.5)
        began = time.monotonic()
        await asyncio.sleep(0.05)
        assert time.monotonic() - began >= 0.049

    asyncio.run(main())


def test_threads_are_waited_for_where_no_timer_is_set() -> None:
    async def main() -> None:
        async with FakeClock() as clock:
            assert await asyncio.to_thread(lambda: time.sleep(0.01) or 1) == 1
            assert clock.time == 0

    asyncio.run(main())


def test_trios_time_is_given_back() -> None:
    mock = trio.testing.MockClock(rate=2, autojump_threshold=5)

    async def main() -> None:
        async with FakeClock() as clock:
            assert (mock.rate, mock.autojump_threshold) == (0, 0)
            await clock.advance(3600)
        assert (mock.rate, mock.autojump_threshold) == (2, 5)

    trio.run(main, clock=mock)


def test_trio_needs_a_mock_clock() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r'return \("trio", {"clock": MockClock\(auto'):
            await FakeClock().__aenter__()

    trio.run(main)


def test_uvloop_does_not_let_its_time_be_taken() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="FakeClock needs asyncio's own event loop, or Trio"):
            await FakeClock().__aenter__()

    uvloop.run(main())


def test_a_sweep_has_its_own() -> None:
    router = Router("/")

    @router.consumer
    async def echo(message: str) -> str:
        return message

    async def scenario(peer: object) -> None:
        with pytest.raises(RuntimeError, match="sweep_cancellation has its own"):
            await FakeClock().__aenter__()

    sweep_cancellation(router, scenario, backends=["asyncio"], max_points=3)
