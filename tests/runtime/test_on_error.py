"""What ``on_error`` functions see, and what happens next."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

import anyio
import anyio.lowlevel
import msgspec
import pytest

from wsflow import Close, Connection, Disconnected, Limits, Query, Reject, Router
from wsflow.testing import connect, serve_in_memory


@dataclass
class User:
    name: str = "ada"


class Oops(msgspec.Struct, tag="oops"):
    text: str


@pytest.mark.parametrize("raised", ["reject", "close", "nothing", "another"])
@pytest.mark.parametrize("accepted", [False, True])
async def test_on_error_sees_what_on_connect_raises(
    accepted: bool, raised: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Router("/")
    seen: list[str] = []

    @app.on_connect
    async def enter(connection: Connection) -> User:
        if accepted:
            await connection.send(Oops("welcome"))
        raise LookupError("no such room")

    @app.consumer
    async def say(message: str, user: User) -> None: ...

    @app.on_error
    async def bad(error: LookupError, connection: Connection) -> Oops | None:
        seen.append(str(error))
        if raised == "reject":
            raise Reject(404, "no such room\n")
        if raised == "close":
            raise Close(4004, "no such room")
        if raised == "another":
            raise ValueError("worse")
        return Oops("sorry")

    async with connect(app) as peer:
        if accepted:
            assert await peer.receive(Oops) == Oops("welcome")
            if raised == "nothing":
                assert await peer.receive(Oops) == Oops("sorry")
        end = await peer.wait_closed()
        if accepted:
            code = {"reject": 1008, "close": 4004}.get(raised, 1011)
            assert end.code == code
        elif raised == "close":
            assert end.code == 4004
        else:
            assert peer.rejected.status == {"reject": 404}.get(raised, 500)
        assert (end.error is None) is (raised in ("reject", "close"))
    assert seen == ["no such room"]
    assert ("Traceback" in caplog.text) is (raised == "another")


async def test_it_is_not_called_before_what_it_asks_for_is_there() -> None:
    app = Router("/")
    seen: list[str] = []

    @app.on_connect
    async def enter() -> User:
        raise LookupError("no such room")

    @app.consumer
    async def say(message: str, user: User) -> None: ...

    @app.on_error
    async def bad(error: LookupError, user: User) -> None:
        seen.append(str(error))

    async with connect(app) as peer:
        assert peer.rejected.status == 500
        assert peer.end is not None
        assert isinstance(peer.end.error, LookupError)
    assert seen == []


async def test_a_rejection_and_a_disconnection_are_no_errors() -> None:
    app = Router("/")
    seen: list[str] = []

    @app.on_connect
    async def enter(kind: Annotated[str, Query()]) -> None:
        raise {"reject": Reject(403), "close": Close(4000), "gone": Disconnected()}[kind]

    @app.consumer
    async def say(message: str) -> None: ...

    @app.on_error
    async def bad(error: Exception) -> None:
        seen.append(str(error))

    async with serve_in_memory(app) as server:
        async with server.connect("/?kind=reject") as peer:
            assert peer.rejected.status == 403
        async with server.connect("/?kind=close") as peer:
            assert (await peer.wait_closed()).code == 4000
        async with server.connect("/?kind=gone") as peer:
            assert peer.rejected.status == 500
            assert peer.end is not None
            assert isinstance(peer.end.error, Disconnected)
    assert seen == []


async def test_an_on_error_function_that_takes_too_long_for_a_handshake() -> None:
    app = Router("/")

    @app.on_connect
    async def enter() -> None:
        raise LookupError("no such room")

    @app.consumer
    async def say(message: str) -> None: ...

    @app.on_error
    async def bad(error: LookupError) -> None:
        await anyio.sleep_forever()

    async with connect(app, limits=Limits(open_timeout=0.05, close_timeout=1)) as peer:
        assert peer.rejected.status == 503


@pytest.mark.parametrize("kind", ["consumer", "generator", "waiting", "producer", "stream"])
async def test_each_of_a_group(kind: str) -> None:
    app = Router("/")
    seen: list[str] = []
    errors = [LookupError("a"), ExceptionGroup("in", [ValueError("b"), Disconnected()])]

    async def fail() -> None:
        if kind != "consumer":
            await anyio.lowlevel.checkpoint()
        raise ExceptionGroup("both", errors)

    if kind == "producer":

        @app.producer
        async def produce() -> None:
            await fail()
    elif kind == "stream":

        @app.consumer
        async def each(messages: AsyncIterator[str]) -> None:
            await fail()
    elif kind == "generator":

        @app.consumer
        async def many(message: str) -> AsyncIterator[str]:
            yield "one"
            await fail()
    else:

        @app.consumer
        async def one(message: str) -> None:
            await fail()

    @app.on_error
    async def lookup(error: LookupError) -> None:
        seen.append(f"lookup {error}")

    @app.on_error
    async def value(error: ValueError) -> str:
        seen.append(f"value {error}")
        return "answered"

    async with connect(app) as peer:
        if kind != "producer":
            await peer.send("x")
        if kind == "generator":
            assert await peer.receive(str) == "one"
        assert await peer.receive(str) == "answered"
        if kind in ("producer", "stream"):
            assert (await peer.wait_closed()).code == 1011
            assert peer.end is not None
            assert peer.end.error is not None
        else:
            await peer.receive_nothing()
    assert seen == ["lookup a", "value b"]


@pytest.mark.parametrize("others", [["c"], ["c", "d"]])
async def test_what_nobody_takes_of_a_group(others: list[str]) -> None:
    app = Router("/")
    seen: list[str] = []

    @app.consumer
    async def one(message: str) -> None:
        raise ExceptionGroup("all", [LookupError("a"), *map(OSError, others)])

    @app.on_error
    async def lookup(error: LookupError) -> None:
        seen.append(str(error))

    async with connect(app) as peer:
        await peer.send("x")
        error = (await peer.wait_closed()).error
        found = error.exceptions if isinstance(error, ExceptionGroup) else [error]
        assert list(map(str, found)) == others
    assert seen == ["a"]
