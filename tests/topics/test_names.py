"""Topic names, from templates and path parameters."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsflow.topics.names import fill_name, is_name_of

LITERALS = st.text("a-_.:%/", max_size=3)
NAMES = st.text("a-_.:%/é", max_size=12)


@given(st.lists(LITERALS, min_size=1, max_size=5), NAMES)
def test_a_name_of_a_template(literals: list[str], name: str) -> None:
    template = "{x}".join(literals)
    expected = re.fullmatch("[A-Za-z0-9_%-]+".join(map(re.escape, literals)), name) is not None
    assert is_name_of(template, name) is expected


@given(st.lists(LITERALS, min_size=2, max_size=4), st.text(min_size=1, max_size=5))
def test_a_filled_name_is_one(literals: list[str], value: str) -> None:
    template = "{x}".join(literals)
    assert is_name_of(template, fill_name(template, {"x": value}))


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
