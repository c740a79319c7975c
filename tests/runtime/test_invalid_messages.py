"""Which messages are taken, and what the app, the peer and the log are told of the others."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple

import anyio
import anyio.lowlevel
import msgspec
import pytest

import wsflow
from tests.loops import LOOPS
from tests.raw import frame, raw, request
from wsflow import Call, Close, Connection, DeclarationError, InvalidMessage, Limits, Router
from wsflow import Message as TheMessage
from wsflow.server import Settings, serve
from wsflow.testing import MemoryPeer, connect, serve_in_memory
from wsflow.wiring.compile import compile_app


class Say(msgspec.Struct, tag="say"):
    text: Annotated[str, msgspec.Meta(max_length=20)]


class Slow(msgspec.Struct, tag="slow"):
    pass


class Refused(msgspec.Struct, tag="refused"):
    reason: str
    where: str
    tag: str | int | None
    size: int


BAD: dict[str, tuple[bytes, str, str, Any]] = {
    "malformed": (b'{"type":"say"', "Input data was truncated", "$", None),
    "not JSON": (b"hello", "JSON is malformed: invalid character (byte 0)", "$", None),
    "a field": (b'{"type":"say","text":5}', "Expected `str`, got `int`", "$.text", "say"),
    "a constraint": (
        b'{"type":"say","text":"%s"}' % (b"x" * 21),
        "Expected `str` of length <= 20",
        "$.text",
        "say",
    ),
    "a field is missing": (
        b'{"type":"say"}',
        "Object missing required field `text`",
        "$",
        "say",
    ),
    "an unknown tag": (
        b'{"type":"shout","text":"hi"}',
        "unknown type 'shout': this path takes 'say', 'slow'",
        "$.type",
        "shout",
    ),
    "no tag": (b'{"text":"hi"}', "Object missing required field `type`", "$", None),
    "a tag of another type": (b'{"type":5}', "Expected `str`", "$.type", None),
    "an array": (b"[]", "Expected `object`, got `array`", "$", None),
    "no UTF-8": (b'{"type":"say","text":"\xff"}', "not UTF-8 at byte 22", "$", None),
    "no UTF-8 in an unknown field": (
        b'{"type":"say","text":"a","x":"\xff"}',
        "not UTF-8 at byte 30",
        "$",
        None,
    ),
    "too deep": (b"[" * 100_000, "Expected `object`, got `array`", "$", None),
    "large": (
        b'{"type":"say","text":"%s"}' % (b"x" * 9000),
        "Expected `str` of length <= 20",
        "$.text",
        "say",
    ),
}


def app_of(handled: list[str], *, takes: bool = True, gate: anyio.Event | None = None) -> Router:
    app = Router("/")

    @app.consumer
    async def say(message: Say) -> Say:
        if gate is not None:
            await gate.wait()
        handled.append(message.text)
        return message

    @app.consumer(concurrency=2)
    async def slow(message: Slow) -> None: ...

    if takes:

        @app.on_error
        async def bad(error: InvalidMessage) -> Refused:
            handled.append("bad")
            return Refused(error.reason, error.where, error.tag, len(error.payload))

    return app


def send(peer: MemoryPeer, payload: bytes, text: bool = True) -> None:
    """Send a payload as it is."""
    peer._transport.peer_send(payload, text)


# -- an app answers, and goes on


@pytest.mark.parametrize("kind", BAD)
async def test_an_app_answers_and_goes_on(kind: str) -> None:
    payload, reason, where, tag = BAD[kind]
    handled: list[str] = []
    async with connect(app_of(handled)) as peer:
        await peer.send(Say("before"))
        send(peer, payload)
        await peer.send(Say("after"))
        assert await peer.receive(Say) == Say("before")
        assert await peer.receive(Refused) == Refused(reason, where, tag, len(payload))
        assert await peer.receive(Say) == Say("after")
    assert handled == ["before", "bad", "after"]


async def test_it_has_its_place_behind_what_is_being_handled() -> None:
    gate, handled = anyio.Event(), list[str]()
    async with connect(app_of(handled, gate=gate)) as peer:
        for message in (Say("1"), Say("2")):
            await peer.send(message)
        send(peer, b"[]")
        await peer.send(Say("3"))
        await peer.receive_nothing()
        assert handled == []
        gate.set()
        assert [type(await peer.receive()).__name__ for _ in range(4)]
    assert handled == ["1", "2", "bad", "3"]


@pytest.mark.parametrize("kind", BAD)
async def test_without_such_a_function_the_log_says_why(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    payload, reason, where, _ = BAD[kind]
    handled: list[str] = []
    async with connect(app_of(handled, takes=False)) as peer:
        send(peer, payload)
        end = await peer.wait_closed()
        session: Any = peer._session
        assert (end.cause, end.code, end.error) == ("invalid", 1007, None)
        whole = reason if where == "$" else f"{reason} - at `{where}`"
        assert end.reason == whole[:123]
        (record,) = [each for each in caplog.records if "invalid message" in each.getMessage()]
        assert record.levelname == "WARNING"
        assert record.getMessage() == f"connection {session.id} at /: invalid message: {whole}"


@pytest.mark.parametrize("raises", [Close(4000, "enough"), ValueError("no"), "again"])
async def test_what_such_a_function_raises(raises: Any, caplog: pytest.LogCaptureFixture) -> None:
    app = Router("/")

    @app.consumer
    async def say(message: Say) -> None: ...

    @app.on_error
    async def bad(error: InvalidMessage) -> None:
        raise error if raises == "again" else raises

    async with connect(app) as peer:
        send(peer, b"[]")
        end = await peer.wait_closed()
        assert (end.error is None) is not isinstance(raises, ValueError)
    if raises == "again":
        assert (end.code, end.reason) == (1007, "Expected `object`, got `array`")
        assert "invalid message: Expected `object`" in caplog.text
        assert "Traceback" not in caplog.text
    else:
        assert end.code == (4000 if isinstance(raises, Close) else 1011)


async def test_functions_for_all_errors_take_it_too_and_the_nearest_type_first() -> None:
    outer, inner = Router("/"), Router("/inner")
    outer.include(inner)
    took: list[str] = []

    @inner.consumer
    async def say(message: Say) -> None: ...

    @inner.on_error
    async def any_error(error: Exception) -> None:
        took.append("any")

    async with connect(outer, "/inner") as peer:
        send(peer, b"[]")
        await peer.receive_nothing()
    assert took == ["any"]

    @outer.on_error
    async def bad(error: InvalidMessage) -> None:
        took.append("bad")

    async with connect(outer, "/inner") as peer:
        send(peer, b"[]")
        await peer.receive_nothing()
    assert took == ["any", "bad"]


async def test_what_a_type_refuses_itself() -> None:
    """Its text is for the function and the log, and not for the peer."""

    class Even(msgspec.Struct, tag="even"):
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError("odd")
            if self.number > 10:
                raise KeyError("secret")

    app = Router("/")

    @app.consumer
    async def even(message: Even) -> None: ...

    @app.on_error
    async def bad(error: InvalidMessage) -> str:
        return f"{error} {error.__cause__!r}"

    async with connect(app) as peer:
        send(peer, b'{"type":"even","number":1}')
        assert await peer.receive(str) == "odd None"
        send(peer, b'{"type":"even","number":12}')
        assert "not a valid message KeyError('secret')" in await peer.receive(str)


async def test_other_reasons_end_the_connection_all_the_same() -> None:
    async with connect(app_of([])) as peer:
        send(peer, b"binary", False)
        assert (await peer.wait_closed()).code == 1003


async def test_raw_text_that_is_none() -> None:
    app = Router("/")

    @app.consumer
    async def take(message: str) -> str:
        return message

    @app.on_error
    async def bad(error: InvalidMessage) -> str:
        return f"{error} {error.payload!r}"

    async with connect(app) as peer:
        send(peer, b"a\xff")
        assert await peer.receive(str) == "not UTF-8 at byte 1 b'a\\xff'"


@pytest.mark.parametrize("kind", ["iterated", "concurrency", "limited"])
async def test_beside_consumers_of_every_kind(kind: str) -> None:
    app = Router("/", rate="1000/s" if kind == "limited" else None)
    took: list[str] = []

    if kind == "iterated":

        @app.consumer
        async def each(messages: AsyncIterator[Say]) -> None:
            async for message in messages:
                took.append(message.text)
    else:

        @app.consumer(concurrency=2 if kind == "concurrency" else None)
        async def one(message: Say) -> None:
            took.append(message.text)

    @app.on_error
    async def bad(error: InvalidMessage) -> None:
        took.append("bad")

    async with connect(app) as peer:
        send(peer, b"[]")
        await peer.send(Say("hi"))
        await peer.receive_nothing()
    assert sorted(took) == ["bad", "hi"]


async def test_they_count_for_the_rate_limits_of_the_router() -> None:
    app = Router("/", rate="1/h", burst=2, when_over="close")
    took: list[str] = []

    @app.consumer
    async def say(message: Say) -> None: ...

    @app.on_error
    async def bad(error: InvalidMessage) -> None:
        took.append("bad")

    async with connect(app) as peer:
        for _ in range(3):
            send(peer, b"[]")
        assert (await peer.wait_closed()).code == 1008
    assert len(took) <= 2


async def test_after_the_server_has_stopped_reading() -> None:
    """What came is handled; what comes then is not, and does no harm."""
    gate, handled = anyio.Event(), list[str]()
    async with serve_in_memory(
        app_of(handled, gate=gate), limits=Limits(close_timeout=1)
    ) as server:
        async with server.connect("/") as peer:
            (session,) = server._app.sessions.values()
            await peer.send(Say("1"))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.drain, 5)
                while not session._inbox.closed:
                    await anyio.lowlevel.checkpoint()
                session._dispatcher._refuse(ValueError(), b"[]")
                gate.set()
    assert handled == ["1"]


def test_errors_of_msgspec_are_refused_with_the_cure() -> None:
    for kind in (msgspec.ValidationError, msgspec.DecodeError, msgspec.MsgspecError):
        app = Router("/")

        @app.consumer
        async def say(message: Say) -> None: ...

        async def bad(error: Any) -> None: ...

        bad.__annotations__["error"] = kind
        app.on_error(bad)
        with pytest.raises(DeclarationError, match="take wsflow"):
            compile_app(app)


# -- unknown tags


async def closed(connection: Connection) -> Any:
    while connection.end is None:
        await anyio.lowlevel.checkpoint()
    return connection.end


@pytest.mark.parametrize("unknown", [None, "close", "ignore"])
@pytest.mark.parametrize("client", [False, True])
async def test_unknown_tags(client: bool, unknown: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A server closes by default, and a client ignores."""
    caplog.set_level("INFO")
    took: list[str] = []

    def of(said: Any) -> Router:
        router = Router("/", unknown=said)

        @router.consumer
        async def say(message: Say) -> None:
            took.append(message.text)

        return router

    ours, theirs = (of(None), of(unknown)) if client else (of(unknown), of(None))
    ignores = unknown == "ignore" or (client and unknown is None)
    async with connect(ours, "/", client=theirs) as linked:
        sender = linked.server if client else linked.client
        for _ in range(3):
            for tag in ("new", "newer"):
                await sender.send(msgspec.Raw(b'{"type":"%s"}' % tag.encode()))
        if ignores:
            await sender.send(Say("hi"))
            while not took:
                await anyio.lowlevel.checkpoint()
            for tag in ("new", "newer"):
                assert caplog.text.count(f"messages with the tag '{tag}' are ignored at /") == 1
        else:
            end = await closed(linked.client if client else linked.server)
            assert end.code == 1007
            assert end.reason == "unknown type 'new': this path takes 'say' - at `$.type`"


async def test_a_router_has_that_of_the_router_around_it() -> None:
    outer, middle, inner = (
        Router("/", unknown="ignore"),
        Router("/m"),
        Router("/i", unknown="close"),
    )
    outer.include(middle)
    middle.include(inner)
    for router in (middle, inner):

        @router.consumer
        async def say(message: Say) -> None: ...

    async with serve_in_memory(outer) as server:
        async with server.connect("/m") as peer:
            await peer.send({"type": "new"})
            await peer.receive_nothing()
            assert server.registry.counters()["ignored"] == 1
        async with server.connect("/m/i") as peer:
            await peer.send({"type": "new"})
            assert (await peer.wait_closed()).code == 1007


async def test_not_more_than_a_hundred_tags_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    app = Router("/", unknown="ignore")

    @app.consumer
    async def say(message: Say) -> None: ...

    async with connect(app) as peer:
        for number in range(300):
            await peer.send({"type": f"new {number}"})
        await peer.receive_nothing()
    assert caplog.text.count("are ignored at /") == 100


def test_what_unknown_cannot_be() -> None:
    app = Router("/", unknown="drop")  # type: ignore[arg-type]

    @app.consumer
    async def say(message: Say) -> None: ...

    with pytest.raises(DeclarationError, match=r"unknown is 'drop'.\n *Fix: use \"close\" or"):
        compile_app(app)


async def test_a_client_without_a_router_ignores_them(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        return
    app = Router("/")

    @app.producer
    async def produce() -> AsyncIterator[Refused | Say]:
        yield Refused("new", "$", None, 0)
        yield Say("hi")
        await anyio.sleep_forever()

    async with serve(app, Settings(port=0, close_timeout=0.1)) as server:
        async with wsflow.connect(f"ws://127.0.0.1:{server.port}/", receives=(Say,)) as client:
            assert await client.receive(timeout=10) == Say("hi")


# -- what takes the rest


class Add(Call[int], tag="add"):
    pass


REST: dict[str, tuple[Any, list[tuple[bytes, str]]]] = {
    "Any": (
        Any,
        [
            (b'{"type":"say","text":"hi"}', "Say"),
            (b'{"type":"other"}', "rest dict"),
            (b"{}", "rest dict"),
            (b"[1]", "rest list"),
            (b"5", "rest int"),
            (b'"text"', "rest str"),
            (b"null", "rest NoneType"),
            (b'{"type":"say","text":5}', "1007"),
            (b'{"type":"say"', "1007"),
        ],
    ),
    "object": (object, [(b"[1]", "rest list"), (b'{"type":"say","text":"hi"}', "Say")]),
    "dict": (
        dict,
        [
            (b'{"type":"other"}', "rest dict"),
            (b"{}", "rest dict"),
            (b'{"type":"say","text":"hi"}', "Say"),
            (b"[1]", "1007"),
            (b'{"type":"say","text":5}', "1007"),
        ],
    ),
    "dict of ints": (
        dict[str, int],
        [(b'{"a":1}', "rest dict"), (b'{"a":"b"}', "1007"), (b"5", "1007")],
    ),
    "Raw": (
        msgspec.Raw,
        [
            (b'{"type":"other"}', "rest Raw"),
            (b"[1]", "rest Raw"),
            (b'{"type":"say","text":"hi"}', "Say"),
            (b'{"type":"say","text":5}', "1007"),
            (b"[1", "1007"),
            (b'["\xff"]', "1007"),
        ],
    ),
}
CASES = [(name, data, what) for name, (_, cases) in REST.items() for data, what in cases]


@pytest.mark.parametrize(("name", "data", "what"), CASES, ids=str)
@pytest.mark.parametrize("calls", [False, True])
@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_beside_typed_ones(
    codec: Any, calls: bool, name: str, data: bytes, what: str
) -> None:
    if codec == "msgpack":
        try:
            data = msgspec.msgpack.encode(msgspec.json.decode(data))
        except (msgspec.DecodeError, UnicodeDecodeError):
            data = b"\x91\xa1\xff" if b"\xff" in data else b"\x92\x01"
    app = Router("/", codec=codec)

    @app.consumer
    async def say(message: Say) -> str:
        return "Say"

    async def rest(message: Any) -> str:
        return f"rest {type(message).__name__}"

    rest.__annotations__["message"] = REST[name][0]
    app.consumer(rest)
    if calls:

        @app.consumer
        async def add(message: Add) -> int:
            return 5

    async with connect(app) as peer:
        if calls:
            assert await peer.call(Add()) == 5
        send(peer, data, codec == "json")
        if what.isdecimal():
            assert (await peer.wait_closed()).code == int(what)
        else:
            assert await peer.receive(str) == what


@pytest.mark.parametrize("name", REST)
@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_alone_it_takes_everything(codec: Any, name: str) -> None:
    kind, _ = REST[name]
    values: list[Any] = [{}, {"a": 1}] if "dict" in name else [{}, [1], 5, "a", None, {"type": "x"}]
    app = Router("/", codec=codec)

    async def rest(message: Any) -> str:
        return str(bytes(message) if isinstance(message, msgspec.Raw) else message)

    rest.__annotations__["message"] = kind
    app.consumer(rest)
    encode = msgspec.json.encode if codec == "json" else msgspec.msgpack.encode
    async with connect(app) as peer:
        for value in values:
            send(peer, encode(value), codec == "json")
            expected = encode(value) if kind is msgspec.Raw else value
            assert await peer.receive(str) == str(expected)


@pytest.mark.parametrize("other", [Any, msgspec.Raw])
async def test_dict_beside_one_that_takes_all(other: Any) -> None:
    app = Router("/")

    @app.consumer
    async def objects(message: dict[str, int]) -> str:
        return "objects"

    async def rest(message: Any) -> str:
        return type(message).__name__

    rest.__annotations__["message"] = other
    app.consumer(rest)
    async with connect(app) as peer:
        send(peer, b'{"a":1}')
        assert await peer.receive(str) == "objects"
        send(peer, b"[1]")
        assert await peer.receive(str) == ("list" if other is Any else "Raw")
        send(peer, b'{"a":"b"}')
        assert (await peer.wait_closed()).code == 1007


async def test_beside_types_without_tags() -> None:
    """A message belongs to the type that has its shape: what is wrong with it is said."""
    app = Router("/")

    @app.consumer
    async def numbers(message: list[int]) -> str:
        return "numbers"

    @app.consumer
    async def flag(message: bool) -> str:
        return "flag"

    @app.consumer
    async def rest(message: Any) -> str:
        return f"rest {message}"

    for data, what in [
        (b"[1]", "numbers"),
        (b"true", "flag"),
        (b"5", "rest 5"),
        (b'{"a":1}', "rest {'a': 1}"),
        (b"null", "rest None"),
        (b'["a"]', ""),
    ]:
        async with connect(app) as peer:
            send(peer, data)
            if what:
                assert await peer.receive(str) == what
            else:
                assert (await peer.wait_closed()).code == 1007


class Color(Enum):
    RED = "red"


class Pair(NamedTuple):
    x: int


@dataclass
class Plain:
    x: int


class Row(msgspec.Struct, array_like=True):
    x: int


@pytest.mark.parametrize(
    ("kind", "good", "bad", "other"),
    [
        (Color, b'"red"', b'"blue"', b"5"),
        (Pair, b"[1]", b'["a"]', b'"a"'),
        (Row, b"[1]", b'["a"]', b'"a"'),
        (Plain, b'{"x":1}', b'{"x":"a"}', b"[1]"),
        (uuid.UUID, b'"00000000-0000-0000-0000-000000000000"', b'"a"', b"5"),
        (float, b"1.5", b"", b'"a"'),
        (Literal["a"], b'"a"', b'"b"', b"null"),
    ],
)
async def test_each_shape(kind: Any, good: bytes, bad: bytes, other: bytes) -> None:
    app = Router("/")

    async def typed(message: Any) -> str:
        return "typed"

    @app.consumer
    async def rest(message: Any) -> str:
        return "rest"

    typed.__annotations__["message"] = kind
    app.consumer(typed)
    async with connect(app) as peer:
        for data, what in ((good, "typed"), (other, "rest")):
            send(peer, data)
            assert await peer.receive(str) == what
        if bad:
            send(peer, bad)
            assert (await peer.wait_closed()).code == 1007


async def test_two_that_take_all_are_one_too_many() -> None:
    for first, second in [(Any, msgspec.Raw), (msgspec.Raw, object), (dict, dict[str, int])]:
        app = Router("/")

        async def one(message: Any) -> None: ...
        async def two(message: Any) -> None: ...

        one.__annotations__["message"] = first
        two.__annotations__["message"] = second
        app.consumer(one)
        app.consumer(two)
        with pytest.raises(DeclarationError, match="are taken by consumer one"):
            compile_app(app)


async def test_on_message_functions_see_them_and_not_the_invalid_ones() -> None:
    app = Router("/")
    seen: list[Any] = []

    @app.on_message
    async def around(message: Annotated[object, TheMessage()]) -> None:
        seen.append(message)

    @app.consumer
    async def rest(message: Any) -> None: ...

    @app.on_error
    async def bad(error: InvalidMessage) -> None:
        seen.append("bad")

    async with connect(app) as peer:
        send(peer, b"[1]")
        send(peer, b"[1")
        await peer.receive_nothing()
    assert seen == [[1], "bad"]


# -- text is UTF-8, wherever it is


class Relay(msgspec.Struct, tag="relay"):
    what: msgspec.Raw


NO_UTF8 = {
    "an unknown field": b'{"type":"say","text":"a","x":"\xff"}',
    "a key": b'{"type":"say","text":"a","\xff":1}',
    "a Raw field": b'{"type":"relay","what":"\xff"}',
    "within a Raw field": b'{"type":"relay","what":{"a":["\xc0\x80"]}}',
    "a surrogate": b'{"type":"relay","what":"\xed\xa0\x80"}',
    "cut off": b'{"type":"relay","what":"\xe2\x82"}',
    "large": b'{"type":"relay","what":"' + b"x" * 9000 + b'\xff"}',
}


@pytest.mark.parametrize("where", NO_UTF8)
async def test_bytes_that_are_no_text(where: str) -> None:
    """Who sends them is closed; those to whom they would be passed on are not."""
    app = Router("/")

    @app.consumer
    async def say(message: Say) -> None: ...

    @app.consumer
    async def relay(message: Relay, registry: wsflow.Registry) -> None:
        await registry.broadcast(message)

    async with serve_in_memory(app) as server:
        async with server.connect("/") as sender, server.connect("/") as other:
            send(sender, NO_UTF8[where])
            end = await sender.wait_closed()
            assert end.code == 1007
            assert end.reason.startswith("not UTF-8 at byte")
            await other.send(Relay(msgspec.Raw('"gr\u00fc\u00df"'.encode())))
            assert bytes((await other.receive(Relay)).what).decode() == '"gr\u00fc\u00df"'


async def test_bytes_that_are_no_text_in_messagepack() -> None:
    app = Router("/", codec="msgpack")

    @app.consumer
    async def relay(message: Relay) -> str:
        return "relayed"

    for value, what in [(b"\xa1a", "relayed"), (b"\xa1\xff", ""), (b"\x91\xa1\xff", "")]:
        async with connect(app) as peer:
            send(peer, b"\x82\xa4type\xa5relay\xa4what" + value, False)
            if what:
                assert await peer.receive(str) == what
            else:
                assert (await peer.wait_closed()).code == 1007


@pytest.mark.parametrize("loop", LOOPS)
def test_on_sockets(loop: str) -> None:
    """Small and large ones, which are read by other code."""
    handled: list[str] = []

    async def main() -> None:
        app = app_of(handled)
        async with serve(app, Settings(port=0, close_timeout=0.2)) as server, raw(server) as client:
            client.send(request())
            await client.head()
            for name in ("no UTF-8", "large", "an unknown tag"):
                payload, reason, where, tag = BAD[name]
                client.send(frame(payload))
                _, answer = await client.frame()
                expected = Refused(reason, where, tag, len(payload))
                assert msgspec.json.decode(answer, type=Refused) == expected

    chosen = LOOPS[loop]
    anyio.run(main, backend="asyncio", backend_options=chosen[1] if loop == "uvloop" else {})  # type: ignore[index]
    assert handled == ["bad"] * 3


# -- messages that are arrays


class Moved(msgspec.Struct, tag="moved", array_like=True):
    x: int


class Left(msgspec.Struct, tag="left", array_like=True):
    pass


ARRAYS: list[tuple[str, Any, str]] = [
    ("[moved, 1]", ["moved", 1], "Moved"),
    ("an unknown tag", ["new", 1], "list"),
    ("no tag", [1, 2], "list"),
    ("empty", [], "list"),
    ("a list for a tag", [[]], "list"),
    ("an object with the tag", {"type": "moved"}, "dict"),
    ("a text", "moved", "str"),
]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize(("message", "taken"), [case[1:] for case in ARRAYS])
async def test_arrays_beside_what_takes_the_rest(message: Any, taken: str, codec: str) -> None:
    app = Router("/")

    @app.consumer
    async def array(message: Moved | Left) -> dict[str, str]:
        return {"took": type(message).__name__}

    @app.consumer
    async def rest(message: Any) -> dict[str, str]:
        return {"took": type(message).__name__}

    async with connect(app, subprotocols=[f"wsflow.{codec}"]) as peer:
        encoded = getattr(msgspec, codec).encode(message)
        peer._transport.peer_send(encoded, codec == "json")
        assert await peer.receive() == {"took": taken}
        bad = getattr(msgspec, codec).encode(["moved", "far"])
        peer._transport.peer_send(bad, codec == "json")
        assert (await peer.wait_closed()).code == 1007


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("unknown", ["close", "ignore"])
async def test_unknown_tags_of_arrays(unknown: Any, codec: str) -> None:
    app = Router("/", unknown=unknown)

    @app.consumer
    async def array(message: Moved | Left) -> None: ...

    async with serve_in_memory(app) as server:
        async with server.connect("/", subprotocols=[f"wsflow.{codec}"]) as peer:
            encoded = getattr(msgspec, codec).encode(["new", 1])
            peer._transport.peer_send(encoded, codec == "json")
            if unknown == "ignore":
                await peer.receive_nothing()
            else:
                end = await peer.wait_closed()
                assert end.code == 1007
                assert (
                    end.reason == "unknown tag 'new': this path takes 'moved', 'left' - at `$[0]`"
                )
        assert server.registry.counters()["ignored"] == (unknown == "ignore")


class Loose(msgspec.Struct, tag="loose"):
    value: object
    more: list[object] = []


async def test_a_field_of_object_takes_anything() -> None:
    app = Router("/")

    @app.consumer
    async def loose(message: Loose) -> object:
        return [message.value, *message.more]

    async with connect(app) as peer:
        await peer.send(Loose({"a": [1]}, [1, "x", None]))
        assert await peer.receive() == [{"a": [1]}, 1, "x", None]
