"""Publishing from outside of a server: with the app and without, in a coroutine and in threads."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import anyio
import msgspec
import pytest

import wsflow
from tests.brokers.servers import KINDS, BrokerServer
from tests.processes import running
from wsflow import BrokerError, EventId, Query, Registry, Router, Topic, TopicName
from wsflow.brokers import announced, remote
from wsflow.testing import FakeBroker, serve_in_memory


class Said(msgspec.Struct, tag="said"):
    text: str


class News(msgspec.Struct, tag="news"):
    text: str
    id: Annotated[str, EventId()] = ""


class Gone(msgspec.Struct, tag="gone"):
    pass


Room = Annotated[Topic[Said], "room.{room}"]
Kept = Annotated[Topic[News | Gone], TopicName("kept.{room}", history=9)]
app = Router("/{room}")


@app.on_connect
async def enter(
    room: Room, kept: Kept, registry: Registry, last: Annotated[int, Query()] = 0
) -> None:
    await room.join()
    await kept.join(last=last)
    await registry.topic(TopicName("late.{x}", history=9), News, x="a b").join(last=last)


@app.consumer
async def nothing(message: str) -> None: ...


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind != "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[BrokerServer]:
    started = BrokerServer(request.param)
    started.start()
    yield started
    started.stop()


@pytest.mark.parametrize("with_app", [app, "tests.test_publishing:app", None])
async def test_a_template_and_values(server: BrokerServer, with_app: Any) -> None:
    async with (
        serve_in_memory(app, broker=server.url) as process,
        process.connect("/my%20room") as peer,
        wsflow.publisher(server.url, app=with_app) as publish,
    ):
        assert await publish("room.{room}", Said("hi"), room="my room") == ""
        assert await peer.receive(Said) == Said("hi")
        id = await publish("kept.{room}", News("kept"), room="my room")
        assert id
        assert await peer.receive(News) == News("kept", id)
        await publish("kept.my%20room", Gone())
        assert await peer.receive(Gone) == Gone()
        for name in ("kept.my room", "kept.a@b"):
            with pytest.raises(
                ValueError, match=re.escape("publish('kept.{room}', message, room=")
            ):
                await publish(name, News("x"))
        with pytest.raises(ValueError, match="needs a value for room"):
            await publish("room.{room}", Said("x"))
        with pytest.raises(TypeError, match="room is a float"):
            await publish("room.{room}", Said("x"), room=1.5)  # type: ignore[arg-type]


async def test_with_the_app_types_are_checked(server: BrokerServer) -> None:
    async with (
        serve_in_memory(app, broker=server.url) as process,
        process.connect("/a") as peer,
        wsflow.publisher(server.url, app=app) as publish,
    ):
        with pytest.raises(TypeError, match=r"topic 'room\.a' carries Said, not News"):
            await publish("room.{room}", News("x"), room="a")
        with pytest.raises(ValueError, match=r"declares no topic 'rom'; it has: kept\.\{room\}, "):
            await publish("rom", Said("x"))
        id = await publish("kept.{room}", {"type": "news", "text": "a dict"}, room="a")
        assert await peer.receive(News) == News("a dict", id)


async def test_without_the_app_a_missing_event_id_is_said(server: BrokerServer) -> None:
    async with (
        serve_in_memory(app, broker=server.url) as process,
        process.connect("/b") as peer,
        wsflow.publisher(server.url) as publish,
    ):
        with pytest.raises(TypeError, match="carry their event id, and dict has no field marked"):
            await publish("kept.{room}", {"type": "news", "text": "x"}, room="b")
        with pytest.raises(TypeError, match="carry their event id, and Gone has no field marked"):
            await publish("late.{x}", Gone(), x="b")
        await peer.receive_nothing(within=0.05)


async def test_a_topic_that_was_declared_while_the_app_runs(server: BrokerServer) -> None:
    async with (
        serve_in_memory(app, broker=server.url) as process,
        process.connect("/c") as peer,
        wsflow.publisher(server.url) as publish,
    ):
        id = await publish("late.{x}", News("late"), x="a b")
        assert await peer.receive(News) == News("late", id)
        async with process.connect("/d?last=1") as other:
            assert await other.receive(News) == News("late", id)


async def test_what_is_declared_while_it_runs_is_refused(
    server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    """That hurts who publishes from outside of it, and nobody else."""
    async with serve_in_memory(app, broker=server.url) as process:
        broker: Any = process._app.directory.channels.broker
        broker = getattr(broker, "carried", broker)  # on Trio
        refused = anyio.Event()

        async def refuse(topics: object) -> None:
            refused.set()
            raise BrokerError("not here")

        broker._connection.declare = refuse
        async with process.connect("/e") as peer:
            with anyio.fail_after(5):
                await refused.wait()
            async with wsflow.publisher(server.url) as publish:
                await publish("room.e", Said("still there"))
                assert await peer.receive(Said) == Said("still there")
    assert "publishers do not find the history of late.{x}: not here" in caplog.text


@pytest.mark.parametrize("name", ["nowhere:app", "tests.test_publishing:nothing"])
async def test_an_app_that_cannot_be_loaded(name: str) -> None:
    with pytest.raises(ValueError, match=r"nowhere|is a function"):
        async with wsflow.publisher("redis://127.0.0.1:1", app=name):
            pass


# -- the blocking twin


def test_from_several_threads(server: BrokerServer) -> None:
    with wsflow.blocking_publisher(server.url, app=app) as publish:
        with wsflow.blocking_publisher(server.url, app=app) as other:
            ids = [publish("kept.{room}", News("a"), room="z"), other("kept.z", News("b"))]
        with ThreadPoolExecutor(8) as pool:
            tell = lambda number: publish("kept.{room}", News(str(number)), room="z")  # noqa: E731
            ids += pool.map(tell, range(50))
        assert len(set(ids)) == 52
        with pytest.raises(TypeError, match="carries Said, not int"):
            publish("room.{room}", 5, room="a")
        with pytest.raises(ValueError, match="needs a value"):
            publish("room.{room}", Said("x"))
    with pytest.raises(RuntimeError, match="this publisher is closed"):
        publish("room.a", Said("x"))
    assert not [each for each in threading.enumerate() if each.name == "wsflow publisher"]


def test_closing_waits_for_what_is_published(server: BrokerServer) -> None:
    began, go, done = threading.Event(), threading.Event(), threading.Event()
    told: list[str] = []

    class Slow(msgspec.Struct):
        pass

    with wsflow.blocking_publisher(server.url) as publish:
        declared = publish._publish._broker.declared

        async def slow() -> Any:
            began.set()
            while not go.is_set():
                await anyio.sleep(0.001)
            return await declared()

        publish._publish._broker.declared = slow  # type: ignore[method-assign]

        def tell() -> None:
            told.append(publish("room.a", Slow()))
            done.set()

        thread = threading.Thread(target=tell)
        thread.start()
        assert began.wait(5)
        threading.Timer(0.05, go.set).start()
    thread.join(5)
    assert done.is_set()
    assert told == [""]


def test_errors_reach_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE", 0.2)
    with pytest.raises(BrokerError, match="cannot be reached"):
        with wsflow.blocking_publisher("redis://127.0.0.1:1", timeout=0.1):
            pass
    with pytest.raises(ValueError, match="is no broker"):
        with wsflow.blocking_publisher("kafka://x"):
            pass


def test_after_a_fork(server: BrokerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with wsflow.blocking_publisher(server.url) as publish:
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: -1)
            with pytest.raises(RuntimeError, match="made before the process was forked"):
                publish("room.a", Said("x"))
        assert publish("room.a", Said("x")) == ""


async def test_a_scope_around_it_that_is_cancelled() -> None:
    fake = FakeBroker()
    with anyio.CancelScope() as scope:
        async with wsflow.publisher(fake.url):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not fake.ends


# -- the embedded broker of a running server


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_workers_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(announced, "folders", lambda: [tmp_path / "wsflow"])  # others run beside it
    target = ("tests.test_publishing:app", "--workers", "2", "--port", "0")
    async with running(*target) as run:
        port = int(re.findall(r":(\d+)/", await run.until("ws://127.0.0.1:"))[0])
        async with wsflow.connect(
            f"ws://127.0.0.1:{port}/my%20room", receives=Said | News | Gone
        ) as peer:
            async with wsflow.publisher(f"workers://:{port}", app=app) as publish:
                await publish("room.{room}", Said("hi"), room="my room")
                assert await peer.receive() == Said("hi")
            with wsflow.blocking_publisher("workers://") as blocking:
                id = blocking("kept.{room}", News("kept"), room="my room")
            assert await peer.receive() == News("kept", id)
        run.process.terminate()
        assert await run.ended() == 0
    assert list((tmp_path / "wsflow").iterdir()) == []
