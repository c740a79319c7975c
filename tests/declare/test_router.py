"""The Router, as an object."""

from __future__ import annotations

import inspect

from wsflow import Router
from wsflow.declare.functions import place


def test_a_router_says_where_it_is() -> None:
    assert repr(Router("/x")).startswith("<Router /x (")


def test_the_place_of_a_callable_object() -> None:
    class Greets:
        def __call__(self) -> str:
            return "hello"

    line = inspect.getsourcelines(Greets.__call__)[1]
    assert place(Greets()) == f"{__file__}:{line}"
    assert place(len).startswith("<built-in")
