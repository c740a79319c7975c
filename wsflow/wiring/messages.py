"""Checks of message types at start-up."""

from __future__ import annotations

from typing import Any, Union

import msgspec
from msgspec import inspect

from wsflow.declare.signatures import type_name
from wsflow.messages.calls import class_of
from wsflow.messages.codec import JSON
from wsflow.messages.shapes import all_within, is_any

RAW = (str, bytes)
"""The types that are sent without a codec."""


def message_problem(kind: Any) -> tuple[str, str] | None:
    """Why this type cannot be a message, and the fix; None if it can."""
    if kind in RAW:
        return None
    if (unknown := unknown_type(kind)) is not None:
        return (
            f"msgspec does not know the type {unknown}, so no message can carry it.",
            "use a msgspec.Struct, a dataclass, a TypedDict or a built-in type.",
        )
    struct = class_of(kind)
    if is_message(struct) and str(struct.__struct_config__.tag).startswith("$"):
        tag = struct.__struct_config__.tag
        return f"Its tag is {tag!r}, and tags that begin with $ are reserved.", "rename it."
    return None


def unknown_type(kind: Any) -> str | None:
    """The name of a type within ``kind`` that msgspec does not know; None if it knows all."""
    try:
        info = inspect.type_info(kind)
    except Exception:  # msgspec raises various exceptions for types that it does not support
        return type_name(kind)
    for each in all_within(info):
        if isinstance(each, inspect.CustomType) and not is_any(each):
            return type_name(each.cls)
    return None


def union_problem(kinds: tuple[Any, ...]) -> str | None:
    """Why msgspec cannot tell messages of these types apart; None if it can."""
    try:
        JSON.decoder(Union[kinds])  # noqa: UP007
    except (TypeError, ValueError) as exc:
        return str(exc).partition(" - type ")[0].replace("`", "'")
    return None


def is_message(kind: Any) -> bool:
    """Whether a type is probably a message, and not a value to inject."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
