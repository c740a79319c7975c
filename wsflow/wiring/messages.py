"""Checks of message types at start-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, is_typeddict

import msgspec
from msgspec import inspect

from wsflow.declare.signatures import members, type_name
from wsflow.messages.calls import class_of
from wsflow.messages.codec import JSON
from wsflow.messages.events import EventId, event_id_fields
from wsflow.messages.families import (
    info_of,
    is_model,
    is_object,
    is_tagged_struct,
    is_validated_dataclass,
    tags_of,
)
from wsflow.messages.hooks import NO_HOOKS, Hooks
from wsflow.messages.shapes import all_within, alternatives, is_any

WhyAndCure = tuple[str, str]

A_TAG = (
    "give each type of the path a tag of its own, in one field: class Say(msgspec.Struct, "
    'tag="say"); in a model, a dataclass or a TypedDict `type: Literal["say"]`.'
)
"""What to do where messages cannot be told apart."""

RAW = (str, bytes)
"""The types that are sent without a codec."""


Needs = Literal["dec_hook", "enc_hook"]
BOTH: tuple[Needs, ...] = ("dec_hook", "enc_hook")


def message_problem(
    kind: Any, hooks: Hooks = NO_HOOKS, needs: Sequence[Needs] = BOTH
) -> WhyAndCure | None:
    """Why this type cannot be a message, and the fix; None if it can.

    Args:
        kind: the type.
        hooks: the hooks of the path.
        needs: the hooks that a type needs there which neither msgspec nor pydantic knows.
    """
    if kind in RAW:
        return None
    if (wrong := _unknown(kind, [each for each in needs if not hooks.has(each)])) is not None:
        why, cure = wrong
        return f"{why}, so no message can carry it.", cure
    struct = class_of(kind)
    if isinstance(struct, type) and (wrong := _event_id_problem(struct)) is not None:
        return wrong
    if is_tagged_struct(struct) and str(struct.__struct_config__.tag).startswith("$"):
        tag = struct.__struct_config__.tag
        return f"Its tag is {tag!r}, and tags that begin with $ are reserved.", "rename it."
    return None


def _event_id_problem(cls: type) -> WhyAndCure | None:
    """Why a type cannot carry its event id, and the fix; None if it can, or need not."""
    fields = event_id_fields(cls)
    if fields and is_typeddict(cls):
        return (
            f"{cls.__name__} carries its event id, and a TypedDict does not say that it is one.",
            "use a class with fields: a Struct, a dataclass or a model.",
        )
    for name, kind, mark in fields:
        if mark is EventId:
            return (
                f"{cls.__name__}.{name} is marked with EventId, the class, and not an instance.",
                "add the parentheses: EventId().",
            )
        texts = (inspect.StrType, inspect.AnyType)
        if not any(isinstance(each, texts) for each in alternatives(kind)):
            return (
                f"{cls.__name__}.{name} carries the event id, a str, and is {type_name(kind)}.",
                f'annotate it `{name}: Annotated[str, EventId()] = ""`.',
            )
    if len(fields) > 1:
        names = " and ".join(name for name, _, _ in fields)
        return f"{cls.__name__} has one event id, and {names} are marked.", "mark one of them."
    return None


def _unknown(kind: Any, lacks: Sequence[Needs]) -> WhyAndCure | None:
    """Why a type cannot be decoded, without a full stop, and the fix; None if it can.

    Args:
        kind: the type.
        lacks: the hooks that are missing for a type of the app's own.
    """
    if (wrong := _refused(kind)) is not None:
        return wrong
    for each in all_within(kind):
        if isinstance(each, inspect.DataclassType) and is_validated_dataclass(each.cls):
            return (
                f"{type_name(each.cls)} is a dataclass of pydantic, and msgspec, which decodes "
                "dataclasses, does not run its validators",
                "make it a pydantic.BaseModel, or a dataclass of Python itself.",
            )
        if not isinstance(each, inspect.CustomType) or is_any(each):
            continue
        if is_model(class_of(each.cls)):
            if (wrong := _incomplete(class_of(each.cls))) is not None:
                return wrong
        elif lacks:
            return (
                f"msgspec does not know the type {type_name(each.cls)}",
                "use a msgspec.Struct, a dataclass, a TypedDict, a model of pydantic 2 or a "
                f"built-in type; or give the Router a hook: Router({'=…, '.join(lacks)}=…).",
            )
    return None


def _incomplete(model: Any) -> WhyAndCure | None:
    """Why pydantic cannot validate a model, and the fix; None if it can."""
    try:
        model.model_rebuild()
    except Exception as exc:  # of pydantic, or of evaluating an annotation
        said = str(exc).partition("\n")[0]
        return (
            f"pydantic cannot complete the model {type_name(model)} ({said})",
            "define the types that it names before it, or call its model_rebuild() after them.",
        )
    return None


def _refused(kind: Any) -> WhyAndCure | None:
    """The same, of a type that contradicts itself."""
    try:
        info_of(kind)
    except Exception as exc:  # msgspec raises various exceptions for types that it does not support
        alone = members(kind)  # which it may do, though not their union
        if len(alone) > 1:
            return next(filter(None, map(_refused, alone)), None) or _not_apart(alone)
        return (
            f"msgspec refuses the type {type_name(kind)} ({exc})",
            "correct the type, or the constraint in it.",
        )
    return None


def _not_apart(kinds: tuple[Any, ...]) -> WhyAndCure | None:
    if (why := union_problem(kinds)) is None:
        return None
    return f"{' and '.join(map(type_name, kinds))} cannot be told apart ({why})", A_TAG


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
_WITH_FIELDS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)
_COLLECTIONS = (inspect.CollectionType, inspect.TupleType)


def text_problem(kind: Any, hooks: Hooks = NO_HOOKS, *, several: bool) -> WhyAndCure | None:
    """Why no text is converted to a type, and the fix; None if some are.

    Args:
        kind: the type.
        hooks: the hooks of the path.
        several: whether there may be several texts, for a collection.
    """
    if (refused := _refused(kind)) is not None:
        why, cure = refused
        return f"{why}.", cure
    found = list(alternatives(kind))
    for each in found:
        if isinstance(each, _COLLECTIONS) and not several:
            return (
                f"It is one text, and {type_name(kind)} is a collection.",
                "annotate it as str, and split it; a Query() collects all of its values.",
            )
        model = isinstance(each, inspect.CustomType) and is_model(each.cls)
        if model or isinstance(each, _WITH_FIELDS):
            return (
                f"It is a text, and {type_name(kind)} has fields.",
                "ask for each of the fields by a parameter of its own.",
            )
    convert = (*_OF_TEXT, inspect.CustomType) if hooks.dec else _OF_TEXT
    if all(isinstance(item, convert) for each in found for item in _items(each)):
        return None
    return (
        f"A string cannot be converted to {type_name(kind)}.",
        "use a type that msgspec converts: str, int, float, bool, an Enum, UUID, datetime.",
    )


def collects(kind: Any) -> bool:
    """Whether a type takes several texts."""
    return any(isinstance(each, _COLLECTIONS) for each in alternatives(kind))


def _items(info: Any) -> tuple[Any, ...]:
    """The types in a collection; any other type itself."""
    if isinstance(info, inspect.TupleType):
        return info.item_types
    return (info.item_type,) if isinstance(info, inspect.CollectionType) else (info,)


def union_problem(kinds: tuple[Any, ...]) -> str | None:
    """Why messages of these types cannot be told apart; None if they can."""
    if (same := same_tag(kinds)) is not None:
        return same
    try:
        JSON.decoder(*kinds)
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


def topic_types_problem(types: tuple[Any, ...], presence: Any, hooks: Hooks) -> WhyAndCure | None:
    """Why no topic can carry these types and presences, and the fix; None if one can."""
    for kind in (*types, presence):
        if (wrong := message_problem(kind, hooks, BOTH)) is not None:
            return wrong
    tagged = all(is_object(kind) and tags_of(kind) for kind in types)  # else it is up to its peers
    why = union_problem(types) if tagged else same_tag(types)
    return None if why is None else (f"Its messages cannot be told apart: {why}.", A_TAG)


def is_message(kind: Any) -> bool:
    """Whether a type is probably a message, and not a value to inject."""
    return (isinstance(kind, type) and issubclass(kind, msgspec.Struct)) or is_model(kind)
