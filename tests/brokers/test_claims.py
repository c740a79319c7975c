"""Names that are claimed once: what the suite of brokers does not reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from tests.brokers.servers import BrokerServer, Kind
from tests.clocks import InFakeTime
from wsflow import BrokerError, Router
from wsflow.brokers import Attempt, remote
from wsflow.brokers.memory import MemoryBroker
from wsflow.brokers.select import engine
from wsflow.limits import Limits
from wsflow.testing import serve_in_memory

ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
KINDS: list[Kind] = ["valkey", "nats"]


class Ignoring:
    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def app() -> Router:
    router = Router("/")

    @router.consumer
    async def hear(message: str) -> None: ...

    return router


@ON_ASYNCIO
@pytest.mark.parametrize("kind", KINDS)
async def test_a_repetition_is_no_second_claim(
    server_of: Callable[..., BrokerServer], kind: Kind
) -> None:
    connection = await engine(server_of(kind).url).connect(Ignoring(), "p")
    try:
        assert await connection.claim("a", 60, Attempt("mine"))
        assert await connection.claim("a", 60, Attempt("mine", again=True))
        assert not await connection.claim("a", 60, Attempt("theirs"))
        assert not await connection.claim("a", 60, Attempt("theirs", again=True))
        assert await connection.claim("a", 60, Attempt("mine", again=True))
    finally:
        await connection.close()


@ON_ASYNCIO
@pytest.mark.parametrize("kind", KINDS)
async def test_a_claim_ends(server_of: Callable[..., BrokerServer], kind: Kind) -> None:
    connection = await engine(server_of(kind).url).connect(Ignoring(), "p")
    try:
        assert await connection.claim("a", 0.0001, Attempt("one"))
        with anyio.fail_after(5):
            while not await connection.claim("a", 60, Attempt("two")):
                await anyio.sleep(0.001)
    finally:
        await connection.close()


@ON_ASYNCIO
async def test_nats_loses_or_refuses_its_stream(server_of: Callable[..., BrokerServer]) -> None:
    connection: Any = await engine(server_of("nats").url).connect(Ignoring(), "p")
    try:
        assert await connection.claim("a", 60, Attempt("one"))
        await connection._client.api("STREAM.DELETE.wsflow_once")
        assert await connection.claim("b", 60, Attempt("one"))
        found = await connection._client.api("STREAM.INFO.wsflow_once")
        await connection._client.api(
            "STREAM.UPDATE.wsflow_once", {**found["config"], "sealed": True}
        )
        with pytest.raises(BrokerError, match="refuses"):
            await connection.claim("c", 60, Attempt("one"))
    finally:
        await connection.close()


@ON_ASYNCIO
async def test_a_server_that_is_lost_meanwhile(server_of: Callable[..., BrokerServer]) -> None:
    server = server_of("valkey")
    async with serve_in_memory(app(), broker=server.url) as one:
        assert await one.registry.claim("a", 60)
        server.pause()
        claimed: list[bool] = []

        async def claim() -> None:
            claimed.append(await one.registry.claim("b", 60))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(claim)
            await anyio.sleep(0.05)  # it is sent, and not answered
            server.kill()
            server.start()
        assert claimed == [True]
        assert not await one.registry.claim("b", 60)


@ON_ASYNCIO
async def test_a_server_that_does_not_answer(
    server_of: Callable[..., BrokerServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_of("valkey")
    limits = Limits(publish_timeout=0.1, close_timeout=1)
    async with serve_in_memory(app(), broker=server.url, limits=limits) as one:
        monkeypatch.setattr(remote, "PATIENCE", 0.1)
        server.pause()
        with pytest.raises(BrokerError, match=r"claiming a name at the broker .* did not answer"):
            await one.registry.claim("a", 60)
        server.resume()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 30 * 24 * 3600 + 1])
async def test_how_long(seconds: float) -> None:
    async with serve_in_memory(app()) as server:
        with pytest.raises(ValueError, match="at most 30 days"):
            await server.registry.claim("a", seconds)


class TestInMemory(InFakeTime):
    async def test_claims_end(self) -> None:
        broker = MemoryBroker(Ignoring())
        for number in range(1000):
            assert await broker.claim(f"{number}", 60)
        assert await broker.claim("long", 100)
        assert not await broker.claim("0", 60)
        await anyio.sleep(60)
        assert await broker.claim("0", 60)
        assert not await broker.claim("long", 60)
        assert len(broker._claimed) == len(broker._kept) == 2
