"""Races and corners, each found by somebody who looked for it."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

from tests.clocks import InFakeTime
from wsflow import (
    Close,
    Connection,
    Disconnected,
    Query,
    Registry,
    Reject,
    Router,
    Topic,
    TopicName,
)
from wsflow.limits import Limits
from wsflow.runtime.app import App
from wsflow.testing import connect, serve_in_memory
from wsflow.wiring.compile import compile_app


async def echo(message: str) -> str:
    return message


@pytest.mark.parametrize("producers", [1, 2])
async def test_fast_producers_and_a_peer_that_was_slow_once(producers: int) -> None:
    app = Router("/")

    async def produce() -> AsyncIterator[str]:
        for number in range(300):
            yield str(number)

    for _ in range(producers):

        @app.producer(on_end="keep")
        async def numbers() -> AsyncIterator[str]:
            async for each in produce():
                yield each

    async with (
        serve_in_memory(app, limits=Limits(write_buffer=1)) as server,
        server.connect("/") as peer,
    ):
        await anyio.wait_all_tasks_blocked()  # the buffer is full
        got = [await peer.receive() for _ in range(300 * producers)]
        assert sorted(got, key=int) == sorted([str(n) for n in range(300)] * producers, key=int)


async def test_a_producer_that_sends_what_it_does_not_yield() -> None:
    """What it has yielded comes first; also if what sends is cancelled by then."""
    app, seen = Router("/"), []

    @app.producer
    async def both(connection: Connection) -> AsyncIterator[str]:
        yield "1"
        await connection.send("2")
        yield "3"
        with anyio.CancelScope() as scope:
            scope.cancel()
            await connection.send("4")
            seen.append("sent")
        yield "5"

    async with connect(app) as linked:
        with anyio.fail_after(5):
            assert [await linked.receive() for _ in range(5)] == list("12345")
            assert (await linked.wait_closed()).code == 1000
    assert seen == ["sent"]


class TestStubborn(InFakeTime):
    async def test_a_block_fails_by_name_and_does_not_hang(self) -> None:
        begun, stop = anyio.Event(), anyio.Event()
        app = Router("/")

        @app.producer
        async def stubborn() -> None:
            begun.set()
            while not stop.is_set():
                try:
                    await anyio.sleep(1000)
                except BaseException:
                    with anyio.CancelScope(shield=True):
                        await stop.wait()

        with pytest.raises(AssertionError, match=r"still running after .*: producer .*stubborn"):
            async with connect(app):
                await begun.wait()
        stop.set()

    async def test_set_up_that_swallows_its_limit(self, caplog: pytest.LogCaptureFixture) -> None:
        stop = anyio.Event()
        app = Router("/")
        app.consumer(echo)

        @app.on_connect
        async def stubborn() -> None:
            try:
                await anyio.sleep_forever()
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await stop.wait()

        async with serve_in_memory(app) as server:
            peer = server._open("/", (), ())
            await peer._opened()
            assert peer.rejected.status == 503
            assert "still running: on_connect " in caplog.text
            stop.set()

    async def test_grace_is_not_overrun_by_a_peer_that_leaves(self) -> None:
        app = Router("/")

        @app.consumer
        async def park(message: str) -> None:
            await anyio.sleep_forever()

        for leaves_first in (True, False):
            limits = Limits(close_timeout=60)
            async with serve_in_memory(app, limits=limits) as server:
                peer = server._open("/", (), ())
                await peer._opened()
                await peer.send("x")
                await anyio.sleep(0.1)
                began = anyio.current_time()
                async with anyio.create_task_group() as tasks:
                    if leaves_first:
                        await peer.close()
                        tasks.start_soon(server.drain, 1)
                    else:
                        tasks.start_soon(server.drain, 1)
                        await anyio.sleep(0.5)
                        await peer.close()
                    tasks.start_soon(server.drain, 1)  # a second one returns too
                assert anyio.current_time() - began < 2

    async def test_a_lifespans_task_that_does_not_end_is_left_behind(self) -> None:
        stop = anyio.Event()
        app = Router("/")
        app.consumer(echo)

        @app.lifespan
        async def start(tasks: TaskGroup) -> None:
            async def stubborn() -> None:
                with anyio.CancelScope(shield=True):
                    await stop.wait()

            tasks.start_soon(stubborn)

        async with serve_in_memory(app) as server:
            pass
        assert server._app.left_behind == ["a task of the injected TaskGroup"]
        stop.set()
        await anyio.lowlevel.checkpoint()


async def test_a_producer_that_ends_in_a_drain_leaves_consumers_their_time() -> None:
    gate, working = anyio.Event(), anyio.Event()
    handled: list[str] = []
    app = Router("/")

    @app.consumer
    async def slow(message: str) -> None:
        working.set()
        await gate.wait()
        handled.append(message)

    @app.producer
    async def push(connection: Connection) -> None:
        while connection.end is None:
            await connection.send(bytes(10_000))

    async with connect(app, limits=Limits(write_buffer=1000, close_timeout=5)) as peer:
        await peer.send("x")
        await working.wait()
        await peer.close()
        gate.set()
    assert handled == ["x"]


async def test_answers_through_a_topic_are_out_before_the_goodbye() -> None:
    Room = Annotated[Topic[str], "room"]
    app = Router("/")

    @app.on_connect
    async def enter(room: Room) -> None:
        await room.join()

    @app.consumer
    async def say(message: str, room: Room) -> None:
        await room.publish(message * 100)

    limits = Limits(write_buffer=150, close_timeout=1)
    async with serve_in_memory(app, limits=limits) as server, server.connect("/") as peer:
        for letter in "abcde":
            await peer.send(letter)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.drain, 5)
            got = [await peer.receive(str) for _ in range(5)]
        assert got == [letter * 100 for letter in "abcde"]
        assert peer.close_code == 1001


async def test_a_firehose_does_not_starve_a_reply() -> None:
    Fire = Annotated[Topic[int], TopicName("fire", backlog=10, when_full="drop_oldest")]
    app = Router("/")

    @app.on_connect
    async def enter(fire: Fire) -> None:
        await fire.join()

    @app.consumer
    async def ask(message: str) -> str:
        return "answer"

    limits = Limits(write_buffer=20, close_timeout=1)
    async with serve_in_memory(app, limits=limits) as server, server.connect("/") as peer:
        topic = server.registry.topic("fire", int)
        for number in range(50):
            await topic.publish(number)
        await peer.send("?")
        heard: list[Any] = []
        while "answer" not in heard:
            for number in range(20):
                await topic.publish(number)
            heard.append(await peer.receive())
            await anyio.lowlevel.checkpoint()
        assert len(heard) < 100


async def test_a_sender_that_is_cancelled_gives_up_its_turn() -> None:
    cancelled = anyio.Event()
    app = Router("/")

    @app.producer
    async def push(connection: Connection) -> None:
        await connection.send(bytes(1000))
        with anyio.move_on_after(0.01):
            await connection.send(b"never")
        cancelled.set()
        await connection.send(b"last")

    async with connect(app, limits=Limits(write_buffer=100, close_timeout=1)) as peer:
        await cancelled.wait()
        assert await peer.receive() == bytes(1000)
        assert await peer.receive() == b"last"


@pytest.mark.parametrize("when_full", ["drop_oldest", "latest"])
async def test_what_waits_for_a_stalled_peer_is_bounded(when_full: Any) -> None:
    Flood = Annotated[Topic[bytes], TopicName("flood", backlog=4, when_full=when_full)]
    app = Router("/")

    @app.on_connect
    async def enter(flood: Flood) -> None:
        await flood.join()

    app.consumer(echo)
    limits = Limits(write_buffer=10, backlog_bytes=10_000, close_timeout=1)
    async with serve_in_memory(app, limits=limits) as server, server.connect("/") as peer:
        (session,) = server._app.sessions.values()
        topic = server.registry.topic("flood", bytes)
        for number in range(1000):
            await topic.publish(bytes(9000 if number % 2 else 10))
        assert len(session.outbox._order) <= 4
        assert session.outbox._waiting_bytes <= 10_000
        waiting = sum(len(frame.payload) for frame in session.memberships["flood"].waiting)
        assert waiting == session.outbox._waiting_bytes
        await topic.publish(bytes(20_000))  # larger than all that may wait
        assert session.outbox._waiting_bytes <= 10_000
        assert await peer.receive(bytes)


@pytest.mark.parametrize("when_full", ["close", "drop_oldest", "latest"])
async def test_a_replay_may_be_longer_than_the_backlog(when_full: Any) -> None:
    News = Annotated[Topic[int], TopicName("news", history=500, backlog=5, when_full=when_full)]
    app = Router("/")

    @app.on_connect
    async def enter(news: News, after: Annotated[str, Query()]) -> None:
        assert (await news.join(after=after)).recovered
        assert not (await news.join(after=after)).recovered  # nothing comes twice

    app.consumer(echo)
    async with serve_in_memory(app, limits=Limits(write_buffer=10, close_timeout=1)) as server:
        topic = server.registry.topic("news", int)
        first = await topic.publish(0)
        for number in range(1, 200):
            await topic.publish(number)
        async with server.connect(f"/?after={first}") as peer:
            await topic.publish(200)
            assert [await peer.receive(int) for _ in range(200)] == list(range(1, 201))
            await peer.receive_nothing(within=0.01)
        epoch = first.partition("-")[0]
        broker = server._app.directory.channels.broker
        assert not (await broker.replay("news", f"{epoch}-{'9' * 5000}")).recovered


async def test_sending_to_others_who_have_left() -> None:
    app = Router("/")
    old: list[Connection] = []

    @app.on_connect
    async def greet(connection: Connection) -> None:
        for other in old:
            await other.send("somebody came")
        old.append(connection)

    app.consumer(echo)
    async with serve_in_memory(app) as server:
        async with server.connect("/"):
            pass
        async with server.connect("/") as second:
            await second.send("x")
            assert await second.receive() == "x"


async def test_a_connection_that_we_ended_raises_in_others() -> None:
    app = Router("/")
    old: list[Connection] = []

    @app.on_connect
    async def greet(connection: Connection) -> None:
        for other in old:
            await other.send("somebody came")
        old.append(connection)

    @app.consumer
    async def close(message: str) -> None:
        raise Close

    async with serve_in_memory(app) as server:
        async with server.connect("/") as first:
            await first.send("x")
            await first.wait_closed()
        async with server.connect("/") as second:
            assert second.rejected.status == 500
            assert second.end is not None
            assert isinstance(second.end.error, Disconnected)


class Boom(Exception):
    pass


@pytest.mark.parametrize(
    ("raised", "code", "error"),
    [(Close(4001, "mine"), 4001, None), (Boom("x"), 1011, Boom)],
)
async def test_a_users_task_group_around_the_yield_decides(
    raised: Exception, code: int, error: Any
) -> None:
    go = anyio.Event()
    app = Router("/")

    @app.on_connect
    async def scope() -> AsyncIterator[None]:
        async def background() -> None:
            await go.wait()
            raise raised

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(background)
            yield

    app.consumer(echo)
    async with connect(app) as peer:
        go.set()
        end = await peer.wait_closed()
        assert (end.code, type(end.error)) == (code, error or type(None))
        assert peer.close_code == code


async def test_a_users_time_limit_around_the_yield() -> None:
    app = Router("/")

    @app.on_connect
    async def scope() -> AsyncIterator[None]:
        with anyio.move_on_after(0.01):
            yield

    app.consumer(echo)
    async with connect(app) as peer:
        end = await peer.wait_closed()
        assert (end.code, str(end.error)) == (1011, "the session was cancelled from outside")


async def test_close_beside_a_failing_sibling(caplog: pytest.LogCaptureFixture) -> None:
    app = Router("/")

    @app.consumer
    async def both(message: str) -> None:
        async with anyio.create_task_group() as tasks:

            async def fail_in_cleanup() -> None:
                try:
                    await anyio.sleep_forever()
                finally:
                    raise Boom("cleanup")

            tasks.start_soon(fail_in_cleanup)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            raise Close(4002)

    async with connect(app) as peer:
        await peer.send("x")
        end = await peer.wait_closed()
        assert end.code == 4002
        assert isinstance(end.error, Boom)
    assert "cleanup" in caplog.text


async def test_disconnected_in_a_group_is_no_error() -> None:
    app = Router("/")

    @app.consumer
    async def relay(message: str) -> str:
        if message == "fail":
            raise ExceptionGroup("both", [Disconnected(), Disconnected()])
        if message == "two":
            raise ExceptionGroup("both", [Boom("a"), Disconnected(), Boom("b")])
        return message

    async with connect(app) as peer:
        await peer.send("fail")
        await peer.send("x")
        assert await peer.receive() == "x"
        await peer.send("two")
        assert isinstance((await peer.wait_closed()).error, ExceptionGroup)


async def test_the_first_reject_counts() -> None:
    app = Router("/")
    app.consumer(echo)

    @app.on_connect
    async def outer() -> AsyncIterator[None]:
        yield
        raise Reject(418)

    @app.on_connect
    async def inner() -> None:
        raise Reject(401, "first")

    async with connect(app) as peer:
        assert (peer.rejected.status, peer.rejected.body) == (401, "first")


async def test_a_poll_producer_over_a_topic_misses_nothing() -> None:
    Numbers = Annotated[Topic[int], "numbers"]
    app = Router("/")

    @app.producer
    async def following(numbers: Numbers) -> str:
        async for number in numbers:
            return str(number)
        return "never"

    @app.producer(on_end="keep")
    async def two_loops(numbers: Numbers) -> None:
        loops = [aiter(numbers), aiter(numbers)]
        assert await anext(loops[0]) == await anext(loops[1])

    async with serve_in_memory(app) as server, server.connect("/") as peer:
        await anyio.sleep(0.01)
        topic = server.registry.topic("numbers", int)
        for number in range(5):
            await topic.publish(number)
        assert [await peer.receive(str) for _ in range(5)] == list("01234")


async def test_on_message_gives_stop_async_iteration_back() -> None:
    app = Router("/")

    @app.on_message
    async def around() -> AsyncIterator[None]:
        yield

    @app.on_error
    async def stopped(error: StopAsyncIteration | RuntimeError) -> str:
        return type(error).__name__

    @app.consumer
    async def stop(message: str) -> None:
        raise StopAsyncIteration if message == "stop" else RuntimeError

    async with connect(app) as peer:
        for sent, answer in [("stop", "StopAsyncIteration"), ("other", "RuntimeError")]:
            await peer.send(sent)
            assert await peer.receive() == answer


async def test_context_variables_of_a_lifespan_are_there_for_handlers() -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")
    app = Router("/")

    @app.lifespan
    async def start() -> None:
        tenant.set("acme")

    @app.on_connect
    async def enter() -> AsyncIterator[None]:
        tenant.set(tenant.get() + "!")
        yield

    @app.consumer
    async def show(message: str) -> str:
        return tenant.get()

    async with connect(app) as peer:
        await peer.send("x")
        assert await peer.receive() == "acme!"
        async with connect(app) as second:
            await second.send("x")
            assert await second.receive() == "acme!"


# -- the testing tools


async def test_a_close_comes_behind_what_was_sent_before() -> None:
    handled: list[str] = []
    app = Router("/")

    @app.consumer
    async def slow(message: str) -> None:
        await anyio.lowlevel.checkpoint()
        handled.append(message)

    limits = Limits(inbox_messages=4, close_timeout=5)
    async with connect(app, limits=limits) as peer:
        for number in range(20):
            await peer.send(str(number))
        await peer.close(4000)
        peer._transport.peer_send(b"after the close", True)
        assert (await peer.wait_closed()).code == 4000
    assert handled == [str(number) for number in range(20)]


async def test_two_may_receive_at_a_time() -> None:
    app = Router("/")

    @app.consumer
    async def answer(message: str) -> AsyncIterator[str | bytes]:
        yield message
        await anyio.sleep(0.01)
        yield message.encode()

    async with connect(app) as peer:
        got: list[Any] = []

        async def take(kind: Any) -> None:
            got.append(await peer.receive(kind))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take, bytes)
            tasks.start_soon(take, str)
            await anyio.lowlevel.checkpoint()
            await peer.send("a")
        assert got == ["a", b"a"]
        with pytest.raises(TypeError, match="pass timeout as a keyword"):
            await peer.receive(0.5)
        with pytest.raises(ValueError, match="is not a path"):
            await connect(app, "ws://x/").__aenter__()
        with pytest.raises(TypeError, match="'app' is not a Router"):
            await connect("app").__aenter__()  # type: ignore[arg-type]


async def test_who_enters_while_the_last_one_leaves_gets_an_app_anew() -> None:
    leaving, go = anyio.Event(), anyio.Event()
    starts: list[int] = []
    app = Router("/")

    @app.lifespan
    async def count() -> AsyncIterator[None]:
        starts.append(1)
        yield
        leaving.set()
        await go.wait()

    app.consumer(echo)

    async def first() -> None:
        async with connect(app):
            pass

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await leaving.wait()
        go.set()
        async with connect(app) as peer:
            await peer.send("x")
            assert await peer.receive() == "x"
    assert starts == [1, 1]


async def test_other_limits_while_it_runs() -> None:
    app = Router("/")
    app.consumer(echo)
    async with connect(app):
        with pytest.raises(ValueError, match="runs already with another limits"):
            await connect(app, limits=Limits(inbox_messages=1)).__aenter__()


async def test_an_override_of_what_nobody_asks_for() -> None:
    class Database: ...

    app = Router("/")

    @app.consumer
    async def handle(message: str, registry: Registry) -> None: ...

    with pytest.raises(Exception, match=r"No function of the app asks for it.*") as raised:
        await connect(app, override={Database: Database()}).__aenter__()
    assert "override of Database" in str(raised.value)
    assert "the app asks for Registry" in str(raised.value)


async def test_an_abandoned_start() -> None:
    torn_down: list[int] = []
    app = Router("/")
    app.consumer(echo)

    @app.lifespan
    async def first() -> AsyncIterator[None]:
        yield
        torn_down.append(1)

    @app.lifespan
    async def slow() -> None:
        given_up.cancel()
        await anyio.sleep_forever()

    with anyio.CancelScope() as given_up:
        async with serve_in_memory(app):
            raise AssertionError("is not reached")
    assert torn_down == [1]


async def test_a_start_that_was_aborted_before_it_ran() -> None:
    app = Router("/")
    app.consumer(echo)
    running = App(compile_app(app), Limits())
    running.abort_start()

    async def serve() -> None:
        raise AssertionError("is not reached")

    with anyio.fail_after(5):
        await running.run(serve)


async def test_a_start_that_is_abandoned_before_it_begins() -> None:
    """On Trio, where its first step comes after the cancellation, it did not end."""
    app = Router("/")
    app.consumer(echo)

    @app.lifespan
    async def slow() -> None:
        await anyio.sleep_forever()

    with anyio.fail_after(5), anyio.move_on_after(0):
        async with serve_in_memory(app):
            raise AssertionError("is not reached")
