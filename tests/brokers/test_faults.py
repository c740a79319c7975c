"""The broker goes away, in every way that it can, while the app is busy with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import msgspec
import pytest

from tests.brokers.proxy import proxy
from tests.brokers.servers import KINDS, BrokerServer, Kind
from wsflow import BrokerError, EventId, Query, Router, Topic, TopicName
from wsflow.brokers import remote
from wsflow.limits import Limits
from wsflow.testing import MemoryPeer, MemoryServer, serve_in_memory


class News(msgspec.Struct, tag="news"):
    number: int
    id: Annotated[str, EventId()] = ""


Kept = Annotated[Topic[News], TopicName("kept", history=10_000)]
Plain = Annotated[Topic[News], "plain"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=[kind for kind in KINDS if kind != "redis"])  # to it, Valkey is the same
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for in seconds in life is waited for in tenths here."""
    monkeypatch.setattr(remote, "PATIENCE", 0.3)
    monkeypatch.setattr(remote, "PING_INTERVAL", 0.1)
    monkeypatch.setattr(remote, "BEAT", 0.1)


def app() -> Router:
    router = Router("/")

    @router.on_connect
    async def enter(kept: Kept, plain: Plain, after: Annotated[str, Query()] = "") -> None:
        joined = await kept.join(after=after)
        assert joined.recovered or not after
        await plain.join(presence="somebody")

    @router.consumer
    async def nothing(message: str) -> None: ...

    return router


@asynccontextmanager
async def two(url: str, publish_timeout: float = 10) -> AsyncIterator[list[MemoryServer]]:
    limits = Limits(close_timeout=1, publish_timeout=publish_timeout)
    async with (
        serve_in_memory(app(), broker=url, limits=limits) as one,
        serve_in_memory(app(), broker=url, limits=limits) as other,
    ):
        yield [one, other]


class Writer:
    """Publishes numbers in a row, and notes which were acknowledged.

    Attributes:
        acknowledged: those.
        failed: those for which an error was raised.
    """

    def __init__(self, server: MemoryServer, topic: str, first: int) -> None:
        self._topic = server.registry.topic(topic)
        self._first = first
        self._stop = False
        self.acknowledged: list[int] = []
        self.failed: list[int] = []

    async def write(self) -> None:
        number = self._first
        while not self._stop:
            try:
                await self._topic.publish(News(number))
            except BrokerError:
                self.failed.append(number)
            else:
                self.acknowledged.append(number)
            number += 1
            await asyncio.sleep(0.002)

    def stop(self) -> None:
        self._stop = True

    async def more(self, count: int = 20) -> None:
        """Wait until so many more were acknowledged."""
        target = len(self.acknowledged) + count
        with anyio.fail_after(20):
            while len(self.acknowledged) < target:
                await asyncio.sleep(0.005)


async def hear(peer: MemoryPeer, writers: list[Writer], heard: list[int]) -> None:
    """Read until everything that was acknowledged has come."""
    missing = {number for writer in writers for number in writer.acknowledged} - set(heard)
    while missing:
        number = (await peer.receive(News, timeout=10)).number
        heard.append(number)
        missing.discard(number)


def check(heard: list[int], writers: list[Writer]) -> None:
    """Each number once at most, each publisher's in order, and all that were acknowledged."""
    assert len(heard) == len(set(heard))
    for writer in writers:
        mine = [number for number in heard if number // 100_000 == writer._first // 100_000]
        assert mine == sorted(mine)
        assert set(writer.acknowledged) <= set(mine) <= {*writer.acknowledged, *writer.failed}


Fault = Callable[[BrokerServer, Any], Awaitable[None]]


async def paused(server: BrokerServer, between: Any) -> None:
    server.pause()
    await asyncio.sleep(0.7)
    server.resume()


async def killed(server: BrokerServer, between: Any) -> None:
    server.kill()
    await asyncio.sleep(0.2)
    server.start()


async def swallowed(server: BrokerServer, between: Any) -> None:
    between.swallowing = True
    await asyncio.sleep(0.7)
    between.swallowing = False
    between.reset()


async def cut(server: BrokerServer, between: Any) -> None:
    for _ in range(3):
        between.reset()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("fault", [paused, killed, swallowed, cut])
async def test_on_topics_with_history_nothing_acknowledged_is_lost(
    kind: Kind, fault: Fault, server_of: Callable[..., BrokerServer]
) -> None:
    server = server_of(kind, durable=True)
    async with proxy(server.port) as between:
        async with two(server.url.replace(str(server.port), str(between.port))) as processes:
            async with processes[0].connect("/") as ada, processes[1].connect("/") as bob:
                writers = [
                    Writer(each, "kept", index * 100_000) for index, each in enumerate(processes)
                ]
                async with asyncio.TaskGroup() as tasks:
                    for writer in writers:
                        tasks.create_task(writer.write())
                    for writer in writers:
                        await writer.more()
                    await fault(server, between)
                    for writer in writers:
                        await writer.more()
                        writer.stop()
                for peer in (ada, bob):
                    heard: list[int] = []
                    await hear(peer, writers, heard)
                    await peer.receive_nothing(within=0.05)
                    check(heard, writers)
                assert not any(writer.failed for writer in writers)
                for each in processes:
                    assert each.registry.counters()["lost"] == 0


@pytest.mark.parametrize("fault", [paused, killed, swallowed, cut])
async def test_without_history_it_goes_on_afterwards(
    kind: Kind, fault: Fault, server_of: Callable[..., BrokerServer]
) -> None:
    server = server_of(kind)
    async with proxy(server.port) as between:
        async with two(server.url.replace(str(server.port), str(between.port))) as processes:
            async with processes[0].connect("/") as ada, processes[1].connect("/") as bob:
                writer = Writer(processes[0], "plain", 0)
                heard: list[list[int]] = [[], []]

                async def listen(index: int, peer: MemoryPeer) -> None:
                    while True:
                        heard[index].append((await peer.receive(News, timeout=20)).number)

                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(writer.write())
                    listening = [
                        tasks.create_task(listen(index, peer))
                        for index, peer in enumerate((ada, bob))
                    ]
                    await writer.more()
                    await fault(server, between)
                    with anyio.fail_after(10):  # what is said after it is heard by both again
                        await writer.more()
                        since = writer.acknowledged[-1]
                        while any(not each or each[-1] < since for each in heard):
                            await asyncio.sleep(0.01)
                        await everybody_is_there(processes)
                    writer.stop()
                    for each in listening:
                        each.cancel()
                for each in heard:
                    assert each == sorted(set(each))


async def everybody_is_there(processes: list[MemoryServer]) -> None:
    for each in processes:
        while len(await each.registry.topic("plain").members()) != 2:
            await asyncio.sleep(0.02)


async def test_publishing_says_that_the_broker_is_away(
    kind: Kind, server_of: Callable[..., BrokerServer]
) -> None:
    server = server_of(kind)
    async with two(server.url, publish_timeout=0.5) as processes:
        async with processes[0].connect("/") as ada:
            topic = processes[0].registry.topic("plain")
            server.kill()
            with pytest.raises(BrokerError) as raised:
                await topic.publish(News(1))
            assert str(raised.value).startswith(
                f"publishing on topic 'plain' at the broker {server.url} failed: "
                "it is unreachable ("
            )
            assert str(raised.value).endswith("); publish_timeout is 0.5 s")
            with pytest.raises(BrokerError, match="listing members"):
                await processes[0].registry.topic("elsewhere").members()
            for asked in (topic.count, processes[0].registry.user("ada").connections):
                with pytest.raises(BrokerError, match="listing members"):
                    await asked()
            for told in (
                processes[0].registry.user("ada").send("hi"),
                processes[0].registry.user("ada").disconnect(4401),
                processes[0].registry.disconnect("id", 4000),
            ):
                with pytest.raises(BrokerError, match=r"it is unreachable \("):
                    await told
            async with processes[0].connect("/") as late:  # all its topics are joined already
                await late.receive_nothing(within=0.01)
            await ada.receive_nothing(within=0.01)
            server.start()
            with anyio.fail_after(10):
                while True:
                    try:
                        await topic.publish(News(2))
                    except BrokerError:
                        continue
                    break
            assert (await ada.receive(News, timeout=5)).number == 2


async def test_no_timeout_fails_at_once(kind: Kind, server_of: Callable[..., BrokerServer]) -> None:
    server = server_of(kind)
    async with two(server.url, publish_timeout=0) as processes:
        topic = processes[0].registry.topic("plain")
        server.kill()
        broker = processes[0]._app.directory.channels.broker
        with anyio.fail_after(5):
            while broker._connected.is_set():
                await asyncio.sleep(0.01)
        with pytest.raises(BrokerError, match="it is unreachable"):
            await topic.publish(News(1))


async def test_a_history_that_is_lost_is_said_to_be(
    kind: Kind, server_of: Callable[..., BrokerServer]
) -> None:
    """The broker comes back with nothing: who joins with an old id learns that."""
    router = Router("/")

    @router.on_connect
    async def enter(kept: Kept, after: Annotated[str, Query()] = "") -> None:
        joined = await kept.join(after=after)
        assert joined.recovered is False

    @router.consumer
    async def nothing(message: str) -> None: ...

    server = server_of(kind)
    async with serve_in_memory(router, broker=server.url) as process:
        async with process.connect("/") as ada:
            topic = process.registry.topic("kept")
            old = await topic.publish(News(1))
            assert (await ada.receive(News)).number == 1
            server.kill()
            server.start()
            await topic.publish(News(2))
            assert (await ada.receive(News, timeout=5)).number == 2
            async with process.connect(f"/?after={old}") as bob:
                await bob.receive_nothing(within=0.02)
            assert process.registry.counters()["lost"] == 1


async def test_a_history_that_has_lost_its_end(
    kind: Kind, server_of: Callable[..., BrokerServer]
) -> None:
    """The broker comes back with less than it had acknowledged, and what comes next is heard."""
    recovered: list[bool] = []
    router = Router("/")

    @router.on_connect
    async def enter(kept: Kept, after: Annotated[str, Query()] = "") -> None:
        recovered.append((await kept.join(after=after)).recovered)

    @router.consumer
    async def nothing(message: str) -> None: ...

    server = server_of(kind, durable=True)
    async with serve_in_memory(router, broker=server.url) as process:
        async with process.connect("/") as ada:
            topic = process.registry.topic("kept")
            before = await topic.publish(News(1))
            server.keep()
            lost = [await topic.publish(News(number)) for number in (2, 3, 4)]
            heard = [await ada.receive(News, timeout=5) for _ in range(4)]
            server.roll_back()
            with anyio.fail_after(5):
                while not process.registry.counters()["lost"]:
                    await asyncio.sleep(0.01)
            after = [await topic.publish(News(number)) for number in (5, 6, 7, 8)]
            heard += [await ada.receive(News, timeout=5) for _ in range(4)]
            assert [each.number for each in heard] == list(range(1, 9))
            assert [each.id for each in heard] == [before, *lost, *after]
            assert process.registry.counters()["lost"] == 1
            for seen in (before, *lost, after[-1]):  # NATS gives the ids of lost ones again
                async with process.connect(f"/?after={seen}") as bob:
                    await bob.receive_nothing(within=0.02)
    assert recovered == [
        False,
        False,
        False,
        False,
        False,
        True,
    ]  # ada first, who asked for nothing
