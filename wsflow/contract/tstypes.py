"""The types of TypeScript that JSON Schemas stand for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final

from wsflow.contract.contract import Schema
from wsflow.contract.names import Names
from wsflow.contract.schemas import class_of_sent
from wsflow.contract.walk import all_within, name_of

SAFE = 2**53 - 1
"""The largest integer up to which all are exact in a ``number``."""

_WORDS = re.findall(
    r"\w+",
    """
    any arguments as async await bigint boolean break case catch class const continue debugger
    default delete do else enum eval export extends false finally for function if implements import
    in instanceof interface let never new null number object package private protected public
    return static string super switch symbol this throw true try type typeof undefined unknown
    unique var void while with yield
    clearTimeout console globalThis setTimeout
    """,
)
"""What a name in a file cannot be: words of the language, and functions that the runtime uses."""


def taken(*texts: str) -> set[str]:
    """The names that a file cannot give, if these texts are parts of it."""
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", "\n".join(texts), flags=re.DOTALL)
    declared = re.findall(
        r"^(?:export )?(?:class|const|function|interface|type) (\w+)", code, re.MULTILINE
    )
    return {*_WORDS, *declared, *re.findall(r"\b[A-Z]\w*", code)}


@final
class Types:
    """The types of the named schemas.

    Args:
        schemas: by name.
        names: gives the names of the types.
    """

    def __init__(self, schemas: Mapping[str, Schema], names: Names) -> None:
        self._schemas = schemas
        self._names = {each: names.give(self._plain(each)) for each in schemas}
        self._big: set[str] = set()  # the names of the schemas that hold integers beyond 2^53
        while more := {name for name in schemas if self.holds_large(schemas[name])} - self._big:
            self._big |= more
        self.shapes: dict[str, Any] = {}

    def _plain(self, name: str) -> str:
        """The name of a type as it is sent is that of its class, if that is not taken as well."""
        cls = class_of_sent(name, self._schemas[name])
        return cls if cls is not None and cls not in self._schemas else name

    def declarations(self) -> Iterator[str]:
        """The declarations of the named types."""
        for name, schema in self._schemas.items():
            about = doc(schema.get("description", ""))
            if "properties" in schema:
                yield f"{about}export interface {self._names[name]} {self.type(schema)}\n"
            else:
                yield f"{about}export type {self._names[name]} = {self.type(schema)};\n"

    def type(self, schema: Schema) -> str:
        """The type of a schema."""
        if "$ref" in schema:
            return self._names[name_of(schema)]
        if "allOf" in schema:
            return " & ".join(f"({self.type(each)})" for each in schema["allOf"])
        if (options := schema.get("anyOf", schema.get("oneOf"))) is not None:
            return union(self.type(each) for each in options)
        if "enum" in schema or "const" in schema:
            values = schema.get("enum", [schema.get("const")])
            suffix = "n" if _large(schema) else ""
            return union(f"{json.dumps(each)}{suffix * _is_integer(each)}" for each in values)
        kind = schema.get("type")
        if kind == "array":
            return self._array(schema)
        if kind == "object":
            return self._object(schema)
        return "bigint" if _large(schema) else _SCALARS.get(str(kind), "unknown")

    def _array(self, schema: Schema) -> str:
        rest = schema.get("items", {})
        if "prefixItems" not in schema:
            item = self.type(rest)
            return f"({item})[]" if re.search("[|&]", item) else f"{item}[]"
        least = schema.get("minItems", 0)
        parts = [
            self.type(each) if at < least else f"({self.type(each)})?"
            for at, each in enumerate(schema["prefixItems"])
        ]
        if rest is not False and schema.get("maxItems") != len(parts):
            parts.append(f"...{self._array({'items': rest})}")
        return f"[{', '.join(parts)}]"

    def _object(self, schema: Schema) -> str:
        if "properties" not in schema:
            each = schema.get("additionalProperties")
            return f"{{ [key: string]: {self.type(each) if each else 'unknown'} }}"
        required = schema.get("required", ())
        lines = ["{"]
        for name, each in schema["properties"].items():
            about = doc(each.get("description", ""), "  ")
            more = "" if name in required else " | undefined"
            mark = "" if name in required else "?"
            lines.append(f"{about}  {key(name)}{mark}: {self.type(each)}{more};")
        return "\n".join([*lines, "}"])

    def holds_large(self, schema: Schema) -> bool:
        """Whether a schema has integers beyond 2^53."""
        return any(_large(each) or name_of(each) in self._big for each in all_within(schema))

    def shape(self, schema: Schema) -> Any:
        """Where a schema has integers beyond 2^53, as ``exact.ts`` takes it; None if nowhere."""
        if not self.holds_large(schema):
            return None
        if "$ref" in schema:
            return self._named_shape(name_of(schema))
        if _large(schema):
            return 1
        options = [*schema.get("anyOf", schema.get("oneOf", ())), *schema.get("allOf", ())]
        if found := [each for each in map(self.shape, options) if each is not None]:
            return found if len(found) > 1 else found[0]
        each = schema.get("additionalProperties", schema.get("items")) or {}
        if each and (inner := self.shape(each)) is not None:
            return {"each": inner}
        fields = schema.get("properties", dict(enumerate(schema.get("prefixItems", ()))))
        tags = [[name, each["enum"][0]] for name, each in fields.items() if _is_tag(each)]
        shapes = {str(name): self.shape(each) for name, each in fields.items()}
        inside = {name: each for name, each in shapes.items() if each is not None}
        return {**({"tag": tags[0]} if tags else {}), "in": inside}

    def _named_shape(self, name: str) -> str:
        if name not in self.shapes:
            self.shapes[name] = 0  # until it is known: a type may hold itself
            self.shapes[name] = self.shape(self._schemas[name])
        return name


_SCALARS: Mapping[str, str] = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}


def union(types: Iterable[str]) -> str:
    """One of several types; none of them is ``never``."""
    return " | ".join(dict.fromkeys(types)) or "never"


def doc(text: str, indent: str = "") -> str:
    """A comment for editors to show; nothing without a text."""
    if not text:
        return ""
    lines = text.replace("*/", "*\\/").splitlines()
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    return "\n".join(
        [f"{indent}/**", *(f"{indent} * {each}".rstrip() for each in lines), f"{indent} */\n"]
    )


def key(name: str | int) -> str:
    """The name of a field, as it is written in a type."""
    return (
        str(name)
        if re.fullmatch(r"[A-Za-z_$][\w$]*|\d+", str(name), re.ASCII)
        else json.dumps(name)
    )


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def _large(schema: Schema) -> bool:
    """Whether a schema is of integers that may be beyond 2^53."""
    if "enum" in schema:
        return any(_is_integer(each) and abs(each) > SAFE for each in schema["enum"])
    if schema.get("type") != "integer":
        return False
    bounds = [schema[each] for each in _BOUNDS if each in schema]
    return schema.get("format") in ("int64", "uint64") or any(abs(each) > SAFE for each in bounds)


def _is_tag(schema: Schema) -> bool:
    return len(schema.get("enum", ())) == 1
