"""What a decoded value can be, by the types that take it: which message belongs to whom.

JSON and MessagePack have objects, arrays, texts, numbers, booleans and null. A message belongs to
the types of a path if they have its shape; an object with tags, if its tag is one of theirs.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, final, get_origin, is_typeddict

import msgspec
from msgspec import inspect

from wsflow.messages.calls import class_of
from wsflow.messages.families import info_of, is_model, is_object, members, tags_of

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
_ANYTHING = {list, str, bytes, int, float, bool, type(None)}


def runtime_classes(kind: Any) -> Iterable[type]:
    """The classes of the decoded values of a type; ``object`` if it can be any."""
    return [cls for info in alternatives(kind) for cls in _classes_of(info)]


def taken_by(kind: Any) -> Iterable[type]:
    """The same, to see whether two types take one message: a TypedDict with tags takes no other
    ``dict``."""
    cls = class_of(kind)
    return [cls] if is_typeddict(cls) and tags_of(kind) else runtime_classes(kind)


_BY_CLASS = (
    inspect.StructType,
    inspect.DataclassType,
    inspect.EnumType,
    inspect.CustomType,
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
    dataclasses, models, enums, what has a hook, and what has no constraint and no items."""
    return [
        cls
        for part in _parts(kind)
        if isinstance(part, _BY_CLASS) or (type(part) in _SCALARS and part == type(part)())
        for cls in _classes_of(part)
    ]


def takes_the_rest(kind: Any) -> bool:
    """Whether a type takes what no other takes: ``Any``, ``msgspec.Raw``, and ``dict`` for
    objects."""
    rest = inspect.AnyType | inspect.RawType | inspect.DictType
    return all(isinstance(info, rest) for info in alternatives(kind))


def is_any(info: Any) -> bool:
    """Whether a type, as msgspec describes it, is ``Any`` or ``object``, which is decoded alike."""
    return isinstance(info, inspect.AnyType) or (
        isinstance(info, inspect.CustomType) and info.cls is object
    )


def has_raw(kind: Any) -> bool:
    """Whether values of a type may hold what is not decoded."""
    return any(isinstance(info, inspect.RawType) for info in all_within(kind))


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
    for info in all_within(kind):
        if isinstance(info, inspect.StructType):
            cls = get_origin(info.cls) or info.cls
            structs.add(cls)
            if hasattr(cls, "__post_init__"):
                return None
        elif not (isinstance(info, _HOLDING) or (type(info) in _EXACT and info == type(info)())):
            return None
    return frozenset(structs)


def _parts(kind: Any) -> Iterator[Any]:
    """The types of a union, each with its constraints; else the type itself. As msgspec describes
    them, which has no union with models of pydantic."""
    for part in members(kind):
        yield info_of(Any if part is object else part)


def alternatives(kind: Any) -> Iterator[Any]:
    """The same, without constraints."""
    for part in _parts(kind):
        while isinstance(part, inspect.Metadata):
            part = part.type
        yield part


def all_within(kind: Any) -> Iterator[Any]:
    """All types within a type, itself included, each class once; as msgspec describes them."""
    seen: dict[Any, None] = {}
    for part in members(kind):
        yield from _within(info_of(part), seen)


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
        tag_field: the field of an object that has its tag; None if none of them has tags.

    Attributes:
        tag_field: that field.
        untagged: whether objects without a tag are taken, and so all.
    """

    def __init__(self, kinds: Iterable[Any], tag_field: str | None) -> None:
        self.tag_field = tag_field
        self._tags: dict[type, dict[Any, None]] = {dict: {}, list: {}}
        self.untagged = False
        self._classes: set[type] = set()
        for kind in kinds:
            if is_object(kind):
                tags = tags_of(kind).get(tag_field or "", ())
                self._tags[dict] |= dict.fromkeys(tags)
                self.untagged |= not tags
            elif is_model(class_of(kind)):  # a RootModel: what it takes is for pydantic to say
                self.untagged = True
                self._classes |= _ANYTHING
            else:
                for info in alternatives(kind):
                    self._add(info)

    def _add(self, info: Any) -> None:
        if isinstance(info, inspect.StructType) and info.tag is not None:
            self._tags[list][info.tag] = None
        elif isinstance(info, inspect.StructType | inspect.NamedTupleType):
            self._classes.add(list)
        elif isinstance(info, inspect.EnumType):
            self._classes |= {type(each.value) for each in info.cls}
        else:
            for cls in _classes_of(info):
                self._classes |= set(_UNTYPED.get(cls, (cls,)))

    def tags(self, value: object) -> Iterable[Any]:
        """The tags that are taken, in the order of the types, if a value that was decoded without a
        type is of the kind that has them: an object, or an array."""
        return self._tags.get(type(value), {})

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
