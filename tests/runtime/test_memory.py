"""The memory that decoded messages of all connections take together."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from wsflow import Call, Connection, Limits, Router
from wsflow.messages.calls import Ask
from wsflow.runtime.memory import Memory
from wsflow.runtime.throttle import Throttle
from wsflow.testing import MemoryServer, serve_in_memory

WIDE: list[Any] = [[]] * 4000
"""Takes half a megabyte once it is decoded: 64 bytes for each list and comma."""

MOST = 600_000


class Wide(msgspec.Struct, tag="wide"):
    number: int
    filling: list[list[int]] = []


def wide(number: int) -> Wide:
    return Wide(number, WIDE)


class Echo(Call[int], tag="echo"):
    filling: list[list[int]]


class Gates:
    """Handlers that wait, each at a gate of its own."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.done: list[int] = []
        self.gates: dict[int, anyio.Event] = {}

    async def __call__(self, number: int) -> None:
        self.begun.append(number)
        await self.gates.setdefault(number, anyio.Event()).wait()
        self.done.append(number)

    def open(self, *numbers: int) -> None:
        for number in numbers:
            self.gates.setdefault(number, anyio.Event()).set()


@asynccontextmanager
async def serving(app: Router, most: int = MOST, **limits: Any) -> AsyncIterator[MemoryServer]:
    options = {"close_timeout": 5, "inbox_total_bytes": most, **limits}
    with anyio.fail_after(20):
        async with serve_in_memory(app, limits=Limits(**options)) as server:
            yield server
            assert server._app.memory._large == 0
            assert server._app.memory.small == 0
            assert not server._app.memory._queue


async def until(predicate: Any) -> None:
    while not predicate():
        await anyio.lowlevel.checkpoint()


def consumers(kind: str, gates: Gates) -> Router:
    """An app whose handlers take a wide message, by one of all ways that lead to them."""
    app = Router("/")
    options: dict[str, Any] = {"concurrency": {"concurrency": 2}, "limited": {"rate": "100/s"}}.get(
        kind, {}
    )
    if kind == "keyed":
        options = {"concurrency": 2, "key": "number"}
    if kind == "iterated":

        @app.consumer
        async def each(messages: AsyncIterator[Wide]) -> None:
            async for message in messages:
                await gates(message.number)
    else:

        @app.consumer(**options)
        async def one(message: Wide) -> None:
            await gates(message.number)

    return app


KINDS = ["plain", "concurrency", "keyed", "iterated", "limited"]


@pytest.mark.parametrize("kind", KINDS)
async def test_messages_that_do_not_fit_wait_in_the_order_in_which_they_came(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    gates = Gates()
    async with serving(consumers(kind, gates)) as server:
        async with (
            server.connect("/") as a,
            server.connect("/") as b,
            server.connect("/") as c,
        ):
            for number, peer in enumerate((a, b, c)):
                await peer.send(wide(number))
                await peer.send(Wide(10 + number))
            await server.idle()
            assert 0 in gates.begun
            assert not {1, 2, 11, 12} & {*gates.begun}  # nor does what came behind them overtake
            assert server.registry.counters()["deferred"] == 2
            gates.open(0, 10)
            await until(lambda: 1 in gates.begun)
            await server.idle()
            assert 2 not in gates.begun
            gates.open(*range(20))
            await until(lambda: len(gates.done) == 6)
    if kind not in ("concurrency", "keyed"):
        assert gates.begun.index(1) < gates.begun.index(11)
        assert gates.begun.index(2) < gates.begun.index(12)
    assert "waits until others are handled" in caplog.text
    assert "inbox_total_bytes is 600000" in caplog.text


@pytest.mark.parametrize("most", [1, 10**6, 0])
async def test_one_alone_always_fits(most: int) -> None:
    gates = Gates()
    async with serving(consumers("plain", gates), most) as server:
        async with server.connect("/") as a, server.connect("/") as b, server.connect("/") as c:
            for number, peer in enumerate((a, b, c)):
                await peer.send(wide(number))
            await server.idle()
            assert sorted(gates.begun) == {1: [0], 10**6: [0], 0: [0, 1, 2]}[most]
            gates.open(0, 1, 2)
            await until(lambda: len(gates.done) == 3)


@pytest.mark.parametrize("end", ["close", "vanish", "drain", "our close", "late"])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_end_while_a_message_waits(kind: str, end: str) -> None:
    """What was received is handled, as long as there is time for it, and nothing is kept."""
    gates = Gates()
    limits: dict[str, Any] = {"close_timeout": 0.05} if end == "late" else {}
    async with serving(consumers(kind, gates), **limits) as server:
        async with server.connect("/") as a, server.connect("/") as b:
            await a.send(wide(0))
            await b.send(wide(1))
            await server.idle()
            (held,) = [each for each in server._app.sessions.values() if each._inbox.held]
            if end == "drain":
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(server.drain, 10)
                    await server.idle()
                    gates.open(0, 1)
            elif end == "our close":
                await held.connection.close()
            else:
                await (b.vanish() if end == "vanish" else b.close())
                await server.idle()
                if end == "late":
                    await held.join()
                gates.open(0, 1)
            await held.join()
            gates.open(0, 1)
        assert gates.done == ([0] if end in ("our close", "late") else [0, 1])


async def test_text_takes_no_more_than_it_did() -> None:
    gates = Gates()
    app = Router("/")

    @app.consumer
    async def take(message: str) -> None:
        await gates(0)

    async with serving(app, 1) as server:
        async with server.connect("/") as a, server.connect("/") as b, server.connect("/") as c:
            for peer in (a, b, c):
                await peer.send("[" * 10_000)
            await until(lambda: len(gates.begun) == 3)
            assert server._app.memory._large == 0
            gates.open(0)


@pytest.mark.parametrize("payload", ["[" * 10_000, b"\x90" * 300_000])
async def test_raw_messages_do_not_wait(payload: Any) -> None:
    gates = Gates()
    app = Router()
    app.include(consumers("plain", gates))
    raw = Router("/raw")

    @raw.consumer
    async def text(message: str) -> int:
        return len(message)

    @raw.consumer
    async def binary(message: bytes) -> int:
        return len(message)

    app.include(raw)
    async with serving(app) as server, server.connect("/") as a, server.connect("/raw") as b:
        await a.send(wide(0))
        await until(lambda: gates.begun)
        await b.send(payload)
        assert await b.receive(int) == len(payload)
        assert server.registry.counters()["deferred"] == 0
        gates.open(0)


async def test_text_may_wait_and_is_then_handled_as_all_messages() -> None:
    """Before it is decoded, nobody knows that it is nothing but text."""
    gates = Gates()
    app = Router("/")

    @app.consumer
    async def take(message: Any) -> Any:
        if isinstance(message, list):
            await gates(0)
        await anyio.lowlevel.checkpoint()
        return message[:1]

    async with serving(app) as server:
        async with server.connect("/") as a, server.connect("/") as b:
            b._transport.peer_send(b'"ready"', True)
            assert await b.receive(str) == "r"
            await a.send(WIDE)
            b._transport.peer_send(msgspec.json.encode("[" * 10_000), True)
            await server.idle()
            gates.open(0)
            assert await b.receive(str) == "["


async def test_calls_and_their_answers() -> None:
    """The answer that a handler waits for comes in any case, if what it handles has its memory."""
    gates = Gates()
    app = Router("/")
    answers: list[Any] = []

    @app.consumer(concurrency=3)
    async def echo(message: Echo, connection: Connection) -> int:
        await gates(0)
        return len(message.filling)

    @app.consumer(concurrency=3)
    async def ask(message: Wide, connection: Connection) -> None:
        answers.append(await connection.call(Fetch()))

    async with serving(app) as server:
        async with server.connect("/") as a, server.connect("/") as b:
            async with anyio.create_task_group() as tasks:

                async def call() -> None:
                    assert await a.call(Echo(WIDE)) == 4000

                tasks.start_soon(call)
                await until(lambda: gates.begun)
                await b.send(wide(1))
                await server.idle()
                assert not answers
                gates.open(0)
            call_id = (await b.receive(dict))["id"]
            await b.send({"type": "$answer", "id": call_id, "value": WIDE})
            await until(lambda: answers)
            assert answers == [WIDE]


async def test_a_call_of_the_peer_gets_no_more_memory_for_it() -> None:
    gates = Gates()
    app = consumers("concurrency", gates)

    @app.consumer
    async def count(message: Count) -> int:
        await gates(10)
        return 10

    async with serving(app) as server, server.connect("/") as a:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(a.call, Count(), timeout=60))
            await until(lambda: gates.begun)
            for number in range(3):
                await a.send(wide(number))
            await server.idle()
            assert gates.begun == [10, 0]
            gates.open(0, 1, 2, 10)
            await until(lambda: len(gates.done) == 4)


@pytest.mark.parametrize("kind", KINDS)
async def test_calls_while_many_small_messages_wait(kind: str) -> None:
    """A connection whose call is answered meanwhile goes on, then and later."""
    gates = Gates()
    app = Router()
    app.include(consumers(kind, gates))
    calls = Router("/calls")

    @calls.consumer
    async def count(message: Count) -> int:
        return 10

    app.include(calls)
    async with serving(app, 400) as server:
        async with server.connect("/") as a, server.connect("/calls") as b:
            for number in range(20):
                await a.send(Wide(number, [[]] * 3))
            await until(lambda: server._app.memory.scarce)
            assert await b.call(Count()) == 10
            assert await b.call(Count()) == 10
            gates.open(*range(20))
            await until(lambda: len(gates.done) == 20)
            assert await b.call(Count()) == 10


@pytest.mark.parametrize("end", ["close", "vanish", "our close"])
@pytest.mark.parametrize("kind", KINDS)
async def test_small_messages_that_nobody_takes_any_more(kind: str, end: str) -> None:
    async with serving(consumers(kind, Gates()), close_timeout=0.05) as server:
        async with server.connect("/") as a:
            for number in range(10):
                await a.send(Wide(number, [[]] * 3))
            await until(lambda: server._app.memory.small)
            (session,) = server._app.sessions.values()
            if end == "our close":
                await session.connection.close()
            else:
                await (a.vanish() if end == "vanish" else a.close())
            await session.join()
            assert server._app.memory.small == 0


class Count(Call[int], tag="count"):
    pass


class Fetch(Call[list[list[int]]], tag="fetch"):
    pass


@pytest.mark.parametrize("when_over", ["drop", "slow"])
@pytest.mark.parametrize("call", [False, True])
async def test_what_is_over_a_rate_limit_has_no_memory(when_over: Any, call: bool) -> None:
    gates = Gates()
    gates.open(0, 1, 2)
    app = Router()
    limited = Router("/", rate="1/h", burst=1, when_over=when_over)
    app.include(limited)

    @limited.consumer
    async def take(message: Wide) -> None:
        await gates(message.number)

    @limited.consumer
    async def echo(message: Echo) -> int:
        return 0

    async with serving(app) as server, server.connect("/") as a, server.connect("/") as b:
        await a.send(wide(0))
        await until(lambda: gates.done == [0])
        if call:
            ask = Ask(1, msgspec.Raw(msgspec.json.encode(Echo(WIDE))))
            a._transport.peer_send(msgspec.json.encode(ask), True)
        else:
            await a.send(wide(1))
        await server.idle()
        assert server._app.memory._large == 0
        await b.send(wide(2))
        await until(lambda: 2 in gates.done)
        await a.vanish()


class Limited:
    """An app whose wide messages come at a rate, and whose time a test has come."""

    def __init__(self, *, concurrency: int | None = None) -> None:
        self.gates = Gates()
        self.app = Router()
        limited = Router("/limited", rate="1/h", burst=1, when_over="slow")
        self.app.include(limited)
        self.app.include(consumers("plain", self.gates))

        @limited.consumer(concurrency=concurrency)
        async def take(message: Wide) -> None:
            await self.gates(message.number)

        @limited.consumer
        async def echo(message: Echo) -> int:
            return len(message.filling)

    async def has_come(self, server: MemoryServer) -> None:
        """The time of the message that waits."""
        (throttle,) = self.throttles(server)
        assert throttle._timer is not None
        throttle._timer.cancel()
        throttle._release()

    def throttles(self, server: MemoryServer) -> list[Throttle]:
        found = [each._dispatcher._throttle for each in server._app.sessions.values()]
        return [each for each in found if each is not None]


@pytest.mark.parametrize("concurrency", [None, 2])
async def test_a_message_is_decoded_again_when_its_time_has_come(concurrency: int | None) -> None:
    limited = Limited(concurrency=concurrency)
    limited.gates.open(0, 1, 2)
    async with serving(limited.app) as server, server.connect("/limited") as a:
        for number in range(3):
            await a.send(wide(number))
        for number in range(2):
            await server.idle()
            assert limited.gates.done == [*range(number + 1)]
            assert server._app.memory._large == 0
            await limited.has_come(server)
        await until(lambda: limited.gates.done == [0, 1, 2])


async def test_a_call_is_decoded_again_when_its_time_has_come() -> None:
    limited = Limited()
    async with serving(limited.app) as server, server.connect("/limited") as a:
        limited.gates.open(0)
        await a.send(wide(0))
        await until(lambda: limited.gates.done)
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                assert await a.call(Echo(WIDE)) == len(WIDE)

            tasks.start_soon(ask)
            await server.idle()
            assert server._app.memory._large == 0
            await limited.has_come(server)


async def test_what_is_granted_after_its_peer_has_vanished_is_not_held() -> None:
    """It waits for memory, and then would for its rate limit: its time would come when nobody can
    give its memory back any more."""
    limited = Limited()
    gates = limited.gates
    gates.open(0, 1)
    async with serving(limited.app) as server, server.connect("/") as b:
        async with server.connect("/limited") as a:
            await b.send(wide(10))
            await until(lambda: gates.begun == [10])
            await a.send(Wide(0))
            await a.send(wide(1))
            await until(lambda: server._app.memory._queue)
            (throttle,) = limited.throttles(server)
            await a.vanish()
            gates.open(10)
            await until(lambda: not server._app.memory._large)
            await server.idle()
            assert throttle._timer is None
            assert not throttle.held
        assert sorted(gates.done) == [0, 10]


class Once(msgspec.Struct, tag="once"):
    """Its own code takes it once."""

    filling: list[list[int]] = []

    def __post_init__(self) -> None:
        if REFUSES and REFUSES.pop():
            raise ValueError("not twice")


class OnceCall(Call[int], tag="once-call"):
    filling: list[list[int]]

    def __post_init__(self) -> None:
        if REFUSES and REFUSES.pop():
            raise ValueError("not twice")


REFUSES: list[bool] = []


@pytest.mark.parametrize("call", [False, True])
async def test_a_message_that_cannot_be_decoded_again(call: bool) -> None:
    app = Router("/limited", rate="1/h", burst=1, when_over="slow")
    handled: list[str] = []

    @app.consumer
    async def once(message: Once) -> None:
        handled.append("once")

    @app.consumer
    async def once_call(message: OnceCall) -> int:
        return 1

    async with serving(app) as server, server.connect("/limited") as a:
        await a.send(Once())
        await until(lambda: handled)
        if call:
            ask = Ask(1, msgspec.Raw(msgspec.json.encode(OnceCall(WIDE))))
            a._transport.peer_send(msgspec.json.encode(ask), True)
        else:
            await a.send(Once(WIDE))
        await server.idle()
        (session,) = server._app.sessions.values()
        throttle: Any = session._dispatcher._throttle
        assert throttle.held
        REFUSES.append(True)
        throttle._timer.cancel()
        throttle._release()
        assert server._app.memory._large == 0
        if call:
            failed = msgspec.json.decode(msgspec.json.encode(await a.receive()))
            assert (failed["code"], failed["message"]) == ("invalid", "not twice")
        else:
            assert (await a.wait_closed()).code == 1007


async def test_no_memory_is_taken_after_the_end() -> None:
    async with serving(consumers("plain", Gates())) as server:
        async with server.connect("/") as a:
            (session,) = server._app.sessions.values()
            await a.vanish()
            await session.join()
            assert not session._inbox.take_memory(1000, lambda size: None, answers=False)


async def test_calls_behind_one_that_waits() -> None:
    """They are weighed and measured once it has gone, and take no memory twice."""
    limited = Limited()
    async with serving(limited.app) as server, server.connect("/limited") as a:
        limited.gates.open(0)
        await a.send(wide(0))
        await until(lambda: limited.gates.done)
        (session,) = server._app.sessions.values()
        session.expect_renewal(True)
        answers: list[int] = []

        async def ask() -> None:
            answers.append(await a.call(Echo(WIDE)))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
            await server.idle()
            for _ in range(3):
                assert server._app.memory._large == 0
                await limited.has_come(server)
                await server.idle()
        assert answers == [len(WIDE)] * 3
        session.expect_renewal(False)


@pytest.mark.parametrize("then", ["room", "drain", "vanish", "our close", "room, and vanish"])
async def test_a_message_whose_time_has_come_waits_for_memory(then: str) -> None:
    limited = Limited()
    gates = limited.gates
    gates.open(0, 1, 2)
    async with (
        serving(limited.app, close_timeout=0.2 if then == "vanish" else 5) as server,
        server.connect("/limited") as a,
        server.connect("/") as b,
    ):
        await a.send(wide(0))
        await until(lambda: gates.done == [0])
        (throttle,) = limited.throttles(server)
        session = next(each for each in server._app.sessions.values() if each._dispatcher._throttle)
        session.expect_renewal(True)
        await a.send(wide(1))
        await a.send(wide(2))  # comes behind it
        await until(lambda: throttle._behind)
        assert server._app.memory._large == 0
        session.expect_renewal(False)
        await b.send(wide(10))
        await until(lambda: 10 in gates.begun)
        await limited.has_come(server)
        await server.idle()
        assert gates.done == [0]
        assert server.registry.counters()["deferred"] == 1
        if then == "vanish":
            await a.vanish()
            await session.join()
            assert not server._app.memory._queue
        elif then == "our close":
            await session.connection.close()
            await a.wait_closed()
            assert not server._app.memory._queue
        elif then == "drain":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.drain, 10)
                await server.idle()
                assert gates.done == [0]
                gates.open(10)
                await until(lambda: gates.done == [0, 10, 1, 2])
                await a.wait_closed()
        elif then == "room":
            gates.open(10)
            await until(lambda: gates.done == [0, 10, 1])
            await limited.has_come(server)
            await until(lambda: gates.done == [0, 10, 1, 2])
        else:
            gates.open(10)
            await until(lambda: not server._app.memory._queue)
            await a.vanish()
        gates.open(10)


async def test_a_key_that_cannot_be_hashed() -> None:
    app = Router("/")

    @app.consumer(concurrency=2, key="filling")
    async def take(message: Wide) -> None: ...

    async with serving(app) as server, server.connect("/") as a:
        await a.send(wide(0))
        end = await a.wait_closed()
        assert (end.code, type(end.error)) == (1011, TypeError)


@pytest.mark.parametrize("bad", [b"[" * 10_000, b'{"type":"nothing","a":' + b"[]," * 8000])
async def test_what_cannot_be_decoded_gives_its_memory_back(bad: bytes) -> None:
    gates = Gates()
    gates.open(0)
    async with serving(consumers("plain", gates), 1) as server, server.connect("/") as a:
        a._transport.peer_send(bad, True)
        assert (await a.wait_closed()).code == 1007


async def test_so_many_small_ones_that_each_connection_reads_one_at_a_time() -> None:
    gates = Gates()
    app = consumers("plain", gates)
    async with serving(app, 1000) as server:
        async with server.connect("/") as a, server.connect("/") as b:
            for peer in (a, b):
                for number in range(20):
                    await peer.send(Wide(number, [[]] * 3))
            await server.idle()
            received = [each.received for each in server._app.sessions.values()]
            assert sum(received) < 30  # most of them by the first, as long as there was room
            assert server._app.memory.small > 900
            gates.open(*range(20))
            await until(lambda: len(gates.done) == 40)


class Waiter:
    def __init__(self) -> None:
        self.size = 0

    def granted(self, size: int) -> None:
        self.size += size


def test_who_leaves_the_queue_makes_way() -> None:
    counters: Counter[str] = Counter()
    memory = Memory(10, counters)
    large, small = Waiter(), Waiter()
    assert memory.take(Waiter(), 5)
    assert not memory.take(large, 10)
    assert not memory.take(small, 5)  # although it would fit: large ones have their turn
    memory.leave(large)
    assert (large.size, small.size) == (0, 5)
    memory.leave(large)
    memory.take_more(7)
    assert not memory.take(large, 1)
    memory.give_back(16)
    assert large.size == 1
    assert counters["deferred"] == 3
    memory.give_back(2)
    assert memory.take(small, 100)  # alone


def test_nothing_is_said_where_nothing_waits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    memory = Memory(10, Counter())
    assert memory.take(Waiter(), 100)
    memory.give_back(100)
    assert not caplog.records
