"""What a decoded value can be, by the types that take it: which message belongs to whom.

JSON and MessagePack have objects, arrays, texts, numbers, booleans and null. A message belongs to
the types of a path if they have its shape; an object with tags, if its tag is one of theirs.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, final, get_origin

import msgspec
from msgspec import inspect

_PLAIN: Final[Mapping[type, type]] = {
    inspect.AnyType: object,
    inspect.NoneType: type(None),
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
    inspect.BytesType: bytes,
    inspect.ByteArrayType: bytearray,
    inspect.MemoryViewType: memoryview,
    inspect.DateTimeType: datetime.datetime,
    inspect.DateType: datetime.date,
    inspect.TimeType: datetime.time,
    inspect.TimeDeltaType: datetime.timedelta,
    inspect.UUIDType: uuid.UUID,
    inspect.DecimalType: decimal.Decimal,
    inspect.RawType: msgspec.Raw,
    inspect.ExtType: msgspec.msgpack.Ext,
    inspect.DictType: dict,
    inspect.TypedDictType: dict,
    inspect.ListType: list,
    inspect.SetType: set,
    inspect.FrozenSetType: frozenset,
    inspect.VarTupleType: tuple,
    inspect.TupleType: tuple,
}

_NUMBER = (int, float)
_TEXT = (str, bytes)
_UNTYPED: Final[Mapping[type, tuple[type, ...]]] = {
    int: _NUMBER,
    float: _NUMBER,
    decimal.Decimal: (*_NUMBER, str),
    datetime.timedelta: (*_NUMBER, str),
    datetime.datetime: (*_NUMBER, str, datetime.datetime),
    datetime.date: (str,),
    datetime.time: (str,),
    uuid.UUID: _TEXT,
    bytes: _TEXT,
    bytearray: _TEXT,
    memoryview: _TEXT,
    set: (list,),
    frozenset: (list,),
    tuple: (list,),
}
"""What a value of a class is decoded to without a type; without an entry, it is its own class."""


def runtime_classes(kind: Any) -> Iterable[type]:
    """The classes of the decoded values of a type; ``object`` if it can be any."""
    return [cls for info in _parts(_info(kind)) for cls in _classes_of(info)]


_BY_CLASS = (
    inspect.StructType,
    inspect.DataclassType,
    inspect.EnumType,
)
_SCALARS = (
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.BytesType,
    inspect.DateTimeType,
    inspect.DateType,
    inspect.TimeType,
    inspect.UUIDType,
    inspect.DecimalType,
)


def sure_classes(kind: Any) -> Iterable[type]:
    """The classes whose every instance a type takes, as far as a class can tell: Structs,
    dataclasses, enums, and what has no constraint and no items."""
    info = _info(kind)
    parts = info.types if isinstance(info, inspect.UnionType) else (info,)
    return [
        cls
        for part in parts
        if isinstance(part, _BY_CLASS) or (type(part) in _SCALARS and part == type(part)())
        for cls in _classes_of(part)
    ]


def takes_the_rest(kind: Any) -> bool:
    """Whether a type takes what no other takes: ``Any``, ``msgspec.Raw``, and ``dict`` for
    objects."""
    rest = inspect.AnyType | inspect.RawType | inspect.DictType
    return all(isinstance(info, rest) for info in _parts(_info(kind)))


def is_any(info: Any) -> bool:
    """Whether a type, as msgspec describes it, is ``Any`` or ``object``, which is decoded alike."""
    return isinstance(info, inspect.AnyType) or (
        isinstance(info, inspect.CustomType) and info.cls is object
    )


def has_raw(kind: Any) -> bool:
    """Whether values of a type may hold what is not decoded."""
    return any(isinstance(info, inspect.RawType) for info in all_within(inspect.type_info(kind)))


_EXACT = (
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.StrType,
    inspect.BytesType,
    inspect.UUIDType,
    inspect.DecimalType,
)
_HOLDING = (
    inspect.UnionType,
    inspect.CollectionType,
    inspect.TupleType,
    inspect.DictType,
    inspect.EnumType,
    inspect.LiteralType,
)


def exact_structs(kind: Any) -> frozenset[type] | None:
    """The Structs within a type whose values are decoded to equal ones from each encoding, and
    encoded to the same again; None if some are not.

    Not so floats (JSON has no NaN), times (the zone may change), ``Any`` (bytes in JSON are text),
    what is not decoded, constraints (an instance may violate them), and what has code of its own.
    Instances of subclasses would lose fields: whether there are any is for the caller to see.
    """
    structs: set[type] = set()
    for info in all_within(inspect.type_info(kind)):
        if isinstance(info, inspect.StructType):
            cls = get_origin(info.cls) or info.cls
            structs.add(cls)
            if hasattr(cls, "__post_init__"):
                return None
        elif not (isinstance(info, _HOLDING) or (type(info) in _EXACT and info == type(info)())):
            return None
    return frozenset(structs)


def _info(kind: Any) -> Any:
    return inspect.type_info(Any if kind is object else kind)


def _parts(info: Any) -> Iterator[Any]:
    """The types of a union; else the type itself."""
    if isinstance(info, inspect.Metadata):
        yield from _parts(info.type)
    elif isinstance(info, inspect.UnionType):
        for part in info.types:
            yield from _parts(part)
    else:
        yield info


def all_within(info: Any) -> Iterator[Any]:
    """All types within a type, itself included, each class once; as msgspec describes them."""
    return _within(info, {})


def _within(info: Any, seen: dict[Any, None]) -> Iterator[Any]:
    if isinstance(info, inspect.StructType | inspect.DataclassType | inspect.TypedDictType):
        if info.cls in seen:
            return
        seen[info.cls] = None
    yield info
    for name in getattr(info, "__struct_fields__", ()):
        part = getattr(info, name)
        for inner in part if isinstance(part, tuple) else (part,):
            if isinstance(inner, inspect.Field):
                inner = inner.type
            if isinstance(inner, inspect.Type):
                yield from _within(inner, seen)


def _classes_of(info: Any) -> Iterable[type]:
    if isinstance(info, inspect.LiteralType):
        return {type(value) for value in info.values}
    if (cls := _PLAIN.get(type(info))) is not None:
        return [cls]
    return [get_origin(info.cls) or info.cls]  # a Struct, dataclass, Enum, NamedTuple


@final
class Shapes:
    """The shapes of what some types take.

    Args:
        kinds: the types.

    Attributes:
        tag_field: the field of an object that has its tag; None if none of them has tags.
        untagged: whether objects without a tag are taken, and so all.
    """

    def __init__(self, kinds: Iterable[Any]) -> None:
        self.tag_field: str | None = None
        self._tags: dict[Any, None] = {}
        self._tagged: type = dict  # or list: msgspec allows Structs of one kind
        self.untagged = False
        self._classes: set[type] = set()
        for kind in kinds:
            for info in _parts(inspect.type_info(kind)):
                self._add(info)

    def _add(self, info: Any) -> None:
        if isinstance(info, inspect.StructType) and info.tag is not None:
            self._tags[info.tag] = None
            if info.array_like:
                self._tagged = list
            else:
                self.tag_field = info.tag_field
        elif isinstance(info, inspect.StructType | inspect.NamedTupleType):
            if getattr(info, "array_like", True):
                self._classes.add(list)
            else:
                self.untagged = True
        elif isinstance(info, inspect.DataclassType | inspect.TypedDictType):
            self.untagged = True
        elif isinstance(info, inspect.EnumType):
            self._classes |= {type(each.value) for each in info.cls}
        else:
            for cls in _classes_of(info):
                self._classes |= set(_UNTYPED.get(cls, (cls,)))

    def tags(self, value: object) -> Iterable[Any]:
        """The tags that are taken, in the order of the types, if a value that was decoded without a
        type is of the kind that has them: an object, or an array."""
        return self._tags if type(value) is self._tagged else {}

    def tag_of(self, value: object) -> Any:
        """The tag of a value that was decoded without a type; None if it has none."""
        tag: Any = None
        if isinstance(value, dict):
            tag = value.get(self.tag_field)
        elif isinstance(value, list) and value:
            tag = value[0]
        return tag if type(tag) in {*map(type, self.tags(value))} else None

    def has(self, value: object) -> bool:
        """Whether a value that was decoded without a type belongs to one of the types."""
        if isinstance(value, dict):
            return self.untagged or self.tag_of(value) in self.tags(value)
        return type(value) in self._classes or self.tag_of(value) in self.tags(value)
