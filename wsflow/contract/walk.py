"""Schemas within schemas: where a JSON Schema has others, and where it has names or values that
only look like one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wsflow.contract.contract import REF, Schema

_BY_NAME = ("properties", "patternProperties", "dependentSchemas", "$defs")
"""Words whose value has schemas by names: a field may have the name of a word."""

_WITHIN = (
    *("items", "prefixItems", "additionalItems", "unevaluatedItems", "contains"),
    *("additionalProperties", "unevaluatedProperties", "propertyNames"),
    *("anyOf", "oneOf", "allOf", "not", "if", "then", "else"),
)
"""Words whose value is a schema, or a list of them."""


def changed(schema: Any, change: Callable[[Any], Any]) -> dict[str, Any]:
    """A schema with its parts changed, but not yet itself."""
    made = dict(schema)
    for word in _BY_NAME:
        if isinstance(found := made.get(word), Mapping):
            made[word] = {
                name: change(each) if isinstance(each, Mapping) else each
                for name, each in found.items()
            }
    for word in _WITHIN:
        found = made.get(word)
        if isinstance(found, Mapping):
            made[word] = change(found)
        elif isinstance(found, list | tuple):
            made[word] = [change(each) if isinstance(each, Mapping) else each for each in found]
    return made


def all_within(schema: Any) -> Iterator[Schema]:
    """All schemas within one, itself included."""
    found: list[Schema] = [schema]
    while found:
        each = found.pop(0)
        yield each
        changed(each, found.append)


def refs(schema: Any) -> Iterator[str]:
    """The names of the types that a schema refers to."""
    for each in all_within(schema):
        if "$ref" in each:
            yield name_of(each)


def name_of(schema: Schema) -> str:
    """The name of the type that a schema refers to; ``""`` without one."""
    return str(schema.get("$ref", "")).removeprefix(REF)


def renamed(schema: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """A schema that refers to types by these names, where they have one."""
    made = changed(schema, lambda each: renamed(each, names))
    if "$ref" in made and (name := names.get(name_of(made))) is not None:
        made["$ref"] = f"{REF}{name}"
    return made
