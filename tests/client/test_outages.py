"""A server that dies again and again, and many calls on one connection."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

import wsflow
from tests.brokers.servers import BrokerServer
from tests.client.news import News
from tests.processes import Run, free_port
from wsflow import Call, CallError, Reconnect, Router, Stream, publisher, run_client
from wsflow.server import Settings
from wsflow.server.serve import serve

ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
KILLS = 10


async def start(port: int, broker: str) -> Run:
    run = Run(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wsflow", "run", "tests.client.news:app"),
            *("--port", str(port), "--broker", broker),
            stderr=asyncio.subprocess.PIPE,
        )
    )
    await run.until("serves")
    return run


@pytest.mark.no_cover  # its lines are covered by others, and it is four times as slow
@pytest.mark.long
@ON_ASYNCIO
async def test_everything_arrives_once(server_of: Callable[..., BrokerServer]) -> None:
    """The server is killed ten times, while somebody else publishes without a pause."""
    broker, port = server_of("nats").url, free_port()
    client, heard = Router("/news"), list[int]()
    came = asyncio.Event()

    @client.consumer
    async def hear(message: News) -> None:
        heard.append(message.number)
        came.set()

    @client.on_connect
    async def connecting() -> None: ...

    async def hears(number: int) -> None:
        while number not in heard[-2000:]:
            came.clear()
            await asyncio.wait_for(came.wait(), 60)

    published = itertools.count()
    async with publisher(broker) as publish:

        async def publish_on() -> None:
            while not over.is_set():
                await publish("news", News(next(published)))
                await asyncio.sleep(0.001)

        over = asyncio.Event()
        server = await start(port, broker)
        running = asyncio.create_task(
            run_client(
                client,
                f"ws://127.0.0.1:{port}/news",
                resume="after",
                reconnect=Reconnect(initial_delay=0.02, max_delay=0.1),
            )
        )
        await publish("news", News(next(published)))
        while not heard:  # the first is told to those who are there: say it until they are
            await publish("news", News(next(published)))
            await asyncio.sleep(0.01)
        publishing = asyncio.create_task(publish_on())
        for _ in range(KILLS):
            await hears(heard[-1] + 1)
            server.process.kill()
            await server.ended()
            server = await start(port, broker)
        over.set()
        await publishing
        await publish("news", News(last := next(published)))
        await hears(last)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        server.process.send_signal(signal.SIGTERM)
        await server.ended()
    assert heard == list(range(heard[0], last + 1))


# -- ten thousand calls


class Square(Call[int], tag="square"):
    number: int


class Wait(Call[None], tag="wait"):
    """It is answered by nobody."""


class Upto(Stream[int], tag="upto"):
    number: int


class Life:
    def __init__(self) -> None:
        self.waiting = 0


def answers(life: Life) -> Router:
    router = Router()

    @router.consumer
    async def square(call: Square) -> int:
        await asyncio.sleep(0)
        if call.number % 10 == 3:
            raise CallError("three", str(call.number))
        return call.number**2

    @router.consumer(concurrency=5000)
    async def wait(call: Wait) -> None:
        life.waiting += 1
        try:
            await asyncio.Event().wait()
        finally:
            life.waiting -= 1

    @router.consumer
    async def upto(call: Upto) -> AsyncIterator[int]:
        for number in range(call.number):
            yield number

    return router


@pytest.mark.no_cover  # its lines are covered by others, and it is four times as slow
@pytest.mark.long
@ON_ASYNCIO
@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.hardening)])
async def test_thousands_of_calls_at_once(count: int) -> None:
    """On one connection, from both ends: each is answered or raises, and nothing is left."""
    server_life, client_life = Life(), Life()
    outcomes: Counter[str] = Counter()
    dice = random.Random(1)

    async def one(ask: Any, number: int) -> None:
        match number % 10:
            case 3:
                with pytest.raises(CallError, match=f"three: {number}"):
                    await ask.call(Square(number))
                outcomes["failed"] += 1
            case 5:
                with pytest.raises(TimeoutError):
                    await ask.call(Wait(), timeout=0.5 + dice.random())
                outcomes["late"] += 1
            case 7:
                count = dice.randrange(100)
                async with ask.stream(Upto(count)) as numbers:
                    assert [each async for each in numbers] == list(range(count))
                outcomes["streamed"] += 1
            case 8:
                async with ask.stream(Upto(10**9)) as numbers:
                    async for each in numbers:
                        if each == 70:
                            break
                outcomes["left"] += 1
            case 9:
                task = asyncio.create_task(ask.call(Wait()))
                await asyncio.sleep(dice.random())
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                outcomes["cancelled"] += 1
            case _:
                assert await ask.call(Square(number)) == number**2
                outcomes["answered"] += 1

    router, client = answers(server_life), answers(client_life)
    theirs = asyncio.get_running_loop().create_future()

    @router.producer(on_end="keep")
    async def ask_back(connection: wsflow.Connection) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(count // 5):
                tasks.create_task(one(connection, number))
        theirs.set_result(None)

    @client.producer
    async def ask(connection: wsflow.Connection) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                tasks.create_task(one(connection, number))
        await theirs
        session: Any = connection._driver
        # A last call stands behind all cancels: what they ended is over when it is answered.
        assert await connection.call(Square(1)) == 1
        assert not session.calls._asked
        for each in server._app.sessions.values():
            other: Any = each
            while server_life.waiting or other.calls._answering:
                await asyncio.sleep(0.001)
        while client_life.waiting or session.calls._answering:
            await asyncio.sleep(0.001)

    async with serve(router, Settings(port=0)) as server:
        before = len(asyncio.all_tasks())
        end = await run_client(client, f"ws://127.0.0.1:{server.port}/", reconnect=False)
        assert (end.cause, end.code) == ("finished", 1000)
        while server._app.sessions:
            await asyncio.sleep(0.001)
        assert len(asyncio.all_tasks()) <= before
    tenth = count // 10 + count // 50
    assert outcomes == {
        "answered": 5 * tenth,
        "failed": tenth,
        "late": tenth,
        "streamed": tenth,
        "left": tenth,
        "cancelled": tenth,
    }


def test_the_messages_are_what_they_say() -> None:
    assert msgspec.json.encode(Square(3)) == b'{"type":"square","number":3}'
