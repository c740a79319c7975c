"""From a Router to a plan."""

from __future__ import annotations

from typing import Annotated

import pytest

from wsflow import Connection, DeclarationError, Router, Sends, Topic
from wsflow.testing import connect
from wsflow.wiring.compile import compile_app


async def echo(message: str) -> str:
    return message


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


def test_a_producer_that_sends_nothing_and_a_path_without_parameters() -> None:
    app = Router("/")

    @app.producer
    async def nothing() -> None: ...

    (plan,) = compile_app(app).routes
    assert plan.sends == ()
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

    plan, _ = sorted(compile_app(app).routes, key=lambda each: len(each.template))
    assert plan.sends == (int, str)
    (call,) = plan.functions
    assert [str(source) for source in call.sources] == ["topic 'room.{room}' of int | str"]


class Missing: ...


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


async def test_what_is_sent_through_a_connection_is_declared() -> None:
    app = Router("/")
    part = Router("/part")
    app.include(part)

    @app.on_connect
    async def enter(connection: Annotated[Connection, Sends(int | None, bool)]) -> None:
        await connection.send(1)

    @part.consumer
    async def say(message: str, connection: Annotated[Connection, Sends(float)]) -> str:
        return message

    (plan,) = compile_app(app).routes
    assert plan.sends == (str, int, bool, float)
    async with connect(app, "/part") as peer:
        assert await peer.receive() == 1
