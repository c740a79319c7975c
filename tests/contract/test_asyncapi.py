"""What an app's AsyncAPI document says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import pydantic
import pytest

from tests.contract import served
from tests.contract.apps import Point, app_of
from tests.contract.test_typescript import EXAMPLES
from tests.node import FOLDER, install, locked, program
from wsflow import Call, Connection, Query, Router, Sends
from wsflow.auth import SessionCookie, Ticket
from wsflow.contract.asyncapi import CLOSE_CODES, asyncapi
from wsflow.contract.describe import describe
from wsflow.wiring.compile import compile_app


def document(app: Router) -> dict[str, Any]:
    return asyncapi(describe(compile_app(app)))


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return document(app_of())


def test_it_says_what_it_is(made: dict[str, Any]) -> None:
    assert made["asyncapi"] == "3.1.0"
    assert made["info"] == {
        "title": "Rooms",
        "version": "2.1.0",
        "description": "Where people talk.",
    }
    assert set(made["channels"]) == {"room_room", "room_room_old"}
    assert made["x-close-codes"] == {str(code): said for code, said in CLOSE_CODES.items()}
    bare = Router("/")

    @bare.consumer
    async def echo(message: str) -> str:
        return message

    assert document(bare)["info"] == {"title": "app", "version": "0.1.0"}


def test_the_opening_request(made: dict[str, Any]) -> None:
    channel = made["channels"]["room_room"]
    assert channel["address"] == "/room/{room}"
    assert channel["parameters"] == {"room": {"x-schema": {"type": "integer"}}}
    assert channel["bindings"]["ws"] == {
        "method": "GET",
        "bindingVersion": "0.1.0",
        "query": {
            "type": "object",
            "properties": {
                "after": {"type": "string"},
                "tag": {"type": "array", "items": {"type": "integer"}},
            },
        },
        "headers": {
            "type": "object",
            "properties": {
                "Accept-Language": {"type": "string"},
                "Cookie": {
                    "type": "string",
                    "x-cookies": {"type": "object", "properties": {"session": {"type": "string"}}},
                },
            },
        },
    }
    assert channel["x-resumes"] == "after"
    assert channel["x-subprotocols"] == ["wsflow.json", "wsflow.msgpack"]


def test_messages_in_both_directions(made: dict[str, Any]) -> None:
    messages = made["channels"]["room_room"]["messages"]
    assert messages["takes.say"] == {
        "name": "say",
        "title": "Say",
        "summary": "Say something.",
        "description": "Say something.\n\nIt is shown to everybody.",
        "payload": {"$ref": "#/components/schemas/Say"},
        "x-tag": {"field": "type", "value": "say"},
    }
    assert messages["sends.said"]["payload"] == {"$ref": "#/components/schemas/SaidSent"}
    assert messages["sends.said"]["x-event-id"] == "id"
    operations = made["operations"]
    assert {name: each["action"] for name, each in operations.items()} == {
        "room_room.takes": "receive",
        "room_room.sends": "send",
        "room_room.answers.add": "receive",
        "room_room.answers.count": "receive",
        "room_room.asks.sure": "send",
        "room_room_old.takes": "receive",
        "room_room_old.sends": "send",
    }
    add = operations["room_room.answers.add"]
    assert add["description"] == "Adds two numbers."
    assert [each["$ref"].rpartition("/")[2] for each in add["reply"]["messages"]] == [
        "answers.add.answer",
        "answers.add.error",
    ]
    names = [each["$ref"] for each in operations["room_room.answers.count"]["reply"]["messages"]]
    assert [each.rpartition(".")[2] for each in names] == ["item", "end", "error"]
    call = messages["answers.count"]["payload"]
    assert call["required"] == ["type", "id", "message"]
    assert call["properties"]["items"]["default"] == 64
    assert messages["asks.sure"]["summary"] == "Asks the client."


def test_types_as_they_are_taken_and_sent(made: dict[str, Any]) -> None:
    """What has a default may be left out by who sends it to the app, and the app leaves out
    nothing."""
    schemas = made["components"]["schemas"]
    assert schemas["SaidSent"]["required"] == ["type", "text", "id", "by"]
    assert "Said" not in schemas  # nobody sends it to the app
    assert schemas["Say"]["required"] == ["type", "theText"]
    assert schemas["Point"]["required"] == ["x"]
    assert schemas["Point"]["properties"]["x"] == {
        "type": "integer",
        "description": "from the left",
        "examples": [3],
        "minimum": 0,
    }
    assert schemas["SumSent"]["required"] == ["value", "exact"]
    pair = schemas["Say"]["properties"]["pair"]
    assert pair["items"] == [{"type": "integer"}, {"type": "string"}]  # as draft-07 has it
    assert pair["additionalItems"] is False


def test_who_one_is(made: dict[str, Any]) -> None:
    schemes = made["components"]["securitySchemes"]
    assert set(schemes) == {"header.Authorization", "subprotocol.bearer", "message"}
    used = made["operations"]["room_room.takes"]["security"]
    assert {each["$ref"].rpartition("/")[2] for each in used} == set(schemes)
    app = Router("/")
    app.on_connect(SessionCookie(User, read=lambda _: None))
    app.on_connect(Ticket(Point, key="k" * 32))

    @app.consumer
    async def echo(message: str) -> str:
        return message

    schemes = document(app)["components"]["securitySchemes"]
    assert schemes["cookie.session"] == {"type": "httpApiKey", "in": "cookie", "name": "session"}
    assert schemes["subprotocol.ticket"]["name"] == "Sec-WebSocket-Protocol"


def test_what_is_old_and_raw(made: dict[str, Any]) -> None:
    old = made["channels"]["room_room_old"]
    assert old["x-deprecated"] is True
    assert old["description"] == "**Deprecated.**"
    assert old["x-unknown-messages"] == "ignored"
    assert old["messages"]["takes.text"]["contentType"] == "text/plain"
    assert old["messages"]["sends.binary"] == {
        "name": "binary",
        "title": "bytes",
        "contentType": "application/octet-stream",
        "payload": {"type": "string", "format": "binary"},
    }


def test_other_encodings_and_names() -> None:
    """Of paths and messages that would have one name, each has its own."""
    app = Router("/a/b", codec="msgpack")

    @app.consumer
    async def take(message: list[int] | dict[str, int]) -> Point | tuple[int, ...]:
        return Point(1)

    made = document(app)
    (channel,) = made["channels"].values()
    assert channel["messages"]["takes.list_int"]["contentType"] == "application/msgpack"
    assert set(channel["messages"]) == {
        "takes.list_int",
        "takes.dict_str_int",
        "sends.Point",
        "sends.tuple_int_...",
    }


def test_two_paths_of_one_shape() -> None:
    app = Router("/")
    for path in ("/a/b", "/a_b"):
        one = Router(path)
        one.consumer(echo)
        app.include(one)
    assert set(document(app)["channels"]) == {"a_b", "a_b_2"}


async def echo(message: str) -> str:
    return message


def test_messages_of_one_name() -> None:
    app = Router("/")

    @app.producer
    async def send(connection: Annotated[Connection, Sends(A, B)]) -> None: ...

    made = document(app)
    assert set(made["channels"]["root"]["messages"]) == {"sends.a_b", "sends.a_b_2"}


class A(msgspec.Struct, tag="a b"): ...


class B(msgspec.Struct, tag="a/b"): ...


class User(msgspec.Struct):
    sub: str


def test_it_is_the_same_each_time() -> None:
    one, two = (json.dumps(document(app_of())) for _ in range(2))
    assert one == two


def test_messages_of_pydantic() -> None:
    """Their tag is a Literal, and what they send has all of their fields."""
    app = Router("/", dec_hook=lambda kind, value: kind(value))

    @app.consumer
    async def take(message: Buy | Sell) -> Buy: ...

    made = document(app)
    messages, schemas = made["channels"]["root"]["messages"], made["components"]["schemas"]
    assert set(messages) == {"takes.buy", "takes.sell", "sends.buy"}
    assert messages["takes.buy"]["x-tag"] == {"field": "kind", "value": "buy"}
    assert messages["takes.buy"]["payload"] == {"$ref": "#/components/schemas/Buy"}
    assert messages["sends.buy"]["payload"] == {"$ref": "#/components/schemas/BuySent"}
    assert schemas["Buy"]["required"] == ["kind"]
    assert schemas["BuySent"]["required"] == ["kind", "price"]
    assert schemas["BuySent"]["properties"]["price"]["$ref"] == "#/components/schemas/PriceSent"
    assert schemas["PriceSent"]["required"] == ["cents"]
    assert schemas["Sell"]["properties"]["code"] == {"title": "Code"}  # what a hook decodes


class Price(pydantic.BaseModel):
    cents: int = 0


class Buy(pydantic.BaseModel):
    kind: Literal["buy"]
    price: Price = Price()


class Code:
    def __init__(self, text: str) -> None:
        self.text = text


class Sell(msgspec.Struct, tag_field="kind", tag="sell"):
    code: Code


def test_the_codecs_of_others() -> None:
    class Cbor:
        name = "cbor"
        text = False

        def encode(self, value: Any) -> bytes:
            raise NotImplementedError

        def decode(self, data: bytes) -> Any:
            raise NotImplementedError

    app = Router("/", codec=Cbor())

    @app.consumer
    async def take(message: Point) -> None: ...

    (message,) = document(app)["channels"]["root"]["messages"].values()
    assert message["contentType"] == "application/cbor"


def test_sets_of_parameters_that_several_functions_read() -> None:
    """Each value has to fit all of them."""
    app = Router("/{id}")

    @app.on_connect
    async def one(id: int, limit: Annotated[int, Query()]) -> None: ...

    @app.on_connect
    async def two(id: int, limit: Annotated[int | None, Query()] = None) -> None: ...

    @app.consumer
    async def take(
        message: Annotated[int, msgspec.Meta(description="n", examples=[7])],
    ) -> None: ...

    channel = document(app)["channels"]["id"]
    assert channel["parameters"]["id"]["x-schema"] == {"type": "integer"}
    query = channel["bindings"]["ws"]["query"]
    assert len(query["properties"]["limit"]["allOf"]) == 2
    assert query["required"] == ["limit"]
    (message,) = channel["messages"].values()
    assert message["examples"] == [{"payload": 7}]


def test_path_parameters_that_name_their_values() -> None:
    Side = Annotated[Literal["left", "right"], msgspec.Meta(description="which")]
    app = Router("/{side}/{other}")

    @app.consumer
    async def take(message: str, side: Side) -> None: ...

    parameters = document(app)["channels"]["side_other"]["parameters"]
    assert parameters["side"]["enum"] == ["left", "right"]
    assert parameters["side"]["description"] == "which"
    assert parameters["other"] == {}


class Row(msgspec.Struct, array_like=True):
    a: int
    b: int = 1


class Lean(msgspec.Struct, tag="lean", omit_defaults=True):
    a: int
    b: int = 1
    c: int | msgspec.UnsetType = msgspec.UNSET


class Half(TypedDict):
    a: int
    b: NotRequired[Row]


@dataclass
class Whole:
    """"""

    a: Half
    b: int = 1


def test_what_is_always_sent() -> None:
    app = Router("/")

    @app.consumer
    async def take(message: str) -> Lean | Whole | list[Row]: ...

    schemas = document(app)["components"]["schemas"]
    assert schemas["RowSent"]["minItems"] == 2
    assert schemas["Lean"]["required"] == ["type", "a"]
    assert schemas["HalfSent"]["required"] == ["a"]
    assert schemas["WholeSent"]["required"] == ["a", "b"]


class Get(Call[int], tag="get"): ...


class Told(msgspec.Struct, tag_field="kind", tag="told"): ...


def test_calls_in_another_encoding() -> None:
    app = Router("/", codec="msgpack")

    @app.consumer
    async def get(message: Get) -> int: ...

    messages = document(app)["channels"]["root"]["messages"].values()
    assert {each["contentType"] for each in messages} == {"application/msgpack"}


def test_what_is_only_sent_and_what_has_no_examples() -> None:
    app = Router("/")

    @app.producer
    async def send() -> AsyncIterator[Told | Annotated[int, msgspec.Meta(ge=0)]]:
        yield 1

    messages = document(app)["channels"]["root"]["messages"]
    assert messages["sends.told"]["x-tag"] == {"field": "kind", "value": "told"}
    (number,) = [each for name, each in messages.items() if name != "sends.told"]
    assert "examples" not in number


PARSES = """
import { Parser } from "@asyncapi/parser";
import { readFileSync } from "node:fs";
const found = {};
for (const [name, text] of Object.entries(JSON.parse(readFileSync(0, "utf8")))) {
  const { document, diagnostics } = await new Parser().parse(text);
  const said = diagnostics.map((each) => `${each.path.join(".")}: ${each.message}`);
  found[name] = [Boolean(document), said];
}
console.log(JSON.stringify(found));
"""


@pytest.mark.long
def test_the_parser_of_asyncapi_has_nothing_to_say() -> None:
    """Of any example, and of an app with all that a contract can have; of a bad document it has."""
    folder = FOLDER / "asyncapi"
    with locked():
        folder.mkdir(exist_ok=True)
        install(folder, "--ignore-scripts", packages={"@asyncapi/parser": "3.6.6"})
    (folder / "parse.js").write_text(PARSES)
    names = [f"examples.{each}" for each in EXAMPLES] + ["examples.dashboard"]
    apps = {each: import_module(each).app for each in names}
    documents = {
        name: json.dumps(document(app), indent=2)
        for name, app in {**apps, "served": served.app, "all": app_of()}.items()
    }
    documents["bad"] = documents["all"].replace('"receive"', '"take"')
    run = subprocess.run(
        [program("node"), "parse.js"],
        cwd=folder,
        input=json.dumps(documents),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    parsed, said = found.pop("bad")
    assert not parsed
    assert said
    assert found == {name: [True, []] for name in found}
