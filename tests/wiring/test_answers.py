"""Which answers are right, as declared, and as the asker decodes them."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    Never,
    NewType,
    NoReturn,
    NotRequired,
    TypedDict,
    TypeVar,
)

import msgspec
import pytest
from typing_extensions import TypeAliasType

from wsflow import Call, CallError, DeclarationError, Router
from wsflow.declare.signatures import EMPTY
from wsflow.messages.codec import JSON, MSGPACK
from wsflow.testing import connect
from wsflow.wiring.answers import fits, other_answer
from wsflow.wiring.compile import compile_app

T = TypeVar("T")
UserId = NewType("UserId", int)
Number = TypeAliasType("Number", int | float)
Positive = Annotated[int, msgspec.Meta(gt=0)]


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Name(enum.StrEnum):
    ADA = "ada"


class Base(msgspec.Struct, tag="base"):
    a: int


class Same(Base):
    b: int = 1


class OtherTag(Base, tag="other"):
    b: int = 1


class Plain(msgspec.Struct):
    a: int


class More(Plain):
    b: int = 1


class Tagged(Plain, tag=True): ...


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    a: int


class ClosedMore(Closed):
    b: int = 1


class ClosedSame(Closed): ...


class ClosedTag(Closed, tag="closed"): ...


class Row(msgspec.Struct, array_like=True):
    a: int


class RowMore(Row):
    b: int = 1


class RowObject(Row, array_like=False): ...


class PlainRow(Plain, array_like=True): ...


class RowBefore(msgspec.Struct, array_like=True):
    a: int
    b: int


class RowTurned(RowBefore):
    a: int = 1
    b: int = 2


class RowNamed(msgspec.Struct, array_like=True, kw_only=True):
    a: int


class RowFirst(RowNamed):
    b: int  # comes before those that are given by name


class RowTagged(Row, tag=True): ...


class Optional(msgspec.Struct):
    a: int = 0


class OptionalRenamed(Optional, rename="upper"): ...


class Strict(Plain):
    a: bool  # type: ignore[assignment]


class Box(msgspec.Struct, Generic[T]):
    content: T


class IntBox(Box[int]): ...


class Tree(msgspec.Struct, Generic[T]):
    value: T
    children: list[Tree[T]] = []


@dataclasses.dataclass
class Point:
    x: int


@dataclasses.dataclass
class Point3(Point):
    z: int = 0


class Pair(NamedTuple):
    a: int
    b: int


Titled = Annotated[int, msgspec.Meta(title="a number", extra={"unit": "m"})]


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Film(TypedDict):
    title: str
    year: int


class Untitled(TypedDict):
    year: int


class MaybeMovie(TypedDict):
    title: NotRequired[str]


GOOD: list[tuple[Any, Any, Any]] = [
    (int, int, 1),
    (int, float, 1),
    (None, None, None),
    (int | None, None | int, None),
    (int, int | str, 1),
    (int | str, str | float, "a"),
    (Any, int, 1),
    (int, Any, 1),
    (int, object, 1),
    (object, int, 1),
    (list[int], list[object], [1]),
    (dict[str, object], dict[str, int], {"a": 1}),
    (msgspec.Raw, int, msgspec.Raw(b"1")),
    (int, msgspec.Raw, 1),
    (UserId, int, 1),
    (int, UserId, 1),
    (Number, float, 1),
    (Positive, int, 1),
    (int, Positive, 1),
    (Titled, int, 1),
    (int, Titled, 1),
    (Literal[1, 2], int, 2),
    (Literal[1], float, 1),
    (Literal["a"], Literal["a", "b"], "a"),
    (Literal["a", None], str | None, None),
    (Color, Color, Color.RED),
    (Level, int, Level.LOW),
    (Level, float, Level.LOW),
    (Name, str, Name.ADA),
    (bytes, bytearray, b"a"),
    (Same, Base, Same(1)),
    (More, Plain, More(1)),
    (Tagged, Plain, Tagged(1)),
    (ClosedSame, Closed, ClosedSame(1)),
    (RowMore, Row, RowMore(1)),
    (OptionalRenamed, Optional, OptionalRenamed(2)),
    (Box[int], Box[int], Box(1)),
    (Box[int], Box[float], Box(1)),
    (Box, Box[int], Box(1)),
    (IntBox, Box[float], IntBox(1)),
    (Tree[int], Tree[float], Tree(1, [Tree(2)])),
    (Point3, Point, Point3(1)),
    (Pair, Pair, Pair(1, 2)),
    (list[int], list[float], [1]),
    (list, list[int], [1]),
    (list[int], Sequence[float], [1]),
    (tuple[int, ...], list[int], (1,)),
    (tuple[int, int], list[int], (1, 2)),
    (tuple[int, int], tuple[float, int], (1, 2)),
    (frozenset[int], set[int], frozenset([1])),
    (dict[str, int], Mapping[str, float], {"a": 1}),
    (Movie, Movie, {"title": "M"}),
    (Film, Movie, {"title": "M", "year": 1931}),
    (Movie, MaybeMovie, {"title": "M"}),
    (Untitled, MaybeMovie, {"year": 1}),
    (Film, dict[str, str | int], {"title": "M", "year": 1931}),
    (datetime.date, datetime.date, datetime.date(2020, 1, 1)),
]

BAD: list[tuple[Any, Any, Any]] = [
    (str, int, "a"),
    (float, int, 1.5),
    (bool, int, True),
    (bool, float, True),
    (None, int, None),
    (int | None, int, None),
    (int | str, float, "a"),
    (Literal["a", "b"], Literal["a"], "b"),
    (Literal[True], int, True),
    (str, Literal["a"], "b"),
    (str, Color, "green"),
    (Level, str, Level.LOW),
    (Color, Level, Color.RED),
    (OtherTag, Base, OtherTag(1)),
    (Base, Same, None),
    (Plain, Base, None),
    (ClosedMore, Closed, ClosedMore(1)),
    (ClosedTag, Closed, ClosedTag(1)),
    (RowObject, Row, RowObject(1)),
    (RowTagged, Row, RowTagged(1)),
    (PlainRow, Plain, PlainRow(1)),
    (Strict, Plain, Strict(True)),
    (Box[str], Box[int], Box("a")),
    (Tree[str], Tree[int], Tree("a")),
    (Point, Point3, None),
    (list[str], list[int], ["a"]),
    (list[int], tuple[int, int], [1]),
    (tuple[int, str], list[int], (1, "a")),
    (tuple[int], tuple[int, int], (1,)),
    (dict[str, str], dict[str, int], {"a": "b"}),
    (dict[int, int], dict[str, int], None),
    (Untitled, Movie, {"year": 1}),
    (MaybeMovie, Movie, {}),
    (Film, dict[str, int], {"title": "M", "year": 1931}),
    (datetime.date, int, datetime.date(2020, 1, 1)),
]


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
@pytest.mark.parametrize(("given", "expected", "value"), GOOD)
def test_what_fits_is_decoded(given: Any, expected: Any, value: Any, codec: Any) -> None:
    assert fits(given, expected)
    if value != msgspec.Raw(b"1") or codec is JSON:
        codec.decoder(expected)(codec.encode(value))


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
@pytest.mark.parametrize(("given", "expected", "value"), BAD)
def test_what_does_not_fit_is_not(given: Any, expected: Any, value: Any, codec: Any) -> None:
    assert not fits(given, expected)
    if value is not None:
        with pytest.raises(msgspec.ValidationError):
            codec.decoder(expected)(codec.encode(value))


def test_what_is_another_type_does_not_fit_although_it_might_be_decoded() -> None:
    for given, expected in ((datetime.date, str), (bytes, str), (Point, Plain), (Color, str)):
        assert not fits(given, expected)
    assert not fits(RowTurned, Row)
    assert not fits(RowFirst, RowNamed)


def test_what_is_never_given_and_what_nobody_knows() -> None:
    for gives in (NoReturn, Any, int, Literal[1]):
        assert other_answer(int, gives) is None
    for expected in (Any, object, object | None):
        assert other_answer(expected, int) is None
        assert other_answer(expected, EMPTY) is None
    assert other_answer(None, EMPTY) is None
    assert other_answer(int, EMPTY) == ("int", "a value without an annotation")
    assert other_answer(int | None, str | None) == ("None | int", "str")
    assert fits(Plain | Base, int)  # no Union that msgspec knows is reported for that


def test_an_app_with_right_answers() -> None:
    app = Router("/")

    class One(Call[float], tag="one"): ...

    class Two(Call[Base | None], tag="two"): ...

    class Three(Call[int], tag="three"): ...

    class Four(Call[int], tag="four"): ...

    @app.consumer
    async def one(call: One) -> int: ...

    @app.consumer
    async def two(call: Two) -> Same | None: ...

    @app.consumer
    async def three(call: Three) -> Never: ...

    @app.consumer
    async def four(call: Four) -> Any: ...

    compile_app(app)


def result(module: str, *fields: Any) -> Any:
    return msgspec.defstruct("Result", list(fields), module=module)


def test_two_classes_of_one_name_are_told_apart() -> None:
    Ours, Theirs = result("app.ours", ("a", int)), result("app.theirs", ("a", int))
    assert other_answer(Ours, Theirs) == ("app.ours.Result", "app.theirs.Result")
    assert other_answer(list[Ours], list[Theirs]) == (
        "list[app.ours.Result]",
        "list[app.theirs.Result]",
    )


async def test_what_the_asker_cannot_decode_is_invalid() -> None:
    class Add(Call[int], tag="add"):
        a: int

    app = Router("/")

    @app.consumer
    async def add(call: Add) -> Any:
        return {0: "a", 1: True, 2: 1.5, 3: 7}[call.a]

    async with connect(app) as peer:
        for number in range(3):
            with pytest.raises(CallError, match="invalid: the answer is not valid: Expected `int`"):
                await peer.call(Add(number))
        assert await peer.call(Add(3)) == 7


def test_the_error_names_both_modules() -> None:
    ours = ModuleType("ours")
    Ours, Theirs = result("app.ours"), result("app.theirs")
    ours.__dict__["Result"] = Ours
    app = Router("/")

    class Ask(Call[Ours], tag="ask"): ...  # type: ignore[valid-type]

    @app.consumer
    async def answer(call: Ask) -> Theirs: ...  # type: ignore[valid-type]

    with pytest.raises(
        DeclarationError, match=r"Ask expects app\.ours\.Result, and this returns app\.theirs\.Res"
    ):
        compile_app(app)
