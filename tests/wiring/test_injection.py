"""Where values come from: every row of the table, decided at start-up."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from enum import Enum
from typing import Annotated, Any, Generic, NewType, TypeVar, Union
from uuid import UUID

import anyio
import msgspec
import pytest
from anyio.abc import TaskGroup

from wsflow import (
    Call,
    Connection,
    Cookie,
    End,
    Header,
    Message,
    Query,
    Registry,
    Request,
    Router,
    Topic,
)
from wsflow.declare.router import Handler
from wsflow.testing import connect, serve_in_memory
from wsflow.wiring.compile import compile_app
from wsflow.wiring.invocation import Invocation
from wsflow.wiring.sources import Fixed, PerMessage


class Color(Enum):
    RED = "red"


Room = Annotated[Topic[str], "room.{room}"]
UserId = NewType("UserId", int)
T = TypeVar("T")


class Box(msgspec.Struct, Generic[T], tag="box"):
    content: T


Move = Union["Left", "Right"]


class Left(msgspec.Struct, tag="left"):
    pass


class Right(msgspec.Struct, tag="right"):
    pass


async def test_every_row() -> None:
    seen: dict[str, Any] = {}
    app = Router("/{room}/{number}")

    class Database: ...

    class User: ...

    class Transaction: ...

    database, user, transaction = Database(), User(), Transaction()
    replica = Annotated[Database, "replica"]

    @app.lifespan
    async def open_database(registry: Registry, tasks: TaskGroup) -> AsyncIterator[Database]:
        yield database

    @app.lifespan
    async def open_replica() -> replica:
        return Database()

    @app.on_connect
    async def log_in(
        request: Request,
        db: Database,
        tags: Annotated[list[str], Query("tag")],
        flag: Annotated[bool, Query()],
        color: Annotated[Color, Query()] = Color.RED,
        limit: Annotated[int | None, Query()] = None,
        user_agent: Annotated[str, Header()] = "",
        custom: Annotated[str, Header("X-Custom")] = "",
        session: Annotated[UUID | None, Cookie()] = None,
    ) -> User:
        seen["on_connect"] = (db, tags, flag, color, limit, user_agent, custom, session)
        seen["request"] = request
        return user

    @app.on_message
    async def begin(
        message: Annotated[object, Message()], user: User
    ) -> AsyncGenerator[Transaction, None]:
        seen["on_message"] = (message, user)
        yield transaction

    @app.consumer
    async def handle(
        message: str,
        room: Room,
        number: int,
        db: Database,
        other: replica,
        who: User,
        work: Transaction,
        connection: Connection,
        /,
        defaulted: complex = 1j,
        *,
        registry: Registry,
        group: TaskGroup,
        more: Transaction,
        late: bytearray | None = None,
    ) -> str:
        assert other is not db
        seen["consumer"] = (db, who, work, more, number, room.name, defaulted, late)
        assert registry.get(connection.id) is connection
        group.start_soon(anyio.sleep, 0)
        return "done"

    @app.producer(on_end="keep")
    async def produce(room: str) -> AsyncIterable[str]:
        yield room

    @app.on_disconnect
    async def gone(end: End, connection: Connection) -> None:
        seen["end"] = (end, connection.end)

    headers = {
        "User-Agent": "test",
        "X-Custom": "yes",
        "Cookie": "session=12345678-1234-5678-1234-567812345678; other=1",
    }
    target = "/my%20room/7?tag=a&tag=b&flag=1&limit=3"
    async with connect(app, target, headers=headers) as peer:
        assert await peer.receive() == "my room"
        await peer.send("hello")
        assert await peer.receive() == "done"
        await peer.close(4000)
    session = UUID("12345678-1234-5678-1234-567812345678")
    assert seen["on_connect"] == (
        database,
        ["a", "b"],
        True,
        Color.RED,
        3,
        "test",
        "yes",
        session,
    )
    assert seen["on_message"] == ("hello", user)
    assert seen["consumer"] == (
        database,
        user,
        transaction,
        transaction,
        7,
        "room.my%20room",
        1j,
        None,
    )
    end, same = seen["end"]
    assert end is same
    assert end.code == 4000
    request = seen["request"]
    assert request.path == "/my%20room/7"
    assert request.path_params == {"room": "my room", "number": "7"}
    assert request.query["tag"] == "b"
    assert dict(request.cookies)["other"] == "1"


def picky() -> Router:
    app = Router("/{number}")

    @app.consumer
    async def handle(
        message: str,
        number: int,
        count: Annotated[int, Query()],
        tags: Annotated[list[int], Query("tag")] = [],  # noqa: B006
        key: Annotated[str, Header("X-Key")] = "",
    ) -> None: ...

    return app


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/x?count=1", 404, "not found\n"),
        ("/1", 400, "query 'count' is missing\n"),
        ("/1?count=x", 400, "query 'count' is not valid: Expected `int`\n"),
        ("/1?count=1&tag=x", 400, "query 'tag' is not valid: Expected `int`\n"),
        ("/1/2?count=1", 404, "Not Found\n"),
        ("/%ff?count=1", 404, "Not Found\n"),
        ("//?count=1", 404, "Not Found\n"),
    ],
)
async def test_what_does_not_fit_is_answered(target: str, status: int, body: str) -> None:
    async with connect(picky(), target) as peer:
        assert peer.rejected.status == status
        assert peer.rejected.body.startswith(body)


async def test_factories_with_local_types() -> None:
    """Annotations are strings here, and name what is local to this function."""

    class Local(msgspec.Struct, tag="local"):
        text: str

    class Dependency:
        pass

    app = Router("/")

    @app.on_connect()
    async def provide() -> Dependency:
        return Dependency()

    @app.consumer()
    async def handle(message: Later | Local, dependency: Dependency) -> str:
        return type(message).__name__

    class Later(msgspec.Struct, tag="later"):
        pass

    async with connect(app) as peer:
        await peer.send(Local("a"))
        await peer.send(Later())
        assert [await peer.receive(), await peer.receive()] == ["Local", "Later"]


class Counter:
    """A handler that is an object, with a method that is another."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, message: str) -> int:
        self.count += 1
        return self.count

    async def binary(self, message: bytes) -> int:
        return -self.count


async def add(amount: int, message: Left | Right) -> str:
    return f"{type(message).__name__} {amount}"


async def test_handlers_that_are_no_plain_functions() -> None:
    app = Router("/")
    counter = Counter()
    assert app.consumer(counter) is counter
    app.consumer(counter.binary)
    other = Router("/other")
    app.include(other)
    other.consumer(functools.partial(add, 5))
    async with connect(app) as peer:
        await peer.send("x")
        assert await peer.receive() == 1
        await peer.send(b"x")
        assert await peer.receive() == -1
    async with connect(app, "/other") as peer:
        await peer.send(Right())
        assert await peer.receive() == "Right 5"
    (plan,) = compile_app(other).routes
    assert plan.consumers[0].handler.name == "add"
    assert "test_injection.py:" in plan.consumers[0].handler.where
    (plan,) = [each for each in compile_app(app).routes if each.template == "/"]
    assert [each.handler.name for each in plan.consumers] == ["Counter", "Counter.binary"]
    assert "test_injection.py:" in plan.consumers[0].handler.where


async def test_generic_structs_and_new_types() -> None:
    app = Router("/")

    @app.on_connect
    async def user() -> UserId:
        return UserId(7)

    @app.consumer
    async def handle(message: Box[int], user: UserId, maybe: bytearray | None = None) -> Box[int]:
        return Box(message.content + user)

    async with connect(app) as peer:
        await peer.send(Box(1))
        assert await peer.receive(Box) == Box(8)


async def test_override() -> None:
    ran: list[str] = []

    class Database:
        def __init__(self, name: str) -> None:
            self.name = name

    app = Router("/")

    @app.lifespan
    async def database() -> Database:
        ran.append("database")
        return Database("real")

    @app.on_connect
    async def check(db: Database) -> None:
        ran.append(db.name)

    @app.consumer
    async def handle(message: str, db: Database) -> str:
        return db.name

    fake = Database("fake")
    async with connect(app, override={Database: fake}) as peer:
        await peer.send("x")
        assert await peer.receive() == "fake"
        with pytest.raises(ValueError, match="runs already with another override"):
            async with connect(app, override={Database: Database("other")}):
                pass
        async with connect(app) as second, connect(app, override={Database: fake}):
            await second.send("x")
            assert await second.receive() == "fake"
    assert ran == ["fake"] * 3
    async with serve_in_memory(app, override={}) as server, server.connect("/") as peer:
        await peer.send("x")
        assert await peer.receive() == "real"


async def test_inner_before_outer_and_exact_types() -> None:
    class User:
        def __init__(self, name: str) -> None:
            self.name = name

    app = Router("/")
    inner = Router("/in")
    app.include(inner, "a/")

    @app.on_connect
    async def outer() -> User:
        return User("outer")

    @inner.on_connect
    async def within(user: User) -> User:
        return User(f"inner of {user.name}")

    @inner.on_connect
    async def maybe() -> User | None:
        return None

    @inner.consumer
    async def handle(message: str, user: User, maybe: User | None) -> str:
        return f"{user.name}, {maybe}"

    async with connect(app, "/a/in") as peer:
        await peer.send("x")
        assert await peer.receive() == "inner of outer, None"


async def test_a_router_included_twice_has_one_lifespan() -> None:
    entered: list[int] = []
    app = Router("/")
    part = Router("/part")
    app.include(part, "/one")
    app.include(part, "/two")

    class Thing: ...

    @part.lifespan
    async def thing() -> AsyncIterator[Thing]:
        entered.append(1)
        yield Thing()

    @part.consumer
    async def handle(message: str, thing: Thing) -> str:
        return message

    async with connect(app, "/one/part") as one, connect(app, "/two/part") as two:
        for peer in (one, two):
            await peer.send("x")
            assert await peer.receive() == "x"
    assert entered == [1]


async def test_subprotocols() -> None:
    app = Router("/", subprotocols=["v2", "v1"])

    @app.consumer
    async def handle(message: list[int], connection: Connection) -> dict[str, Any]:
        return {"subprotocol": connection.subprotocol}

    for offered, agreed in [
        (["v1", "v2"], "v2"),
        (["wsflow.msgpack"], "wsflow.msgpack"),
        (["x"], None),
        ([], None),
    ]:
        async with connect(app, subprotocols=offered) as peer:
            assert peer.subprotocol == agreed
            await peer.send([1])
            assert await peer.receive() == {"subprotocol": agreed}


def test_values_per_message_fill_their_holes() -> None:
    """The closure of a call, in all its shapes."""

    def fn(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    handler = Handler("consumer", fn, None)
    environment: Any = None
    for count in range(4):
        sources = tuple(Fixed(number, "") for number in range(count))
        call = Invocation(handler, sources, (), ("x",) * count)
        assert not call.per_message
        assert call.bind(environment)("m") == (("m", *range(count)), {})
    keyword = Invocation(handler, (Fixed(1, ""),), (("k", Fixed(2, "")),), ("x",))
    assert keyword.bind(environment)("m") == (("m", 1), {"k": 2})
    holes = Invocation(
        handler,
        (Fixed(1, ""), PerMessage(handler)),
        (("k", PerMessage(None)), ("l", Fixed(3, ""))),
        ("x", "y"),
    )
    assert holes.per_message
    fill = holes.bind_each(environment)
    assert fill({handler: "h", None: "m"})("m") == (("m", 1, "h"), {"k": "m", "l": 3})


def test_a_consumer_that_asks_for_nothing_is_called_directly() -> None:
    app = Router("/")

    @app.consumer
    async def handle(message: str) -> None: ...

    (plan,) = compile_app(app).routes
    assert plan.consumers[0].invocation.bind(None) is handle  # type: ignore[arg-type]


async def test_what_others_write_beside_a_type_makes_no_difference() -> None:
    class User: ...

    class Add(Call[int], tag="add"):
        number: Annotated[int, "doc"]

    app = Router("/")

    @app.on_connect
    async def enter(request: Annotated[Request, "doc"]) -> Annotated[User, "doc"]:
        assert isinstance(request, Request)
        return User()

    @app.on_message
    async def around(user: Annotated[User, "other"], tasks: Annotated[TaskGroup, []]) -> None:
        assert isinstance(user, User)
        assert tasks

    @app.consumer
    async def add(
        message: Annotated[Add, msgspec.Meta(title="a sum"), "doc"], user: User
    ) -> Annotated[int, "doc"]:
        return message.number + 1

    @app.consumer
    async def raw(message: Annotated[bytes, "doc"], user: Annotated[User, "third"]) -> None: ...

    @app.on_disconnect
    async def gone(end: Annotated[End, "doc"]) -> None:
        assert end.code == 1000

    async with connect(app) as peer:
        assert await peer.call(Add(1)) == 2
        await peer.send(b"raw")
        await peer.close()
        await peer.wait_closed()

    async with connect(app, override={Annotated[User, "doc"]: User()}) as peer:
        assert await peer.call(Add(1)) == 2
