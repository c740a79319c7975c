"""What ``wsflow run`` says to try is accepted."""

import enum
import shlex
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

import jwt
import pytest
from msgspec import Meta

from wsflow import Cookie, DeclarationError, Header, Query, Router
from wsflow.auth import Bearer, SessionCookie, Ticket
from wsflow.cli.explain import try_lines
from wsflow.testing import connect
from wsflow.wiring.compile import compile_app

pytestmark = pytest.mark.anyio

KEY = "a key of at least thirty-two bytes!"


class Colour(enum.Enum):
    RED = "red one"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 7


@dataclass
class User:
    sub: str


KINDS: list[Any] = [
    str,
    int,
    float,
    bool,
    bytes,
    date,
    datetime,
    time,
    timedelta,
    Decimal,
    UUID,
    Colour,
    Level,
    Literal["a b", "ü"],
    Literal[3, 4],
    Literal["", "x"],
    int | None,
    float | None,
    Annotated[int, Meta(ge=5, title="x")],
    Annotated[int, Meta(ge=5)],
    Annotated[int, Meta(gt=5, multiple_of=4)],
    Annotated[int, Meta(le=-5)],
    Annotated[int, Meta(lt=-5)],
    Annotated[int, Meta(multiple_of=3)],
    Annotated[float, Meta(gt=0, lt=1)],
    Annotated[str, Meta(min_length=9)],
    Annotated[str, Meta(max_length=2)],
]


def tried(app: Router) -> dict[str, list[str]]:
    """The words of the command to try, by path."""
    lines = list(try_lines(compile_app(app), "ws://h:1"))
    commands = [shlex.split(line.partition("try it: ")[2]) for line in lines[1::2]]
    return dict(zip((line.strip() for line in lines[::2]), commands, strict=True))


async def accepted(app: Router) -> list[str]:
    """Try what is said, and return its words after the program's."""
    (words,) = tried(app).values()
    uri = urlsplit(words[2])
    options = zip(words[3::2], words[4::2], strict=True)
    headers = [tuple(value.split(": ", 1)) for option, value in options if option == "--header"]
    target = f"{uri.path}?{uri.query}" if uri.query else uri.path
    async with connect(app, target, headers=headers) as peer:  # type: ignore[arg-type]
        await peer.send("hello")
        assert await peer.receive() == "hello"
    return words[2:]


async def echo(message: str) -> str:
    return message


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_a_parameter_of_each_type(kind: Any) -> None:
    app = Router("/x/{where}/y")
    app.consumer(echo)

    @app.on_connect
    async def read(
        where: kind,
        query: Annotated[kind, Query()],
        header: Annotated[kind, Header()],
    ) -> None: ...

    await accepted(app)


@pytest.mark.parametrize("kind", [list[int], set[UUID], list[Colour] | None], ids=str)
async def test_a_parameter_that_collects(kind: Any) -> None:
    app = Router("/x")
    app.consumer(echo)

    @app.on_connect
    async def read(query: Annotated[kind, Query()]) -> None: ...

    await accepted(app)


@pytest.mark.parametrize("kind", [bool, date, int | None], ids=str)
async def test_a_cookie_of_each_type(kind: Any) -> None:
    app = Router("/x")
    app.consumer(echo)

    @app.on_connect
    async def read(one: Annotated[kind, Cookie()], two: Annotated[kind, Cookie()]) -> None: ...

    await accepted(app)


async def test_what_has_a_default_is_left_out() -> None:
    app = Router("/x")
    app.consumer(echo)

    @app.on_connect
    async def read(
        a: Annotated[str, Query()] = "",
        b: Annotated[int | None, Query()] = None,
        c: Annotated[str, Header()] = "",
        d: Annotated[str, Cookie()] = "",
    ) -> None: ...

    assert await accepted(app) == ["ws://h:1/x"]


async def test_two_functions_that_read_the_same() -> None:
    app = Router("/{x}")
    app.consumer(echo)

    @app.on_connect
    async def first(
        x: str, y: Annotated[str, Query()] = "", z: Annotated[str, Header("A-B")] = ""
    ) -> None: ...

    @app.on_disconnect
    async def last(x: int, y: Annotated[UUID, Query()], a_b: Annotated[int, Header()]) -> None: ...

    (uri, *options) = await accepted(app)
    assert uri == "ws://h:1/1?y=123e4567-e89b-12d3-a456-426614174000"
    assert options == ["--header", "A-B: 1"]


async def test_a_parameter_of_an_outer_router() -> None:
    app, inner = Router("/rooms/{id}"), Router("/seats/{seat}/{side}")
    app.include(inner)
    inner.consumer(echo)

    @app.on_connect
    async def enter(id: UUID) -> None: ...

    @inner.on_connect
    async def sit(seat: Annotated[int, Meta(ge=5)]) -> None: ...

    assert await accepted(app) == [
        "ws://h:1/rooms/123e4567-e89b-12d3-a456-426614174000/seats/5/side"
    ]


async def test_a_path_beside_that_of_another_router() -> None:
    app, rooms, room = Router("/"), Router("/rooms/{room}"), Router("/rooms/room")
    app.include(rooms)
    app.include(room)
    rooms.consumer(echo)
    room.consumer(echo)
    assert tried(app)["ws://h:1/rooms/{room}"][2] == "ws://h:1/rooms/true"


async def test_what_nothing_is_known_to_fit_has_its_name() -> None:
    app = Router("/{x}")
    app.consumer(echo)

    @app.on_connect
    async def read(x: Annotated[str, Meta(pattern="^[0-9]{3}#$")]) -> None: ...

    assert tried(app)["ws://h:1/{x}"][2] == "ws://h:1/x"


async def test_headers_that_every_client_sends_are_left_out() -> None:
    app = Router("/x")
    app.consumer(echo)

    @app.on_connect
    async def read(
        user_agent: Annotated[str, Header()], host: Annotated[str, Header()]
    ) -> None: ...

    assert tried(app)["ws://h:1/x"][3:] == []


async def test_a_header_has_no_other_characters_than_can_be_sent() -> None:
    app = Router("/x")
    app.consumer(echo)

    @app.on_connect
    async def read(mode: Annotated[Literal["ü", "u"], Header()]) -> None: ...

    assert (await accepted(app))[1:] == ["--header", "mode: u"]


async def test_all_cookies_are_in_one_header() -> None:
    app = Router("/x")
    app.consumer(echo)
    app.on_connect(SessionCookie(User, read=lambda value: User(value)))

    @app.on_connect
    async def read(
        a: Annotated[int, Cookie()], b: Annotated[str, Cookie()], c: Annotated[str, Header()]
    ) -> None: ...

    options = ["--header", "c: c", "--header", "Cookie: a=1; b=b; session=…"]
    assert tried(app)["ws://h:1/x"][3:] == options


@pytest.mark.parametrize(
    ("credential", "options"),
    [
        (Bearer(User, key=KEY), ["--header", "Authorization: Bearer …"]),
        (
            Bearer(User, key=KEY, sources=("message", "subprotocol")),
            ["--subprotocol", "bearer.…"],
        ),
        (Bearer(User, key=KEY, sources=("message",)), []),
        (
            SessionCookie(User, read=lambda value: User(value), name="sid"),
            ["--header", "Cookie: sid=…"],
        ),
        (Ticket(User, key=KEY), ["--subprotocol", "ticket.…"]),
    ],
    ids=["header", "subprotocol", "message", "cookie", "ticket"],
)
async def test_a_credential(credential: Any, options: list[str]) -> None:
    app = Router("/x")
    app.consumer(echo)
    app.on_connect(credential)
    assert tried(app)["ws://h:1/x"][3:] == options
    with pytest.raises(DeclarationError, match="and this is run as a client") as raised:
        compile_app(app, client=True)
    assert len(raised.value.problems) == 1


async def test_with_the_token_put_in_it_is_accepted() -> None:
    app = Router("/x")
    app.consumer(echo)
    app.on_connect(Bearer(User, key=KEY))
    words = tried(app)["ws://h:1/x"]
    token = jwt.encode({"sub": "ann"}, KEY)
    name, _, value = words[4].replace("…", token).partition(": ")
    async with connect(app, "/x", headers=[(name, value)]) as peer:
        await peer.send("hello")
        assert await peer.receive() == "hello"
