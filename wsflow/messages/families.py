"""The families of message types: Structs, dataclasses, classes of attrs, TypedDicts, and models of
pydantic. What is different about one of them is known here.

msgspec decodes and encodes all but the models. What pydantic validates and dumps is JSON, with its
aliases, whatever the codec: a value of another codec is validated as what it is in JSON. pydantic
is never imported; whoever has a model has imported it.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import msgspec
from msgspec import inspect

from wsflow.messages.calls import class_of

Tags = Mapping[str, tuple[Any, ...]]
"""By the name of a field, as it is sent: the tags that objects of a type may have there."""


def unaliased(annotation: Any) -> Any:
    """What an alias stands for; of a generic one, with its arguments in place."""
    while True:
        alias = get_origin(annotation) or annotation
        if not hasattr(alias, "__value__"):
            return annotation
        value = alias.__value__
        if asked := getattr(value, "__parameters__", ()):
            given = dict(zip(alias.__type_params__, get_args(annotation), strict=True))
            value = value[tuple(given[each] for each in asked)]
        annotation = value


def members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, also within ``Annotated`` and type aliases; else the type itself.
    Of what is written beside a type, the constraints of msgspec stay."""
    annotation = unaliased(annotation)
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return tuple(each for part in get_args(annotation) for each in members(part))
    if origin is Annotated:
        inner, *marks = get_args(annotation)
        if get_origin(inner) in (Union, UnionType):
            return members(inner)
        kept = tuple(mark for mark in marks if isinstance(mark, msgspec.Meta))
        return (Annotated[(inner, *kept)] if kept else inner,)  # others say nothing of the type
    return (annotation,)


# -- which family


def is_model(kind: Any) -> bool:
    """Whether a type is a model of pydantic (version 2)."""
    base = getattr(sys.modules.get("pydantic.main"), "BaseModel", None)
    return (
        base is not None
        and isinstance(kind, type)
        and issubclass(kind, base)
        and hasattr(base, "model_validate_json")
    )


def is_validated_dataclass(kind: Any) -> bool:
    """Whether a type is a dataclass of pydantic, whose validators msgspec does not know."""
    return dataclasses.is_dataclass(kind) and hasattr(kind, "__pydantic_validator__")


def is_object(kind: Any) -> bool:
    """Whether the messages of a type are objects with fields that are known."""
    if is_model(cls := class_of(kind)):
        root = _root(cls)
        return root is None or all(map(is_object, members(root)))
    info = _info(kind)
    if isinstance(info, inspect.StructType):
        return not info.array_like
    return isinstance(info, inspect.DataclassType | inspect.TypedDictType)


def is_tagged_struct(kind: Any) -> bool:
    """Whether msgspec itself tells a type from others of its kind: a Struct with a tag."""
    config = getattr(class_of(kind), "__struct_config__", None)
    return config is not None and config.tag is not None


def fields_of(kind: Any) -> tuple[str, ...] | None:
    """The names of the attributes that messages of a type have; None if that is not known."""
    cls = class_of(kind)
    if isinstance(cls, type) and issubclass(cls, msgspec.Struct):
        return cls.__struct_fields__
    if is_model(cls):
        return tuple(cls.model_fields)
    if dataclasses.is_dataclass(cls):
        return tuple(each.name for each in dataclasses.fields(cls))
    if _is_attrs(cls):
        return tuple(each.name for each in cls.__attrs_attrs__)
    return None


def sent_fields(kind: Any) -> Mapping[str, tuple[Any, bool]]:
    """The fields of an object as they are sent: each with its type, and whether it is required."""
    if is_model(cls := class_of(kind)):
        fields = ((_sent_name(name, each), each) for name, each in cls.model_fields.items())
        return {name: (each.annotation, each.is_required()) for name, each in fields if name}
    hints = get_type_hints(cls, include_extras=True)
    return {each.encode_name: (hints[each.name], each.required) for each in _info(kind).fields}


def is_class_with_fields(cls: Any) -> bool:
    """Whether instances of a class say by themselves which message they are."""
    return fields_of(cls) is not None


def marked_fields(cls: Any) -> list[tuple[str, Any, tuple[Any, ...]]]:
    """The fields of a type beside whose type something is written: each with its type, and that."""
    if is_model(cls):
        found = [(name, each.annotation, each.metadata) for name, each in cls.model_fields.items()]
        return [(name, kind, tuple(marks)) for name, kind, marks in found if marks]
    if not (is_class_with_fields(cls) or is_typeddict(cls)):
        return []
    hints = get_type_hints(cls, include_extras=True)
    return [
        (name, get_args(hint)[0], get_args(hint)[1:])
        for name, hint in hints.items()
        if get_origin(hint) is Annotated
    ]


def replaced(message: Any, **fields: Any) -> Any:
    """A copy of a message with other values in some fields."""
    if isinstance(message, msgspec.Struct):
        return msgspec.structs.replace(message, **fields)
    if is_model(type(message)):
        return message.model_copy(update=fields)
    if _is_attrs(type(message)):
        return importlib.import_module("attr").evolve(message, **fields)
    return dataclasses.replace(message, **fields)


def _is_attrs(cls: Any) -> bool:
    return hasattr(cls, "__attrs_attrs__")


def info_of(kind: Any) -> inspect.Type:
    """What msgspec says of a type. To read the annotations of a class takes long, and wiring asks
    again and again."""
    return _info_of_class(kind) if isinstance(kind, type) else inspect.type_info(kind)


@lru_cache(maxsize=1024)
def _info_of_class(cls: type) -> inspect.Type:
    return inspect.type_info(cls)


def _info(kind: Any) -> Any:
    info = info_of(kind)
    while isinstance(info, inspect.Metadata):
        info = info.type
    return info


def _root(model: Any) -> Any:
    """What a ``RootModel`` is around; None for other models."""
    root = model.model_fields.get("root")
    return (
        root.annotation if root is not None and hasattr(model, "__pydantic_root_model__") else None
    )


# -- tags


def tags_of(kind: Any) -> Tags:
    """Where messages of a type have a tag: the tag field of a Struct, or else each field that is a
    ``Literal``, and that they cannot leave out."""
    cls = class_of(kind)
    if is_model(cls):
        return _tags_of_model(cls)
    if not is_object(kind):
        return {}
    info = _info(kind)
    if is_tagged_struct(kind):
        return {info.tag_field: (info.tag,)}
    may_lack = isinstance(info, inspect.TypedDictType)
    found = {}
    for each in info.fields:
        inner = each.type.type if isinstance(each.type, inspect.Metadata) else each.type
        if isinstance(inner, inspect.LiteralType) and (each.required or not may_lack):
            found[each.encode_name] = inner.values
    return found


def _tags_of_model(model: Any) -> Tags:
    if (root := _root(model)) is not None:
        return _tags_of_all(root)
    found = {}
    for name, field in model.model_fields.items():
        kind = unaliased(field.annotation)
        if get_origin(kind) is Literal:
            tags = [each.value if isinstance(each, enum.Enum) else each for each in get_args(kind)]
            found[_sent_name(name, field)] = tuple(tags)
    return {name: tags for name, tags in found.items() if name}


def _sent_name(name: str, field: Any) -> str:
    """The name that a model's field has in a message: its alias; empty if that is not one name."""
    alias = name if field.validation_alias is None else field.validation_alias
    return alias if isinstance(alias, str) else ""


def _tags_of_all(kind: Any) -> Tags:
    """Where messages of all types of a union have a tag."""
    each = [tags_of(part) if is_object(part) else {} for part in members(kind)]
    return {
        field: tuple(tag for tags in each for tag in tags[field])
        for field in each[0]
        if all(field in tags for tags in each)
    }


# -- models of pydantic


def model_of_json(model: Any, data: bytes) -> Any:
    """The model of JSON.

    Raises:
        msgspec.ValidationError: pydantic refuses it.
    """
    try:
        return model.model_validate_json(data)
    except _core().ValidationError as exc:
        raise _refused(exc, data) from None


def model_of(model: Any, value: Any) -> Any:
    """The model of a value that was decoded without a type.

    Raises:
        msgspec.ValidationError: pydantic refuses it.
    """
    binary = model.model_config.get("val_json_bytes", "utf8")
    try:
        data: bytes = _core().to_json(value, bytes_mode=binary)
    except ValueError:
        raise msgspec.ValidationError("not a value that JSON has") from None
    return model_of_json(model, data)


def dumped(model: Any) -> Any:
    """What is sent of a model."""
    return model.model_dump(mode="json", by_alias=True)


def schemas_of_models(
    models: Sequence[Any], mode: Literal["validation", "serialization"], ref: str
) -> tuple[Sequence[str], Mapping[str, Any]]:
    """The JSON Schemas of models, and of what is within them.

    Args:
        models: the models.
        mode: whether they are taken or sent.
        ref: what stands before a name in a reference.

    Returns:
        The names of the models, and the schemas by name.
    """
    module = importlib.import_module("pydantic.json_schema")
    found, within = module.models_json_schema(
        [(each, mode) for each in models], ref_template=f"{ref}{{model}}"
    )
    return [found[each, mode]["$ref"].removeprefix(ref) for each in models], within["$defs"]


def _core() -> Any:
    return importlib.import_module("pydantic_core")


def _refused(exc: Any, data: bytes) -> msgspec.ValidationError:
    """The first error of pydantic, as msgspec says it: without the value."""
    first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ""
    if first["loc"]:
        where = _place(first["loc"], _core().from_json(data), first["type"] == "missing")
    return msgspec.ValidationError(first["msg"] + (f" - at `${where}`" if where else ""))


def _place(loc: tuple[str | int, ...], value: Any, missing: bool) -> str:
    """Where in a value an error is. Between the fields, pydantic names the members of unions and
    functions that it has tried: those are not in the value."""
    where = ""
    for number, part in enumerate(loc, 1):
        if isinstance(value, list) and isinstance(part, int):
            where += f"[{part}]"
            value = value[part] if part < len(value) else None
        elif isinstance(value, dict) and part in value:
            where += f".{part}"
            value = value[part]
        elif missing and number == len(loc):
            where += f".{part}"
    return where
