"""One connection's life, beyond the close codes."""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from contextvars import ContextVar
from functools import partial
from types import NoneType
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from anyio.abc import TaskGroup

import wsflow
from tests.clocks import InFakeTime
from wsflow import Close, Connection, Disconnected, Forbidden, Query, Reject, Router, Topic
from wsflow.limits import Limits
from wsflow.runtime.session import NEXT, Phase
from wsflow.server import Settings, serve
from wsflow.testing import MemoryPeer, connect, serve_in_memory


async def test_twenty_peers_leave_and_twenty_handlers_are_gone() -> None:
    parked: list[int] = []
    cleaned: list[int] = []
    all_parked = anyio.Event()
    all_cleaned = anyio.Event()
    app = Router("/")

    @app.producer
    async def park(connection: Connection) -> AsyncIterator[str]:
        parked.append(1)
        if len(parked) == 20:
            all_parked.set()
        try:
            await anyio.sleep_forever()
            yield "never"
        finally:
            cleaned.append(1)
            if len(cleaned) == 20:
                all_cleaned.set()

    async with serve_in_memory(app) as server:
        peers = [server._open("/", (), ()) for _ in range(20)]
        await all_parked.wait()
        for peer in peers:
            await peer.close()
        await all_cleaned.wait()
        for peer in peers:
            await peer.wait_closed()
        assert len(server.registry) == 0
        assert not server._app._children.names


async def test_a_consumer_raises_and_the_producer_cleans_up_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    order: list[str] = []
    app = Router("/")

    @app.on_connect
    async def scope() -> AsyncIterator[None]:
        yield
        order.append("scope left")

    @app.consumer
    async def fail(message: str) -> None:
        raise RuntimeError("oh no")

    @app.producer
    async def tick() -> AsyncIterator[str]:
        try:
            yield "tick"
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            order.append("producer cleaned up")

    @app.on_disconnect
    async def gone() -> None:
        order.append("gone")

    async with connect(app) as peer:
        assert await peer.receive() == "tick"
        await peer.send("x")
        end = await peer.wait_closed()
        assert end.code == peer.close_code == 1011
        assert peer.close_reason == ""
        assert str(end.error) == "oh no"
        assert repr(end).startswith("End(cause='error'")
    assert order == ["producer cleaned up", "gone", "scope left"]
    assert "RuntimeError: oh no" in caplog.text


async def test_a_peer_that_leaves_has_its_messages_handled() -> None:
    handled: list[str] = []
    gate = anyio.Event()
    app = Router("/")

    @app.consumer
    async def slow(message: str, connection: Connection) -> str:
        await gate.wait()
        handled.append(message)
        await connection.send("dropped")
        return "dropped too"

    async with connect(app) as peer:
        for text in "abc":
            await peer.send(text)
        await peer.close(4001)
        gate.set()
        end = await peer.wait_closed()
        assert (end.cause, end.code) == ("peer", 4001)
    assert handled == ["a", "b", "c"]


async def test_producers_are_cancelled_at_once_when_the_peer_leaves() -> None:
    """They do not wait for a consumer that still works."""
    working, cleaned = anyio.Event(), anyio.Event()
    app = Router("/")

    @app.consumer
    async def slow(message: str) -> None:
        working.set()
        await cleaned.wait()

    @app.producer
    async def park() -> AsyncIterator[str]:
        try:
            await anyio.sleep_forever()
            yield "never"
        finally:
            cleaned.set()

    async with connect(app) as peer:
        await peer.send("x")
        await working.wait()
        await peer.close()
        end = await peer.wait_closed(timeout=0.5)  # long before close_timeout
        assert end.cause == "peer"


class TestLate(InFakeTime):
    async def test_consumers_have_a_limit_after_the_peer_has_left(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = Router("/")

        @app.consumer
        async def park(message: str) -> None:
            await anyio.sleep_forever()

        async with connect(app) as peer:
            await peer.send("x")
        assert "cancelled because the time was over: consumer " in caplog.text

    async def test_set_up_has_a_limit(self, caplog: pytest.LogCaptureFixture) -> None:
        app = Router("/")

        @app.on_connect
        async def park() -> None:
            await anyio.sleep_forever()

        app.consumer(echo)
        async with connect(app) as peer:
            assert peer.rejected.status == 503
        assert "took too long to set up" in caplog.text

    async def test_tear_down_has_a_limit(self, caplog: pytest.LogCaptureFixture) -> None:
        app = Router("/")

        @app.on_connect
        async def park() -> AsyncIterator[None]:
            yield
            await anyio.sleep_forever()

        app.consumer(echo)
        async with connect(app) as peer:
            await peer.close()
            await peer.wait_closed(timeout=5)
        assert "took too long to tear down" in caplog.text

    @pytest.mark.parametrize("step", ["set-up", "tear-down"])
    async def test_a_step_that_swallows_its_cancellation_is_given_up(
        self, step: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        stubborn = anyio.Event()
        app = Router("/")

        async def swallow() -> None:
            try:
                await anyio.sleep_forever()
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await stubborn.wait()

        @app.on_connect
        async def park() -> AsyncIterator[None]:
            if step == "set-up":
                await swallow()
            yield
            await swallow()

        app.consumer(echo)
        limits = Limits(open_timeout=1, close_timeout=1)
        async with serve_in_memory(app, limits=limits) as server:
            try:
                peer = server._open("/", (), ())
                began = anyio.current_time()
                if step == "tear-down":
                    await peer._opened()
                    await peer.close()
                end = await peer.wait_closed(timeout=10)
                assert anyio.current_time() - began == pytest.approx(2)
                assert end.cause == ("rejected" if step == "set-up" else "peer")
                assert "still running: on_connect " in caplog.text
                assert len(server.registry) == 0
            finally:
                stubborn.set()

    @pytest.mark.parametrize(("first", "second"), [(1, 5), (5, 1)])
    async def test_of_two_drains_the_shorter_counts(self, first: float, second: float) -> None:
        app = Router("/")
        at_work = anyio.Event()

        @app.consumer
        async def park(message: str) -> None:
            at_work.set()
            await anyio.sleep_forever()

        limits = Limits(close_timeout=second)
        async with serve_in_memory(app, limits=limits) as server, server.connect("/") as peer:
            await peer.send("x")
            await at_work.wait()
            began = anyio.current_time()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.drain, first)
                await server.idle()
                await peer.close()
                await peer.wait_closed(timeout=20)
            assert anyio.current_time() - began == pytest.approx(1)

    @pytest.mark.parametrize("restart", [False, True])
    async def test_a_drain_is_spread_over_time(self, restart: bool) -> None:
        """Who is not closed yet is served, and each has its own grace period."""
        began: list[float] = []
        ends: list[float] = []
        app = Router("/")

        @app.consumer
        async def work(message: str) -> str:
            await anyio.sleep(float(message))
            return message

        async def live(peer: MemoryPeer) -> None:
            end = await peer.wait_closed(timeout=100)
            peers.remove(peer)
            assert end.code == (1012 if restart else 1001)
            ends.append(anyio.current_time() - began[0])

        async with serve_in_memory(app) as server, anyio.create_task_group() as tasks:
            peers = [server._open("/", (), ()) for _ in range(4)]
            for peer in peers:
                await peer._opened()
            began.append(anyio.current_time())
            for peer in list(peers):
                tasks.start_soon(live, peer)
            tasks.start_soon(partial(server.drain, 3, over=8, restart=restart))
            await anyio.sleep(1)
            late = server._open("/", (), ())
            assert late.rejected.status == 503
            await anyio.sleep(4)  # three of them are closed at 0, 2 and 4 seconds
            (last,) = peers
            await last.send("0")
            assert await last.receive() == "0"
            await last.send("2.5")  # until 7.5
        assert ends == pytest.approx([0, 2, 4, 7.5])

    @pytest.mark.parametrize("how", ["the peers leave", "cut short", "a second one"])
    async def test_a_drain_that_is_spread_ends_early(self, how: str) -> None:
        app = Router("/")
        app.consumer(echo)
        async with serve_in_memory(app) as server:
            peers = [server._open("/", (), ()) for _ in range(10)]
            for peer in peers:
                await peer._opened()
            began = anyio.current_time()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(server.drain, over=1000, restart=True))
                await anyio.sleep(50)
                if how == "the peers leave":
                    for peer in peers:
                        await peer.close()
                elif how == "cut short":
                    server._app.cut_short()
                else:
                    await server.drain(restart=True)
            assert anyio.current_time() - began == pytest.approx(50)
            if how != "the peers leave":
                assert {(await peer.wait_closed()).code for peer in peers} == {1012}

    @pytest.mark.parametrize("kind", ["consumer", "producer"])
    async def test_who_swallows_his_cancellation_is_left_behind(
        self, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        begun, stubborn = anyio.Event(), anyio.Event()
        app = Router("/")

        async def swallow() -> None:
            begun.set()
            while not stubborn.is_set():
                try:
                    await anyio.sleep(10_000)
                except BaseException:
                    with anyio.CancelScope(shield=True):
                        await stubborn.wait()

        if kind == "consumer":

            @app.consumer
            async def consume(message: str) -> None:
                await swallow()
        else:

            @app.producer
            async def produce() -> None:
                await swallow()

        async with serve_in_memory(app) as server:
            peer = server._open("/", (), ())
            await peer._opened()
            if kind == "consumer":
                await peer.send("x")
            try:
                await begun.wait()
                await peer.close()
                await peer.wait_closed(timeout=5)
                assert len(server.registry) == 0
                assert f"still running: {kind} " in caplog.text
                assert "must not swallow its cancellation" in caplog.text
                with pytest.raises(AssertionError, match="still running after the connection's"):
                    peer._check(server._knows)
            finally:
                stubborn.set()

    async def test_a_farewell_has_a_limit(self, caplog: pytest.LogCaptureFixture) -> None:
        app = Router("/")
        app.consumer(echo)

        @app.on_disconnect
        async def park() -> None:
            await anyio.sleep_forever()

        @app.on_disconnect
        async def fail() -> None:
            raise RuntimeError("no farewell")

        async with connect(app) as peer:
            await peer.close(4000)
            end = await peer.wait_closed(timeout=5)
            assert (end.code, str(end.error)) == (4000, "no farewell")
        assert "no farewell" in caplog.text


async def echo(message: str) -> str:
    return message


async def test_an_error_in_the_tear_down_is_no_1000(caplog: pytest.LogCaptureFixture) -> None:
    app = Router("/")

    @app.on_connect
    async def scope() -> AsyncIterator[None]:
        yield
        raise RuntimeError("cannot tear down")

    @app.producer
    async def once() -> AsyncIterator[str]:
        yield "done"

    async with connect(app) as peer:
        assert await peer.receive() == "done"
        end = await peer.wait_closed()
        assert (end.code, peer.close_code, str(end.error)) == (1011, 1011, "cannot tear down")


async def test_two_errors_are_both_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    app = Router("/")

    @app.on_connect
    async def scope() -> AsyncIterator[None]:
        yield
        raise RuntimeError("second")

    @app.consumer
    async def fail(message: str) -> None:
        raise RuntimeError("first")

    async with connect(app) as peer:
        await peer.send("x")
        end = await peer.wait_closed()
        assert str(end.error) == "first"
    assert "RuntimeError: first" in caplog.text
    assert "RuntimeError: second" in caplog.text


async def test_scopes_nest_and_are_resumed_with_the_end() -> None:
    order: list[str] = []
    app = Router("/")
    inner = Router("/in")
    app.include(inner, "/deep")

    def scope(name: str) -> Any:
        async def fn(connection: Connection) -> AsyncIterator[None]:
            order.append(f"{name} in")
            async with anyio.create_task_group():  # scopes of the user's own
                yield
            assert connection.end is not None
            order.append(f"{name} out {connection.end.code}")

        return fn

    app.on_connect(scope("a"))
    app.on_connect(scope("b"))
    inner.on_connect(scope("c"))
    inner.consumer(echo)
    async with connect(app, "/deep/in") as peer:
        await peer.close(4999)
    assert order == ["a in", "b in", "c in", "c out 4999", "b out 4999", "a out 4999"]


async def test_close_within_on_connect_leaves_the_tear_down_in_peace() -> None:
    torn_down: list[int] = []
    app = Router("/")

    @app.on_connect
    async def scope(connection: Connection) -> AsyncIterator[None]:
        await connection.close(4000, "not now")
        yield
        await anyio.lowlevel.checkpoint()
        await anyio.sleep(0.001)
        torn_down.append(1)

    app.consumer(echo)
    async with connect(app) as peer:
        await peer.wait_closed()
        assert (peer.close_code, peer.close_reason) == (4000, "not now")
    assert torn_down == [1]


async def test_a_reject_leaves_no_trace() -> None:
    entered: list[str] = []
    app = Router("/")

    @app.on_connect
    async def outer() -> AsyncIterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    @app.on_connect
    async def inner() -> None:
        raise Reject(402, "pay first", headers={"X-Price": "1", "Content-Type": "text/html"})

    @app.on_disconnect
    async def gone() -> None:
        entered.append("gone")

    app.consumer(echo)
    async with connect(app) as peer:
        assert peer.rejected.status == 402
        assert peer.rejected.body == "pay first"
        assert ("X-Price", "1") in peer.rejected.headers
        assert peer.end is not None
        assert (peer.end.cause, peer.end.code, peer.end.reason) == ("rejected", 402, "pay first")
    assert entered == ["in", "out"]


async def test_the_peer_leaves_during_on_connect() -> None:
    started, finished = anyio.Event(), anyio.Event()
    app = Router("/")

    @app.on_connect
    async def slow() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            finished.set()

    app.consumer(echo)
    async with serve_in_memory(app) as server:
        peer = server._open("/", (), ())
        await started.wait()
        await peer.close()
        await finished.wait()
        end = await peer.wait_closed()
        assert (end.cause, end.code) == ("vanished", 1006)


async def test_the_server_stops_during_on_connect() -> None:
    started = anyio.Event()
    app = Router("/")

    @app.on_connect
    async def slow() -> None:
        started.set()
        await anyio.sleep_forever()

    app.consumer(echo)
    async with serve_in_memory(app) as server:
        peer = server._open("/", (), ())
        await started.wait()
        await server.drain()
        assert peer.rejected.status == 503
        assert (await peer.wait_closed()).cause == "shutdown"
        late = server._open("/", (), ())
        assert late.rejected.status == 503


async def test_what_was_received_is_answered_when_the_server_stops() -> None:
    gate = anyio.Event()
    app = Router("/")

    @app.consumer
    async def slow(message: str) -> str:
        await gate.wait()
        return message

    @app.producer
    async def ticks() -> AsyncIterator[str]:
        while True:
            yield "tick"
            await anyio.sleep(0.001)

    async with serve_in_memory(app) as server, server.connect("/") as peer:
        assert await peer.receive() == "tick"
        for text in "abc":
            await peer.send(text)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.drain)
            await anyio.lowlevel.checkpoint()
            gate.set()
        end = await peer.wait_closed()
        assert end.code == 1001
        got = [await peer.receive(str) for _ in peer._transport.peer_unread()]
        assert [text for text in got if text != "tick"] == ["a", "b", "c"]
        with pytest.raises(Disconnected):
            await peer.receive()
        with pytest.raises(Disconnected, match="shutdown"):
            await peer.send("late")


async def test_a_drain_that_takes_too_long_cuts_off(caplog: pytest.LogCaptureFixture) -> None:
    app = Router("/")

    @app.consumer
    async def park(message: str) -> None:
        await anyio.sleep_forever()

    async with serve_in_memory(app) as server, server.connect("/") as peer:
        await peer.send("x")
        await server.drain(0.01)
        assert (await peer.wait_closed()).code == 1001
        assert server._app.overran
    assert "the time was over" in caplog.text


async def test_the_task_group_ends_with_the_connection() -> None:
    stopped: list[str] = []
    app = Router("/")

    @app.on_connect
    async def start(tasks: TaskGroup) -> AsyncIterator[None]:
        async def run() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                stopped.append("task")

        tasks.start_soon(run)
        yield
        stopped.append("scope")

    app.consumer(echo)
    async with connect(app) as peer:
        await peer.send("x")
        assert await peer.receive() == "x"
    assert stopped == ["task", "scope"]


async def test_a_failing_task_of_the_group_ends_the_connection() -> None:
    app = Router("/")

    @app.consumer
    async def begin(message: str, tasks: TaskGroup) -> None:
        async def fail() -> None:
            raise RuntimeError("in a task")

        tasks.start_soon(fail)

    async with connect(app) as peer:
        await peer.send("x")
        end = await peer.wait_closed()
        assert (end.code, str(end.error)) == (1011, "in a task")


async def test_sending_after_the_end() -> None:
    raised: list[BaseException] = []
    app = Router("/")

    @app.consumer
    async def late(message: str, connection: Connection) -> None:
        await connection.close(4000)
        assert connection.end is not None
        with anyio.CancelScope(shield=True):
            try:
                await connection.send("too late")
            except Disconnected as exc:
                raised.append(exc)
                raise  # leaving a handler, it is no error

    async with connect(app) as peer:
        await peer.send("x")
        assert (await peer.wait_closed()).code == 4000
    assert str(raised[0]) == "ended: closed (4000)"


async def test_an_error_after_the_peer_has_left_is_not_lost() -> None:
    gate = anyio.Event()
    app = Router("/")

    @app.consumer
    async def fail(message: str) -> None:
        await gate.wait()
        raise RuntimeError("late")

    async with connect(app) as peer:
        await peer.send("x")
        await peer.close(4000)
        gate.set()
        end = await peer.wait_closed()
        assert (end.code, end.cause, str(end.error)) == (4000, "peer", "late")


async def test_a_full_inbox_pauses_reading_and_nothing_is_lost() -> None:
    gate = anyio.Event()
    handled: list[str] = []
    app = Router("/")

    @app.consumer
    async def slow(message: str) -> None:
        await gate.wait()
        handled.append(message)

    limits = Limits(inbox_messages=4, write_buffer=10, close_timeout=1)
    async with serve_in_memory(app, limits=limits) as server, server.connect("/") as peer:
        for number in range(10):
            await peer.send(str(number))
        assert not peer._transport.peer_can_send or peer._transport._held
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peer.send, "long enough to have to wait")
            await anyio.lowlevel.checkpoint()
            gate.set()
        while len(handled) < 11:
            await anyio.lowlevel.checkpoint()
    assert handled == [*map(str, range(10)), "long enough to have to wait"]


async def test_a_slow_peer_slows_its_producer() -> None:
    asked: list[int] = []
    app = Router("/")

    @app.producer
    async def numbers() -> AsyncIterator[bytes]:
        for number in range(1000):
            asked.append(number)
            yield bytes(1000)

    limits = Limits(write_buffer=10_000, close_timeout=1)
    async with serve_in_memory(app, limits=limits) as server, server.connect("/") as peer:
        assert await peer.receive() == bytes(1000)
        await server.idle()
        before = len(asked)
        assert before <= 13
        for _ in range(20):
            await peer.receive(bytes)
        await server.idle()
        assert before < len(asked) <= before + 25


@pytest.mark.parametrize("style", ["each", "poll", "once", "nothing"])
async def test_a_producer_that_never_waits_lets_the_loop_turn(style: str) -> None:
    app = Router("/")
    turned = anyio.Event()
    if style == "each":

        @app.producer
        async def each() -> AsyncIterator[str]:
            while True:
                yield ""
    elif style == "poll":

        @app.producer
        async def poll() -> str:
            return ""
    elif style == "nothing":

        @app.producer
        async def nothing() -> AsyncIterator[str | None]:
            for turn in itertools.count():
                yield None
                if turn == 1000:
                    turned.set()
    else:

        @app.producer
        async def once(connection: Connection) -> None:
            while True:
                await connection.send("")

    async with connect(app) as peer:
        if style == "nothing":
            await turned.wait()
        else:
            for _ in range(1000):
                assert await peer.receive() == ""
        await peer.close()
        assert (await peer.wait_closed()).cause == "peer"


async def test_a_consumer_that_never_waits_lets_the_loop_turn() -> None:
    turns: list[int] = []
    app = Router("/")

    @app.consumer
    async def swallow(message: str) -> None:
        turns.append(0)

    async with connect(app, limits=Limits(inbox_messages=1000, close_timeout=1)) as peer:
        for _ in range(500):
            await peer.send("x")

        async def turn() -> None:
            while len(turns) < 500:
                seen = len(turns)
                await anyio.lowlevel.checkpoint()
                assert len(turns) - seen <= 128  # Trio may run it twice in between

        await turn()


async def test_a_cancelled_joiner_stops_the_session_and_waits() -> None:
    app = Router("/")
    left: list[int] = []

    @app.on_connect
    async def scope() -> AsyncIterator[None]:
        yield
        await anyio.sleep(0.001)
        left.append(1)

    app.consumer(echo)
    async with serve_in_memory(app) as server, server.connect("/") as peer:
        (session,) = server._app.sessions.values()
        with anyio.CancelScope() as scope_of_ours:
            scope_of_ours.cancel()
            await session.join()
        assert left == [1]
        assert peer.close_code == 1001


async def test_a_fatal_exception_is_not_kept_back(caplog: pytest.LogCaptureFixture) -> None:
    """SystemExit ends the connection in order, and then goes on its way."""
    app = Router("/")

    @app.consumer
    async def leave(message: str) -> None:
        raise SystemExit(3)

    class Fatal(BaseException):
        pass

    @app.on_error
    async def never(error: Exception) -> None:
        raise AssertionError("BaseExceptions are not for on_error")

    @app.consumer
    async def fatal(message: bytes) -> None:
        raise Fatal

    with pytest.raises(Fatal):
        async with serve_in_memory(app) as server, server.connect("/") as peer:
            await peer.send(b"x")
            end = await peer.wait_closed()
            assert end.code == 1011
            assert isinstance(end.error, Fatal)


async def test_access_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "wsflow.access")
    app = Router("/x/{y}")
    app.consumer(echo)
    async with serve_in_memory(app) as server:
        async with server.connect("/x/1?secret=2") as peer:
            await peer.send("a")
            assert await peer.receive() == "a"
            await peer.close(4000)
        async with server.connect("/nowhere") as lost:
            assert lost.rejected.status == 404
    lines = [record.getMessage() for record in caplog.records if record.name == "wsflow.access"]
    opened, ended, refused = lines
    assert opened.startswith("/x/{y} id=")
    assert opened.endswith(" path=/x/1 peer=- open")
    assert ended.startswith("/x/{y} id=")
    assert " path=/x/1 peer=- end=peer code=4000 in=1 out=1 dropped=0 seconds=0" in ended
    assert refused == "/nowhere peer=- refused=404"


@pytest.mark.parametrize(
    ("raises", "status", "cause"),
    [
        (Reject(403, "no"), 403, "rejected"),
        (Reject(302, headers={"Location": "/x"}), 302, "rejected"),
        (Forbidden("no"), 403, "rejected"),
        (RuntimeError("boom"), 500, "error"),
    ],
)
async def test_a_refusal_has_one_line_with_the_status_that_was_sent(
    raises: Exception, status: int, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "wsflow.access")
    app = Router("/x/{y}")

    @app.on_connect
    async def refuse() -> None:
        raise raises

    app.consumer(echo)
    async with serve_in_memory(app) as server, server.connect("/x/1?secret=2") as peer:
        assert peer.rejected.status == status
        assert (await peer.wait_closed()).error is (raises if cause == "error" else None)
    (line,) = [each.getMessage() for each in caplog.records if each.name == "wsflow.access"]
    assert f" path=/x/1 peer=- refused={status} end={cause} seconds=0." in line


async def test_close_reason_with_a_lone_surrogate() -> None:
    app = Router("/")

    @app.consumer
    async def close(message: str) -> None:
        raise Close(4000, "a\ud800b")

    async with connect(app) as peer:
        await peer.send("x")
        await peer.wait_closed()
        assert peer.close_reason == "a?b"


async def test_a_consumer_that_refuses_cancellation_for_a_moment() -> None:
    """The session waits for it, and all holds."""
    cleaned: list[int] = []
    at_work = anyio.Event()
    app = Router("/")

    @app.consumer
    async def careful(message: str) -> None:
        at_work.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            cleaned.append(1)

    async with connect(app) as peer:
        await peer.send("x")
        await at_work.wait()
        await peer.send(b"wrong kind")
        end = await peer.wait_closed()
        assert end.code == 1003
    assert cleaned == [1]


class Picky(msgspec.Struct, tag="picky"):
    text: str

    def __post_init__(self) -> None:
        raise KeyError("a bug in the model")


async def test_a_bug_in_a_message_type_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    app = Router("/")

    @app.consumer
    async def handle(message: Picky) -> None: ...

    async with connect(app) as peer:
        await peer.send({"type": "picky", "text": "x"})
        end = await peer.wait_closed()
        assert (end.code, end.reason) == (1007, "not a valid message")
    assert "KeyError: 'a bug in the model'" in caplog.text


async def test_draining_what_is_ending_already() -> None:
    entered = anyio.Event()
    app = Router("/")

    @app.consumer
    async def careful(message: str) -> None:
        try:
            entered.set()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)

    async with serve_in_memory(app) as server, server.connect("/") as peer:
        await peer.send("x")
        await entered.wait()
        await peer.send(b"wrong kind")  # it ends, and the consumer takes its time
        await server.drain(1)
        assert peer.close_code == 1003


async def test_sending_in_a_tear_down_after_our_own_end() -> None:
    app = Router("/")

    @app.on_connect
    async def scope(connection: Connection) -> AsyncIterator[None]:
        yield
        await connection.send("goodbye")  # raises Disconnected, which is no error

    @app.consumer
    async def close(message: str) -> None:
        raise Close(4000)

    async with connect(app) as peer:
        await peer.send("x")
        assert (await peer.wait_closed()).code == 4000


def test_phases_go_one_way() -> None:
    """But a connection rests between its begin and its first message."""
    assert set(NEXT) == set(Phase)
    for phase, following in NEXT.items():
        back = [Phase.RESTING] if phase == Phase.OPEN else []
        assert [each for each in following if each <= phase] == back
        assert phase >= Phase.STOPPING or Phase.STOPPING in following
    assert NEXT[Phase.STOPPING] == (Phase.OVER,)


@pytest.mark.parametrize(
    ("path", "code", "reason"),
    [
        ("/none", 4404, "Not Found"),
        ("/chat?why=401", 4401, "who is it?"),
        ("/chat?why=503", 4503, "who is it?"),
        ("/chat?why=fail", 4500, "Internal Server Error"),
        ("/chat", 4400, "query 'why' is missing"),
    ],
)
async def test_a_refusal_that_a_page_can_see(
    path: str, code: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By who offers ``wsflow.refuse``: an open connection that is closed at once. It is logged as a
    refusal."""
    caplog.set_level("INFO", "wsflow.access")
    app = Router("/chat")

    @app.on_connect
    async def enter(why: Annotated[str, Query()]) -> None:
        if why == "fail":
            raise ValueError("of the app")
        raise Reject(int(why), "who is it?\nand more\n")

    @app.consumer
    async def take(message: str) -> None: ...

    offers = ["wsflow.json", "wsflow.refuse"]
    async with serve_in_memory(app) as server, server.connect(path, subprotocols=offers) as peer:
        await server.idle()
        assert peer.subprotocol == "wsflow.refuse"
        assert (peer.close_code, peer.close_reason) == (code, reason)
        assert peer.end is None or peer.end.error is None or why_failed(peer.end.error)
    assert f"refused={code - 4000}" in caplog.text
    async with serve_in_memory(app) as server, server.connect(path) as peer:
        assert peer.rejected.status == code - 4000
        assert peer.end is None or peer.end.error is None or why_failed(peer.end.error)


def why_failed(error: BaseException) -> bool:
    return isinstance(error, ValueError | Reject)


async def test_a_ping_of_who_cannot_send_one() -> None:
    """It is answered at once, also with another tag field, and while a handler works."""
    for field in ("type", "kind"):
        app, go = Router("/", rate="1/h", when_over="close"), anyio.Event()
        say = msgspec.defstruct("Say", [("text", str)], tag="say", tag_field=field)
        app.consumer(waits_for(go, say))
        async with serve_in_memory(app) as server, server.connect("/") as peer:
            await peer.send(say("x"))
            for _ in range(3):
                await peer.send(msgspec.Raw(msgspec.json.encode({field: "$ping"})))
                assert await peer.receive() == {field: "$pong"}
            go.set()


def waits_for(go: anyio.Event, kind: Any) -> Any:
    async def take(message: Any) -> None:
        await go.wait()

    take.__annotations__["message"] = kind
    return take


# -- a connection whose host has nothing to do until a message comes

TENANT: ContextVar[str] = ContextVar("tenant")


class Rests:
    """An app whose connections rest, and what it has done."""

    def __init__(self, on_disconnect: bool = False) -> None:
        self.router = Router("/")
        self.did: list[str] = []
        self.let_go = anyio.Event()
        self.tear_down = anyio.Event()
        self.tear_down.set()

        @self.router.on_connect
        async def greet() -> None:
            TENANT.set("x")

        @self.router.producer
        async def tick(connection: Connection) -> AsyncIterator[str]:
            try:
                yield TENANT.get()
                await self.let_go.wait()
                raise LookupError("let go")
            finally:
                with anyio.CancelScope(shield=True):
                    await self.tear_down.wait()
                self.did.append("producer")

        @self.router.consumer
        async def echo(message: str) -> str:
            await anyio.lowlevel.checkpoint()
            return message + TENANT.get()

        if on_disconnect:

            @self.router.on_disconnect
            async def part() -> None:
                self.did.append("on_disconnect")


@pytest.mark.parametrize("socket", [False, True])
async def test_there_is_no_host_until_a_message_comes(socket: bool) -> None:
    """What ``on_connect`` has set is there for all that runs, before and then."""
    app = Rests()
    async with AsyncExitStack() as around:
        if socket:
            server: Any = await around.enter_async_context(serve(app.router, Settings(port=0)))
            url = f"ws://127.0.0.1:{server.port}/"
            peer: Any = await around.enter_async_context(wsflow.connect(url, receives=str))
        else:
            server = await around.enter_async_context(serve_in_memory(app.router))
            peer = await around.enter_async_context(server.connect("/"))
        assert await peer.receive() == "x"
        (session,) = server._app.sessions.values()
        assert session.phase is Phase.RESTING
        assert session._host is None
        for message in ("a", "b"):
            await peer.send(message)
            assert await peer.receive() == f"{message}x"
            assert session.phase is Phase.OPEN


@pytest.mark.parametrize("on_disconnect", [False, True])
@pytest.mark.parametrize("first", [False, True], ids=["at rest", "after a message"])
@pytest.mark.parametrize(
    ("how", "code"),
    [("peer", 1000), ("gone", 1006), ("close", 4001), ("error", 1011), ("stop", 1001)],
)
async def test_how_a_connection_at_rest_ends(
    how: str, code: int, first: bool, on_disconnect: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """As any other does: producers are cancelled and awaited, then the peer is told."""
    app = Rests(on_disconnect)
    app.tear_down = anyio.Event()
    async with serve_in_memory(app.router) as server, server.connect("/") as peer:
        assert await peer.receive() == "x"
        (session,) = server._app.sessions.values()
        if first:
            await peer.send("a")
            assert await peer.receive() == "ax"
        assert session.phase is (Phase.OPEN if first else Phase.RESTING)
        async with anyio.create_task_group() as tasks:
            if how == "peer":
                tasks.start_soon(peer.close)
            elif how == "gone":
                tasks.start_soon(peer.vanish)
            elif how == "close":
                session.close(4001, "")
            elif how == "error":
                app.let_go.set()
            else:
                tasks.start_soon(server.drain)
            await anyio.wait_all_tasks_blocked()
            seen = [*app.did], session.phase, session.over.is_set
            app.tear_down.set()
        did, phase, over = seen
        assert (did, over) == ([], False)
        assert phase >= Phase.DRAINING or how == "error"  # it is not raised yet
        end = await peer.wait_closed()
        assert (end.code, type(end.error)) == (code, LookupError if how == "error" else NoneType)
        assert app.did == ["producer", *["on_disconnect"] * on_disconnect]
        assert session.phase is Phase.OVER
    assert not server._app.sessions


@pytest.mark.parametrize("on_disconnect", [False, True])
async def test_a_producer_that_swallows_its_cancellation_at_rest(
    on_disconnect: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = Rests(on_disconnect)
    app.tear_down = anyio.Event()
    async with serve_in_memory(app.router, limits=Limits(close_timeout=0.05)) as server:
        with pytest.raises(AssertionError, match=r"still running after .*: producer "):
            async with server.connect("/") as peer:
                assert await peer.receive() == "x"
                (session,) = server._app.sessions.values()
                session.close(4001, "")
                assert (await peer.wait_closed()).code == 4001
                assert session.phase is Phase.OVER
                assert app.did == []
                app.tear_down.set()
                await anyio.wait_all_tasks_blocked()
                assert {*app.did} == {"producer", *["on_disconnect"] * on_disconnect}
    assert "cancelled 0.05 seconds ago and still running: producer " in caplog.text


@pytest.mark.parametrize("producer", [False, True])
async def test_what_waits_at_rest_goes_out_before_the_goodbye(producer: bool) -> None:
    app = Router("/")

    @app.on_connect
    async def enter(room: Annotated[Topic[str], "room"]) -> None:
        await room.join()

    if producer:

        @app.producer
        async def wait() -> AsyncIterator[str]:
            await anyio.sleep_forever()
            yield ""

    else:

        @app.consumer
        async def take(message: str) -> None: ...

    async with (
        serve_in_memory(app, limits=Limits(write_buffer=4096)) as server,
        server.connect("/") as peer,
    ):
        (session,) = server._app.sessions.values()
        for number in range(30):
            await server.registry.topic("room", str).publish(f"{number:1000}")
        await anyio.wait_all_tasks_blocked()
        assert session.phase is Phase.RESTING
        assert not session.outbox.clear
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(server.drain, 20))
            await anyio.wait_all_tasks_blocked()
            for number in range(30):
                assert int(await peer.receive(str)) == number
            assert (await peer.wait_closed()).code == 1001
