"""Several processes of an app in one test, over a broker that can be cut off."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import msgspec
import pytest
import trio.testing
import uvloop

from tests.loops import EAGER, on_asyncio
from wsflow import (
    BrokerError,
    EventId,
    Query,
    Router,
    Topic,
    TopicName,
    publisher,
)
from wsflow.brokers.engine import ConnectionLostError
from wsflow.limits import Limits
from wsflow.testing import FakeBroker, FakeClock, MemoryPeer, MemoryServer, serve_in_memory
from wsflow.testing.broker import _Engine


@pytest.fixture(params=["asyncio", "trio", *EAGER])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    if request.param == "trio":
        return ("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})
    return EAGER.get(request.param, request.param)


class Say(msgspec.Struct, tag="say"):
    text: str


class Said(msgspec.Struct, tag="said"):
    text: str
    id: Annotated[str, EventId()] = ""


class Failed(msgspec.Struct, tag="failed"):
    why: str


class Who(msgspec.Struct, tag="who"):
    names: list[str] = []


Kept = Annotated[Topic[Said], TopicName("kept.{room}", history=100)]
Plain = Annotated[Topic[Said], TopicName("plain.{room}", presence=str)]

chat = Router("/{room}")


@chat.on_connect
async def enter(
    kept: Kept, plain: Plain, name: Annotated[str, Query()], after: Annotated[str, Query()] = ""
) -> None:
    await kept.join(after=after)
    await plain.join(presence=name)


@chat.consumer(concurrency=8)
async def say(message: Say, kept: Kept, plain: Plain) -> Failed | None:
    topic = plain if message.text.startswith("plain") else kept
    try:
        await topic.publish(Said(message.text))
    except BrokerError as exc:
        return Failed(str(exc))
    return None


@chat.consumer
async def who(message: Who, plain: Plain) -> Who:
    return Who(sorted([each.presence for each in await plain.members()]))


Two = tuple[FakeClock, FakeBroker, tuple[MemoryServer, MemoryServer], tuple[MemoryPeer, MemoryPeer]]


@asynccontextmanager
async def two() -> AsyncIterator[Two]:
    """Two processes, and a peer of each."""
    broker = FakeBroker()
    limits = Limits(publish_timeout=5, close_timeout=1)
    async with (
        FakeClock() as clock,
        serve_in_memory(chat, broker=broker, limits=limits) as one,
        serve_in_memory(chat, broker=broker, limits=limits) as other,
        one.connect("/x?name=ada") as ada,
        other.connect("/x?name=bob") as bob,
    ):
        yield clock, broker, (one, other), (ada, bob)
    assert not broker.ends
    assert not broker._store.connections


async def heard(peer: MemoryPeer, *texts: str) -> list[str]:
    """What it receives; nothing else may come."""
    found = [await peer.receive(Said, timeout=6) for _ in texts]
    assert [each.text for each in found] == list(texts)
    await peer.receive_nothing(within=2)
    return [each.id for each in found]


async def test_processes_hear_each_other() -> None:
    async with two() as (_, _, (one, other), (ada, bob)):
        for text in ("kept", "plain"):
            await ada.send(Say(text))
            ids = await heard(ada, text)
            assert await heard(bob, text) == ids
        for server in (one, other):
            there = await server.registry.topic("plain.x").members()
            assert sorted(each.presence for each in there) == ["ada", "bob"]
        await bob.send(Who())
        assert await bob.receive(Who) == Who(["ada", "bob"])


async def test_a_broker_that_is_away_for_long() -> None:
    async with two() as (clock, broker, (one, other), (ada, bob)):
        await ada.send(Say("before"))
        (first,) = await heard(bob, "before")
        await heard(ada, "before")
        broker.down = True
        broker.cut()
        began = clock.time
        await ada.send(Say("away"))
        failed = await ada.receive(Failed, timeout=6)
        assert clock.time - began == pytest.approx(5)
        assert f"{broker.url} failed: it is unreachable" in failed.why
        assert "publish_timeout is 5 s" in failed.why
        with pytest.raises(BrokerError):
            await other.registry.topic("kept.x", Said).publish(Said("away"))
        await clock.advance(30)
        await ada.receive_nothing(within=0)
        await ada.send(Say("late"))
        await ada.idle()
        broker.down = False
        ids = await heard(ada, "late")
        assert await heard(bob, "late") == ids
        async with one.connect(f"/x?name=eve&after={first}") as eve:
            await heard(eve, "late")
        for server in (one, other):
            assert server.registry.counters()["reconnected"] == 1
            assert server.registry.counters()["lost"] == 0
        await clock.advance(2)
        await bob.send(Who())
        assert await bob.receive(Who) == Who(["ada", "bob"])


async def test_what_was_said_while_one_process_was_away_is_heard_once() -> None:
    async with two() as (_, broker, (_, other), (ada, bob)):
        link = broker.link(other)
        link.down = True
        link.cut()
        for number in range(20):
            await ada.send(Say(f"{number}"))
            await ada.idle()  # its handlers run concurrently
        await heard(ada, *map(str, range(20)))
        await bob.receive_nothing(within=0)
        link.down = False
        await ada.send(Say("20"))
        await bob.idle()
        link.cut()  # in the midst of it
        await heard(bob, *map(str, range(21)))
        assert other.registry.counters()["lost"] == 0


@pytest.mark.parametrize("text", ["kept", "plain"])
async def test_a_lost_answer_has_nothing_heard_twice(text: str) -> None:
    async with two() as (clock, broker, (one, _), (ada, bob)):
        broker.delay = 1
        await clock.advance(4)
        await ada.send(Say(text))
        await clock.advance(1.5)  # the broker has it, and its answer is under way
        broker.link(one).cut()
        broker.delay = 0
        assert (await bob.receive(Said)).text == text
        await clock.advance(5)
        await bob.receive_nothing(Said, within=0)
        assert one.registry.counters()["published"] == 1
        await ada.send(Say("then"))
        await heard(bob, "then")


async def test_a_process_that_was_killed() -> None:
    async with two() as (clock, broker, (one, _), (_, bob)):
        await bob.send(Who())
        assert await bob.receive(Who, timeout=3) == Who(["ada", "bob"])
        broker.link(one).down = True
        broker.link(one).cut()
        await bob.send(Who())
        assert await bob.receive(Who) == Who(["ada", "bob"])  # nobody knows yet
        await clock.advance(5)
        await bob.send(Who())
        assert await bob.receive(Who) == Who(["bob"])
        broker.link(one).down = False
        await clock.advance(10)
        await bob.send(Who())
        assert await bob.receive(Who) == Who(["ada", "bob"])


async def test_a_broker_that_hangs() -> None:
    async with two() as (clock, broker, (one, other), (ada, bob)):
        broker.stall()
        await ada.send(Say("held"))
        await clock.advance(1)
        await bob.receive_nothing(within=0)
        broker.resume()
        await heard(bob, "held")
        assert one.registry.counters()["reconnected"] == 0
        broker.stall()  # for so long that it counts as lost
        await clock.advance(10)
        broker.resume()
        await clock.advance(10)
        await ada.send(Say("again"))
        await heard(bob, "again")
        for server in (one, other):
            assert server.registry.counters()["reconnected"] == 1


async def test_a_broker_that_is_not_there() -> None:
    broker = FakeBroker()
    broker.down = True
    async with FakeClock() as clock:
        with pytest.raises(BrokerError, match=f"the broker {broker.url} cannot be reached: the li"):
            async with serve_in_memory(chat, broker=broker):
                pass
        broker.down, broker.delay = False, 100
        with pytest.raises(BrokerError, match="no answer within 3 s"):
            async with serve_in_memory(chat, broker=broker):
                pass
        assert clock.time >= 6
    assert not broker.ends


async def test_history_that_is_too_old() -> None:
    """As with every broker, and in a time that the test makes pass."""
    app = Router("/{room}")
    told: list[bool] = []
    Brief = Annotated[Topic[Said], TopicName("brief.{room}", history=9, max_age=60)]

    @app.on_connect
    async def enter(brief: Brief, after: Annotated[str, Query()] = "") -> None:
        told.append((await brief.join(after=after)).recovered)

    @app.consumer
    async def publish(message: str, brief: Brief) -> str:
        return await brief.publish(Said(message))

    async with FakeClock() as clock, serve_in_memory(app, broker=FakeBroker()) as server:
        async with server.connect("/x") as ada:
            await ada.send("a")
            first = await ada.receive(str)
            await clock.advance(30)
            await ada.send("b")
            for late, recovered in [(29, True), (2, False)]:
                await clock.advance(late)
                async with server.connect(f"/x?after={first}"):
                    assert told[-1] is recovered


async def test_a_publisher_from_outside() -> None:
    async with two() as (_, broker, _, (ada, bob)):
        async with publisher(broker.url) as publish:
            await publish("kept.x", Said("news"))
        ids = await heard(ada, "news")
        assert await heard(bob, "news") == ids != [""]


async def test_names_are_claimed_for_a_time() -> None:
    async with two() as (clock, _, (one, other), _):
        assert await one.registry.claim("a", 60)
        await clock.advance(59)
        assert not await other.registry.claim("a", 60)
        await clock.advance(1)
        assert await other.registry.claim("a", 60)


async def test_what_an_engine_is_told_may_fail() -> None:
    """An error of the process ends its connection; it is not lost."""

    class Listener:
        def told(self, data: bytes) -> None:
            raise ZeroDivisionError(data)

    async def use() -> None:
        listener: Any = Listener()
        connection = await _Engine(FakeBroker()).connect(listener, "me")
        connection.tell("you", b"nobody")
        connection.tell("me", b"it")
        with pytest.raises(ZeroDivisionError, match="it"):
            await connection.lost()
        with pytest.raises(ConnectionLostError):
            await connection.ping()
        await connection.close()

    await on_asyncio(use)


def test_on_uvloop() -> None:
    async def main() -> None:
        broker = FakeBroker()
        async with (
            serve_in_memory(chat, broker=broker) as one,
            serve_in_memory(chat, broker=broker) as other,
            one.connect("/x?name=ada") as ada,
            other.connect("/x?name=bob") as bob,
        ):
            await ada.send(Say("hi"))
            assert (await bob.receive(Said)).text == "hi"
            broker.cut()
            await ada.send(Say("again"))
            assert (await bob.receive(Said, timeout=5)).text == "again"

    uvloop.run(main())


# -- mistakes


async def test_another_event_loop() -> None:
    broker = FakeBroker()
    listener: Any = None

    def elsewhere() -> None:
        async def main() -> None:
            await _Engine(broker).connect(listener, "me")

        with pytest.raises(BrokerError, match=r"this is another one \(blocking_publisher has its"):
            asyncio.run(main())

    async with serve_in_memory(chat, broker=broker):
        await anyio.to_thread.run_sync(elsewhere)
    # One after the other, it may be.
    connection = await on_asyncio(_Engine(broker).connect, listener, "me")
    await on_asyncio(connection.close)


async def test_the_link_of_another_server() -> None:
    broker, another = FakeBroker(), FakeBroker()
    async with serve_in_memory(chat, broker=another) as server, serve_in_memory(chat) as alone:
        for each in (server, alone):
            with pytest.raises(ValueError, match="that server has another broker"):
                broker.link(each)
        assert broker.link is not another.link(server)


def test_a_broker_that_nobody_keeps() -> None:
    url = FakeBroker().url
    gc.collect()
    with pytest.raises(ValueError, match=f"'{url}' cannot be used: its FakeBroker is gone"):
        serve_in_memory(chat, broker=url)
