"""What breaks the clients of today, and what does not: a change of each kind."""

from __future__ import annotations

import datetime
import types
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest

from wsflow import Call, Connection, Cookie, EventId, Header, Query, Router, Sends, Stream
from wsflow.auth import Bearer
from wsflow.contract.asyncapi import asyncapi
from wsflow.contract.changes import RULES, Change, changes
from wsflow.contract.describe import describe
from wsflow.wiring.compile import compile_app

Declare = Callable[[Router], object]
Meta = msgspec.Meta


def document(*declare: Declare, path: str = "/", **options: Any) -> Any:
    app = Router(path, **options)
    app.consumer(nothing)
    for each in declare:
        each(app)
    return asyncapi(describe(compile_app(app)))


async def nothing(message: Nothing) -> None: ...


class Nothing(msgspec.Struct, tag="nothing"): ...


def takes(kind: Any) -> Declare:
    """A path that takes messages of a type."""

    def declare(app: Router) -> None:
        async def take(message: kind) -> None: ...  # type: ignore[valid-type]

        take.__annotations__["message"] = kind
        app.consumer(take)

    return declare


def sends(*kinds: Any) -> Declare:
    """A path that sends messages of these types, or asks them."""

    def declare(app: Router) -> None:
        async def send(connection: Connection) -> None: ...

        send.__annotations__["connection"] = Annotated[Connection, Sends(*kinds)]
        app.producer(send)

    return declare


def asks_for(kind: Any) -> Declare:
    """A path with a parameter of the opening request."""

    def declare(app: Router) -> None:
        async def enter(value: Any) -> None: ...

        enter.__annotations__["value"] = kind
        app.on_connect(enter)

    return declare


def optional(kind: Any, default: Any) -> Declare:
    """The same, with a default."""

    def declare(app: Router) -> None:
        async def enter(value: Any = default) -> None: ...

        enter.__annotations__["value"] = kind
        app.on_connect(enter)

    return declare


def answers(kind: Any) -> Declare:
    """A path that answers a call."""

    def declare(app: Router) -> None:
        if issubclass(kind, Stream):

            async def items(message: Any) -> AsyncIterator[int]:
                yield 1

            items.__annotations__["message"] = kind
            app.consumer(items)
        else:

            async def answer(message: Any) -> Any: ...

            answer.__annotations__["message"] = kind
            app.consumer(answer)

    return declare


def struct_of(fields: dict[str, Any], name: str = "Say", **options: Any) -> Any:
    made = [(key, *(each if isinstance(each, tuple) else (each,))) for key, each in fields.items()]
    return msgspec.defstruct(name, made, **options)


def struct(tag: str = "say", name: str = "Say", **fields: Any) -> Any:
    """A Struct with fields of these types, or pairs of a type and a default."""
    return struct_of(fields, name, tag=tag)


def call(answer: Any, tag: str = "ask", base: Any = Call, **fields: Any) -> Any:
    def fill(namespace: dict[str, Any]) -> None:
        namespace["__annotations__"] = fields

    return types.new_class("Ask", (base[answer],), {"tag": tag}, fill)


class Nobody(msgspec.Struct):
    sub: str


def by(sources: Any = ("header", "subprotocol", "message")) -> Declare:
    """A path whose clients say who they are."""
    return lambda app: app.on_connect(Bearer(Nobody, key="k" * 32, sources=sources))


SAY = struct(text=str)
SHORT = {"pattern": "b", "maxLength": 3}
INNER, OTHER = struct("inner", "Inner"), struct("other", "Other")


class Old(pydantic.BaseModel):
    type: Literal["model"]
    b: Literal["c", "d"]


class New(pydantic.BaseModel):
    type: Literal["model"]
    b: Literal["d"]


def strict(**fields: Any) -> Any:
    """A Struct that takes no unknown fields."""
    return struct_of(fields, tag="say", forbid_unknown_fields=True)


def array(**fields: Any) -> Any:
    return struct_of(fields, "Row", tag="row", array_like=True)


def strict_array(**fields: Any) -> Any:
    return struct_of(fields, "Row", tag="row", array_like=True, forbid_unknown_fields=True)


def untagged(name: str, **fields: Any) -> Any:
    return struct_of(fields, name)


def made(**least: int) -> dict[str, Any]:
    """Words of a schema that has these fields, at least so large."""
    fields = {name: {"type": "integer", "minimum": each} for name, each in least.items()}
    return {"properties": fields, "required": list(fields)}


def extra(kind: Any, **words: Any) -> Any:
    """A type with further words of JSON Schema."""
    return Annotated[kind, Meta(extra_json_schema=words)]


CASES: list[tuple[str, Any, Any, str]] = [
    # rule, before, after, and what is said
    ("taken-narrower", takes(SAY), takes(struct(text=str, more=int)), "$.more is always there"),
    ("taken-narrower", takes(SAY), takes(struct(text=int)), "$.text is no longer a string"),
    ("taken-narrower", takes(struct(n=int | None)), takes(struct(n=int)), "is no longer null"),
    ("taken-narrower", takes(struct(n=float)), takes(struct(n=int)), "no longer a number"),
    (
        "taken-narrower",
        takes(struct(n=int)),
        takes(struct(n=Annotated[int, Meta(ge=1)])),
        "minimum is 1",
    ),
    (
        "taken-narrower",
        takes(struct(n=Annotated[int, Meta(le=9)])),
        takes(struct(n=Annotated[int, Meta(le=8)])),
        "maximum is 8 now, and was 9",
    ),
    (
        "taken-narrower",
        takes(struct(s=str)),
        takes(struct(s=Annotated[str, Meta(pattern="^a")])),
        "pattern is '^a' now",
    ),
    (
        "taken-narrower",
        takes(struct(c=Literal["a", "b"])),
        takes(struct(c=Literal["a"])),
        "is no longer 'b'",
    ),
    (
        "taken-narrower",
        takes(struct(l=list[int | str])),
        takes(struct(l=list[int])),
        "$.l[…] is no longer a string",
    ),
    ("taken-narrower", takes(struct(a=Any)), takes(struct(a=int)), "$.a is an integer now"),
    (
        "taken-narrower",
        takes(struct(n=(int, 1))),
        takes(struct(n=int)),
        "$.n is always there now, and needed",
    ),
    (
        "taken-narrower",
        takes(struct(t=tuple[int, str])),
        takes(struct(t=tuple[int, int])),
        "$.t[1] is no longer a string",
    ),
    (
        "taken-narrower",
        takes(struct(d=dict[str, Any])),
        takes(struct(d=dict[str, int])),
        "$.d.* is an integer now",
    ),
    ("taken-wider", takes(struct(n=int)), takes(struct(n=float)), "$.n is a number now"),
    ("taken-wider", takes(struct(n=int)), takes(struct(n=int | None)), "$.n may be null now"),
    ("taken-wider", takes(struct(n=int)), takes(struct(n=(int, 1))), "$.n may be left out"),
    ("taken-wider", takes(struct(c=Literal["a"])), takes(struct(c=str)), "may be any value now"),
    ("taken-wider", takes(struct(a=int)), takes(struct(a=Any)), "$.a is anything now"),
    ("taken-field", takes(SAY), takes(struct(text=str, more=(int, 1))), "$.more is new"),
    ("taken-field", takes(struct(text=str, more=(int, 1))), takes(SAY), "$.more is gone"),
    (
        "taken-narrower",
        takes(struct(x=INNER | OTHER)),
        takes(struct(x=INNER)),
        "$.x is no longer an object with type 'other'",
    ),
    ("taken-narrower", takes(struct(s=str)), takes(struct(s=Literal["a"])), "is one of ['a'] now"),
    (
        "taken-narrower",
        takes(struct(t=tuple[int, str])),
        takes(struct(t=tuple[int, str, int])),
        "minItems is 3 now",
    ),
    (
        "taken-narrower",
        takes(struct(t=tuple[int, str])),
        takes(struct(t=tuple[int])),
        "$.t[1] is gone",
    ),
    (
        "taken-narrower",
        takes(struct(t=list[int])),
        takes(struct(t=tuple[int, int])),
        "$.t has items of one type each now",
    ),
    (
        "taken-narrower",
        takes(struct(t=tuple[int, int])),
        takes(struct(t=list[int])),
        "$.t has items of one type now",
    ),
    (
        "taken-wider",
        takes(struct(s=Annotated[str, Meta(pattern="^a")])),
        takes(struct(s=str)),
        "pattern '^a' is gone",
    ),
    ("taken-wider", takes(struct(n=int | float)), takes(struct(n=float)), "$.n is a number now"),
    ("taken-narrower", takes(Old), takes(New), "$.b is no longer 'c'"),
    (
        "taken-narrower",
        takes(struct(c=Literal["a"] | int)),
        takes(struct(c=int)),
        "$.c is no longer one of 'a'",
    ),
    ("message-gone", takes(SAY), takes(struct(tag="other", name="Other", text=str)), "it is gone"),
    ("message-new", (), takes(SAY), "it is new"),
    ("tag-renamed", takes(SAY), takes(struct(tag="said", text=str)), "its tag is 'said' now"),
    ("sent-field", sends(SAY), sends(struct(text=str, more=int)), "$.more is always there"),
    ("sent-narrower", sends(struct(n=int | None)), sends(struct(n=int)), "is no longer null"),
    ("sent-wider", sends(struct(n=int)), sends(struct(n=int | None)), "may be null now"),
    ("sent-wider", sends(struct(text=str, more=int)), sends(SAY), "$.more is gone"),
    (
        "sent-wider",
        sends(struct(c=Literal["a"])),
        sends(struct(c=Literal["a", "b"])),
        "may be 'b' now",
    ),
    ("message-gone", sends(SAY), (), "it is gone"),
    ("message-sent", (), sends(SAY), "it is new"),
    (
        "event-id",
        sends(struct(id=(Annotated[str, EventId()], ""))),
        sends(struct(id=(str, ""))),
        "its event id is None",
    ),
    (
        "event-id-new",
        sends(struct(id=(str, ""))),
        sends(struct(id=(Annotated[str, EventId()], ""))),
        "its event id is 'id'",
    ),
    ("parameter-required", (), asks_for(Annotated[str, Query("token")]), "it is needed"),
    (
        "parameter-required",
        optional(Annotated[str, Query("x")], ""),
        asks_for(Annotated[str, Query("x")]),
        "it is needed",
    ),
    ("parameter-optional", (), optional(Annotated[int, Header("X-A")], 1), "it may be left out"),
    (
        "parameter-optional",
        asks_for(Annotated[str, Query("x")]),
        optional(Annotated[str, Query("x")], ""),
        "it may be left out",
    ),
    ("parameter-gone", asks_for(Annotated[str, Cookie("c")]), (), "it is gone"),
    (
        "parameter-narrower",
        asks_for(Annotated[str, Query("x")]),
        asks_for(Annotated[int, Query("x")]),
        "no longer a string",
    ),
    (
        "parameter-wider",
        asks_for(Annotated[int, Header("X-A")]),
        asks_for(Annotated[int | None, Header("x-a")]),
        "may be null",
    ),
    (
        "resume",
        asks_for(Annotated[str, Query("after", resumes=True)]),
        asks_for(Annotated[str, Query("after")]),
        "is None, and was 'after'",
    ),
    (
        "resume-new",
        asks_for(Annotated[str, Query("after")]),
        asks_for(Annotated[str, Query("after", resumes=True)]),
        "is 'after'",
    ),
    ("call-gone", answers(call(int)), (), "it is gone"),
    ("call-new", (), answers(call(int)), "it is new"),
    (
        "call-kind",
        answers(call(int)),
        answers(call(int, base=Stream)),
        "it is answered by a stream now",
    ),
    ("taken-narrower", answers(call(int)), answers(call(int, a=int)), "$.a is always there"),
    ("sent-wider", answers(call(int)), answers(call(int | None)), "the answer: $ may be null now"),
    ("asked-new", (), sends(call(int)), "it is new"),
    ("asked-gone", sends(call(int)), (), "it is gone"),
    (
        "taken-narrower",
        sends(call(int | None)),
        sends(call(int)),
        "the answer: $ is no longer null",
    ),
    ("security", (), by(), "a credential is needed: header"),
    ("security", by(), by(("header",)), "not taken as subprotocol.bearer"),
    ("security-new", by(), (), "not taken as message"),
    ("security-new", by(("header",)), by(), "taken as message, too"),
    ("taken-narrower", takes(strict(a=int, b=(int, 1))), takes(strict(a=int)), "$.b is gone"),
    ("taken-narrower", takes(strict(a=int, b=int)), takes(strict(a=int)), "$.b is gone"),
    ("taken-narrower", takes(struct(a=int)), takes(strict(a=int)), "$.* is nothing now"),
    ("taken-wider", takes(strict(a=int)), takes(strict(a=int, b=(int, 1))), "$.b is new"),
    ("sent-wider", sends(strict(a=int)), sends(strict(a=int, b=int)), "$.b is new"),
    (
        "taken-field",
        takes(struct(x=array(a=int))),
        takes(struct(x=array(a=int, b=(int, 1)))),
        "$.x[2] is new",
    ),
    (
        "taken-field",
        takes(struct(x=array(a=int, b=(int, 1)))),
        takes(struct(x=array(a=int))),
        "$.x[2] is gone",
    ),
    (
        "taken-narrower",
        takes(struct(x=array(a=int))),
        takes(struct(x=array(a=int, b=int))),
        "minItems is 3 now",
    ),
    (
        "taken-narrower",
        takes(struct(x=strict_array(a=int, b=(int, 1)))),
        takes(struct(x=strict_array(a=int))),
        "maxItems is 2 now, and was 3",
    ),
    (
        "taken-narrower",
        takes(struct(d=extra(dict[str, int], propertyNames={"type": "string"}))),
        takes(struct(d=extra(dict[str, int], propertyNames={"type": "string", "maxLength": 3}))),
        "the names in $.d: maxLength is 3 now",
    ),
    (
        "taken-narrower",
        takes(struct(d=extra(Any, type="object"))),
        takes(struct(d=extra(Any, type="object", patternProperties={"^x": {"type": "string"}}))),
        "$.d[/^x/] is a string now",
    ),
    (
        "taken-narrower",
        takes(struct(n=extra(Any, allOf=[{"type": "integer"}, {"minimum": 1, "maximum": 9}]))),
        takes(struct(n=extra(Any, allOf=[{"type": "integer", "minimum": 2}, {"minimum": 1}]))),
        "minimum is 2 now, and was 1",
    ),
    ("taken-narrower", takes(struct(s=str)), takes(struct(s=datetime.date)), "format is 'date'"),
    ("sent-wider", sends(struct(l=set[int])), sends(struct(l=list[int])), "uniqueItems True"),
]


@pytest.mark.parametrize(
    ("rule", "before", "after", "what"),
    CASES,
    ids=[f"{at}-{case[0]}" for at, case in enumerate(CASES)],
)
def test_one_change(rule: str, before: Any, after: Any, what: str) -> None:
    old, new = (document(*([each] if callable(each) else each)) for each in (before, after))
    assert changes(old, old) == changes(new, new) == []
    found = changes(old, new)
    (it,) = [each for each in found if each.rule == rule and what in str(each)]
    breaks = RULES[rule][0]
    assert it.breaks is breaks
    if not breaks:
        assert not any(each.breaks for each in found), [str(each) for each in found]


def option(old: Any, new: Any) -> list[Change]:
    return changes(document(**old), document(**new))


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ({"path": "/a"}, {"path": "/b"}, "path-gone"),
        ({"path": "/a"}, {"path": "/b"}, "path-new"),
        ({}, {"deprecated": True}, "path-deprecated"),
        ({"codec": "json"}, {"codec": "msgpack"}, "codec"),
        ({"subprotocols": ["v1"]}, {}, "subprotocol-gone"),
        ({}, {"subprotocols": ["v1"]}, "codec-new"),
        ({"unknown": "ignore"}, {"unknown": "close"}, "unknown"),
        ({"unknown": "close"}, {"unknown": "ignore"}, "unknown-ignored"),
    ],
)
def test_options_of_a_path(old: Any, new: Any, rule: str) -> None:
    assert rule in [each.rule for each in option(old, new)]


INTEGERS = extra(Any, type="object", additionalProperties={"type": "integer"})
INTEGERS_WITH_B = extra(
    Any,
    type="object",
    properties={"b": {"type": "integer"}},
    additionalProperties={"type": "integer"},
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (sends(untagged("A", a=int)), sends(untagged("B", a=int))),
        (takes(struct(l=list[int])), takes(struct(l=set[int]))),
        (takes(struct(o=INTEGERS)), takes(struct(o=INTEGERS_WITH_B))),
        (takes(struct(o=INTEGERS_WITH_B)), takes(struct(o=INTEGERS))),
        (takes(struct(n=extra(Any, allOf=[{"type": "integer"}]))), takes(struct(n=int))),
        (
            takes(struct(n=extra(Any, allOf=[{"type": "object", **made(a=1)}, made(b=1, a=2)]))),
            takes(struct(n=extra(Any, type="object", **made(a=2, b=1)))),
        ),
        (
            takes(struct(n=extra(Any, allOf=[{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]))),
            takes(struct(n=Literal["b"])),
        ),
        (
            takes(
                struct(
                    n=extra(
                        Any,
                        allOf=[
                            {"pattern": "a"},
                            {"pattern": "b"},
                            {"maxLength": 2},
                            {"maxLength": 3},
                        ],
                    )
                )
            ),
            takes(struct(n=extra(Any, **{**SHORT, "maxLength": 2}))),
        ),
    ],
)
def test_what_makes_no_difference(old: Declare, new: Declare) -> None:
    assert changes(document(old), document(new)) == []


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (untagged("B", a=int), []),
        (untagged("B", a=str), ["taken-narrower", "taken-wider"]),
        (array(a=int), ["message-gone", "message-new"]),
        (struct("b", "B", a=int), ["message-gone", "message-new"]),
        (untagged("A", a=int), []),
    ],
)
def test_a_type_whose_name_is_not_sent(new: Any, said: list[str]) -> None:
    def alone(kind: Any) -> Any:
        app = Router("/")
        takes(kind)(app)
        return asyncapi(describe(compile_app(app)))

    found = changes(alone(untagged("A", a=int)), alone(new))
    assert [each.rule for each in found] == said


def test_the_encoding_of_a_path_with_calls_alone() -> None:
    def calls(codec: Any) -> Any:
        app = Router("/", codec=codec)
        answers(call(int))(app)
        return asyncapi(describe(compile_app(app)))

    found = changes(calls("json"), calls("msgpack"))
    assert [(each.rule, each.where) for each in found if each.breaks] == [
        ("codec", "/ answers 'ask'")
    ]


def test_a_reference_to_nothing() -> None:
    old = document(takes(SAY))
    del old["components"]["schemas"]["Say"]
    with pytest.raises(ValueError, match="it is no document that wsflow schema has written"):
        changes(old, document(takes(SAY)))


def test_every_rule_has_a_case() -> None:
    options = {
        *("path-gone", "path-new", "path-deprecated", "codec", "codec-new"),
        *("subprotocol-gone", "unknown", "unknown-ignored"),
    }
    assert {rule for rule, *_ in CASES} | options == set(RULES)


def test_names_of_path_parameters_make_no_difference() -> None:
    assert option({"path": "/a/{room}"}, {"path": "/a/{name}"}) == []


class Tree(msgspec.Struct, tag="tree"):
    children: list[Tree]
    value: int


def test_types_that_have_themselves() -> None:
    assert changes(document(takes(Tree)), document(takes(Tree))) == []


@pytest.mark.parametrize(
    "old", [{}, [], {"asyncapi": "2.6.0"}, {"asyncapi": "3.1.0", "channels": {"a": {}}}]
)
def test_what_is_no_document(old: Any) -> None:
    with pytest.raises(ValueError, match="it is no"):
        changes(old, document())


def test_each_path_by_itself() -> None:
    def two(kind: Any) -> Any:
        other = Router("/other")
        takes(SAY)(other)
        return document(takes(kind), lambda app: app.include(other))

    other = struct("told", "Told", text=int)
    found = changes(two(SAY), two(other))
    assert {each.where for each in found} == {"/ takes 'say'", "/ takes 'told'"}
