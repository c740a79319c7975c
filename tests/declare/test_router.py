"""The Router, as an object."""

from __future__ import annotations

import inspect

import pytest

from wsflow import Router
from wsflow.declare.functions import place
from wsflow.testing import serve_in_memory


def test_a_router_says_where_it_is() -> None:
    assert repr(Router("/x")).startswith("<Router /x (")


def test_the_place_of_a_callable_object() -> None:
    class Greets:
        def __call__(self) -> str:
            return "hello"

    line = inspect.getsourcelines(Greets.__call__)[1]
    assert place(Greets()) == f"{__file__}:{line}"
    assert place(len).startswith("<built-in")


async def test_what_is_declared_while_it_is_served() -> None:
    """It would have no effect, and a guard that has none is worse than an error."""
    app, inner = Router("/"), Router("/inner")
    app.include(inner)

    @inner.consumer
    async def take(message: str) -> None: ...

    async with serve_in_memory(app):
        for router in (app, inner):
            with pytest.raises(RuntimeError, match="on_connect has no effect on a Router that is"):

                @router.on_connect
                async def guard() -> None: ...

            with pytest.raises(RuntimeError, match="consumer has no effect"):
                router.consumer(concurrency=2)
            with pytest.raises(RuntimeError, match="include has no effect"):
                router.include(Router("/late"))

    @app.on_connect
    async def later() -> None: ...

    async with serve_in_memory(app):
        pass
