"""Topic names, from templates and path parameters."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wsflow.topics.names import fill_name, is_name_of, name_topic, parameters

LITERALS = st.text("a-_.:%/", max_size=3)
NAMES = st.text("a-_.:%/é2D", max_size=12)
VALUES = st.text(min_size=1, max_size=5)
TRICKY = [
    "my room",
    "a.b",
    "*",
    ">",
    "{x}",
    "{",
    "/",
    "%",
    "%2E",
    "%41",
    "\n",
    "\0",
    "é",
    "e\u0301",
    "~",
]


def templates(literals: list[str]) -> str:
    template = "".join(f"{each}{{x{number}}}" for number, each in enumerate(literals[:-1]))
    template += literals[-1]
    try:
        parameters(template)
    except ValueError:
        assume(False)
    return template


@given(st.lists(LITERALS, min_size=1, max_size=5), NAMES)
def test_a_name_of_a_template(literals: list[str], name: str) -> None:
    template = templates(literals)
    value = "(?:[A-Za-z0-9_-]|%2F|%3A|%2E|%25|%C3%A9)+"  # of the characters that these names have
    expected = re.fullmatch(value.join(map(re.escape, literals)), name) is not None
    assert is_name_of(template, name) is expected


@given(st.lists(LITERALS, min_size=1, max_size=4), st.lists(VALUES, min_size=4, max_size=4))
def test_a_filled_name_is_one(literals: list[str], values: list[str]) -> None:
    template = templates(literals)
    given = {name: values[int(name[1:])] for name in parameters(template)}
    name = name_topic(template, given)
    assert is_name_of(template, name)
    assert name == fill_name(template, given)


@given(
    st.lists(LITERALS, min_size=2, max_size=4),
    st.lists(VALUES | st.sampled_from(TRICKY), min_size=8, max_size=8),
)
def test_other_values_make_another_name(literals: list[str], values: list[str]) -> None:
    template = templates(literals)
    names = parameters(template)
    one = dict(zip(names, values[:4], strict=False))
    other = dict(zip(names, values[4:], strict=False))
    assert (name_topic(template, one) == name_topic(template, other)) is (one == other)


def test_how_values_are_encoded() -> None:
    assert name_topic("a.{x}", {"x": "ok-_1"}) == "a.ok-_1"
    assert name_topic("a.{x}", {"x": "*.>é%"}) == "a.%2A%2E%3E%C3%A9%25"
    assert name_topic("a.{x}", {"x": 5}) == "a.5"
    assert name_topic("{x}.{x}", {"x": "1"}) == "1.1"
    assert name_topic("plain", {}) == "plain"


@pytest.mark.parametrize(
    ("template", "values", "error", "says"),
    [
        ("room.{room}", {}, ValueError, "'room.{room}' needs a value for room"),
        ("{a}.{b}.{c}", {"b": "1"}, ValueError, "needs a value for a, c"),
        ("room.{room}", {"rom": "1"}, ValueError, "needs a value for room, and was given rom"),
        (5, {}, TypeError, "the name of a topic is a int: use a str"),
        ("room.{room}", {"room": "1", "x": "2"}, ValueError, "only room, and a value for x"),
        ("room", {"room": "1"}, ValueError, "no parameter, and a value for room"),
        ("room.{room}", {"room": ""}, ValueError, "room is empty"),
        ("room.{room}", {"room": "\ud800"}, ValueError, "room has half of a surrogate pair"),
        ("room.\ud800", {}, ValueError, "has half of a surrogate pair"),
        ("room.{room}", {"room": None}, TypeError, "room is a NoneType: use a str or an int"),
        ("room.{room}", {"room": True}, TypeError, "room is a bool"),
        ("room.{room}", {"room": b"x"}, TypeError, "room is a bytes"),
        ("", {}, ValueError, "a topic needs a name"),
        ("room.{", {}, ValueError, "malformed: it has a brace without its other one. Fix: correct"),
        ("room.}", {}, ValueError, "malformed"),
        ("room.{{room}}", {"room": "1"}, ValueError, "malformed"),
        ("room.{a b}", {}, ValueError, "braces that do not contain just a name"),
        ("{a}{b}", {"a": "1", "b": "2"}, ValueError, "where {a} ends and {b} begins"),
        ("{a}-b_%{c}", {"a": "1", "c": "2"}, ValueError, 'a dot between them: "{a}.{c}"'),
    ],
)
def test_what_names_no_topic(
    template: str, values: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=re.escape(says)):
        name_topic(template, values)


@pytest.mark.parametrize(
    "value", ["a b", "ä", "a.b", "100%", "%2e", "%41", "%FF", "%", "", "%2", "@"]
)
def test_what_no_value_leaves(value: str) -> None:
    assert not is_name_of("room.{room}", f"room.{value}")


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{a}-{b}-{c}-{d}", "-" * 200_000 + "!"),
        ("{a}a{b}a{c}aa{d}a", "a" * 200_000 + "b"),
        ("{a}.{b}.{c}", "a" * 200_000),
        ("{a}{b}{c}{d}.", "a" * 200_000),
    ],
)
def test_a_long_name_takes_no_longer(template: str, name: str) -> None:
    """It would take hours, were it cubic."""
    assert not is_name_of(template, name)
