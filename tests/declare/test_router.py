"""The Router, as an object."""

from __future__ import annotations

from wsflow import Router


def test_a_router_says_where_it_is() -> None:
    assert repr(Router("/x")).startswith("<Router /x (")
