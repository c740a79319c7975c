"""What counts as an async function: behind partials, wrappers and callable objects."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import pytest

from wsflow import Connection, DeclarationError, Query, Router
from wsflow.declare.functions import (
    Style,
    bound_names,
    checked,
    gives_something,
    is_cached,
    layers,
    named,
    place,
    returns_context_manager,
    style,
)
from wsflow.testing import connect
from wsflow.wiring.compile import compile_app

COROUTINE = Style(generator=False, coroutine=True, certain=True)
GENERATOR = Style(generator=True, coroutine=False, certain=True)
PLAIN = Style(generator=False, coroutine=False, certain=True)


def plainly(fn: Any) -> Any:
    """A plain decorator, as that of a tracing library."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def awaiting(fn: Any) -> Any:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return wrapper


def forgetting(fn: Any) -> Any:
    """A plain decorator that returns nothing of what it should."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    return wrapper


async def coroutine(number: int = 0) -> int:
    return number


async def generator() -> AsyncIterator[int]:
    yield 1


def sync() -> int:
    return 1


class Thing:
    async def __call__(self) -> None: ...

    @plainly
    async def method(self) -> None: ...


class Around:
    """A decorator that is a class."""

    def __init__(self, fn: Any) -> None:
        functools.update_wrapper(self, fn)
        self._fn = fn

    def __call__(self, *args: Any) -> Any:
        return self._fn(*args)


def unsure(known: Style) -> Style:
    return Style(known.generator, known.coroutine, certain=False)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (coroutine, COROUTINE),
        (generator, GENERATOR),
        (sync, PLAIN),
        (print, PLAIN),
        (functools.partial(coroutine, 1), COROUTINE),
        (functools.partial(functools.partial(generator)), GENERATOR),
        (Thing(), COROUTINE),
        (functools.partial(Thing()), COROUTINE),
        (plainly(coroutine), unsure(COROUTINE)),
        (plainly(plainly(generator)), unsure(GENERATOR)),
        (plainly(functools.partial(coroutine, 1)), unsure(COROUTINE)),
        (functools.partial(plainly(coroutine), 1), unsure(COROUTINE)),
        (plainly(Thing()), unsure(COROUTINE)),
        (Thing().method, unsure(COROUTINE)),
        (Around(coroutine), unsure(COROUTINE)),
        (Around(generator), unsure(GENERATOR)),
        (awaiting(coroutine), COROUTINE),
        (plainly(awaiting(sync)), unsure(COROUTINE)),
        (plainly(sync), PLAIN),
    ],
)
def test_how_a_function_is_called(fn: Any, expected: Style) -> None:
    assert style(fn) == expected


def test_a_circle_of_wrappers_ends() -> None:
    wrapper = plainly(sync)
    wrapper.__wrapped__ = wrapper
    assert list(layers(wrapper)) == [wrapper]
    assert style(wrapper) == PLAIN


def test_where_it_is_and_what_it_is_called() -> None:
    fn = plainly(functools.partial(plainly(coroutine), 1))
    assert named(fn) is coroutine
    assert place(fn) == f"{__file__}:{inspect.getsourcelines(coroutine)[1]}"


def test_what_a_partial_has_bound() -> None:
    fn = functools.partial(plainly(functools.partial(sync, a=1)), b=2)
    assert bound_names(fn) == {"a", "b"}
    assert bound_names(sync) == frozenset()


def test_context_managers_and_caches() -> None:
    manager = contextlib.asynccontextmanager(generator)
    assert returns_context_manager(manager)
    assert returns_context_manager(plainly(manager))
    assert not returns_context_manager(plainly(generator))
    assert is_cached(functools.cache(coroutine))
    assert is_cached(plainly(functools.lru_cache(maxsize=2)(coroutine)))
    assert not is_cached(plainly(coroutine))


async def gives_nothing(flag: bool = True) -> Any:
    def inner() -> int:
        return 1

    if flag:
        return None
    inner()
    return


async def yields_nothing() -> AsyncIterator[Any]:
    async with anyio.Lock():
        yield


async def yields() -> Any:
    async with anyio.Lock():
        yield 1


async def returns(flag: bool = True) -> Any:
    if flag:
        return {"a": 1}


def test_whether_a_function_gives_something_stands_in_its_source() -> None:
    assert not gives_something(gives_nothing)
    assert not gives_something(yields_nothing)
    assert gives_something(yields)
    assert gives_something(plainly(functools.partial(returns)))
    made: dict[str, Any] = {}
    exec("async def f(): pass", made)
    assert gives_something(made["f"])  # nobody knows
    assert gives_something(print)


def test_a_function_that_is_sure_to_be_one_is_called_as_it_is() -> None:
    assert checked(coroutine, "it") is coroutine


# -- in an app


if TYPE_CHECKING:
    Nowhere = str


class User:
    def __init__(self, name: str) -> None:
        self.name = name


def app_of(around: Callable[[Any], Any], seen: list[str]) -> Router:
    """An app with a function of each kind, with a plain function around each."""
    app = Router("/")

    @app.lifespan
    @around
    async def live() -> AsyncIterator[None]:
        seen.append("up")
        yield
        seen.append("down")

    @app.on_connect
    @around
    async def enter(name: Annotated[str, Query()] = "ada") -> AsyncIterator[User]:
        yield User(name)
        seen.append("left")

    @app.on_message
    @around
    async def transaction() -> AsyncIterator[None]:
        seen.append("begin")
        yield
        seen.append("commit")

    @app.consumer
    @around
    async def say(message: str, user: User) -> str:
        if not message:
            raise ValueError("empty")
        return f"{user.name}: {message}"

    @app.consumer
    @around
    async def count(message: bytes) -> AsyncIterator[str]:
        yield "1"
        yield "2"

    @app.producer(on_end="keep")
    @around
    async def once(connection: Connection) -> None:
        await connection.send("once")

    @app.producer(on_end="keep")
    @around
    async def each() -> AsyncIterator[str]:
        yield "each"

    @app.on_disconnect
    @around
    async def gone() -> None:
        seen.append("gone")

    @app.on_error
    @around
    async def wrong(error: ValueError) -> str:
        return f"no: {error}"

    return app


@pytest.mark.parametrize("around", [plainly, Around, functools.partial])
async def test_a_plain_function_around_an_async_one_is_one(
    around: Callable[[Any], Any],
) -> None:
    seen: list[str] = []
    async with connect(app_of(around, seen)) as peer:
        assert {await peer.receive(str), await peer.receive(str)} == {"once", "each"}
        await peer.send("hi")
        await peer.send("")
        await peer.send(b"")
        assert [await peer.receive(str) for _ in range(4)] == ["ada: hi", "no: empty", "1", "2"]
    assert seen[-3:] == ["gone", "left", "down"]
    assert seen.count("begin") == 3
    assert seen.count("commit") == 2


SAID = (
    r" is a plain function around an async one, and has returned a NoneType, and not what that "
    r"returns, an (Awaitable|AsyncGenerator): return that, or write `async def` and await it"
)


async def test_one_that_returns_something_else_is_named() -> None:
    app = Router("/")

    @app.consumer
    @forgetting
    async def say(message: str) -> str:
        return message

    async with connect(app) as peer:
        await peer.send("hi")
        assert (await peer.wait_closed()).code == 1011
        with pytest.raises(TypeError, match=rf"consumer say \({__file__}:\d+\)" + SAID):
            raise peer.end.error  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["lifespan", "on_connect"])
async def test_of_a_scope_function_too(kind: str) -> None:
    app = Router("/")

    @getattr(app, kind)
    @forgetting
    async def enter() -> AsyncIterator[None]:
        yield

    @app.consumer
    async def say(message: str) -> None: ...

    if kind == "lifespan":
        with pytest.raises(TypeError, match=SAID):
            await connect(app).__aenter__()
        return
    async with connect(app) as peer:
        assert peer.rejected.status == 500
        with pytest.raises(TypeError, match=SAID):
            raise peer.end.error  # type: ignore[misc]


def test_a_cache_and_a_plain_generator_behind_a_wrapper() -> None:
    def generates() -> Iterator[int]:
        yield 1

    for fn, why in (
        (functools.cache(coroutine), "It is cached"),
        (plainly(generates), "It is a plain generator"),
        (plainly(contextlib.asynccontextmanager(generator)), "It returns a context manager"),
    ):
        app = Router("/")
        app.on_connect(fn)
        with pytest.raises(DeclarationError, match=why):
            compile_app(app)


async def test_bound_arguments_are_not_injected() -> None:
    async def say(prefix: str, message: str, user: User, suffix: Nowhere, last: str = "!") -> str:
        return f"{prefix}{message} {user.name}{suffix}{last}"

    async def enter(name: str) -> User:
        return User(name)

    app = Router("/")
    app.on_connect(functools.partial(enter, name="bob"))
    app.consumer(functools.partial(plainly(say), "> ", suffix="?"))
    app.producer(on_end="keep")(functools.partial(produce, sent="x"))
    async with connect(app) as peer:
        assert await peer.receive(str) == "x"
        await peer.send("hi")
        assert await peer.receive(str) == "> hi bob?!"


async def produce(sent: str) -> AsyncIterator[str]:
    yield sent
