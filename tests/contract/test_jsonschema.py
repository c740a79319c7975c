"""JSON Schema for each path and direction."""

from __future__ import annotations

import itertools
from typing import Annotated, Any

import jsonschema as validator
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.apps import app_of
from wsflow import Router
from wsflow.contract.describe import describe
from wsflow.contract.jsonschema import DIALECT, jsonschema
from wsflow.contract.schemas import Schemas
from wsflow.wiring.compile import compile_app


def test_an_app() -> None:
    made = jsonschema(describe(compile_app(app_of())))
    validator.Draft202012Validator.check_schema(made)
    assert (made["$schema"], made["title"], made["version"]) == (DIALECT, "Rooms", "2.1.0")
    room, old = made["paths"]["/room/{room}"], made["paths"]["/room/{room}/old"]
    assert room["takes"] == {"$ref": "#/$defs/Say"}
    assert room["sends"] == {"$ref": "#/$defs/SaidSent"}
    assert room["answers"] == {
        "add": {"message": {"$ref": "#/$defs/Add"}, "answer": {"$ref": "#/$defs/SumSent"}},
        "count": {"message": {"$ref": "#/$defs/Count"}, "items": {"type": "integer"}},
    }
    assert list(room["asks"]) == ["sure"]
    assert old["takes"] == {"not": {}, "x-raw": ["text"]}
    two = Router("/")

    @two.consumer
    async def take(message: int | list[int]) -> None: ...

    takes = jsonschema(describe(compile_app(two)))["paths"]["/"]["takes"]
    assert len(takes["anyOf"]) == 2


NUMBERS = itertools.count()
SCALARS: list[Any] = [int, float, bool, str, type(None)]


def types() -> st.SearchStrategy[Any]:
    """Types of messages, within one another."""
    bounded = st.builds(
        lambda low, size: msgspec_int(low, low + size), st.integers(-9, 9), st.integers(0, 9)
    )
    leaves = st.sampled_from(SCALARS) | bounded
    return st.recursive(
        leaves,
        lambda inner: (
            inner.map(lambda kind: list[kind])  # type: ignore[valid-type]
            | inner.map(lambda kind: dict[str, kind])  # type: ignore[valid-type]
            | st.lists(inner, min_size=1, max_size=3).map(struct_of)
        ),
        max_leaves=4,
    )


def msgspec_int(low: int, high: int) -> Any:
    return Annotated[int, msgspec.Meta(ge=low, le=high)]


def struct_of(kinds: list[Any]) -> Any:
    fields = [(f"f{at}", kind) for at, kind in enumerate(kinds)]
    return msgspec.defstruct(f"S{next(NUMBERS)}", fields)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-12, 12) | st.floats(-2, 2) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["f0", "f1", "f2", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(types(), st.lists(VALUES, max_size=8))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_accepted_is_what_the_schema_accepts(kind: Any, values: list[Any]) -> None:
    """By an independent validator; but for a float without a fraction where an int is wanted."""
    schemas = Schemas([kind])
    schema = {**schemas.taken(kind), "$defs": schemas.named}
    checker = validator.Draft202012Validator(schema)
    decode = msgspec.json.Decoder(kind).decode
    for value in values:
        if has_whole_floats(value):
            continue
        try:
            decode(msgspec.json.encode(value))
            accepted = True
        except msgspec.ValidationError:
            accepted = False
        assert checker.is_valid(value) is accepted, (kind, value)


def has_whole_floats(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(has_whole_floats, value.values()))
    if isinstance(value, list):
        return any(map(has_whole_floats, value))
    return isinstance(value, float) and value.is_integer()
