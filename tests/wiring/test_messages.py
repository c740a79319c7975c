"""What can be said about message types."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import msgspec
import pytest

from wsflow.wiring.messages import unknown_type


class Say(msgspec.Struct, tag="say"):
    text: str


class Alien: ...


class Node(msgspec.Struct):
    next: Node | None
    value: dict[str, list[Alien]]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Any, None),
        (object, None),
        (Say, None),
        (Node, "Alien"),
        (Alien, "Alien"),
        (list[Alien], "Alien"),
        (tuple[int, Alien], "Alien"),
        (namedtuple("Plain", "x"), None),
        (set[set[int] | frozenset[Alien]], "set[set[int] | frozenset[Alien]]"),
    ],
)
def test_types_that_msgspec_does_not_know(kind: Any, name: str | None) -> None:
    assert unknown_type(kind) == name
