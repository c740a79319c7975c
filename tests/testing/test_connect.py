"""The testing tools, tested: what they tell, and what they fail on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec
import pytest

from tests.clocks import InFakeTime
from wsflow import (
    Close,
    Connection,
    Disconnected,
    MemberJoined,
    Reject,
    Router,
    Topic,
    TopicMember,
)
from wsflow.testing import FakeConnection, FakeTopic, MemoryPeer, connect, serve_in_memory


class Say(msgspec.Struct, tag="say"):
    text: str


class Other(msgspec.Struct, tag="other"):
    number: int


class Unknown(msgspec.Struct, tag="unknown"):
    x: int


def build() -> Router:
    app = Router("/")

    @app.on_connect
    async def enter(connection: Connection) -> None:
        if "reject" in connection.request.query:
            raise Reject(418, "teapot", {"X-Pot": "tea"})

    @app.consumer
    async def handle(message: Say, connection: Connection) -> Say | None:
        match message.text:
            case "several":
                await connection.send(Other(1))
                await connection.send("raw")
                await connection.send(Say("a"))
                await connection.send({"type": "unknown", "x": 1})
                return Say("b")
            case "fail":
                raise ValueError("on purpose")
            case "close":
                raise Close(4000, "bye")
        return None

    @app.on_error
    async def never(error: KeyError) -> Other:
        return Other(0)

    return app


async def test_receive_leaves_the_others_unread_in_order() -> None:
    async with connect(build()) as peer:
        await peer.send(Say("several"))
        assert await peer.receive(Say) == Say("a")
        assert await peer.receive(Unknown) == Unknown(1)
        assert await peer.receive(str, Other) == Other(1)
        assert await peer.receive() == "raw"
        assert await peer.receive() == Say("b")
        await peer.receive_nothing(within=0.01)


async def test_a_timeout_says_what_did_arrive() -> None:
    async with connect(build()) as peer:
        with pytest.raises(AssertionError, match=r"no Say came within 0\.01 s; nothing is unread"):
            await peer.receive(Say, timeout=0.01)
        with pytest.raises(AssertionError, match="no message came"):
            await peer.receive(timeout=0.01)
        await peer.send(Say("several"))
        with pytest.raises(AssertionError, match=r"no int or bytes came .*; unread: Other\(num"):
            await peer.receive(int, bytes, timeout=0.01)
        with pytest.raises(AssertionError, match="a message came; unread: Other"):
            await peer.receive_nothing()
        with pytest.raises(AssertionError, match=r"did not end within 0\.01 s; running: nothing"):
            await peer.wait_closed(0.01)


async def test_a_rejected_peer() -> None:
    async with connect(build(), "/?reject=1") as peer:
        assert peer.rejected.status == 418
        assert ("X-Pot", "tea") in peer.rejected.headers
        for attempt in (peer.send(Say("x")), peer.receive()):
            with pytest.raises(Reject) as raised:
                await attempt
            assert (raised.value.status, raised.value.body) == (418, "teapot")
    async with connect(build(), "/nowhere") as lost:
        assert lost.end is not None
        assert (lost.end.cause, lost.end.code) == ("rejected", 404)
        assert (await lost.wait_closed()).reason == "Not Found\n"
        await lost.vanish()


async def test_an_accepted_peer_is_not_rejected() -> None:
    async with connect(build()) as peer:
        with pytest.raises(AssertionError, match="was accepted"):
            _ = peer.rejected
        assert peer.end is None
        assert (peer.close_code, peer.close_reason) == (None, None)
        await peer.send(Say("close"))
        end = await peer.wait_closed()
        assert (end.cause, end.code, end.reason) == ("closed", 4000, "bye")
        assert (peer.close_code, peer.close_reason) == (4000, "bye")
        with pytest.raises(Disconnected):
            await peer.receive()
        await peer.close()


async def test_an_unseen_error_fails_the_block() -> None:
    with pytest.raises(AssertionError, match="a handler raised ValueError: on purpose") as raised:
        async with connect(build()) as peer:
            await peer.send(Say("fail"))
            await peer.wait_closed()
    assert isinstance(raised.value.__cause__, ValueError)


async def test_a_seen_error_does_not() -> None:
    async with connect(build()) as peer:
        await peer.send(Say("fail"))
        assert isinstance((await peer.wait_closed()).error, ValueError)


async def test_what_the_block_raises_leaves_it_as_it_is() -> None:
    for raised in (ZeroDivisionError("mine"), KeyboardInterrupt()):
        with pytest.raises(type(raised)) as seen:
            async with connect(build()) as peer:
                await peer.send(Say("fail"))
                raise raised
        assert seen.value is raised
    with pytest.raises(ZeroDivisionError):
        async with serve_in_memory(build()):
            raise ZeroDivisionError


async def test_registry_entries_and_memberships_that_are_left_fail_the_block() -> None:
    async with serve_in_memory(build()) as server:
        async with server.connect("/") as peer:
            pass
        with pytest.raises(AssertionError, match="the registry still has connection"):
            peer._check(lambda _id: True)
        session: Any = peer._session
        session.memberships["room"] = None
        with pytest.raises(AssertionError, match="still a member of room"):
            peer._check(lambda _id: False)


def deaf() -> Router:
    """An app that reads one message, and no other."""
    app = Router("/")

    @app.consumer
    async def ponder(message: str) -> None:
        await anyio.sleep_forever()

    return app


LONG = "x" * 50_000


class TestDeaf(InFakeTime):
    async def test_an_app_that_does_not_read_what_is_sent(self) -> None:
        with pytest.raises(AssertionError) as raised:
            async with connect(deaf(), "/") as peer:
                while True:
                    await peer.send(LONG, timeout=20)
        assert str(raised.value).startswith("the app has not read what was sent within 20 s; runn")
        assert "ponder" in str(raised.value)

    async def test_an_app_that_does_not_read_to_the_end(self) -> None:
        with pytest.raises(AssertionError, match="has not read what was sent") as raised:
            async with connect(deaf(), "/") as peer:
                for _ in range(300):
                    await peer.send("more")
        assert "ponder" in str(raised.value)

    async def test_leaving_an_app_that_does_not_read_is_cancelled(self) -> None:
        """Then, too, nothing of the connection is left."""
        async with serve_in_memory(deaf()) as server:
            with anyio.CancelScope() as scope:
                async with server.connect("/") as peer:
                    for _ in range(300):
                        await peer.send("more")
                    scope.cancel()
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
            assert len(server.registry) == 0


async def test_a_lifespan_that_fails() -> None:
    app = build()

    @app.lifespan
    async def fail() -> None:
        raise RuntimeError("no database")

    for serving in (connect(app), serve_in_memory(app)):
        with pytest.raises(RuntimeError, match="no database"):
            async with serving:
                pass


async def test_connections_that_share_an_app_that_fails() -> None:
    app = build()
    entered, go = anyio.Event(), anyio.Event()

    @app.lifespan
    async def fail() -> None:
        entered.set()
        await go.wait()
        raise RuntimeError("no database")

    async def first() -> None:
        with pytest.raises(RuntimeError, match="no database"):
            async with connect(app):
                pass

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await entered.wait()
        go.set()
        with pytest.raises(RuntimeError, match="shares could not be started"):
            async with connect(app):
                pass


async def test_a_lifespan_that_fails_to_tear_down() -> None:
    app = build()

    @app.lifespan
    async def fail() -> AsyncIterator[None]:
        yield
        raise RuntimeError("cannot close")

    with pytest.raises(RuntimeError, match="cannot close"):
        async with connect(app):
            pass
    with pytest.raises(ZeroDivisionError):
        async with connect(app):
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with serve_in_memory(app):
            raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="cannot close"):
        async with serve_in_memory(app):
            pass


async def test_entering_can_be_cancelled() -> None:
    app = build()
    entered = anyio.Event()

    @app.on_connect
    async def slow() -> None:
        entered.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:

        async def enter() -> None:
            async with connect(app):
                raise AssertionError("is not reached")

        tasks.start_soon(enter)
        await entered.wait()
        tasks.cancel_scope.cancel()
    async with connect(build()):
        pass


@pytest.fixture
async def anyio_peer() -> AsyncIterator[MemoryPeer]:
    async with connect(build()) as peer:
        yield peer


async def test_in_a_fixture_of_anyio(anyio_peer: MemoryPeer) -> None:
    await anyio_peer.send(Say("several"))
    assert await anyio_peer.receive(Say) == Say("a")
    assert await anyio_peer.receive(Say) == Say("b")


async def test_fake_connection() -> None:
    connection = FakeConnection(
        "/a?b=c", path_params={"x": "1"}, headers={"X-Y": "z"}, id="me", subprotocol="v1"
    )
    assert connection.id == "me"
    assert connection.request.query["b"] == "c"
    assert connection.request.path_params == {"x": "1"}
    assert connection.request.headers["X-Y"] == "z"
    assert (connection.subprotocol, connection.end) == ("v1", None)
    assert repr(connection) == "<Connection me /a>"
    await connection.send("a")
    assert connection.sent == ["a"]
    await connection.close(4000, "bye")
    await connection.close(4001)
    assert connection.end is not None
    assert (connection.end.code, connection.end.reason) == (4000, "bye")
    with pytest.raises(Disconnected):
        await connection.send("b")


async def test_fake_topic() -> None:
    topic: FakeTopic[str] = FakeTopic(
        ["a", "b"], members=[TopicMember("x", None)], name="news", types=[str], history=10
    )
    assert isinstance(topic, Topic)
    assert [each async for each in topic] == ["a", "b"]
    assert not (await topic.join(presence="me")).recovered
    assert (topic.joined, topic.presence) == (True, "me")
    assert (await topic.join(after="1")).recovered
    await topic.leave()
    assert not topic.joined
    assert await topic.publish("c", exclude=FakeConnection()) == "1"
    assert topic.published == ["c"]
    assert await topic.members() == [TopicMember("x", None)]
    assert [each async for each in topic.watch_members()] == [MemberJoined(TopicMember("x", None))]
    assert topic.counters().joined == 0


async def echo(message: str) -> str:
    return message


async def test_the_end_of_a_refused_peer_has_no_error() -> None:
    app = Router("/a")
    app.consumer(echo)
    async with connect(app, "/b") as peer:
        assert peer.end is not None
        assert peer.end.error is None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_native_cancellation_while_entering() -> None:
    entered = anyio.Event()
    left: list[int] = []
    app = Router("/")
    app.consumer(echo)

    @app.on_connect
    async def slow() -> None:
        entered.set()
        try:
            await anyio.sleep_forever()
        finally:
            left.append(1)

    async def enter() -> None:
        async with connect(app):
            raise AssertionError("is not reached")

    task = asyncio.create_task(enter())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left == [1]
