"""When a client comes back, and when it does that."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
import pytest

from tests.clocks import InFakeTime
from wsflow import ConnectError, End, Reconnect, Router
from wsflow.client.reconnecting import Pauses, reconnects
from wsflow.testing import serve_in_memory


@pytest.mark.parametrize(
    ("codes", "again"),
    [
        ([1000, 1002, 1003, 1005, 1007, 1008, 1009, 1010], False),
        ([1001, 1006, 1011, 1012, 1013, 1014], True),
        ([3000, 3003, 3999], False),
        ([3008], True),
        ([4400, 4401, 4403, 4404, 4499], False),
        ([4000, 4399, 4500, 4999], True),
    ],
)
def test_the_table(codes: list[int], again: bool) -> None:
    assert {reconnects(End("peer", code)) for code in codes} == {again}


def test_refusals() -> None:
    assert reconnects(End("unreachable", 1006, "", ConnectError("x")))
    assert not reconnects(End("unreachable", 1006, "", ConnectError("x", retryable=False)))
    assert reconnects(End("rejected", 503, "", ConnectError("x", status=503)))
    assert not reconnects(End("rejected", 401))  # its own on_connect has refused


def test_pauses_grow_up_to_the_cap_and_begin_anew() -> None:
    pauses = Pauses(Reconnect(initial_delay=1, max_delay=8, stable_after=30))
    lost = End("vanished", 1006)
    for most in (1, 2, 4, 8, 8, 8):
        assert 0 <= pauses.after(lost, 0) <= most
    assert pauses.attempt == 7
    assert pauses.after(lost, 30) <= 1
    assert pauses.attempt == 2


def test_full_jitter() -> None:
    waits = [
        Pauses(Reconnect(initial_delay=1)).after(End("vanished", 1006), 0) for _ in range(1000)
    ]
    assert min(waits) < 0.05
    assert max(waits) > 0.95
    assert 0.4 < sum(waits) / 1000 < 0.6


def test_the_server_may_ask_for_more() -> None:
    asked = End("rejected", 503, "", ConnectError("x", status=503, retry_after=100))
    waits = [Pauses(Reconnect(initial_delay=1)).after(asked, 0) for _ in range(100)]
    assert all(100 <= wait <= 101 for wait in waits)
    assert max(waits) - min(waits) > 0.5  # and then they do not come at one moment


@pytest.mark.parametrize(
    "wrong", [{"initial_delay": 0}, {"initial_delay": 2, "max_delay": 1}, {"stable_after": -1}]
)
def test_bad_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"Reconnect: 0 < initial_delay|stable_after is -1"):
        Reconnect(**wrong)  # type: ignore[arg-type]


class TestComingBack(InFakeTime):
    @pytest.mark.no_cover  # its lines are covered by others, and it is four times as slow
    async def test_two_hundred_do_not_come_back_at_one_moment(self) -> None:
        server, client = Router(), Router()
        came: list[float] = []

        @server.on_connect
        async def enter() -> None:
            came.append(anyio.current_time())

        for router in (server, client):

            @router.producer(on_end="keep")
            async def nothing() -> None: ...

        async with serve_in_memory(server) as serving, AsyncExitStack() as stack:
            all_linked = [
                await stack.enter_async_context(serving.link(client, "/", reconnect=True))
                for _ in range(200)
            ]
            came.clear()
            lost = anyio.current_time()
            for linked in all_linked:
                linked.link.cut()
            for linked in all_linked:
                await linked.connected(2)
            after = sorted(each - lost for each in came)
        assert after[0] < 0.1
        assert 0.9 < after[-1] <= 1
        tenths = [sum(t <= each < t + 0.1 for each in after) for t in (n / 100 for n in range(100))]
        assert max(tenths) <= 45  # about 20 each
