"""A broker of asyncio, on Trio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import pytest
import sniffio
import trio
import trio.testing

from wsflow import BrokerError, Router, Topic, TopicName
from wsflow.brokers import select
from wsflow.brokers.base import Nothing
from wsflow.brokers.carried import CarriedBroker
from wsflow.messages.events import Envelope, Event, TopicOptions
from wsflow.testing import FakeBroker, serve_in_memory

HISTORY = TopicOptions(history=10)


@pytest.fixture
def anyio_backend() -> object:
    return ("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})


class Process:
    """A process of an app: what it is told, and which library runs meanwhile."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.libraries: set[str] = set()

    def note(self, *what: str) -> None:
        self.told.append(what)
        self.libraries.add(sniffio.current_async_library())

    def deliver(self, topic: str, event: Event) -> None:
        self.note("deliver", topic, event.id and "kept")

    def missed(self, topic: str) -> None:
        self.note("missed", topic)

    def unreadable(self, where: str, why: object) -> None:
        self.note("unreadable", where)

    def heard(self, process: str, note: bytes) -> None:
        self.note("heard", note.decode())

    def appeared(self, process: str) -> None:
        self.note("appeared")

    def gone(self, process: str) -> None:
        self.note("gone")

    async def until(self, *what: str) -> None:
        with anyio.fail_after(60):
            while what not in self.told:
                await anyio.sleep(0.01)


@asynccontextmanager
async def carried(
    fake: FakeBroker, listener: Process | None, declared: Mapping[str, TopicOptions] | None = None
) -> AsyncIterator[CarriedBroker]:
    broker = select.remote(listener, select.engine(fake.url), 5, declared or {})
    assert isinstance(broker, CarriedBroker)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


async def test_what_it_is_asked_and_what_it_reports() -> None:
    fake, here, there = FakeBroker(), Process(), Process()
    async with carried(fake, here, {"kept": HISTORY}) as one:
        assert one.connected
        assert await one.declared() == {"kept": HISTORY}
        one.declare("later", HISTORY)
        async with carried(fake, there) as other:
            one.subscribe("plain", TopicOptions())
            await one.subscribed("plain")
            one.subscribe("kept", HISTORY)
            await one.subscribed("kept")
            assert await other.publish("plain", Envelope({}), TopicOptions()) == ""
            id = await other.publish("kept", Envelope({}), HISTORY)
            await here.until("deliver", "plain", "")
            await here.until("deliver", "kept", "kept")
            page = await one.read("kept", "", 10)
            assert [event.id for event in page.events] == [id]
            other.tell("", b"note")
            await here.until("heard", "note")
            asked: list[str] = []

            async def answers() -> None:
                asked.append(sniffio.current_async_library())

            await one.settled(answers)
            assert len(one.processes) == 1
            assert await one.claim("name", 60)
            assert not await other.claim("name", 60)
            await one.clear("kept", HISTORY)
            assert (await one.read("kept", "", 10)).events == []
            one.unsubscribe("kept")
            for listened in (one, other):  # in the words of an engine
                listened.carried.unreadable("it", "why")
                listened.carried.told(b"\xff")
            assert other.counters["published"] == 2
        await here.until("gone")
        fake.cut()
        await here.until("missed", "plain")
    assert {what for what, *_ in here.told} == {
        *("deliver", "missed", "unreadable", "heard", "appeared", "gone")
    }
    assert here.libraries | there.libraries == {"trio"}


async def test_a_replay() -> None:
    fake, here = FakeBroker(), Process()
    async with carried(fake, here) as broker, carried(fake, None) as publisher:
        broker.subscribe("kept", HISTORY)
        await broker.subscribed("kept")
        ids = [await publisher.publish("kept", Envelope({}), HISTORY) for _ in range(3)]
        await here.until("deliver", "kept", "kept")
        assert isinstance(await broker.replay("kept", "no id"), Nothing)
        feed = broker.carried._feeds["kept"]
        replay = await broker.replay("kept", ids[0])
        assert (replay.recovered, replay.cleared) == (True, 0)
        feed.recent.clear()  # so that it must be read
        ready, libraries = trio.Event(), list[str]()

        def wake() -> None:
            libraries.append(sniffio.current_async_library())
            ready.set()

        assert replay.take(wake) is None
        await ready.wait()
        assert [event.id for event in replay.take(wake) or ()] == ids[1:]
        assert replay.take(wake) == ()
        assert libraries == ["trio"]


async def test_errors_are_what_they_are() -> None:
    fake = FakeBroker()
    fake.down = True
    with pytest.raises(BrokerError, match=f"the broker {fake.url} cannot be reached: the link is"):
        async with carried(fake, Process()):
            pass
    fake.down = False
    async with carried(fake, Process()) as broker:
        fake.down = True
        fake.cut()
        with pytest.raises(BrokerError, match="publishing on topic 'x' at the broker fake://"):
            await broker.publish("x", Envelope({}), TopicOptions())


@pytest.mark.parametrize("what", ["start", "publish"])
async def test_a_cancellation(what: str) -> None:
    """It ends what was begun, and nothing of it is left; the broker goes on."""
    fake = FakeBroker()
    if what == "start":
        fake.stall()
        broker = select.remote(Process(), select.engine(fake.url), 60, {})
        with anyio.move_on_after(1) as scope:
            await broker.start()
        assert not fake.ends
    else:
        async with carried(fake, Process()) as broker:
            fake.stall()
            with anyio.move_on_after(1) as scope:
                await broker.publish("x", Envelope({}), TopicOptions())
            fake.resume()
            assert await broker.publish("x", Envelope({}), TopicOptions()) == ""
    assert scope.cancelled_caught


Room = Annotated[Topic[str], TopicName("room.{room}", history=100)]


async def test_an_app_that_is_stopped_while_it_connects() -> None:
    fake = FakeBroker()
    fake.stall()
    app = Router("/{room}")

    @app.consumer
    async def say(message: str, room: Room) -> None: ...

    with anyio.move_on_after(1) as scope:
        async with serve_in_memory(app, broker=fake):
            pass
    assert scope.cancelled_caught
    assert not fake.ends


async def test_nothing_is_left_of_what_runs_behind() -> None:
    fake = FakeBroker()
    async with carried(fake, Process()) as broker:
        loop: Any = broker._loop
        assert asyncio.all_tasks(loop)
    assert not fake.ends
    with anyio.fail_after(60):
        while asyncio.all_tasks(loop):
            await anyio.sleep(0.01)
