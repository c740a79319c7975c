"""From a JSON Schema to a type of Python, which takes the same."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import itertools
import sys
import uuid
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.test_jsonschema import VALUES, has_whole_floats, types
from wsflow.contract.contract import Schema
from wsflow.contract.names import Names
from wsflow.contract.pytypes import BUILTINS, Types, docstring, literal, quoted, union
from wsflow.contract.schemas import Schemas

TAKEN = (*BUILTINS, *("msgspec", "datetime", "decimal", "uuid", "Annotated", "Any", "Literal"))


NUMBERS = itertools.count()


def types_of(schemas: dict[str, Schema], **more: Any) -> Types:
    return Types(schemas, Names(TAKEN), **{"tags": {}, "events": {}, "calls": {}, **more})


def made(kind: Any) -> tuple[Any, str]:
    """A type that is written for the schema of a type, and the code."""
    schemas = Schemas([kind])
    taken, sent = schemas.taken(kind), schemas.sent(kind)
    written = types_of(dict(schemas.named))
    code = "\n\n".join(["from __future__ import annotations", *written.declarations()])
    name = f"written{next(NUMBERS)}"
    module = sys.modules[name] = ModuleType(name)  # where msgspec looks for names
    vars(module).update({name: globals()[name] for name in TAKEN if name in globals()})
    vars(module)["TypeAlias"] = Any
    exec(compile(code, "written", "exec"), vars(module))
    assert written.of(taken).text == written.of(sent).text
    return eval(written.of(taken).text, vars(module)), code


@given(types(), st.lists(VALUES, max_size=8))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_takes_what_the_type_takes(kind: Any, values: list[Any]) -> None:
    other = msgspec.json.Decoder(made(kind)[0])
    own = msgspec.json.Decoder(kind)
    for value in values:
        if has_whole_floats(value):
            continue
        data = msgspec.json.encode(value)
        try:
            there = own.decode(data)
        except msgspec.ValidationError:
            with pytest.raises(msgspec.ValidationError):
                other.decode(data)
        else:
            assert msgspec.json.encode(other.decode(data)) == msgspec.json.encode(there)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Cat(msgspec.Struct, tag="cat"):
    lives: int = 9


Cat.__doc__ = 'One that says "meow\\"'


class Dog(msgspec.Struct, tag="dog"):
    name: str


class Tree(msgspec.Struct):
    children: list[Tree] = []


class Row(msgspec.Struct, array_like=True, tag="row"):
    at: Annotated[datetime.datetime, msgspec.Meta(tz=True)]
    note: str = ""


class Point(NamedTuple):
    x: int
    y: int = 0


class Place(TypedDict, total=False):
    city: str


@dataclasses.dataclass
class Plain:
    number: int
    odd: list[int] = dataclasses.field(default_factory=lambda: [1])


class Odd(msgspec.Struct, kw_only=True):
    int: Annotated[str, msgspec.Meta(description="A text.")]
    a_class: str = msgspec.field(name="class", default='say "hi"')
    dash: dict[str, Any] = msgspec.field(name="da-sh", default_factory=dict)
    day: datetime.date = datetime.date(2020, 1, 1)
    seen: set[str] = set()
    or_none: str | None = None
    ratio: float = 1
    on: bool = False
    only: Literal["a", 2, None] = "a"


class Frozen(msgspec.Struct, frozen=True):
    x: int


class Shape(msgspec.Struct, array_like=True):
    name: str
    at: Point = msgspec.field(default_factory=lambda: Point(0))
    note: str = ""


Names_ = TypedDict(
    "Names_", {"__typename": str, "__x__": int, "_y": int, "typename": int}, total=False
)


class Bounded(pydantic.BaseModel):
    """With a \0."""

    word: str = pydantic.Field(pattern=r"^\p{L}+$")
    size: int = pydantic.Field(ge=1, gt=1)
    odd: int = pydantic.Field(1, alias='a"b')


class Model(pydantic.BaseModel):
    kind: Literal["model"] = "model"
    size: int = pydantic.Field(gt=0)

    @pydantic.computed_field
    def double(self) -> int:
        return 2 * self.size


FIELDS: list[tuple[Any, list[Any], list[Any]]] = [
    # a type, what it takes, and what it does not
    (Colour, ["red"], ["green", 1]),
    (Level, [1], [2, "a"]),
    (Cat | Dog | None, [{"type": "cat"}, {"type": "dog", "name": "a"}, None], [{"type": "cow"}]),
    (Tree, [{"children": [{"children": []}]}], [{"children": [1]}]),
    (Row, [["row", "2020-01-01T00:00:00Z"]], [["row"], ["row", "x"], ["other", "2020-01-01"]]),
    (Point, [[1], [1, 2]], [[], ["a"]]),
    (Place, [{}, {"city": "a"}], [{"city": 1}]),
    (Plain, [{"number": 1}, {"number": 1, "odd": []}], [{}, {"number": "a"}]),
    (Odd, [{"int": "a"}, {"int": "a", "class": "b", "da-sh": {"x": 1}}], [{}, {"int": 1}]),
    (tuple[int, str], [[1, "a"]], [[1], ["a", 1]]),
    (tuple[()], [[]], []),
    (tuple[int, ...], [[1, 2]], [["a"]]),
    (frozenset[int], [[1]], [["a"]]),
    (bytes, ["YWI="], [1]),
    (decimal.Decimal, ["1.5"], ["x"]),
    (uuid.UUID, ["7b5ef1d8-6a3b-4b8e-8f0a-0a6d3f1e2a11"], ["x"]),
    (Annotated[datetime.time, msgspec.Meta(tz=True)], ["12:00:00Z"], ["x"]),
    (datetime.datetime, ["2020-01-01T00:00:00"], [1]),  # a text: it has no format in a schema
    (datetime.timedelta, ["PT1H"], ["x"]),
    (Annotated[str, msgspec.Meta(pattern='^"a', max_length=4)], ['"ab'], ["ab", '"abcd']),
    (Annotated[list[int], msgspec.Meta(min_length=1)], [[1]], [[]]),
    (Annotated[float, msgspec.Meta(gt=0, le=1)], [0.5], [0.0, 1.5]),
    (Literal["a", 1, None], ["a", 1, None], ["b"]),
    (dict[str, Cat], [{"x": {"type": "cat"}}], [{"x": 1}]),
    (int | str | list[bool], [1, "a", [True]], [None, ["a"]]),
    (Any, [1, "a", None], []),
    (frozenset[Frozen], [[{"x": 1}]], [[{"x": "a"}]]),
    (frozenset[tuple[int, int]], [[[1, 2]]], [[1]]),
    (set[datetime.date], [["2020-01-01"]], [["x"]]),
    (Shape, [["a", [1, 2]], ["a", [1]]], [[1]]),
    (Names_, [{"__typename": "a", "__x__": 1, "_y": 2}], [{"__typename": 1}]),
]


@pytest.mark.parametrize(("kind", "takes", "refuses"), FIELDS)
def test_a_field(kind: Any, takes: list[Any], refuses: list[Any]) -> None:
    written, code = made(kind)
    decoder = msgspec.json.Decoder(written)
    for value in takes:
        sent = msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(value), type=kind))
        again = decoder.decode(sent)
        assert msgspec.json.decode(msgspec.json.encode(again), type=kind) == msgspec.json.decode(
            sent, type=kind
        ), code
        decoder.decode(msgspec.json.encode(value))
    for value in refuses:
        with pytest.raises(msgspec.ValidationError):
            decoder.decode(msgspec.json.encode(value))


def test_a_class() -> None:
    assert (
        made(Odd)[1].partition("\n\n\n")[0]
        == '''from __future__ import annotations

class Odd(msgspec.Struct, kw_only=True):
    int_: str = msgspec.field(name="int")
    """A text."""
    class_: str = msgspec.field(name="class", default='say "hi"')
    da_sh: dict[str, Any] = msgspec.field(name="da-sh", default_factory=dict)
    day: datetime.date | msgspec.UnsetType = msgspec.UNSET
    seen: set[str] = set()
    or_none: str | None = None
    ratio: float = 1
    on: bool = False
    only: Literal[2, "a"] | None = "a"
'''
    )


def test_docstrings() -> None:
    assert made(Cat)[1].splitlines()[2:] == [
        'class Cat(msgspec.Struct, tag="cat", kw_only=True):',
        '    """One that says "meow\\\\"',
        '    """',
        "",
        "    lives: int = 9",
    ]
    assert docstring("", "  ") == ""
    assert docstring("one", "  ") == '  """one"""'
    text = 'two """ quotes\n\nand a \\'
    assert eval(docstring(text, "")).strip() == text


def test_what_python_and_msgspec_do_not_take() -> None:
    code = made(Names_)[1]
    assert '    typename: str | msgspec.UnsetType = msgspec.field(name="__typename", ' in code
    assert '    typename_: int | msgspec.UnsetType = msgspec.field(name="typename", ' in code
    assert "    x: int | " in code
    bounded, code = made(Bounded)
    msgspec.json.decode('{"word":"é","size":2}', type=bounded)
    assert "    word: str\n" in code
    assert "    size: int\n" in code
    assert """    # There cannot be a field 'a"b' here.\n""" in code
    assert "With a \N{REPLACEMENT CHARACTER}." in code
    assert "item2: Point\n    item3: str = " in made(Shape)[1]


def test_a_model_as_it_is_taken_and_sent() -> None:
    written, code = made(Model)
    assert 'tag_field="kind", tag="model"' in code
    again = msgspec.json.decode(b'{"kind":"model","size":1,"double":2}', type=written)
    assert (again.size, again.double) == (1, 2)
    assert msgspec.json.encode(written(size=3)) == b'{"kind":"model","size":3}'
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"kind":"model","size":0}', type=written)


REF = {"$ref": "#/$defs/Json"}
NAMED: dict[str, Schema] = {
    "Json": {"anyOf": [{"type": "string"}, {"type": "array", "items": REF}]},
    "Later": {"type": "array", "items": {"$ref": "#/$defs/Word"}},
    "Word": {"enum": ["a", "b"]},
    "Words": {"anyOf": [{"$ref": "#/$defs/Word"}, {"type": "null"}]},
    "Cat": {"type": "object", "properties": {"t": {"const": "cat"}, "of": REF}, "required": ["t"]},
    "Dog": {"type": "object", "properties": {"t": {"const": "dog"}}, "required": ["t"]},
    "Cow": {"type": "object", "properties": {"u": {"const": "cow"}}, "required": ["u"]},
    "Row": {"type": "array", "prefixItems": [{"const": "cat"}], "minItems": 1},
    "Free": {"type": "object", "properties": {"x": {}}},
}


def test_declarations_in_an_order_that_works() -> None:
    """Classes first, which may name what comes later; then the others, each after what it needs."""
    code = list(types_of(NAMED).declarations())
    assert [each.partition(":")[0].partition("(")[0] for each in code] == [
        *("class Cat", "class Dog", "class Cow", "class Row", "class Free"),
        *("Word", "Later", "Words", "Json"),
    ]
    assert code[-1] == "Json: TypeAlias = str | list[Any]\n"
    assert code[-2] == "Words: TypeAlias = Word | None\n"


def refs(*names: str) -> Any:
    return {"anyOf": [{"$ref": f"#/$defs/{each}"} for each in names]}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (refs("Cat", "Dog"), "Cat | Dog"),
        (refs("Cat", "Cow"), "Any"),  # told apart by two fields
        (refs("Cat", "Row"), "Any"),  # an object and an array
        (refs("Cat", "Free"), "Any"),
        (refs("Cat", "Cat"), "Cat"),
        ({"anyOf": [*refs("Row")["anyOf"], {"type": "array"}]}, "Any"),
        ({"anyOf": [*refs("Row")["anyOf"], {"type": "object"}]}, "Row | dict[str, Any]"),
        ({"anyOf": [{"type": "string"}, {"type": "string", "format": "date"}]}, "Any"),
        ({"anyOf": [{"type": "string"}, {}]}, "Any"),
        ({"oneOf": [{"type": "null"}, {"type": "integer"}]}, "int | None"),
        ({"anyOf": [{"anyOf": [{"type": "null"}, {"type": "boolean"}]}, {"type": "number"}]},
         "bool | float | None"),
        ({"anyOf": []}, "Any"),
        ({"allOf": [{"type": "string"}]}, "Any"),
        ({"type": ["string", "null"]}, "Any"),
        ({"enum": [True]}, "Any"),
        ({"enum": [None]}, "None"),
        ({"const": None}, "None"),
        ({"type": "integer", "maximum": 2**63}, "int"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "dict[str, int]"),
        ({"type": "array", "prefixItems": [{"type": "string"}]}, "list[Any]"),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "set[str]"),
        (True, "Any"),
    ],
)  # fmt: skip
def test_types(schema: Any, text: str) -> None:
    written = types_of(NAMED)
    list(written.declarations())
    assert written.of(schema).text == text


def test_small_things() -> None:
    assert union([]).text == "Any"
    assert literal(["a", 1]).may_be("a")
    assert not literal([1]).may_be(True)
    assert [quoted(each) for each in ("a", "it's", 'a "b"', "\n", 1.5)] == [
        '"a"', "\"it's\"", "'a \"b\"'", '"\\n"', "1.5",
    ]  # fmt: skip
