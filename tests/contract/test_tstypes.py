"""From a JSON Schema to a type of TypeScript, and to where its integers are large."""

from __future__ import annotations

from typing import Any

import pytest

from wsflow.contract.names import Names
from wsflow.contract.tstypes import Types, doc, key, taken, union

LARGE = {"type": "integer", "maximum": 2**63 - 1}
SCHEMAS: dict[str, Any] = {
    "Said": {"type": "object", "title": "Said", "properties": {"id": LARGE}, "required": ["id"]},
    "Only": {"type": "object", "title": "Only", "properties": {}},
    "OnlySent": {"type": "object", "title": "Only", "properties": {"x": {}}, "required": ["x"]},
    "LoneSent": {"type": "object", "title": "Lone", "properties": {}},
    "NotSent": {"title": "NotSent", "enum": ["a"]},
    "Box": {"properties": {"of": {"$ref": "#/$defs/Box"}, "id": {"$ref": "#/$defs/Said"}}},
}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, "unknown"),
        ({"type": "string", "format": "uuid"}, "string"),
        ({"type": "number"}, "number"),
        ({"type": "boolean"}, "boolean"),
        ({"type": "null"}, "null"),
        ({"type": "integer"}, "number"),
        ({"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1}, "number"),
        ({"type": "integer", "maximum": 2**53}, "bigint"),
        ({"type": "integer", "exclusiveMinimum": -(2**64)}, "bigint"),
        ({"type": "integer", "format": "uint64"}, "bigint"),
        ({"type": "integer", "format": "int32"}, "number"),
        ({"type": "number", "maximum": 2**63}, "number"),
        ({"enum": ["a", 1, None, True]}, '"a" | 1 | null | true'),
        ({"enum": [2**60, 1]}, "1152921504606846976n | 1n"),
        ({"const": "a"}, '"a"'),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string | null"),
        ({"oneOf": [{"type": "string"}, {"type": "string"}]}, "string"),
        ({"anyOf": []}, "never"),
        ({"allOf": [{"type": "string"}, {"enum": ["a", "b"]}]}, '(string) & ("a" | "b")'),
        ({"type": "array"}, "unknown[]"),
        ({"type": "array", "items": {"type": "string"}}, "string[]"),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, '("a" | "b")[]'),
        (
            {
                "type": "array",
                "prefixItems": [{"type": "string"}, {}],
                "items": False,
                "minItems": 2,
            },
            "[string, unknown]",
        ),
        (
            {"type": "array", "prefixItems": [{}, LARGE], "minItems": 1, "maxItems": 2},
            "[unknown, (bigint)?]",
        ),
        ({"type": "array", "prefixItems": [{}], "minItems": 1}, "[unknown, ...unknown[]]"),
        ({"type": "object"}, "{ [key: string]: unknown }"),
        ({"type": "object", "additionalProperties": LARGE}, "{ [key: string]: bigint }"),
        (
            {
                "type": "object",
                "properties": {"a-b": {"type": "string", "description": "x */ y"}, "c": {}},
                "required": ["c"],
            },
            '{\n  /** x *\\/ y */\n  "a-b"?: string | undefined;\n  c: unknown;\n}',
        ),
        ({"$ref": "#/$defs/OnlySent", "description": "x"}, "OnlySent"),
        ({"$ref": "#/$defs/LoneSent"}, "Lone"),
        ({"$ref": "#/$defs/NotSent"}, "NotSent"),
    ],
    ids=str,
)
def test_types(schema: Any, expected: str) -> None:
    assert Types(SCHEMAS, Names()).type(schema) == expected


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer"}, None),
        ({"$ref": "#/$defs/Only"}, None),
        (LARGE, 1),
        ({"enum": [2**60]}, 1),
        ({"anyOf": [LARGE, {"type": "null"}]}, 1),
        ({"anyOf": [LARGE, {"$ref": "#/$defs/Said"}, {}]}, [1, "Said"]),
        ({"type": "array", "items": LARGE}, {"each": 1}),
        ({"type": "object", "additionalProperties": {"$ref": "#/$defs/Said"}}, {"each": "Said"}),
        ({"type": "array", "prefixItems": [{}, LARGE], "items": False}, {"in": {"1": 1}}),
        (
            {"properties": {"t": {"enum": ["x"]}, "i": LARGE, "s": {"type": "string"}}},
            {"tag": ["t", "x"], "in": {"i": 1}},
        ),
    ],
    ids=str,
)
def test_shapes(schema: Any, expected: Any) -> None:
    assert Types(SCHEMAS, Names()).shape(schema) == expected


def test_the_shape_of_a_type_that_holds_itself() -> None:
    types = Types(SCHEMAS, Names())
    assert types.shape({"$ref": "#/$defs/Box"}) == "Box"
    said = {"in": {"id": 1}}
    assert types.shapes == {"Box": {"in": {"of": "Box", "id": "Said"}}, "Said": said}


def test_names_that_a_client_cannot_give() -> None:
    names = Names(taken("// Not\n/* nor\nThis */\nexport function begin(x: Map): void {}\n"))
    wanted = ["x", "x", "Map", "begin", "Not", "This", "new", "2fa", "a.b[c]", ""]
    assert [names.give(each) for each in wanted] == [
        "x", "x_", "Map_", "begin_", "Not", "This", "new_", "_2fa", "a_b_c_", "_",
    ]  # fmt: skip


def test_small_things() -> None:
    assert union([]) == "never"
    assert [key(each) for each in ("a", "$text", "3", "a b", "ä", "")] == [
        "a", "$text", "3", '"a b"', '"\\u00e4"', '""',
    ]  # fmt: skip
    assert doc("") == ""
    assert doc("one", "  ") == "  /** one */\n"
    assert doc("one\n\ntwo") == "/**\n * one\n *\n * two\n */\n"
