"""Checks of message types at start-up."""

from __future__ import annotations

from typing import Any, Union

import msgspec
from msgspec import inspect

from wsflow.declare.signatures import type_name
from wsflow.messages.calls import class_of
from wsflow.messages.codec import JSON
from wsflow.messages.events import EventId, event_id_fields
from wsflow.messages.shapes import all_within, is_any

WhyAndCure = tuple[str, str]

RAW = (str, bytes)
"""The types that are sent without a codec."""


def message_problem(kind: Any) -> WhyAndCure | None:
    """Why this type cannot be a message, and the fix; None if it can."""
    if kind in RAW:
        return None
    if (wrong := _unknown(kind)) is not None:
        why, cure = wrong
        return f"{why}, so no message can carry it.", cure
    struct = class_of(kind)
    if isinstance(struct, type) and (wrong := _event_id_problem(struct)) is not None:
        return wrong
    if is_message(struct) and str(struct.__struct_config__.tag).startswith("$"):
        tag = struct.__struct_config__.tag
        return f"Its tag is {tag!r}, and tags that begin with $ are reserved.", "rename it."
    return None


def _event_id_problem(cls: type) -> WhyAndCure | None:
    """Why a type cannot carry its event id, and the fix; None if it can, or need not."""
    fields = event_id_fields(cls)
    for name, kind, mark in fields:
        if mark is EventId:
            return (
                f"{cls.__name__}.{name} is marked with EventId, the class, and not an instance.",
                "add the parentheses: EventId().",
            )
        texts = (inspect.StrType, inspect.AnyType)
        if not any(isinstance(each, texts) for each in _alternatives(kind)):
            return (
                f"{cls.__name__}.{name} carries the event id, a str, and is {type_name(kind)}.",
                f'annotate it `{name}: Annotated[str, EventId()] = ""`.',
            )
    if len(fields) > 1:
        names = " and ".join(name for name, _, _ in fields)
        return f"{cls.__name__} has one event id, and {names} are marked.", "mark one of them."
    return None


def _unknown(kind: Any) -> WhyAndCure | None:
    """Why msgspec cannot decode a type, without a full stop, and the fix; None if it can."""
    if (wrong := _refused(kind)) is not None:
        return wrong
    for each in all_within(inspect.type_info(kind)):
        if isinstance(each, inspect.CustomType) and not is_any(each):
            return (
                f"msgspec does not know the type {type_name(each.cls)}",
                "use a msgspec.Struct, a dataclass, a TypedDict or a built-in type.",
            )
    return None


def _refused(kind: Any) -> WhyAndCure | None:
    """The same, of a type that contradicts itself."""
    try:
        inspect.type_info(kind)
    except Exception as exc:  # msgspec raises various exceptions for types that it does not support
        return (
            f"msgspec refuses the type {type_name(kind)} ({exc})",
            "correct the type, or the constraint in it.",
        )
    return None


_OF_TEXT = (
    inspect.AnyType,
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.BytesType,
    inspect.ByteArrayType,
    inspect.MemoryViewType,
    inspect.DateTimeType,
    inspect.DateType,
    inspect.TimeType,
    inspect.TimeDeltaType,
    inspect.UUIDType,
    inspect.DecimalType,
    inspect.EnumType,
    inspect.LiteralType,
)
"""The types that msgspec converts from a text."""
_COLLECTIONS = (inspect.CollectionType, inspect.TupleType)


def text_problem(kind: Any, *, several: bool) -> WhyAndCure | None:
    """Why no text is converted to a type, and the fix; None if some are.

    Args:
        kind: the type.
        several: whether there may be several texts, for a collection.
    """
    if (refused := _refused(kind)) is not None:
        why, cure = refused
        return f"{why}.", cure
    found = _alternatives(kind)
    for each in found:
        if isinstance(each, _COLLECTIONS) and not several:
            return (
                f"It is one text, and {type_name(kind)} is a collection.",
                "annotate it as str, and split it; a Query() collects all of its values.",
            )
        if isinstance(each, inspect.StructType | inspect.DataclassType | inspect.TypedDictType):
            return (
                f"It is a text, and {type_name(kind)} has fields.",
                "ask for each of the fields by a parameter of its own.",
            )
    if all(isinstance(item, _OF_TEXT) for each in found for item in _items(each)):
        return None
    return (
        f"A string cannot be converted to {type_name(kind)}.",
        "use a type that msgspec converts: str, int, float, bool, an Enum, UUID, datetime.",
    )


def collects(kind: Any) -> bool:
    """Whether a type takes several texts."""
    return any(isinstance(each, _COLLECTIONS) for each in _alternatives(kind))


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union, as msgspec describes them; else the type itself."""
    info = inspect.type_info(Any if kind is object else kind)
    while isinstance(info, inspect.Metadata):
        info = info.type
    return info.types if isinstance(info, inspect.UnionType) else (info,)


def _items(info: Any) -> tuple[Any, ...]:
    """The types in a collection; any other type itself."""
    if isinstance(info, inspect.TupleType):
        return info.item_types
    return (info.item_type,) if isinstance(info, inspect.CollectionType) else (info,)


def union_problem(kinds: tuple[Any, ...]) -> str | None:
    """Why msgspec cannot tell messages of these types apart; None if it can."""
    if (same := same_tag(kinds)) is not None:
        return same
    try:
        JSON.decoder(Union[kinds])  # noqa: UP007
    except (TypeError, ValueError) as exc:
        return str(exc).partition(" - type ")[0].replace("`", "'")
    return None


def same_tag(kinds: tuple[Any, ...]) -> str | None:
    """Which of these types have one tag; None if none have."""
    tagged: dict[Any, Any] = {}
    for kind in kinds:
        config = getattr(class_of(kind), "__struct_config__", None)
        if config is None or config.tag is None:
            continue
        if (other := tagged.setdefault(config.tag, kind)) is not kind:
            return f"{type_name(other)} and {type_name(kind)} have the same tag, {config.tag!r}"
    return None


def topic_types_problem(types: tuple[Any, ...], presence: Any) -> WhyAndCure | None:
    """Why no topic can carry these types and presences, and the fix; None if one can."""
    for kind in (*types, presence):
        if (wrong := message_problem(kind)) is not None:
            return wrong
    if (same := same_tag(types)) is not None:
        return f"Its messages cannot be told apart: {same}.", "give one of them another tag."
    return None


def is_message(kind: Any) -> bool:
    """Whether a type is probably a message, and not a value to inject."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
