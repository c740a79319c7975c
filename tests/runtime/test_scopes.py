"""What scope functions provide."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from wsflow import DeclarationError, Router
from wsflow.testing import connect, serve_in_memory
from wsflow.wiring.compile import compile_app


class User(msgspec.Struct):
    name: str = "ada"


def app_of(fn: Callable[..., Any], kind: str = "on_connect") -> Router:
    app = Router("/")
    getattr(app, kind)(fn)

    @app.consumer
    async def take(message: str) -> str:
        return message

    return app


async def none_for_a_user() -> User:
    return None  # type: ignore[return-value]


async def false_for_a_user() -> User:
    return False  # type: ignore[return-value]


async def yields_none() -> AsyncIterator[User]:
    yield None  # type: ignore[misc]


async def false():  # type: ignore[no-untyped-def]
    return False


async def false_although_nothing() -> None:
    return False  # type: ignore[return-value]


async def false_or_a_user() -> User | None:
    return False  # type: ignore[return-value]


async def yields_false():  # type: ignore[no-untyped-def]
    yield False


WRONG = [
    (none_for_a_user, "returned None and is annotated with User"),
    (false_for_a_user, "returned False and is annotated with User"),
    (yields_none, "yielded None and is annotated with User"),
    (false, "returned False"),
    (false_although_nothing, "returned False"),
    (false_or_a_user, "returned False and is annotated with User | None"),
    (yields_false, "yielded False"),
]


@pytest.mark.parametrize(("fn", "why"), WRONG)
async def test_what_other_frameworks_refuse_with(fn: Any, why: str) -> None:
    """Nobody would notice that the connection is not refused."""
    async with connect(app_of(fn)) as peer:
        assert peer.rejected.status == 500
        error = (await peer.wait_closed()).error
        assert isinstance(error, TypeError)
        assert why in str(error)
        assert str(error).endswith(": to refuse a connection, raise Reject(403)")


async def none() -> None: ...


async def unsaid():  # type: ignore[no-untyped-def]
    return None


async def unsaid_value():  # type: ignore[no-untyped-def]
    return User()


async def yields_nothing() -> AsyncIterator[None]:
    yield


async def maybe() -> User | None:
    return None


async def anything() -> Any:
    return None


async def zero() -> object:
    return False


@pytest.mark.parametrize("fn", [none, unsaid, unsaid_value, yields_nothing, maybe, anything, zero])
async def test_what_provides_nothing_is_no_refusal(fn: Any) -> None:
    async with connect(app_of(fn)) as peer:
        await peer.send("hi")
        assert await peer.receive(str) == "hi"


async def test_a_lifespan_that_gives_none() -> None:
    app = app_of(none_for_a_user, "lifespan")
    with pytest.raises(TypeError, match=r"returned None .*: return one, or annotate it with `\|"):
        async with serve_in_memory(app):
            raise AssertionError("is not reached")


def test_a_default_beside_a_provider_that_does_not_say_what_it_provides() -> None:
    app = Router("/")
    app.on_connect(unsaid_value)

    @app.consumer
    async def take(message: str, user: User | None = None, count: int = 3) -> None: ...

    with pytest.raises(DeclarationError) as caught:
        compile_app(app)
    (problem,) = caught.value.problems
    assert "It would get its default, and what on_connect unsaid_value" in str(problem)
    assert "annotate that function `-> User` if this is meant" in str(problem)


async def test_a_producer_whose_value_nobody_would_get() -> None:
    app = Router("/")

    @app.producer
    async def produce():  # type: ignore[no-untyped-def]
        await anyio.lowlevel.checkpoint()
        return "tick"

    async with connect(app) as peer:
        end = await peer.wait_closed()
        assert (end.code, type(end.error)) == (1011, TypeError)
        assert "returned a value and has no annotation" in str(end.error)


async def test_a_default_beside_functions_that_give_nothing() -> None:
    app = Router("/")
    for fn in (unsaid, none):
        app.on_connect(fn)

    @app.consumer
    async def take(message: str, user: User | None = None) -> str:
        return repr(user)

    async with connect(app) as peer:
        await peer.send("?")
        assert await peer.receive(str) == "None"
