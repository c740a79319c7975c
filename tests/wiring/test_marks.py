"""What annotations say is done: constraints, unions with None, aliases, defaults."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum, StrEnum
from pathlib import Path, PurePath
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import anyio
import msgspec
import pytest
from anyio.abc import TaskGroup
from msgspec import Meta
from starlette.datastructures import MutableHeaders
from typing_extensions import TypeAliasType

from wsflow import (
    Connection,
    Cookie,
    DeclarationError,
    End,
    Header,
    Query,
    Registry,
    Reject,
    Request,
    Requires,
    Router,
    Topic,
    TopicName,
)
from wsflow.testing import connect
from wsflow.wiring.compile import compile_app

T = TypeVar("T")


def answers(path: str, *names: str) -> tuple[Router, Any]:
    """An app whose consumer answers with the repr of what it was given."""
    app = Router(path)

    def register(fn: Any) -> Any:
        app.consumer(fn)
        return fn

    return app, register


async def given(app: Router, target: str, headers: dict[str, str] | None = None) -> Any:
    """What the consumer was given, or the status of the refusal."""
    async with connect(app, target, headers=headers or {}) as peer:
        try:
            await peer.send("?")
        except Reject as refused:
            return refused.status
        return await peer.receive(str)


# -- what msgspec checks in a message is checked everywhere


Short = Annotated[str, Meta(max_length=3)]
Natural = Annotated[int, Meta(ge=1)]

KINDS: list[tuple[Any, str, str]] = [
    (Natural, "1", "0"),
    (Annotated[int, Meta(gt=0, lt=10)], "9", "10"),
    (Annotated[int, Meta(multiple_of=5)], "10", "11"),
    (Annotated[float, Meta(le=1.5)], "1.5", "1.6"),
    (Short, "abc", "abcd"),
    (Annotated[str, Meta(min_length=2)], "ab", "a"),
    (Annotated[str, Meta(pattern="^[a-z]+$")], "abc", "ab1"),
    (Annotated[Natural, Meta(le=5)], "5", "6"),
    (Natural | None, "1", "0"),
    (Short | None, "abc", "abcd"),
    (TypeAliasType("Alias", Natural), "1", "-1"),
    (TypeAliasType("Alias", Short | None), "abc", "abcd"),
    (Annotated[Natural, "a note", 5], "1", "0"),
]


@pytest.mark.parametrize(("kind", "good", "bad"), KINDS, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("place", ["path", "query", "header", "cookie"])
async def test_constraints_hold(place: str, kind: Any, good: str, bad: str) -> None:
    app = Router("/{value}" if place == "path" else "/")
    mark = {"query": Query, "header": Header, "cookie": Cookie}.get(place)
    annotation = Annotated[kind, mark()] if mark is not None else kind

    async def consumer(message: str, value: annotation) -> str:  # type: ignore[valid-type]
        return str(value)

    consumer.__annotations__["value"] = annotation
    app.consumer(consumer)
    for text, expected in [(good, good), (bad, 404 if place == "path" else 400)]:
        target = {"path": f"/{text}", "query": f"/?value={text}"}.get(place, "/")
        headers = {"header": {"value": text}, "cookie": {"Cookie": f"value={text}"}}.get(place)
        assert await given(app, target, headers) == expected


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (list[Natural], "v=1&v=2", "v=1&v=0"),
        (Annotated[list[int], Meta(max_length=2)], "v=1&v=2", "v=1&v=2&v=3"),
        (Annotated[list[int], Meta(max_length=2)] | None, "v=1&v=2", "v=1&v=2&v=3"),
        (Annotated[list[Short] | None, "note"], "v=a", "v=abcd"),
        (Annotated[set[Natural], Meta(min_length=2)], "v=1&v=2", "v=1"),
        (tuple[Natural, Short], "v=1&v=a", "v=1&v=abcd"),
    ],
)
async def test_constraints_of_several_values(kind: Any, good: str, bad: str) -> None:
    app = Router("/")

    async def consumer(message: str, v: Any) -> str:
        return "good"

    consumer.__annotations__["v"] = Annotated[kind, Query()]
    app.consumer(consumer)
    assert await given(app, f"/?{good}") == "good"
    assert await given(app, f"/?{bad}") == 400


async def test_a_constraint_is_named() -> None:
    app = Router("/")

    @app.consumer
    async def consumer(message: str, n: Annotated[int, Meta(ge=1), Query()]) -> str:
        return ""

    async with connect(app, "/?n=-5000") as peer:
        assert peer.rejected.body == "query 'n' is not valid: Expected `int` >= 1\n"


# -- T | None, aliases, marks inside of unions


@dataclass
class User:
    name: str = "ada"


class Other:
    pass


class Box(Generic[T]):
    pass


class Base:
    pass


class Derived(Base):
    pass


Maybe = TypeAliasType("Maybe", User | None)
Mine = TypeAliasType("Mine", User)
Plain = TypeAliasType("Plain", Connection)
Room = TypeAliasType("Room", Annotated[Topic[str], "room"])
Row = TypeAliasType("Row", Annotated[Topic[T], "row"], type_params=(T,))
Pair = TypeAliasType("Pair", T | None, type_params=(T,))
Unused = TypeAliasType("Unused", User, type_params=(T,))
Asked = TypeAliasType("Asked", Annotated[str, Query("q")])
Items = TypeAliasType("Items", AsyncIterator[T], type_params=(T,))
Users = TypeAliasType("Users", AsyncIterator[User])
Nested = TypeAliasType("Nested", Pair[Mine])


@pytest.mark.parametrize(
    "kind",
    [
        User,
        User | None,
        None | User,
        Maybe,
        Mine,
        Mine | None,
        Pair[User],
        Unused[int],
        Nested,
        Annotated[User, "a note"],
        Annotated[User | None, "a note"],
        Annotated[User, "a note"] | None,
    ],
    ids=str,
)
@pytest.mark.parametrize("default", [True, False])
async def test_a_provider_of_t_is_that_of_t_or_none(kind: Any, default: bool) -> None:
    app = Router("/")

    @app.on_connect
    async def enter() -> User:
        return User("ada")

    async def consumer(message: str, *, user: Any) -> str:
        return str(user.name)

    consumer.__annotations__["user"] = kind
    if default:
        consumer.__kwdefaults__ = {"user": None}
    app.consumer(consumer)
    assert await given(app, "/") == "ada"


@pytest.mark.parametrize("returns", [User, Mine, Users, Items[User], AsyncIterator[Mine]], ids=str)
async def test_aliases_of_what_is_provided(returns: Any) -> None:
    app = Router("/")
    if returns in (User, Mine):

        async def enter() -> Any:
            return User("ada")

        enter.__annotations__["return"] = returns
        app.on_connect(enter)
    else:

        async def scope() -> AsyncIterator[Any]:
            yield User("ada")

        scope.__annotations__["return"] = returns
        app.on_connect(scope)

    @app.consumer
    async def consumer(message: str, user: User) -> str:
        return user.name

    assert await given(app, "/") == "ada"


async def test_aliases_of_what_wsflow_injects() -> None:
    app = Router("/")
    seen: list[Any] = []

    @app.producer
    async def all_of_them(
        plain: Plain,
        maybe: Connection | None,
        registry: TypeAliasType("R", Registry),  # type: ignore[valid-type]
        request: Request | None,
        room: Room,
        optional: Annotated[Topic[str], TopicName("optional")] | None,
        row: Row[int],
        tasks: TaskGroup | None,
        asked: Asked,
        inside: Annotated[int, Query()] | None = None,
    ) -> None:
        seen.extend([plain, maybe, registry, request, room, optional, row, tasks, asked, inside])
        await anyio.sleep_forever()

    @app.on_disconnect
    async def gone(end: End | None) -> None:
        seen.append(end)

    async with connect(app, "/?q=text&inside=7") as peer:
        await peer.receive_nothing()
    plain, maybe, registry, request, room, optional, row, tasks, asked, inside, end = seen
    assert plain is maybe
    assert isinstance(registry, Registry)
    assert isinstance(request, Request)
    assert [each.name for each in (room, optional, row)] == ["room", "optional", "row"]
    assert hasattr(tasks, "start_soon")
    assert (asked, inside, end.cause) == ("text", 7, "peer")


class Say(msgspec.Struct, tag="say"):
    text: str


class Go(msgspec.Struct, tag="go"):
    pass


Both = TypeAliasType("Both", Say | Go)


@pytest.mark.parametrize(
    "kind", [Both, TypeAliasType("Stream", AsyncIterator[Say | Go]), Items[Both]], ids=str
)
async def test_aliases_of_messages_and_their_iterators(kind: Any) -> None:
    app = Router("/")
    took: list[str] = []

    async def one(message: Any) -> None:
        took.append(type(message).__name__)

    async def each(messages: Any) -> None:
        async for message in messages:
            took.append(type(message).__name__)

    one.__annotations__["message"] = each.__annotations__["messages"] = kind
    app.consumer(one if kind is Both else each)
    async with connect(app) as peer:
        await peer.send(Say("hi"))
        await peer.send(Go())
        await peer.receive_nothing()
    assert took == ["Say", "Go"]


async def test_an_override_by_an_alias() -> None:
    app = Router("/")

    @app.on_connect
    async def enter() -> User:
        return User("eve")

    @app.consumer
    async def consumer(message: str, user: User | None = None) -> str:
        assert user is not None
        return user.name

    for key in (User, Mine):
        async with connect(app, override={key: User("bob")}) as peer:
            await peer.send("?")
            assert await peer.receive(str) == "bob"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="`type X = …` is new in Python 3.12")
async def test_type_statements() -> None:
    module: dict[str, Any] = {}
    exec(  # the statement cannot be parsed before
        """
from collections.abc import AsyncIterator
from typing import Annotated
from wsflow import Connection, Query, Router, Topic

type Row[T] = Annotated[Topic[T], "row"]
type C = Connection
type Items[T] = AsyncIterator[T]
type Asked = Annotated[str, Query()] | None

app = Router("/")

@app.producer
async def produce(row: Row[str], c: C, asked: Asked = None) -> Items[str]:
    yield f"{row.name} {type(c).__name__} {asked}"
""",
        module,
    )
    async with connect(module["app"], "/?asked=x") as peer:
        assert await peer.receive(str) == "row Connection x"


def problem_of(app: Router) -> str:
    with pytest.raises(DeclarationError) as raised:
        compile_app(app)
    (problem,) = raised.value.problems
    return f"{problem.why} Fix: {problem.cure}"


def test_aliases_that_cannot_be_resolved() -> None:
    class Lazy:
        """As a `type` statement is: evaluated when it is asked."""

        @property
        def __value__(self) -> Any:
            raise NameError("name 'OnlyWhileTypeChecking' is not defined")

        def __call__(self) -> None: ...

    app = Router("/")

    async def consumer(message: str, value: Any) -> None: ...

    consumer.__annotations__["value"] = Lazy()
    app.consumer(consumer)
    assert "name 'OnlyWhileTypeChecking' is not defined" in problem_of(app)


@pytest.mark.parametrize("annotation", ["Query()", "Query", "Header('x')"])
def test_marks_in_the_place_of_a_type(annotation: str) -> None:
    async def consumer(message: str, value: Any) -> None: ...

    consumer.__annotations__["value"] = annotation
    app = Router("/")
    app.consumer(consumer)
    assert "Annotated[" in problem_of(app)


# -- where a default is used and something else may have been meant


def app_with(fn: Any, *providers: Any, path: str = "/") -> Router:
    app = Router(path)
    for each in providers:
        app.on_connect(each)
    app.consumer(fn)
    return app


async def a_user() -> User:
    return User()


async def derived() -> Derived:
    return Derived()


async def base() -> Base:
    return Base()


def test_a_subclass_or_a_superclass() -> None:
    async def wants_base(message: str, value: Base = Base()) -> None: ...  # noqa: B008
    async def wants_derived(message: str, value: Derived | None = None) -> None: ...
    async def wants_either(message: str, value: User | int = 5) -> None: ...

    assert "provides Derived, which is not exactly Base" in problem_of(
        app_with(wants_base, derived)
    )
    assert "`value: Derived` here, or `-> Base` there" in problem_of(app_with(wants_base, derived))
    assert "provides Base, which is not exactly Derived" in problem_of(
        app_with(wants_derived, base)
    )
    assert "provides User, which is not exactly User | int" in problem_of(
        app_with(wants_either, a_user)
    )

    async def wants_users(message: str, value: list[User] | int = 5) -> None: ...

    async def users() -> list[User]: ...

    assert "provides list[User], which is not exactly list[User] | int" in problem_of(
        app_with(wants_users, users)
    )


def test_a_value_that_it_cannot_use() -> None:
    """It comes from a function around one message, or from one that runs later."""
    app = Router("/")

    @app.on_connect
    async def first(user: User | None = None) -> None: ...

    app.on_connect(a_user)

    @app.consumer
    async def consumer(message: str) -> None: ...

    found = problem_of(app)
    assert "It would get its default: User | None comes from on_connect a_user" in found
    assert "remove the parameter, or declare a_user before first" in found

    app = Router("/")

    @app.on_message
    async def around() -> User:
        return User()

    @app.producer
    async def produce(user: User = User()) -> None: ...  # noqa: B008

    @app.consumer
    async def take(message: str) -> None: ...

    assert "whose value producer" in problem_of(app)


class Role(StrEnum):
    ADMIN = "admin"


class UserId(int):
    pass


class Point(NamedTuple):
    x: int


class Settings(dict[str, str]):
    pass


@pytest.mark.parametrize(
    ("provided", "wanted"),
    [
        (Role, str),
        (Role, Enum),
        (UserId, int),
        (Point, tuple),
        (Settings, dict),
        (datetime, date),
        (date, datetime),
        (User | int, int),
        (User, object),
        (Path, PurePath),
    ],
)
async def test_classes_of_python_are_meant_by_nothing(provided: Any, wanted: Any) -> None:
    async def provide() -> Any:
        return object()

    async def consumer(message: str, other: Any = 5) -> str:
        return repr(other)

    provide.__annotations__["return"] = provided
    consumer.__annotations__["other"] = wanted
    async with connect(app_with(consumer, provide)) as peer:
        await peer.send("?")
        assert await peer.receive(str) == "5"


@pytest.mark.parametrize("name", ["zoom", "root", "loom", "uid", "ids"])
async def test_names_that_are_not_mistyped(name: str) -> None:
    source = f"async def consumer(message: str, {name}: str = 'lobby') -> str: return {name}"
    module: dict[str, Any] = {}
    exec(source, module)
    app = app_with(module["consumer"], path="/chat/{room}/{id}")
    async with connect(app, "/chat/1/2") as peer:
        await peer.send("?")
        assert await peer.receive(str) == "lobby"


@pytest.mark.parametrize("name", ["rooom", "Room", "rom", "romo", "room_", "roomid"])
def test_a_path_parameter_that_is_mistyped(name: str) -> None:
    source = f"async def consumer(message: str, {name}: str = 'lobby') -> None: ..."
    module: dict[str, Any] = {}
    exec(source, module)
    found = problem_of(app_with(module["consumer"], path="/chat/{room}"))
    assert "the path '/chat/{room}' has a parameter {room}" in found
    assert "name it `room`" in found


async def test_defaults_that_nothing_is_meant_by() -> None:
    async def consumer(
        message: str,
        room: str,
        retries: int = 3,
        rooms: str = "beside it",
        other: Other | None = None,
        anything: Any = None,
        plain=5,  # type: ignore[no-untyped-def]
        thing: object = None,
    ) -> str:
        return f"{room} {retries} {rooms} {other} {anything} {plain} {thing}"

    app = app_with(consumer, a_user, path="/chat/{room}")
    assert await given(app, "/chat/a") == "a 3 beside it None None 5 None"


async def test_defaults_of_other_frameworks_that_are_no_marks() -> None:
    app, register = answers("/")
    mutable = MutableHeaders({"a": "b"})

    @register
    async def look(message: str, headers: MutableHeaders = mutable) -> str:
        return headers["a"]

    assert await given(app, "/") == "b"


async def test_a_function_does_not_get_its_own_value() -> None:
    app = Router("/")

    @app.on_connect
    async def enter(user: User | None = None) -> User:
        assert user is None
        return User("ada")

    @app.consumer
    async def consumer(message: str, user: Annotated[User, Requires(bool)] | None) -> str:
        assert user is not None
        return user.name

    assert await given(app, "/") == "ada"


def test_annotations_that_cannot_be_hashed() -> None:
    async def consumer(message: str, value: Literal[[1]]) -> None: ...  # type: ignore[valid-type]

    assert "No scope function provides Literal" in problem_of(app_with(consumer, a_user))


def test_generic_types_are_exact() -> None:
    async def boxed() -> Box[int]:
        return Box()

    async def consumer(message: str, value: Box[str] | None = None) -> None: ...

    compile_app(app_with(consumer, boxed))
