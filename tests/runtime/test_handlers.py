"""Consumers, their replies, on_message and on_error, concurrency and keys."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any
from weakref import ref

import anyio
import anyio.lowlevel
import msgspec
import pytest

from wsflow import Call, Close, Connection, Disconnected, Message, Router
from wsflow.observer import NOBODY
from wsflow.runtime.handlers import Handlers
from wsflow.testing import connect


class Say(msgspec.Struct, tag="say"):
    text: str


class Move(msgspec.Struct, tag="move"):
    to: int


@dataclass
class Point:
    x: int


async def test_consumers_by_type_and_what_they_return() -> None:
    app = Router("/")

    @app.consumer
    async def say(message: Say) -> Say:
        return Say(message.text.upper())

    @app.consumer
    async def move(message: Move) -> AsyncIterator[Move | None]:
        for step in range(message.to):
            yield Move(step)
            yield None  # is not sent

    @app.consumer
    async def raw(message: bytes) -> bytes | None:
        return message or None

    async with connect(app) as peer:
        await peer.send(Say("a"))
        await peer.send(Move(2))
        await peer.send(b"")
        await peer.send(b"b")
        assert [await peer.receive() for _ in range(4)] == [Say("A"), Move(0), Move(1), b"b"]
        await peer.receive_nothing(within=0.01)


async def test_dataclasses_and_plain_types() -> None:
    app = Router("/points")

    @app.consumer
    async def point(message: Point) -> dict[str, int]:
        return {"x": message.x + 1}

    other = Router("/any")
    app.include(other)

    @other.consumer
    async def anything(message: Any) -> Any:
        return [message]

    async with connect(app, "/points") as peer:
        await peer.send(Point(1))
        assert await peer.receive() == {"x": 2}
    async with connect(app, "/points/any") as peer:
        await peer.send({"a": None})
        assert await peer.receive() == [{"a": None}]


async def test_one_consumer_for_a_union_and_raw_text_or_binary() -> None:
    app = Router("/")

    @app.consumer
    async def both(message: str | bytes) -> str | bytes:
        return message

    async with connect(app) as peer:
        await peer.send("a")
        await peer.send(b"a")
        assert await peer.receive(bytes) == b"a"
        assert await peer.receive(str) == "a"


async def test_messages_keep_their_order_across_types() -> None:
    seen: list[str] = []
    app = Router("/")

    @app.consumer
    async def say(message: Say) -> None:
        await anyio.sleep(0.002)
        seen.append(message.text)

    @app.consumer
    async def move(message: Move) -> str:
        seen.append(str(message.to))
        return "done"

    async with connect(app) as peer:
        for number in range(3):
            await peer.send(Say(f"say {number}"))
            await peer.send(Move(number))
        for _ in range(3):
            await peer.receive(str)
    assert seen == ["say 0", "0", "say 1", "1", "say 2", "2"]


async def test_concurrency_neither_waits_for_the_lane_nor_holds_it_up() -> None:
    gate = anyio.Event()
    most = 0
    running = 0
    app = Router("/")

    @app.consumer(concurrency=3)
    async def slow(message: Move) -> Move:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return message

    @app.consumer
    async def quick(message: Say) -> Say:
        if message.text == "open":
            gate.set()
        elif message.text == "park":
            await gate.wait()
        return message

    async with connect(app) as peer:
        for number in range(7):
            await peer.send(Move(number))
        await peer.send(Say("a"))
        assert await peer.receive() == Say("a")  # is not held up by seven slow ones
        await peer.send(Say("open"))
        assert await peer.receive(Say) == Say("open")
        assert sorted([(await peer.receive(Move)).to for _ in range(7)]) == list(range(7))
        assert most == 3


async def test_a_concurrency_of_one_is_a_lane_of_its_own() -> None:
    """It is no other way to say the default: the shared lane."""
    gate = anyio.Event()
    running: list[object] = []
    app = Router("/")

    class Load(Call[int], tag="load"):
        number: int

    @app.consumer(concurrency=1)
    async def slow(message: Move) -> Move:
        assert not running  # one at a time
        running.append(message)
        await gate.wait()
        running.pop()
        return message

    @app.consumer(concurrency=1)
    async def load(message: Load) -> int:
        assert not gate.is_set()
        return message.number

    @app.consumer(concurrency=1)
    async def several(messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for message in messages:  # a lane of its own, in any case
            yield message

    @app.consumer
    async def quick(message: Say) -> Say:
        if message.text == "open":
            gate.set()
        return message

    async with connect(app) as peer:
        for number in range(3):
            await peer.send(Move(number))
        await peer.send(Say("a"))
        assert await peer.receive() == Say("a")
        assert [await peer.call(Load(number)) for number in range(2)] == [0, 1]
        await peer.send(b"a")
        assert await peer.receive() == b"a"
        await peer.send(Say("open"))
        assert await peer.receive(Say) == Say("open")
        assert [(await peer.receive(Move)).to for _ in range(3)] == [0, 1, 2]


async def test_equal_keys_keep_their_order_and_a_busy_key_holds_nobody_up() -> None:
    class Job(msgspec.Struct, tag="job"):
        key: str
        number: int

    gate = anyio.Event()
    app = Router("/")

    @app.consumer(concurrency=2, key="key")
    async def work(message: Job) -> int:
        if message.key == "busy":
            await gate.wait()
        message.key = "changed"  # the lane does not look at it again
        return message.number

    async with connect(app) as peer:
        for number in range(3):
            await peer.send(Job("busy", number))
        await peer.send(Job("free", 9))
        assert await peer.receive() == 9
        gate.set()
        assert [await peer.receive() for _ in range(3)] == [0, 1, 2]


async def test_a_key_that_cannot_be_hashed() -> None:
    class Job(msgspec.Struct, tag="job"):
        key: list[int]

    app = Router("/")

    @app.consumer(concurrency=2, key="key")
    async def work(message: Job) -> None: ...

    async with connect(app) as peer:
        await peer.send(Job([1]))
        end = await peer.wait_closed()
        assert end.code == 1011
        assert isinstance(end.error, TypeError)


async def test_a_stream_consumer_ends_after_the_last_message() -> None:
    seen: list[str] = []
    app = Router("/")

    @app.consumer
    async def all_of(messages: AsyncIterator[str]) -> None:
        async for message in messages:
            seen.append(message)
        seen.append("end")

    async with connect(app) as peer:
        await peer.send("a")
        await peer.send("b")
    assert seen == ["a", "b", "end"]


# -- on_message


class Transaction:
    def __init__(self, log: list[str]) -> None:
        self.log = log


def transactional(log: list[str]) -> Router:
    app = Router("/")

    @app.on_message
    async def transaction(
        message: Annotated[object, Message()],
    ) -> AsyncIterator[Transaction]:
        log.append(f"begin {message}")
        try:
            yield Transaction(log)
        except BaseException as exc:
            log.append(f"rollback {type(exc).__name__}")
            raise
        else:
            log.append("commit")

    @app.consumer
    async def work(message: str, *, transaction: Transaction) -> str:
        if message == "fail":
            raise ValueError("bad")
        if message == "close":
            raise Close(4000)
        if message == "park":
            await anyio.sleep_forever()
        transaction.log.append("work")
        return message

    return app


async def test_on_message_runs_around_every_message() -> None:
    log: list[str] = []
    app = transactional(log)
    async with connect(app) as peer:
        await peer.send("a")
        assert await peer.receive() == "a"
        await peer.send("close")
        assert (await peer.wait_closed()).code == 4000
    assert log == ["begin a", "work", "commit", "begin close", "rollback Close"]


async def test_cancellation_is_thrown_in_too() -> None:
    log: list[str] = []
    app = transactional(log)

    @app.producer
    async def end_soon(connection: Connection) -> None:
        while not log:
            await anyio.lowlevel.checkpoint()

    async with connect(app) as peer:
        await peer.send("park")
        await peer.wait_closed()
    assert log[0] == "begin park"
    assert log[1].startswith("rollback Cancel")


async def test_on_message_as_a_coroutine_and_one_that_handles_the_error() -> None:
    class User(msgspec.Struct):
        name: str

    app = Router("/")
    inner = Router("/in")
    app.include(inner)

    @app.on_message
    async def forgive() -> AsyncIterator[None]:
        with contextlib.suppress(ValueError):  # handled: the connection goes on
            yield

    @app.on_message
    async def user(message: Annotated[object, Message()]) -> User:
        return User(str(message))

    @inner.consumer
    async def work(message: str, connection: Connection, user: User) -> str:
        if message == "fail":
            raise ValueError
        return user.name

    async with connect(app, "/in") as peer:
        await peer.send("fail")
        await peer.send("a")
        assert await peer.receive() == "a"


@pytest.mark.parametrize("fails", [False, True])
async def test_a_scope_function_that_yields_twice(fails: bool) -> None:
    app = Router("/")

    @app.on_message
    async def twice() -> AsyncIterator[None]:
        with contextlib.suppress(ValueError):
            yield
        yield

    @app.consumer
    async def work(message: str) -> None:
        if fails:
            raise ValueError

    async with connect(app) as peer:
        await peer.send("x")
        end = await peer.wait_closed()
        assert "twice" in str(end.error)
        assert "test_handlers.py:" in str(end.error)
        assert "yielded twice: a scope function yields once" in str(end.error)


async def test_a_scope_function_that_does_not_yield() -> None:
    app = Router("/")

    @app.on_connect
    async def empty() -> AsyncIterator[None]:
        if app is None:
            yield

    @app.consumer
    async def work(message: str) -> None: ...

    async with connect(app) as peer:
        assert peer.rejected.status == 500
        assert peer.end is not None
        assert "ended without a yield" in str(peer.end.error)


# -- on_error


class Sorry(msgspec.Struct, tag="sorry"):
    why: str


def failing() -> Router:
    app = Router("/")

    @app.on_error
    async def outer_lookup(error: LookupError) -> Sorry:
        return Sorry(f"outer {type(error).__name__}")

    @app.on_error
    async def outer_any(error: Exception) -> None:
        """Handles, and says nothing."""

    inner = Router("/in")
    app.include(inner)

    @inner.on_error
    async def inner_lookup(error: LookupError, connection: Connection) -> Sorry:
        return Sorry(f"inner {type(error).__name__}")

    @inner.on_error
    async def raises(error: ValueError | TypeError) -> None:
        raise Close(4000, "handled by closing")

    @inner.on_error
    async def gone(error: OSError) -> None:
        raise Disconnected

    @inner.consumer
    async def work(message: str) -> str:
        if message == "group":
            async with anyio.create_task_group():
                raise KeyError
        if message == "other connection":
            raise Disconnected
        for kind in (KeyError, LookupError, ValueError, ZeroDivisionError, OSError):
            if message == kind.__name__:
                raise kind
        return message

    return app


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ("KeyError", Sorry("inner KeyError")),
        ("LookupError", Sorry("inner LookupError")),
        ("group", Sorry("inner KeyError")),
        ("ZeroDivisionError", None),
        ("OSError", None),
        ("other connection", None),
    ],
)
async def test_errors_are_answered(sent: str, answer: Sorry | None) -> None:
    async with connect(failing(), "/in") as peer:
        await peer.send(sent)
        await peer.send("still here")
        if answer is not None:
            assert await peer.receive() == answer
        assert await peer.receive() == "still here"


async def test_an_error_handler_that_raises_ends_it() -> None:
    async with connect(failing(), "/in") as peer:
        await peer.send("ValueError")
        end = await peer.wait_closed()
        assert (end.code, end.reason) == (4000, "handled by closing")


async def test_the_most_specific_type_wins_over_the_inner_router() -> None:
    app = Router("/")
    inner = Router("/in")
    app.include(inner)

    @app.on_error
    async def specific(error: KeyError) -> str:
        return "specific"

    @inner.on_error
    async def general(error: LookupError) -> str:
        return "general"

    @inner.consumer
    async def work(message: str) -> None:
        raise KeyError

    async with connect(app, "/in") as peer:
        await peer.send("x")
        assert await peer.receive() == "specific"


@pytest.mark.parametrize("kind", ["producer", "stream"])
async def test_an_error_of_a_producer_or_stream_is_answered_and_then_it_ends(kind: str) -> None:
    app = Router("/")

    @app.on_error
    async def sorry(error: ValueError) -> Sorry:
        return Sorry(str(error))

    if kind == "producer":

        @app.producer
        async def produce() -> str:
            raise ValueError("no")
    else:

        @app.consumer
        async def stream(messages: AsyncIterator[str]) -> None:
            async for _ in messages:
                raise ValueError("no")

    async with connect(app) as peer:
        if kind == "stream":
            await peer.send("x")
        assert await peer.receive() == Sorry("no")
        end = await peer.wait_closed()
        assert (end.code, str(end.error)) == (1011, "no")


async def test_a_disconnected_producer_has_finished() -> None:
    app = Router("/")

    @app.producer
    async def relay() -> str:
        raise Disconnected

    async with connect(app) as peer:
        assert (await peer.wait_closed()).code == 1000


async def test_a_failing_stream_without_on_error() -> None:
    app = Router("/")

    @app.consumer
    async def stream(messages: AsyncIterator[str]) -> None:
        raise ValueError("no")

    async with connect(app) as peer:
        end = await peer.wait_closed()
        assert (end.code, str(end.error)) == (1011, "no")


async def test_a_poll_that_has_nothing_is_asked_again() -> None:
    items: list[str | None] = [None, None, "a", None, "b"]
    app = Router("/")

    @app.producer
    async def poll() -> str | None:
        if items:
            return items.pop(0)
        await anyio.sleep_forever()
        return None

    async with connect(app) as peer:
        assert [await peer.receive(str), await peer.receive(str)] == ["a", "b"]


async def test_what_says_that_it_is_a_coroutine_function_and_is_none() -> None:
    """As ``inspect.markcoroutinefunction`` lets a function do: it gives something to await."""

    class Later:
        def __init__(self, value: str) -> None:
            self.value = value

        def __await__(self) -> Any:
            yield from anyio.lowlevel.checkpoint().__await__()
            return self.value

    class Marked:
        def __init__(self) -> None:
            async def says(message: str) -> str: ...

            self.__call__ = says  # this is looked at, and that of the class is called

        def __call__(self, message: str) -> Any:
            return Later(message)

    app = Router("/")
    app.consumer(Marked())
    async with connect(app) as peer:
        await peer.send("a")
        assert await peer.receive(str) == "a"


@pytest.mark.parametrize("before", [0, 1, 300])
async def test_an_item_that_cannot_be_encoded(before: int) -> None:
    """The first, and one of a class that is known."""
    app = Router("/", codec="msgpack")

    @app.producer
    async def count() -> AsyncIterator[int]:
        for number in range(before):
            yield number
        yield 2**64

    async with connect(app) as peer:
        for number in range(before):
            assert await peer.receive(int) == number
        end = await peer.wait_closed()
        assert end.code == 1011
        assert isinstance(end.error, TypeError)
        assert "cannot be encoded as msgpack" in str(end.error)


async def test_one_after_another_in_the_place_of_a_task() -> None:
    """Also after one that has raised, at once or later."""
    plan: Any = SimpleNamespace(on_error=())
    nothing: Any = None
    handlers = Handlers(plan, nothing, nothing, nothing, NOBODY)
    done: list[str] = []

    async def work(name: str) -> None:
        if name.endswith("later"):
            await anyio.lowlevel.checkpoint()
        if name.startswith("raises"):
            raise LookupError(name)
        done.append(name)

    nanoseconds: Any = abs
    consumer = work, nanoseconds, nothing
    assert handlers.begin(consumer, "first") is None
    assert handlers.begin(consumer, "second") is None
    with pytest.raises(LookupError, match="raises at once"):
        handlers.begin(consumer, "raises at once")
    assert handlers.begin(consumer, "third") is None
    begun = handlers.begin(consumer, "later")
    assert begun is not None
    await begun.finish()
    begun = handlers.begin(consumer, "raises later")
    assert begun is not None
    with pytest.raises(LookupError, match="raises later"):
        await begun.finish()
    assert handlers.begin(consumer, "last") is None
    assert done == ["first", "second", "third", "later", "last"]


async def test_nothing_is_kept_of_a_message_that_was_handled() -> None:
    """Neither the message, nor the function with the values that it was called with."""

    class Held(str):
        __slots__ = ("__weakref__",)

    plan: Any = SimpleNamespace(on_error=())
    nothing: Any = None
    handlers = Handlers(plan, nothing, nothing, nothing, NOBODY)
    kept: list[ref[Any]] = []

    def bind(value: Held) -> Any:
        async def work(message: Held) -> None:
            assert value

        kept.append(ref(value))
        return work

    plan: Any = object()
    handlers.bound = {plan: (bind(Held("of the connection")), abs, nothing)}
    message = Held("a")
    kept.append(ref(message))
    assert handlers.begin(handlers.bind(plan), message) is None
    handlers.rebind()
    del message
    assert [each() for each in kept] == [None, None]
