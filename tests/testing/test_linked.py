"""A client Router against a server Router, with no sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec
import pytest

from wsflow import Call, CallError, Close, Connection, Reconnect, Reject, Router, Stream
from wsflow.limits import Limits
from wsflow.testing import FakeConnection, connect, serve_in_memory


class Say(msgspec.Struct, tag="say"):
    text: str


class Double(Call[int], tag="double"):
    number: int


class Upto(Stream[int], tag="upto"):
    number: int


class Ends:
    """A server and a client that note what they hear."""

    def __init__(self) -> None:
        self.server, self.client = Router("/{room}"), Router("/{room}")
        self.heard: list[str] = []
        self._news = anyio.Event()

        @self.server.consumer
        async def echo(message: Say) -> Say:
            self.note(f"server {message.text[:9]}")
            return message

        @self.client.consumer
        async def hear(message: Say, room: str) -> None:
            self.note(f"client {room} {message.text[:9]}")

    def note(self, event: str) -> None:
        self.heard.append(event)
        self._news.set()

    async def until(self, event: str) -> None:
        with anyio.fail_after(5):
            while event not in self.heard:
                self._news = anyio.Event()
                await self._news.wait()


async def test_both_ends() -> None:
    ends = Ends()
    async with connect(ends.server, "/lobby", client=ends.client) as linked:
        await linked.client.send(Say("hi"))
        await ends.until("client lobby hi")
        assert len(linked.registry) == len(linked.client_registry) == 1
        assert (linked.end, linked.server_end) == (None, None)
        assert linked.client.id != linked.server.id
    assert linked.end is not None
    assert linked.server_end is not None
    assert (linked.end.cause, linked.end.code) == ("closed", 1000)
    assert (linked.server_end.cause, linked.server_end.code) == ("peer", 1000)
    assert len(linked.registry) == len(linked.client_registry) == 0


async def test_cut() -> None:
    ends = Ends()
    async with connect(ends.server, "/x", client=ends.client) as linked:
        linked.link.cut()
        await linked.ended()
        assert linked.end is not None
        assert (linked.end.cause, linked.end.code) == ("vanished", 1006)
        assert linked.server_end is not None
        assert linked.server_end.code == 1006


async def test_cut_and_back() -> None:
    ends = Ends()
    soon = Reconnect(initial_delay=0.01)
    async with connect(ends.server, "/x", client=ends.client, reconnect=soon) as linked:
        first = linked.server.id
        linked.link.down = True
        linked.link.cut()
        linked.link.down = False
        await linked.connected(2)
        assert linked.server.id != first
        await linked.client.send(Say("again"))
        await ends.until("client x again")


async def test_down() -> None:
    ends = Ends()
    async with serve_in_memory(ends.server) as server:
        linking = server.link(ends.client, "/x", reconnect=False)
        linking._open().link.down = True
        async with linking as linked:
            assert linked.end is not None
            assert linked.end.cause == "unreachable"
            assert "the link is down" in linked.end.reason


async def test_stall() -> None:
    """Buffers fill, and senders wait: nothing is lost."""
    ends = Ends()
    async with connect(ends.server, "/x", client=ends.client) as linked:
        linked.link.stall()
        sent = 0
        with anyio.move_on_after(0.05):
            for sent in range(1000):
                await linked.client.send(Say(f"{sent} " + "x" * 10_000))
        assert 0 < sent < 999
        assert ends.heard == []
        linked.link.resume()
        await ends.until(f"client x {sent - 1} xxxxxxx"[: len("client x ") + 9])
        heard = [each for each in ends.heard if each.startswith("server")]
        assert len(heard) in (sent, sent + 1)


async def test_stalled_before_it_is_open() -> None:
    ends = Ends()
    async with serve_in_memory(ends.server) as server:
        linking = server.link(ends.client, "/x")
        linking._open().link.stall()
        async with anyio.create_task_group() as tasks:

            async def resume() -> None:
                await anyio.sleep(0.01)
                assert len(server.registry) == 0
                linking._open().link.resume()

            tasks.start_soon(resume)
            async with linking as linked:
                await linked.client.send(Say("hi"))
                await ends.until("client x hi")


async def test_cut_before_it_is_open() -> None:
    ends = Ends()
    entered = anyio.Event()

    @ends.server.on_connect
    async def enter() -> None:
        entered.set()
        await anyio.sleep_forever()

    async with serve_in_memory(ends.server) as server:
        linking = server.link(ends.client, "/x")
        async with anyio.create_task_group() as tasks:

            async def cut() -> None:
                await entered.wait()
                linking._open().link.cut()

            tasks.start_soon(cut)
            async with linking as linked:
                assert linked.end is not None
                assert linked.end.cause == "unreachable"
                assert linked.end.reason.endswith("closed the connection without an answer")


async def test_sending_in_on_connect_connects() -> None:
    ends, order = Ends(), []

    @ends.client.on_connect
    async def first(connection: Connection) -> None:
        order.append(f"before {connection.end}")
        await connection.send(Say("early"))
        order.append("open")

    async with connect(ends.server, "/x", client=ends.client):
        await ends.until("client x early")
    assert order == ["before None", "open"]


async def test_closing_while_it_is_not_open_yet() -> None:
    """The server lets it in while the client tears down: too late."""
    ends, let_in, accepted = Ends(), anyio.Event(), anyio.Event()

    @ends.server.on_connect
    async def wait() -> None:
        ends.note("came")
        await let_in.wait()

    @ends.server.producer(on_end="keep")
    async def open() -> None:
        accepted.set()

    @ends.client.on_connect
    async def slow() -> AsyncIterator[None]:
        yield
        let_in.set()
        await accepted.wait()

    @ends.client.on_disconnect
    async def never() -> None:
        ends.note("it was never open")

    async with serve_in_memory(ends.server) as server:
        linking = server.link(ends.client, "/x")
        async with anyio.create_task_group() as tasks:

            async def close() -> None:
                await ends.until("came")
                await linking._open().client.close(4000)

            tasks.start_soon(close)
            async with linking as linked:
                assert linked.end is not None
                assert linked.end.code == 4000
    assert "it was never open" not in ends.heard


async def test_cut_before_anything_has_passed() -> None:
    ends = Ends()
    async with serve_in_memory(ends.server) as server:
        linking = server.link(ends.client, "/x")
        linking._open().link.stall()
        async with anyio.create_task_group() as tasks:

            async def cut() -> None:
                await server.idle()
                linking._open().link.cut()

            tasks.start_soon(cut)
            async with linking as linked:
                assert linked.end is not None
                assert linked.end.reason == "closed the connection without an answer"


async def test_what_is_on_its_way_when_it_ends() -> None:
    for end in ("cut", "close"):
        ends = Ends()
        async with connect(ends.server, "/x", client=ends.client) as linked:
            await linked.client.send(Say("hi"))
            await ends.until("client x hi")
            linked.link.delay = 0.05
            await linked.server.send(Say("on its way"))
            await linked.idle()
            if end == "cut":
                linked.link.cut()
            else:
                await linked.client.close()
            await linked.ended()
            transport: Any = linked._clients[0].transport
            transport.send(b"x", True, True)
            transport.close(1000, "")
            transport.cut()
        assert ends.heard == ["server hi", "client x hi"]


async def test_delay() -> None:
    ends = Ends()
    async with connect(ends.server, "/x", client=ends.client) as linked:
        linked.link.delay = 0.02
        began = anyio.current_time()
        await linked.client.send(Say("hi"))
        await ends.until("client x hi")
        assert anyio.current_time() - began >= 0.04


async def test_refused() -> None:
    ends = Ends()

    @ends.server.on_connect
    async def refuse() -> None:
        raise Reject(503, "full", {"Retry-After": "7"})

    async with connect(ends.server, "/x", client=ends.client) as linked:
        assert linked.end is not None
        assert (linked.end.cause, linked.end.code) == ("rejected", 503)
        error = linked.end.error
        assert str(error) == "ws://testserver/x answered 503 Service Unavailable: full"
        assert (error.status, error.retry_after) == (503, 7)  # type: ignore[union-attr]
    anywhere = Router()

    @anywhere.consumer
    async def hear(message: Say) -> None: ...

    async with connect(ends.server, "/x/nowhere", client=anywhere) as linked:
        assert linked.end is not None
        assert linked.end.code == 404


async def test_closed_by_the_server() -> None:
    ends = Ends()

    @ends.server.producer
    async def leave() -> None:
        raise Close(4000, "enough")

    async with connect(ends.server, "/x", client=ends.client) as linked:
        await linked.ended()
        assert linked.end is not None
        assert (linked.end.code, linked.end.reason) == (4000, "enough")


async def test_an_error_at_either_end_fails_the_test() -> None:
    for wrong in ("server", "client"):
        ends = Ends()
        router: Router = getattr(ends, wrong)

        @router.producer
        async def fail() -> None:
            raise ZeroDivisionError(f"at the {wrong}")  # noqa: B023

        with pytest.raises(AssertionError, match=f"raised ZeroDivisionError: at the {wrong}"):
            async with connect(ends.server, "/x", client=ends.client) as linked:
                await linked.ended()
        async with connect(ends.server, "/x", client=ends.client) as linked:
            await linked.ended()
            assert linked.end is not None
            assert linked.server_end is not None
            errors = (linked.end.error, linked.server_end.error)
            assert any(isinstance(each, ZeroDivisionError) for each in errors)


async def test_what_a_block_raises_leaves_it_as_it_is() -> None:
    ends = Ends()
    with pytest.raises(LookupError):
        async with connect(ends.server, "/x", client=ends.client):
            raise LookupError
    with pytest.raises(ZeroDivisionError):

        @ends.client.lifespan
        async def fails() -> None:
            raise ZeroDivisionError

        async with connect(ends.server, "/x", client=ends.client):
            raise AssertionError
    with pytest.raises(ValueError, match="'x' is not a path"):
        async with connect(ends.server, "x", client=ends.client):
            raise AssertionError


class Database: ...


async def test_overrides_of_the_client() -> None:
    ends, fake = Ends(), Database()

    @ends.client.producer(on_end="keep")
    async def talk(database: Database) -> AsyncIterator[Say]:
        assert database is fake
        yield Say("it is")

    async with connect(ends.server, "/x", client=ends.client, client_override={Database: fake}):
        await ends.until("client x it is")


async def test_a_client_that_does_not_read_is_waited_for() -> None:
    ends = Ends()
    go = anyio.Event()
    ends.client = Router("/{room}")

    @ends.client.consumer
    async def slow(message: Say) -> None:
        await go.wait()
        ends.note(f"client {message.text[:3]}")

    limits = Limits(inbox_messages=2, close_timeout=1)
    async with connect(ends.server, "/x", client=ends.client, limits=limits) as linked:
        with anyio.move_on_after(0.05):
            for number in range(100):
                await linked.server.send(Say(f"{number:03}" + "x" * 10_000))
        assert number == 7  # so much fits in the buffers
        go.set()
        await ends.until("client 006")


async def test_a_stalled_close_is_given_up() -> None:
    ends = Ends()
    limits = Limits(close_timeout=0.05)
    async with connect(ends.server, "/x", client=ends.client, limits=limits) as linked:
        linked.link.stall()
    assert linked.server_end is not None
    assert linked.server_end.code == 1006


async def test_a_fake_connection_answers() -> None:
    def upto(call: Upto) -> range:
        return range(call.number)

    def refuse(call: Double) -> int:
        raise CallError("no", "not today")

    connection: Connection
    connection = fake = FakeConnection(answers={Double: lambda call: 2 * call.number, Upto: upto})
    assert await connection.call(Double(21)) == 42
    async with connection.stream(Upto(3)) as numbers:
        assert [number async for number in numbers] == [0, 1, 2]
    assert fake.sent == [Double(21), Upto(3)]
    with pytest.raises(CallError, match="not today"):
        await FakeConnection(answers={Double: refuse}).call(Double(1))
    with pytest.raises(CallError, match=r"FakeConnection\(answers=…\) has no answer to Double"):
        await FakeConnection().call(Double(1))
