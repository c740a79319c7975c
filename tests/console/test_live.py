"""What the processes of an app tell the console."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import msgspec
import pytest

from wsflow import Connection, Limits, Router, Topic, TopicName
from wsflow.console import live as module
from wsflow.console.live import Disconnect, Process, Watch, live_router
from wsflow.testing import FakeBroker, MemoryPeer, MemoryServer, serve_in_memory

pytestmark = pytest.mark.anyio


class Say(msgspec.Struct, tag="say"):
    text: str


Room = Annotated[Topic[Say], TopicName("room.{room}", backlog=9)]


def app_of() -> Router:
    app = Router("/chat/{room}")

    @app.on_connect
    async def enter(room: Room, connection: Connection) -> None:
        connection.identify("ada")
        await room.join()

    @app.producer
    async def idle() -> AsyncIterator[Say]:
        await anyio.sleep_forever()
        yield Say("")

    return app


def console_of(server: MemoryServer) -> Router:
    """The WebSocket of the console beside a server, for all."""
    return live_router(lambda _: None, server.registry, server._app.sessions)


async def until(peer: MemoryPeer, is_so: Any) -> Process:
    """The next answer for which something holds."""
    with anyio.fail_after(10):
        while True:
            found = await peer.receive(Process, timeout=10)
            assert isinstance(found, Process)
            if is_so(found):
                return found


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.05)
    monkeypatch.setattr(module, "GLANCE", 0.001)


async def test_what_is_told() -> None:
    async with (
        serve_in_memory(app_of(), limits=Limits(write_buffer=1)) as server,
        serve_in_memory(console_of(server)) as beside,
        server.connect("/chat/lobby") as peer,
        beside.connect("/live") as console,
    ):
        for number in range(4):
            await server.registry.topic("room.lobby").publish(Say(f"{number}" * 9))
        told = await until(console, lambda found: found.lines and found.lines[0].waiting)
        (line,) = told.lines
        assert (line.route, line.path, line.user) == ("/chat/{room}", "/chat/lobby", "ada")
        assert line.running == ["producer idle"]
        assert line.seconds >= 0
        assert line.waiting == told.topics[0].waiting == 3
        assert [(each.name, each.members) for each in told.topics] == [("room.lobby", 1)]
        assert told.connections == {"/chat/{room}": 1}
        assert (told.broker, told.connected, told.all_topics) == ("memory", True, 1)
        assert told.counters["published"] == 4
        assert told.lag >= 0
        for _ in range(4):
            await peer.receive(Say)
        told = await until(console, lambda found: found.lines[0].sent == 4)
        assert told.lines[0].waiting == 0


async def test_what_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    async with (
        serve_in_memory(app_of()) as server,
        serve_in_memory(console_of(server)) as beside,
        beside.connect("/live") as console,
    ):
        async with (
            server.connect("/chat/one"),
            server.connect("/chat/two"),
            server.connect("/chat/three"),
        ):
            told = await until(console, lambda found: found.found == 3)
            assert len(told.lines) == len(told.topics) == 2
            assert told.all_topics == 3
            await console.send(Watch("/two"))
            told = await until(console, lambda found: found.found == 1)
            assert [each.path for each in told.lines] == ["/chat/two"]
            await console.send(Watch("ada"))
            await until(console, lambda found: found.found == 3)
            await console.send(Watch("nobody"))
            await until(console, lambda found: found.found == 0)


async def test_all_processes(caplog: pytest.LogCaptureFixture) -> None:
    """Each tells what it does, and a connection of any can be closed; without the broker there is
    nothing to be seen, and then there is again."""
    own, broker = FakeBroker(), FakeBroker()
    limits = Limits(publish_timeout=0.1)
    async with (
        serve_in_memory(app_of(), broker=own) as one,
        serve_in_memory(app_of(), broker=own) as two,
        serve_in_memory(console_of(one), broker=broker, limits=limits) as beside,
        serve_in_memory(console_of(two), broker=broker, limits=limits),
        beside.connect("/live") as console,
        one.connect("/chat/a"),
        two.connect("/chat/b") as peer,
    ):
        lines = [
            (await until(console, lambda found, path=path: path in paths_of(found))).lines[0]
            for path in ("/chat/a", "/chat/b")
        ]
        assert len({each.id for each in lines}) == 2
        await console.call(Disconnect(lines[1].id), timeout=10)
        end = await peer.wait_closed(10)
        assert (end.code, end.reason) == (1000, "disconnected from the console")
        broker.down = True
        broker.cut()
        with anyio.fail_after(10):
            while "the console is not told what goes on" not in caplog.text:
                await anyio.sleep(0.01)
        broker.down = False
        await until(console, lambda found: not found.lines)
        assert console.end is None


def paths_of(found: Process) -> list[str]:
    return [each.path for each in found.lines]
