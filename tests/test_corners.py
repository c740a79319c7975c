"""Corners of several parts, each a line that only it reaches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import msgspec
import pytest
from typing_extensions import TypeAliasType

from wsflow import Close, Connection, DeclarationError, Reject, Router, Topic
from wsflow.brokers.memory import MemoryBroker
from wsflow.channels import Channels, Listener
from wsflow.codec import runtime_classes
from wsflow.declare.markers import TopicOptions
from wsflow.declare.signatures import members, type_name
from wsflow.runtime.outbox import Outbox
from wsflow.runtime.waiting import Over, Watch
from wsflow.testing import FakeConnection, connect, serve_in_memory
from wsflow.transports.limits import WireLimits
from wsflow.transports.memory import MemoryTransport
from wsflow.wiring.compile import compile_app


async def echo(message: str) -> str:
    return message


def test_types_seen_through() -> None:
    alias = TypeAliasType("alias", int | str)
    assert members(alias) == (int, str)
    assert members(Annotated[int | bytes, "x"]) == (int, bytes)
    assert members(Annotated[int, "x"]) == (Annotated[int, "x"],)
    assert type_name(tuple[int, ...]) == "tuple[int, ...]"
    assert set(runtime_classes(Annotated[int, msgspec.Meta(title="x")])) == {int}


def test_a_router_says_where_it_is() -> None:
    assert repr(Router("/x")).startswith("<Router /x (")


def test_builtins_are_no_handlers() -> None:
    app = Router("/")
    app.consumer(print)
    with pytest.raises(DeclarationError, match="It is not async"):
        compile_app(app)


def test_a_problem_is_told_once() -> None:
    app = Router("/")
    part = Router("/{a}/{a}")
    part.consumer(echo)
    app.include(part)
    app.include(part)
    app.consumer(echo)
    with pytest.raises(DeclarationError) as raised:
        compile_app(app)
    assert len(raised.value.problems) == 1


async def test_a_path_that_goes_further_down() -> None:
    app = Router("/a/b")
    app.consumer(echo)
    async with connect(app, "/a") as peer:
        assert peer.rejected.status == 404


async def test_a_status_without_a_phrase() -> None:
    app = Router("/")
    app.consumer(echo)

    @app.on_connect
    async def reject() -> None:
        raise Reject(499)

    async with connect(app) as peer:
        assert (peer.rejected.status, peer.rejected.body) == (499, "")


def test_a_listener_may_stop_twice() -> None:
    channels = Channels(MemoryBroker)
    listener = Listener(channels.use("x", TopicOptions()), None)
    listener.stop()
    listener.stop()
    assert len(channels) == 0


async def test_an_override_among_several() -> None:
    class One: ...

    class Two: ...

    app = Router("/")

    @app.consumer
    async def handle(message: str, one: One) -> str:
        return message

    with pytest.raises(DeclarationError) as raised:
        await connect(app, override={One: One(), Two: Two()}).__aenter__()
    assert [problem.subject for problem in raised.value.problems] == ["override of Two"]


class Wire:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, payload: bytes, text: bool, raw: bool) -> bool:
        self.sent.append(payload)
        return False


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_is_cancelled_when_he_has_his_turn_passes_it_on() -> None:
    wire: Any = Wire()
    outbox = Outbox(wire, 1000, lambda _topic: None)
    outbox.open()
    outbox.pause()
    tasks = [asyncio.create_task(outbox.send(name, True, True)) for name in (b"a", b"b")]
    drained = asyncio.create_task(outbox.drained())
    await asyncio.sleep(0)
    outbox.resume()
    tasks[0].cancel()
    await asyncio.gather(*tasks, drained, return_exceptions=True)
    assert wire.sent == [b"b"]
    await outbox.send(b"c", True, True)
    assert wire.sent == [b"b", b"c"]


async def test_a_memory_transport_that_is_closed_sends_nothing() -> None:
    changed: list[int] = []
    transport = MemoryTransport(WireLimits(), lambda: changed.append(1))
    transport.close(1000, "")
    transport.send(b"late", True, True)
    assert transport.peer_unread() == []
    assert transport.peer_can_send


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


async def test_a_fake_connection_is_closed_with_a_code_that_may_not_be_sent() -> None:
    connection = FakeConnection()
    await connection.close(99)
    assert connection.end is not None
    assert (connection.end.cause, connection.end.code) == ("error", 1011)


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


def test_a_producer_that_sends_nothing_and_a_path_without_parameters() -> None:
    app = Router("/")

    @app.producer
    async def nothing() -> None: ...

    (details,) = compile_app(app).routes
    assert details.plan.sends == ()
    bad = Router("/plain")

    @bad.consumer
    async def handle(message: str, room: str) -> None: ...

    with pytest.raises(DeclarationError, match=r"add a parameter to .* '/plain/\{name\}'"):
        compile_app(bad)


def test_where_a_topic_comes_from() -> None:
    app = Router("/")
    one = Router("/{room}")
    app.include(one)

    @one.consumer
    async def handle(message: str, room: Annotated[Topic[int | str], "room.{room}"]) -> None: ...

    other = Router("/other/{room}")
    app.include(other)

    @other.consumer
    async def more(message: str, room: Annotated[Topic[bytes], "other.{room}"]) -> None: ...

    details, _ = sorted(compile_app(app).routes, key=lambda each: len(each.plan.template))
    assert details.plan.sends == (int, str)
    (call,) = details.plan.functions
    assert [str(source) for source in call.sources] == ["topic 'room.{room}' of int | str"]


def test_a_scope_function_beside_an_override() -> None:
    class One: ...

    class Two: ...

    app = Router("/")

    @app.on_connect
    async def one() -> One: ...

    @app.on_connect
    async def two() -> Two: ...

    @app.on_connect
    async def outer(missing: Missing) -> None:
        """Is told once, though it stands on two paths."""

    @app.consumer
    async def handle(message: str, one: One, two: Two) -> None: ...

    inner = Router("/in")
    app.include(inner)

    @inner.on_connect
    async def broken(missing: int) -> None: ...

    @inner.consumer
    async def again(message: str) -> None: ...

    @inner.producer
    async def more() -> None: ...

    with pytest.raises(DeclarationError) as raised:
        compile_app(app, {Two: Two(), One: One()})
    assert len(raised.value.problems) == 2


class Missing: ...


class Clockwork:
    """A transport's timers, and nothing else."""

    def __init__(self) -> None:
        self.calls: list[float] = []
        self.cancelled = 0

    def after(self, seconds: float, call: Any) -> Clockwork:
        self.calls.append(seconds)
        return self

    def cancel(self) -> None:
        self.cancelled += 1


def test_a_watch_that_is_stopped_calls_nobody() -> None:
    clockwork: Any = Clockwork()
    watch = Watch(clockwork)
    watch.clear()
    watch.set(1, lambda: None)
    watch.set(2, lambda: None)
    watch.stop()
    watch.set(3, lambda: None)
    assert clockwork.calls == [1, 2]
    assert clockwork.cancelled >= 2


async def test_what_is_over_already_is_not_waited_for() -> None:
    over = Over()
    over.set()
    await over.wait()
    await over.wait_through()
