"""Whether what a consumer gives is what a call expects: what the asker decodes it to.

A type fits another if it is the same, or is sent as what the other's decoder takes for a value of
its own: a subclass with the same tag, an int for a float, an IntEnum for an int, an array for an
array, item by item. What could be decoded, but is another type (a date for a str), does not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Any, NoReturn, get_args

from msgspec import inspect

from wsflow.declare.signatures import EMPTY, members, type_name
from wsflow.messages.calls import class_of
from wsflow.messages.families import info_of
from wsflow.messages.shapes import is_any

Pair = tuple[int, int]
BINARY = (inspect.BytesType, inspect.ByteArrayType, inspect.MemoryViewType)
CLASSES = (inspect.StructType, inspect.DataclassType, inspect.NamedTupleType)


def other_answer(expected: Any, gives: Any) -> tuple[str, str] | None:
    """What is expected and the type that is given although it is not, as they are told apart; None
    if what is given fits.

    ``Any``, ``object`` and functions that never return fit everything: what they give is decided
    when it is decoded.
    """
    wanted = [each for each in members(expected) if each not in (Any, object)]
    if len(wanted) < len(members(expected)) or gives is NoReturn:
        return None
    names = " | ".join(sorted(map(type_name, wanted)))
    nothing = any(each in (None, NoneType) for each in wanted)
    if gives is EMPTY:
        return None if nothing else (names, "a value without an annotation")
    for each in members(gives):
        if not fits(each, expected):
            if type_name(each) in map(type_name, wanted):
                return " | ".join(sorted(map(_qualified, wanted))), _qualified(each)
            return names, type_name(each)
    return None


def fits(given: Any, expected: Any) -> bool:
    """Whether each value of one type is, once it was sent, decoded as another.

    A type that msgspec does not know fits: it is reported for that.
    """
    try:
        return _fits(info_of(given), info_of(expected), set())
    except Exception:  # msgspec raises various exceptions for types that it does not support
        alone = members(expected)  # which it may do, though not their union
        return len(alone) == 1 or any(fits(given, each) for each in alone)


def _fits(given: Any, expected: Any, seen: set[Pair]) -> bool:
    if isinstance(given, inspect.Metadata):
        return _fits(given.type, expected, seen)
    if isinstance(expected, inspect.Metadata):
        return _fits(given, expected.type, seen)
    if any(is_any(each) or isinstance(each, inspect.RawType) for each in (given, expected)):
        return True
    if isinstance(given, inspect.UnionType):
        return all(_fits(each, expected, seen) for each in given.types)
    if isinstance(given, inspect.LiteralType) and len(given.values) > 1:
        return all(_fits(inspect.LiteralType((each,)), expected, seen) for each in given.values)
    if isinstance(expected, inspect.UnionType):
        return any(_fits(given, each, seen) for each in expected.types)
    return any(
        isinstance(given, one) and isinstance(expected, other) and rule(given, expected, seen)
        for one, other, rule in RULES
    )


def _same_kind(given: Any, expected: Any, seen: set[Pair]) -> bool:
    return type(given) is type(expected) and not isinstance(given, NAMED)


def _always(given: Any, expected: Any, seen: set[Pair]) -> bool:
    return True


def _literal(given: Any, expected: Any, seen: set[Pair]) -> bool:
    (value,) = given.values
    if isinstance(expected, inspect.LiteralType):
        return any(value == each and type(value) is type(each) for each in expected.values)
    return _fits(info_of(type(value)), expected, seen)


def _enum(given: Any, expected: Any, seen: set[Pair]) -> bool:
    """An Enum is sent as its value: one that is an int or a str at the same time fits these."""
    if isinstance(expected, inspect.EnumType):
        return bool(given.cls is expected.cls)
    number = isinstance(expected, inspect.IntType | inspect.FloatType)
    return (number and issubclass(given.cls, int)) or (
        isinstance(expected, inspect.StrType) and issubclass(given.cls, str)
    )


def _items(given: Any, expected: Any, seen: set[Pair]) -> bool:
    return _fits(given.item_type, expected.item_type, seen)


def _each_item(given: Any, expected: Any, seen: set[Pair]) -> bool:
    return all(_fits(each, expected.item_type, seen) for each in given.item_types)


def _item_by_item(given: Any, expected: Any, seen: set[Pair]) -> bool:
    return len(given.item_types) == len(expected.item_types) and all(
        _fits(one, other, seen)
        for one, other in zip(given.item_types, expected.item_types, strict=True)
    )


def _mapping(given: Any, expected: Any, seen: set[Pair]) -> bool:
    keys = _fits(given.key_type, expected.key_type, seen)
    return keys and _fits(given.value_type, expected.value_type, seen)


def _keys(given: Any, expected: Any, seen: set[Pair]) -> bool:
    return _fits(inspect.StrType(), expected.key_type, seen) and all(
        _fits(each.type, expected.value_type, seen) for each in given.fields
    )


def _fields(given: Any, expected: Any, seen: set[Pair]) -> bool:
    """Whether each field that is expected is given, and fits."""
    if given.cls == expected.cls or (pair := (hash(given.cls), hash(expected.cls))) in seen:
        return True
    seen.add(pair)
    found = {each.encode_name: each for each in given.fields}
    for each in expected.fields:
        field = found.get(each.encode_name)
        if field is None:
            if each.required:
                return False
        elif (each.required and not isinstance(given, CLASSES) and not field.required) or not (
            _fits(field.type, each.type, seen)
        ):
            return False
    return True


def _struct(given: Any, expected: Any, seen: set[Pair]) -> bool:
    """A subclass is decoded as its base if it has the same tag, and what it has more is ignored."""
    if not issubclass(class_of(given.cls), class_of(expected.cls)):
        return False
    more = [each.encode_name for each in given.fields]
    base = [each.encode_name for each in expected.fields]
    tagged = (given.tag, given.tag_field) == (expected.tag, expected.tag_field)
    if expected.forbid_unknown_fields and (set(more) - set(base) or not tagged):
        return False
    if not tagged and (expected.tag is not None or expected.array_like):
        return False
    if given.array_like != expected.array_like:
        return False
    if expected.array_like and more[: len(base)] != base:
        return False
    return _fields(given, expected, seen)


def _custom(given: Any, expected: Any, seen: set[Pair]) -> bool:
    return issubclass(class_of(given.cls), class_of(expected.cls))


def _dataclass(given: Any, expected: Any, seen: set[Pair]) -> bool:
    return issubclass(class_of(given.cls), class_of(expected.cls)) and _fields(
        given, expected, seen
    )


NAMED = (
    *CLASSES,
    inspect.CollectionType,
    inspect.EnumType,
    inspect.LiteralType,
    inspect.CustomType,
    inspect.DictType,
    inspect.TypedDictType,
    inspect.TupleType,
)
"""Types of which two of one kind may differ."""

Rule = Callable[[Any, Any, set[Pair]], bool]
RULES: tuple[tuple[Any, Any, Rule], ...] = (
    (inspect.Type, inspect.Type, _same_kind),
    (inspect.IntType, inspect.FloatType, _always),
    (BINARY, BINARY, _always),
    (inspect.LiteralType, inspect.Type, _literal),
    (inspect.EnumType, inspect.Type, _enum),
    (inspect.CollectionType, inspect.CollectionType, _items),
    (inspect.TupleType, inspect.CollectionType, _each_item),
    (inspect.TupleType, inspect.TupleType, _item_by_item),
    (inspect.DictType, inspect.DictType, _mapping),
    (inspect.TypedDictType, inspect.DictType, _keys),
    (inspect.TypedDictType, inspect.TypedDictType, _fields),
    (inspect.StructType, inspect.StructType, _struct),
    (inspect.DataclassType, inspect.DataclassType, _dataclass),
    (inspect.NamedTupleType, inspect.NamedTupleType, _dataclass),
    (inspect.CustomType, inspect.CustomType, _custom),
)
"""What fits what: the kind of type that is given, that which is expected, and when it does."""


def _qualified(kind: Any) -> str:
    return str(kind) if get_args(kind) else f"{kind.__module__}.{type_name(kind)}"
