"""Users: whose connections are sent to and closed, also while they are in their handshake."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
import pytest

from wsflow import Connection, Disconnected, End, Limits, Query, Router
from wsflow.messages.events import Envelope, Target
from wsflow.testing import MemoryPeer, connect, serve_in_memory
from wsflow.topics import users
from wsflow.topics.users import Identified, Users

LOGGED_OUT = (4401, "logged out")


class Door:
    """Holds connections in their ``on_connect`` function, at one of the places.

    Attributes:
        entered: ids of connections that are there.
        ended: how connections ended whose ``on_connect`` functions had set up.
    """

    def __init__(self, place: str) -> None:
        self.app = Router("/")
        self.entered: list[str] = []
        self.go = anyio.Event()
        self.ended: list[End] = []

        async def wait(here: str, connection: Connection) -> None:
            if here == place:
                self.entered.append(connection.id)
                await self.go.wait()

        @self.app.on_connect
        async def enter(name: Annotated[str, Query()], connection: Connection) -> None:
            await wait("unknown", connection)
            connection.identify(name)
            await wait("identified", connection)
            if place == "open":
                await connection.send("hello")
            await wait("open", connection)

        @self.app.on_disconnect
        async def leave(end: End) -> None:
            self.ended.append(end)

        @self.app.consumer
        async def echo(message: str) -> str:
            return message


async def how(peer: MemoryPeer) -> End:
    """How its connection has ended, without an error."""
    end = await peer.wait_closed()
    assert end.error is None
    return End(end.cause, end.code, end.reason)


@pytest.mark.parametrize("place", ["unknown", "identified", "open"])
async def test_a_user_is_disconnected_during_the_handshake(place: str) -> None:
    """Whoever authenticated it may have been asked before the user had logged out."""
    door = Door(place)
    with anyio.fail_after(10):
        async with serve_in_memory(door.app) as server:
            await server.registry.user("ada").disconnect(4401, "an earlier time")
            peers = [server._open(f"/?name={name}", (), ()) for name in ("ada", "ada", "bob")]
            while len(door.entered) < 3:
                await anyio.lowlevel.checkpoint()
            session = peers[1]._session
            assert session is not None
            kept = session.connection
            await server.registry.user("ada").disconnect(*LOGGED_OUT, exclude=kept)
            door.go.set()
            assert await how(peers[0]) == End("closed", *LOGGED_OUT)
            assert (peers[0].close_code, peers[0].close_reason) == LOGGED_OUT
            for peer, name in zip(peers[1:], ("ada", "bob"), strict=True):
                await peer.send(name)
                assert await peer.receive(str) in (name, "hello")
            assert [each.id for each in server.registry.of_user("ada")] == [kept.id]
            async with server.connect("/?name=ada") as again:  # it has begun later
                await again.send("again")
            for peer in peers[1:]:
                await peer.close()
                await peer.wait_closed()
        assert not server._app.directory.channels.users


async def test_a_function_that_swallows_the_refusal_keeps_nothing_open() -> None:
    app = Router("/")
    entered, go = anyio.Event(), anyio.Event()

    @app.on_connect
    async def enter(connection: Connection) -> None:
        entered.set()
        await go.wait()
        with pytest.raises(Disconnected, match="4401"):
            connection.identify("ada")

    @app.consumer
    async def nothing(message: str) -> None: ...

    async with serve_in_memory(app) as server:
        peer = server._open("/", (), ())
        await entered.wait()
        await server.registry.user("ada").disconnect(*LOGGED_OUT)
        go.set()
        assert await how(peer) == End("closed", *LOGGED_OUT)
        assert len(server.registry) == 0


async def test_a_connection_is_closed_by_its_id_during_the_handshake() -> None:
    door = Door("unknown")
    async with serve_in_memory(door.app) as server:
        peer = server._open("/?name=ada", (), ())
        while not door.entered:
            await anyio.lowlevel.checkpoint()
        await server.registry.disconnect(door.entered[0], 4000, "enough")
        assert await how(peer) == End("closed", 4000, "enough")


async def test_no_word_to_a_user_during_the_handshake() -> None:
    door = Door("identified")
    async with serve_in_memory(door.app) as server:
        peer = server._open("/?name=ada", (), ())
        while not door.entered:
            await anyio.lowlevel.checkpoint()
        ada = server.registry.user("ada")
        await ada.send("early")
        assert (server.registry.of_user("ada"), await ada.connections()) == ([], [])
        door.go.set()
        await peer._opened()
        await peer.send("open")
        assert await peer.receive() == "open"
        assert [each.id for each in await ada.connections()] == door.entered
        await ada.send("late")
        assert await peer.receive() == "late"


async def test_the_end_is_seen_once() -> None:
    """By the peer and by ``on_disconnect``, however often its user is disconnected."""
    door = Door("nowhere")
    async with serve_in_memory(door.app) as server, server.connect("/?name=ada") as peer:
        ada = server.registry.user("ada")
        assert repr(ada) == "<RegistryUser ada>"
        await ada.disconnect(*LOGGED_OUT)
        await ada.disconnect(4000, "again")
        await server.registry.disconnect(server.registry.of_user("ada")[0].id)
        assert await how(peer) == End("closed", *LOGGED_OUT)
        assert door.ended == [End("closed", *LOGGED_OUT)]


@pytest.mark.parametrize("code", [0, 999, 1005, 1006, 1015, 5000, "4000", None, 4000.0])
async def test_what_may_not_be_sent_closes_nothing(code: Any) -> None:
    async with connect(Door("nowhere").app, "/?name=ada") as peer:
        (connection,) = peer.registry
        with pytest.raises(ValueError, match="is not a close code that may be sent"):
            await peer.registry.user("ada").disconnect(code)
        with pytest.raises(ValueError, match="is not a close code that may be sent"):
            await peer.registry.disconnect(connection.id, code)
        assert connection.end is None


@pytest.mark.parametrize("reason", ["é" * 100, "\ud800", ""])
async def test_a_reason_is_cut_to_what_fits(reason: str) -> None:
    async with connect(Door("nowhere").app, "/?name=ada") as peer:
        await peer.registry.user("ada").disconnect(4401, reason)
        await peer.wait_closed()
        sent = peer.close_reason
        assert sent == {"é" * 100: "é" * 61, "\ud800": "?", "": ""}[reason]


async def test_a_slow_connection_of_a_user_is_closed_alone() -> None:
    """As with broadcasts: the others are not delayed."""
    limits = Limits(write_buffer=4, close_timeout=1)
    async with serve_in_memory(Door("nowhere").app, limits=limits) as server:
        async with server.connect("/?name=ada") as slow, server.connect("/?name=ada") as quick:
            ada = server.registry.user("ada")
            for number in range(1100):
                await ada.send(str(number))
                assert await quick.receive(str) == str(number)
            assert server.registry.counters()["closed"] == 1
            assert (await slow.wait_closed()).code == 1013


class Peer:
    """A connection."""

    def __init__(self, id: str, user: str, begun: int) -> None:
        self.id = id
        self.user = user
        self.begun = begun
        self.closed: list[tuple[int, str]] = []

    def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))


def test_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "REMEMBERED", 2)
    known: dict[str, Identified] = {}
    there = Users(known)
    for name in ("ada", "bob", "ada", "eve"):  # ada is the last but one
        target = Target(name, "", 4401)
        there.close(target, Envelope({}, target=target))
    closed = {name: there.add(Peer("1", name, 0)) for name in ("ada", "bob", "eve", "joe")}
    assert {name for name, target in closed.items() if target is not None} == {"ada", "eve"}
    assert there.add(Peer("2", "eve", 3)) == Target("eve", "", 4401)
    assert there.add(Peer("3", "eve", 4)) is None
    there.remove("1", "bob")
    there.remove("1", "bob")
    assert (len(there), list(there.ids("eve")), list(there.ids("bob"))) == (3, ["1", "2", "3"], [])


def test_nobody_is_meant_by_nothing() -> None:
    peer = Peer("1", "ada", 0)
    there = Users({"1": peer})
    there.add(peer)
    for target in (Target("", "", 4401), Target("", "2", 4401), Target("bob", "", 4401)):
        there.close(target, Envelope({}, target=target))
    assert peer.closed == []
    there.close(Target("", "1", 4000, "x"), Envelope({}))
    assert peer.closed == [(4000, "x")]
