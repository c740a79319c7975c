"""Members are told where they may have missed messages, if the app asks for that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import pytest

from tests.brokers.servers import BrokerServer, Kind
from tests.brokers.test_versions import emptied
from wsflow import DeclarationError, EventId, Limits, Query, Router, Topic, TopicName
from wsflow.brokers import remote
from wsflow.brokers.base import Nothing
from wsflow.testing import MemoryServer, serve_in_memory
from wsflow.wiring.compile import compile_app


class Price(msgspec.Struct, tag="price"):
    number: int
    id: Annotated[str, EventId()] = ""


class Reload(msgspec.Struct, tag="reload"):
    pass


Plain = Annotated[Topic[Price], TopicName("plain", gap=Reload())]
Kept = Annotated[Topic[Price], TopicName("kept", history=3, gap=Reload())]
Silent = Annotated[Topic[Price], TopicName("silent")]

LIMITS = Limits(publish_timeout=3, close_timeout=1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BEAT", 0.1)


def app() -> Router:
    router = Router("/")

    @router.on_connect
    async def enter(
        kind: Annotated[str, Query()], plain: Plain, kept: Kept, silent: Silent
    ) -> None:
        await {"plain": plain, "kept": kept, "silent": silent}[kind].join()

    @router.consumer
    async def nothing(message: str) -> None: ...

    return router


async def cut(process: MemoryServer) -> None:
    """The connection to the broker is lost, and made again."""
    broker: Any = process._app.directory.channels.broker
    lost = broker._connection
    broker.give_up(lost)
    while broker._connection in (None, lost):
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("engine", ["valkey", "nats"])
async def test_a_broker_that_was_away(
    engine: Kind, server_of: Callable[[Kind], BrokerServer]
) -> None:
    packed: Any = ["wsflow.msgpack"]
    async with serve_in_memory(app(), broker=server_of(engine).url, limits=LIMITS) as process:
        async with (
            process.connect("/?kind=plain") as plain,
            process.connect("/?kind=plain") as more,
            process.connect("/?kind=plain", subprotocols=packed) as other,
            process.connect("/?kind=kept") as kept,
            process.connect("/?kind=silent") as silent,
        ):
            assert process.registry.counters()["missed"] == 0
            await cut(process)
            for peer in (plain, more, other):
                assert await peer.receive(Reload, timeout=5) == Reload()
            for name, peers in (
                ("plain", [plain, more, other]),
                ("kept", [kept]),
                ("silent", [silent]),
            ):
                await process.registry.topic(name).publish(Price(1))
                for peer in peers:  # a history misses nothing, and the last one does not ask
                    assert (await peer.receive(Price, timeout=5)).number == 1
            assert process.registry.counters()["missed"] == 2


@pytest.mark.parametrize("engine", ["valkey", "nats"])
async def test_a_history_that_has_lost_events(
    engine: Kind, server_of: Callable[[Kind], BrokerServer]
) -> None:
    server = server_of(engine)
    async with serve_in_memory(app(), broker=server.url, limits=LIMITS) as process:
        async with process.connect("/?kind=kept") as kept:
            topic = process.registry.topic("kept")
            await topic.publish(Price(1))
            assert (await kept.receive(Price, timeout=5)).number == 1
            await emptied(server)
            await topic.publish(Price(2))
            assert await kept.receive(Reload, timeout=5) == Reload()
            assert (await kept.receive(Price, timeout=5)).number == 2
        assert process.registry.counters()["missed"] == 1


async def test_who_replays_is_not_told() -> None:
    """What it misses is in the history."""
    async with serve_in_memory(app(), limits=LIMITS) as process, process.connect("/?kind=kept"):
        channels = process._app.directory.channels
        channel = channels.get("kept")
        assert channel is not None
        (membership,) = channel.members.values()
        membership.replaying = Nothing()
        channels.missed("kept")
        channels.missed("elsewhere")
        assert process.registry.counters()["missed"] == 1
        (session,) = process._app.sessions.values()
        assert session.outbox.sent == 0


@pytest.mark.parametrize(
    ("gap", "why"),
    [
        (Reload, "gap is the class Reload"),
        (object(), "gap cannot be encoded"),
    ],
)
def test_what_no_gap_can_be(gap: Any, why: str) -> None:
    router = Router("/")

    async def take(message: str, topic: Any) -> None: ...

    take.__annotations__["topic"] = Annotated[Topic[Price], TopicName("t", gap=gap)]
    router.consumer(take)
    with pytest.raises(DeclarationError, match=why):
        compile_app(router)
