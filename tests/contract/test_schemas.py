"""The schemas of types that others have not thought of: odd names, and names of one spelling."""

from __future__ import annotations

import datetime
import enum
import json
from collections.abc import Iterable
from typing import Annotated, Any, Generic, TypedDict, TypeVar

import jsonschema
import msgspec
import pydantic
import pytest

from wsflow.contract.schemas import Schemas
from wsflow.contract.walk import refs

T = TypeVar("T")


def schemas_of(*kinds: Any) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """As they are taken, as they are sent, and the named ones: as JSON has them."""
    made = Schemas(kinds)
    taken, sent = [made.taken(each) for each in kinds], [made.sent(each) for each in kinds]
    plain: tuple[list[Any], list[Any], dict[str, Any]] = json.loads(
        json.dumps([taken, sent, dict(made.named)])
    )
    for each in (*plain[0], *plain[1], *plain[2].values()):
        missing = set(refs(each)) - set(plain[2])
        assert not missing
    return plain


def accepts(schema: Any, named: Any, value: Any) -> bool:
    validator = jsonschema.Draft202012Validator({**schema, "$defs": named})
    return bool(validator.is_valid(value))


class Page(msgspec.Struct, Generic[T]):
    items: list[T]
    more: bool = False


class Lean(msgspec.Struct, Generic[T], omit_defaults=True):
    item: T
    more: bool = False


class Paged(pydantic.BaseModel, Generic[T]):
    items: list[T]


def test_generic_types() -> None:
    taken, sent, named = schemas_of(Page[int], Page[str], Lean[int], Paged[int], Paged[str])
    assert len({json.dumps(each) for each in taken}) == 5
    assert named["Page_int_Sent"]["required"] == ["items", "more"]
    assert named["Lean_int_"]["required"] == ["item"]
    assert accepts(taken[0], named, {"items": [1]})
    assert not accepts(taken[0], named, {"items": ["a"]})
    assert not accepts(sent[0], named, {"items": [1]})
    assert accepts(taken[4], named, {"items": ["a"]})
    assert not accepts(taken[3], named, {"items": ["a"]})


class Said(msgspec.Struct):
    text: str = ""


class SaidSent(msgspec.Struct):
    at: int


class SaidSent_2(msgspec.Struct):  # noqa: N801
    by: str


def test_a_type_whose_name_is_that_of_another_as_it_is_sent() -> None:
    taken, sent, named = schemas_of(Said, SaidSent, SaidSent_2)
    assert len(named) == 4
    assert accepts(taken[1], named, {"at": 1})
    assert accepts(sent[1], named, {"at": 1})
    assert not accepts(sent[0], named, {"at": 1})
    assert accepts(sent[0], named, {"text": ""})
    assert accepts(taken[0], named, {})


def models_of(name: str, *kinds: Any) -> Iterable[Any]:
    """Models of one name, of modules of their own."""
    for at, kind in enumerate(kinds):
        yield pydantic.create_model(name, __module__=f"shop{at}", value=(kind, ...))


@pytest.mark.parametrize("other", [pydantic.create_model, msgspec.defstruct])
def test_models_of_one_name(other: Any) -> None:
    one, two = models_of("Item", int, str)
    if other is msgspec.defstruct:
        two = msgspec.defstruct("Item", [("value", str)])
    taken, sent, named = schemas_of(one, two)
    for form in (taken, sent):
        assert [accepts(each, named, {"value": 1}) for each in form] == [True, False]
        assert [accepts(each, named, {"value": "a"}) for each in form] == [False, True]


def test_models_of_one_name_within_others() -> None:
    inner = list(models_of("Item", int, str))
    outer = [pydantic.create_model(f"Order{at}", item=(each, ...)) for at, each in enumerate(inner)]
    taken, sent, named = schemas_of(*outer)
    for form in (taken, sent):
        assert [accepts(each, named, {"item": {"value": 1}}) for each in form] == [True, False]


class Total(pydantic.BaseModel):
    cents: int = 0


class Basket(pydantic.BaseModel):
    items: list[int]

    @pydantic.computed_field
    def total(self) -> Total:
        return Total()


def test_a_model_that_is_only_sent() -> None:
    taken, sent, named = schemas_of(Basket)
    assert accepts(taken[0], named, {"items": []})
    assert not accepts(sent[0], named, {"items": []})
    assert accepts(sent[0], named, {"items": [], "total": {"cents": 1}})
    assert not accepts(sent[0], named, {"items": [], "total": {}})
    assert set(named) == {"Basket", "BasketSent", "Total"}


class Inside(msgspec.Struct):
    value: int = 0


Odd = TypedDict(
    "Odd",
    {
        "$ref": str,
        "discriminator": int,
        "prefixItems": Inside,
        "properties": str,
        "enum": int,
        "const": str,
        "default": int,
    },
)


def test_fields_that_are_named_like_words_of_a_schema() -> None:
    taken, sent, named = schemas_of(Odd)
    value = {
        "$ref": "a",
        "discriminator": 1,
        "prefixItems": {"value": 1},
        "properties": "a",
        "enum": 1,
        "const": "a",
        "default": 1,
    }
    assert set(named) == {"Odd", "OddSent", "Inside", "InsideSent"}
    for form in (taken[0], sent[0]):
        assert accepts(form, named, value)
        for name in value:
            assert not accepts(form, named, {**value, name: None})
    assert not accepts(sent[0], named, {**value, "prefixItems": {}})


class Named(pydantic.BaseModel):
    name: str


@pytest.mark.parametrize(
    ("example", "written"),
    [
        (datetime.date(2020, 1, 1), "2020-01-01"),
        ((1, 2), [1, 2]),
        (float("inf"), None),
        (Inside(value=1), {"value": 1}),
        (Named(name="Bo"), {"name": "Bo"}),
        (1 + 2j, "(1+2j)"),
    ],
)
def test_examples_that_json_does_not_have(example: Any, written: Any) -> None:
    marked = Annotated[Any, msgspec.Meta(examples=[example])]  # type: ignore[valid-type]
    _, _, named = schemas_of(msgspec.defstruct("On", [("field", marked)]))
    assert named["On"]["properties"]["field"]["examples"] == [written]


@pytest.mark.parametrize("odd", [True, {"a": True}, ["a"]])
def test_words_of_a_schema_with_odd_values(odd: Any) -> None:
    marked = Annotated[Any, msgspec.Meta(extra_json_schema={"$defs": odd})]  # type: ignore[valid-type]
    _, _, named = schemas_of(msgspec.defstruct("On", [("field", marked)]))
    assert named["On"]["properties"]["field"]["$defs"] == odd


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize("name", ["enum", "fields"])
def test_a_type_beside_which_there_is_one_that_is_no_object(name: str) -> None:
    _, _, named = schemas_of(Colour, msgspec.defstruct(name, [("of", Colour)]))
    assert named["Colour"]["enum"] == ["red"]


def test_a_type_without_a_schema() -> None:
    kind = msgspec.defstruct("On", [("raw", msgspec.Raw, msgspec.Raw(b"{}"))])
    with pytest.raises(ValueError, match="a type has no schema: "):
        Schemas([kind])
