"""What can be said about message types."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, get_origin

import msgspec
import pytest

from wsflow.wiring.messages import collects, message_problem, text_problem


class Say(msgspec.Struct, tag="say"):
    text: str


class Alien: ...


class Node(msgspec.Struct):
    next: Node | None
    value: dict[str, list[Alien]]


class Constrained(msgspec.Struct):
    count: Annotated[str, msgspec.Meta(ge=1)]


class Colour(enum.Enum):
    RED = "red"


class Pair(NamedTuple):
    one: int
    two: int


class Options(TypedDict):
    one: int


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Any, None),
        (object, None),
        (Say, None),
        (Node, "msgspec does not know the type Alien, so"),
        (Alien, "msgspec does not know the type Alien, so"),
        (list[Alien], "msgspec does not know the type Alien, so"),
        (tuple[int, Alien], "msgspec does not know the type Alien, so"),
        (namedtuple("Plain", "x"), None),
        (
            set[set[int] | frozenset[Alien]],
            "msgspec refuses the type set[set[int] | frozenset[Alien]] (Type unions may not",
        ),
        (Constrained, "msgspec refuses the type Constrained (Can only set `ge` on a numeric"),
    ],
)
def test_types_that_no_message_can_carry(kind: Any, why: str | None) -> None:
    wrong = message_problem(kind)
    assert (wrong is None) == (why is None)
    assert why is None or (wrong is not None and wrong[0].startswith(why))


TEXTS: list[tuple[Any, str | list[str]]] = [
    (str, "a"),
    (int, "1"),
    (float, "1.5"),
    (bool, "true"),
    (bytes, "aGk="),
    (Colour, "red"),
    (Literal["a", 1], "a"),
    (uuid.UUID, "6a5be5d0-7f45-4d5c-9dd8-6f3a3e0f7e31"),
    (datetime.datetime, "2026-01-01T00:00:00Z"),
    (datetime.timedelta, "P1D"),
    (decimal.Decimal, "1"),
    (int | None, "1"),
    (Any, "a"),
    (object, "a"),
    (Annotated[int, msgspec.Meta(ge=1, description="x")], "1"),
]
SEVERAL: list[tuple[Any, list[str]]] = [
    (list[int], ["1", "2"]),
    (list, ["1"]),
    (set[str] | None, ["a"]),
    (Sequence[str], ["a"]),
    (frozenset[float], ["1"]),
    (tuple[str, ...], ["a"]),
    (tuple[str, int], ["a", "1"]),
    (Annotated[list[str], msgspec.Meta(min_length=1)], ["a"]),
]


@pytest.mark.parametrize(("kind", "text"), TEXTS)
def test_what_a_text_is_converted_to(kind: Any, text: str) -> None:
    assert text_problem(kind, several=False) is None
    assert text_problem(kind, several=True) is None
    assert not collects(kind)
    msgspec.convert(text, kind, strict=False)


@pytest.mark.parametrize(("kind", "texts"), SEVERAL)
def test_what_several_texts_are_converted_to(kind: Any, texts: list[str]) -> None:
    assert text_problem(kind, several=True) is None
    assert collects(kind)
    msgspec.convert(texts, kind, strict=False)
    wrong = text_problem(kind, several=False)
    assert wrong is not None
    assert wrong[0].endswith("is a collection.")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Say, "It is a text, and Say has fields."),
        (Say | None, "It is a text, and Say | None has fields."),
        (Point, "It is a text, and Point has fields."),
        (Options, "It is a text, and Options has fields."),
        (Pair, "A string cannot be converted to Pair."),
        (dict[str, str], "A string cannot be converted to dict[str, str]."),
        (msgspec.Raw, "A string cannot be converted to Raw."),
        (Alien, "A string cannot be converted to Alien."),
        (list[Say], "A string cannot be converted to list[Say]."),
        (list[list[str]], "A string cannot be converted to list[list[str]]."),
        (Annotated[bool, msgspec.Meta(ge=1)], "msgspec refuses the type Annotated[bool, Meta(…)]"),
    ],
)
def test_what_no_text_is_converted_to(kind: Any, why: str) -> None:
    for several in (False, True):
        wrong = text_problem(kind, several=several)
        assert wrong is not None
        if several or get_origin(kind) is not list:
            assert wrong[0].startswith(why)
    with pytest.raises((msgspec.ValidationError, TypeError)):
        msgspec.convert("a", kind, strict=False)
