"""The types of Python that JSON Schemas stand for."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import msgspec

from wsflow.contract.contract import Schema
from wsflow.contract.names import Names
from wsflow.contract.schemas import class_of_sent
from wsflow.contract.walk import name_of, refs

BUILTINS = ("bool", "bytes", "dict", "float", "int", "list", "set", "str", "tuple")

_SCALARS: Mapping[str, str] = {
    "boolean": "bool",
    "integer": "int",
    "number": "float",
    "null": "None",
}

_FORMATS: Mapping[str, str] = {
    "date": "datetime.date",
    "date-time": "datetime.datetime",
    "decimal": "decimal.Decimal",
    "duration": "datetime.timedelta",
    "time": "datetime.time",
    "uuid": "uuid.UUID",
}

HASHABLE = ("bool", "bytes", "float", "int", "str", "Literal", *_FORMATS.values())
"""The types of what a set can have; of others there is a list."""

_BOUNDS: Mapping[str, str] = {
    "minimum": "ge",
    "exclusiveMinimum": "gt",
    "maximum": "le",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
    "pattern": "pattern",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_length",
    "maxItems": "max_length",
}
"""The words that ``msgspec.Meta`` has, too."""

_BOUNDED = ("float", "int", "list", "set", "str")
"""The types for which it has them here."""

Tag = tuple[str, str | int]
"""The field and the value by which a class is told apart."""


@dataclass(frozen=True)
class Kind:
    """A type.

    Attributes:
        text: as it is written.
        base: what it is without what is written beside it: the name of a type, ``Literal``,
            ``class`` or ``union``; ``""`` for anything.
        values: those of a ``Literal``.
        parts: those of a union.
        tag: that of a class.
        array: whether a class is an array.
    """

    text: str
    base: str = ""
    values: tuple[Any, ...] = ()
    parts: tuple[Kind, ...] = ()
    tag: Tag | None = None
    array: bool = False

    @property
    def families(self) -> list[str]:
        """What msgspec cannot tell apart in a union: it may have one of each."""
        if self.base == "class":
            shape = "array" if self.array else "object"
            return [shape if self.tag is None else "tagged"]
        if self.base == "Literal":
            return sorted({"str" if isinstance(each, str) else "int" for each in self.values})
        return [_FAMILIES.get(self.base, "str")]

    def may_be(self, value: Any) -> bool:
        """Whether a value of JSON can be written as a default of it."""
        if self.base == "union":
            return any(each.may_be(value) for each in self.parts)
        if self.base == "Literal":
            return any(value == each and type(value) is type(each) for each in self.values)
        return self.base in _BASES[type(value)]


_FAMILIES: Mapping[str, str] = {
    "bool": "bool",
    "int": "int",
    "float": "float",
    "None": "None",
    "list": "array",
    "set": "array",
    "tuple": "array",
    "dict": "object",
}

_BASES: Mapping[type, tuple[str, ...]] = {
    str: ("str",),
    bool: ("bool",),
    int: ("int", "float"),
    float: ("float",),
    type(None): ("None",),
    list: (),
    dict: (),
}
"""By the type of a value of JSON: the types of which it can be a default."""

ANY = Kind("Any")


def plain(text: str) -> Kind:
    """A type that is its own name."""
    return Kind(text, text)


@dataclass(frozen=True)
class Call:
    """That a class is a call: its base, and what is answered."""

    base: str
    answer: Schema


@final
class Types:
    """The classes of the named schemas.

    A type that is taken and sent is one class: what may be left out where it is taken has a
    default.

    Args:
        schemas: by name.
        names: gives the names of the types.
        tags: the tags of classes that are messages, by the names of their schemas.
        events: their fields with event ids.
        calls: which of them are calls.
    """

    def __init__(
        self,
        schemas: Mapping[str, Schema],
        names: Names,
        tags: Mapping[str, Tag],
        events: Mapping[str, str],
        calls: Mapping[str, Call],
    ) -> None:
        self._of = {name: self._class(name, schemas) for name in schemas}
        self._schemas: dict[str, Schema] = {}
        for name, schema in schemas.items():
            own = self._of[name]
            known = self._schemas.get(own)
            self._schemas[own] = schema if known is None else self._both(known, schema)
        self._tags = {
            name: tag
            for name, schema in self._schemas.items()
            if (tag := _tag_of(schema)) is not None
        }
        self._tags |= {self._of[name]: tag for name, tag in tags.items()}
        self._events = {self._of[name]: field for name, field in events.items()}
        self._calls = {self._of[name]: call for name, call in calls.items()}
        self._names = {name: names.give(name) for name in self._schemas}
        self._reserved = {*names.given, *keyword.kwlist}
        self._aliases: dict[str, Kind] = {}

    @staticmethod
    def _class(name: str, schemas: Mapping[str, Schema]) -> str:
        """The name of the class that a schema is of."""
        return class_of_sent(name, schemas[name]) or name

    @staticmethod
    def _both(one: Schema, two: Schema) -> Schema:
        """A type as it is taken and as it is sent."""
        taken, sent = sorted((one, two), key=lambda each: len(each.get("required", ())))
        if "properties" not in taken:
            return taken
        return {**taken, "properties": {**sent["properties"], **taken["properties"]}}

    def _is_class(self, name: str) -> bool:
        schema = self._schemas[name]
        return schema.get("type") in ("object", "array") and bool(
            {"properties", "prefixItems"} & schema.keys()
        )

    # -- types

    def of(self, schema: Any) -> Kind:
        """The type of a schema."""
        if not isinstance(schema, Mapping):
            return ANY
        if "$ref" in schema:
            return self._named(self._of[name_of(schema)])
        if (options := schema.get("anyOf", schema.get("oneOf"))) is not None:
            return union(self.of(each) for each in options)
        if "enum" in schema or "const" in schema:
            return literal(schema.get("enum", [schema.get("const")]))
        kind = self._unbound(schema)
        bounds = _bounds(schema) if kind.base in _BOUNDED else ""
        if not bounds:
            return kind
        return Kind(f"Annotated[{kind.text}, msgspec.Meta({bounds})]", kind.base)

    def _unbound(self, schema: Schema) -> Kind:
        kind = schema.get("type")
        if not isinstance(kind, str):
            return ANY
        if kind == "string":
            if schema.get("contentEncoding") == "base64":
                return plain("bytes")
            return plain(_FORMATS.get(schema.get("format", ""), "str"))
        if kind == "array":
            return self._array(schema)
        if kind == "object":
            each = self.of(schema.get("additionalProperties"))
            return Kind(f"dict[str, {each.text}]", "dict")
        return plain(_SCALARS[kind]) if kind in _SCALARS else ANY

    def _array(self, schema: Schema) -> Kind:
        rest = schema.get("items", {})
        first = [self.of(each).text for each in schema.get("prefixItems", ())]
        if not first and schema.get("maxItems") == 0:
            return Kind("tuple[()]", "tuple")
        if not first:
            item = self.of(rest)
            base = "set" if schema.get("uniqueItems") and item.base in HASHABLE else "list"
            return Kind(f"{base}[{item.text}]", base)
        if schema.get("minItems") == schema.get("maxItems") == len(first):
            return Kind(f"tuple[{', '.join(first)}]", "tuple")
        return Kind("list[Any]", "list")

    def _named(self, name: str) -> Kind:
        text = self._names[name]
        if self._is_class(name):
            array = self._schemas[name].get("type") == "array"
            return Kind(text, "class", tag=self._tags.get(name), array=array)
        found = self._aliases.get(name)
        if found is None or found.base == "union":
            return found or ANY
        return replace(found, text=text)

    # -- declarations

    def declarations(self) -> Iterator[str]:
        """The declarations of all types, each after those that have to be there before it."""
        aliases, left = [], [name for name in self._schemas if not self._is_class(name)]
        while left:
            ready = [each for each in left if not self._needs(each) & set(left)]
            for name in ready or left[:1]:  # one that has itself has anything there
                kind = self._aliases[name] = self.of(self._schemas[name])
                aliases.append(f"{self._names[name]}: TypeAlias = {kind.text}\n")
                left.remove(name)
        classes = [name for name in self._schemas if self._is_class(name)]
        yield from (self._declaration(each) for each in classes if each not in self._calls)
        yield from aliases
        yield from (self._declaration(each) for each in classes if each in self._calls)

    def _needs(self, name: str) -> set[str]:
        return {self._of[each] for each in refs(self._schemas[name])}

    def _declaration(self, name: str) -> str:
        schema, call = self._schemas[name], self._calls.get(name)
        base = "msgspec.Struct"
        if call is not None:
            later = {self._of[each] for each in refs(call.answer)} & self._calls.keys()
            base = f"{call.base}[{'Any' if later else self.of(call.answer).text}]"
        options = []
        if (tag := self._tags.get(name)) is not None:
            options += [f"tag_field={quoted(tag[0])}"] * (tag[0] != "type")
            options += [f"tag={quoted(tag[1])}"]
        array = schema.get("type") == "array"
        options += ["array_like=True"] * array + ["kw_only=True"]
        body = list(self._items(schema, tag) if array else self._fields(name, schema, tag))
        about = docstring(schema.get("description", ""), "    ")
        lines = [f"class {self._names[name]}({base}, {', '.join(options)}):"]
        lines += [about] * bool(about) + [""] * bool(about and body) + body
        return "\n".join([*lines, *["    ..."] * (not about and not body), ""])

    def _fields(self, name: str, schema: Schema, tag: Tag | None) -> Iterator[str]:
        names = Names(self._reserved)
        required = schema.get("required", ())
        for each, value in schema["properties"].items():
            if tag is None or each != tag[0]:
                event = self._events.get(name) == each
                if re.search(r'["\\\x00-\x1f]', each):  # which msgspec does not take
                    yield f"    # There cannot be a field {each!r} here."
                    continue
                own = names.give(each)
                if own.startswith("__"):  # Python has another name for it within a class
                    own = names.give(own.strip("_") or "field")
                yield self._field(own, each, value, each in required, event)
                if about := docstring(value.get("description", ""), "    "):
                    yield about

    def _field(self, name: str, sent: str, schema: Schema, required: bool, event: bool) -> str:
        kind = self.of(schema)
        text = f"Annotated[{kind.text}, EventId()]" if event else kind.text
        options = [f"name={quoted(sent)}"] if name != sent else []
        if not required:
            default = _default(kind, schema)
            if default is None:
                text, default = f"{text} | msgspec.UnsetType", "msgspec.UNSET"
            if not options:
                return f"    {name}: {text} = {default}"
            made = {"[]": "list", "{}": "dict", "set()": "set"}.get(default)
            options += [f"default_factory={made}" if made else f"default={default}"]
        return f"    {name}: {text}" + (f" = msgspec.field({', '.join(options)})" * bool(options))

    def _items(self, schema: Schema, tag: Tag | None) -> Iterator[str]:
        least = schema.get("minItems", 0)
        for at, each in enumerate(schema["prefixItems"]):
            if at or tag is None:
                name = f"item{at + (tag is None)}"
                there = at < least or _default(self.of(each), each) is None  # none can be left out
                yield self._field(name, name, each, there, event=False)


def _default(kind: Kind, schema: Schema) -> str | None:
    """The default of a field, as it is written; None if it has none that can be."""
    value = schema.get("default", ...)
    if value in ([], {}):
        empty = {"dict": "{}"} if value == {} else {"list": "[]", "set": "set()"}
        return empty.get(kind.base)
    return quoted(value) if value is not ... and kind.may_be(value) else None


def literal(values: Iterable[Any]) -> Kind:
    """One of several values."""
    found = list(values)
    if found == [None]:
        return plain("None")
    named = tuple(each for each in found if type(each) in (str, int))
    if len(named) + found.count(None) < len(found):
        return ANY  # true and 1.5 are no values of a Literal for msgspec
    kind = Kind(f"Literal[{', '.join(map(quoted, named))}]", "Literal", named)
    return union([kind, plain("None")]) if None in found else kind


def union(kinds: Iterable[Kind]) -> Kind:
    """One of several types, or anything if msgspec could not tell them apart."""
    parts = [part for each in kinds for part in (each.parts or (each,))]
    found = sorted(dict.fromkeys(parts), key=lambda each: each.base == "None")
    if len(found) == 1:
        return found[0]
    families = [family for each in found for family in each.families]
    tagged = [each for each in found if each.families == ["tagged"]]
    others = [each for each in families if each != "tagged"]
    shapes = {(each.tag and each.tag[0], each.array) for each in tagged}
    if (
        not found
        or ANY in found
        or len(set(others)) < len(others)
        or len({each.tag for each in tagged}) < len(tagged)
        or len(shapes) > 1
        or any(("array" if each.array else "object") in others for each in tagged)
    ):
        return ANY
    return Kind(" | ".join(each.text for each in found), "union", parts=tuple(found))


def _bounds(schema: Schema) -> str:
    given: dict[str, Any] = {
        name: schema[word]
        for word, name in _BOUNDS.items()
        if word in schema and (isinstance(schema[word], str) or abs(schema[word]) < 2**63)
    }
    try:
        msgspec.Meta(**given)
    except (TypeError, ValueError, re.error):  # it takes less than JSON Schema
        return ""
    return ", ".join(f"{name}={quoted(value)}" for name, value in given.items())


def _tag_of(schema: Schema) -> Tag | None:
    """What tells an object apart: its first field that has one value."""
    found = schema.get("properties", dict(enumerate(schema.get("prefixItems", ())[:1])))
    for name, each in found.items():
        values = each.get("enum", [each["const"]] if "const" in each else [])
        if len(values) == 1 and type(values[0]) in (str, int):
            return ("type" if name == 0 else str(name)), values[0]
    return None


SINGLE = "'"


def quoted(value: object) -> str:
    """A value, as it is written; texts between double quotes if they have none."""
    if not isinstance(value, str) or '"' in value:
        return repr(value)
    return f'"{repr(value + SINGLE)[1:-2]}"'  # repr takes double ones where there is a single one


def docstring(text: str, indent: str) -> str:
    """A docstring; nothing without a text."""
    if not text:
        return ""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", text)
    safe = re.sub(r'"(?="")', r'\\"', text.replace("\\", "\\\\"))
    lines = [f"{indent}{each}".rstrip() for each in safe.splitlines()]
    if len(lines) == 1 and not safe.endswith('"'):
        return f'{indent}"""{safe}"""'
    return "\n".join([f'{indent}"""{lines[0].strip()}', *lines[1:], f'{indent}"""'])
