"""Which path of an app a request has asked for."""

from __future__ import annotations

import pytest
from websockets.datastructures import Headers

from wsflow import Request, Router
from wsflow.runtime.admission import prepare
from wsflow.testing import connect
from wsflow.wiring.compile import compile_app
from wsflow.wiring.routes import RouteTable, join

TEMPLATES = ("/", "/ws/{room}", "/news", "/{a}/edit/{b}", "/a%20b%2F", "/%3Aroom/%2A")


@pytest.fixture
def table() -> RouteTable[str]:
    routes: RouteTable[str] = RouteTable()
    for each in TEMPLATES:
        assert routes.add(each, each) is None
    return routes


@pytest.mark.parametrize(
    ("path", "template", "params"),
    [
        ("/", "/", {}),
        ("/news", "/news", {}),
        ("/news/", "/news", {}),
        ("/ws/lobby", "/ws/{room}", {"room": "lobby"}),
        ("/ws/lobby/", "/ws/{room}", {"room": "lobby"}),
        ("/ws/my%20room/", "/ws/{room}", {"room": "my room"}),
        ("/ws/a%2F", "/ws/{room}", {"room": "a/"}),
        ("/ws/%2F/", "/ws/{room}", {"room": "/"}),
        ("/n%65ws/", "/news", {}),
        ("/1/edit/2/", "/{a}/edit/{b}", {"a": "1", "b": "2"}),
        ("/a%20b%2F/", "/a%20b%2F", {}),
        ("/:room/*", "/%3Aroom/%2A", {}),
    ],
)
def test_a_slash_at_the_end_makes_no_difference(
    table: RouteTable[str], path: str, template: str, params: dict[str, str]
) -> None:
    assert table.match(path) == (template, params)


@pytest.mark.parametrize(
    "path",
    [
        *("//", "/news//", "//news", "/ws", "/ws/", "/ws//", "/ws//lobby", "/ws/lobby//"),
        *("/1/edit/", "/1/edit//", "//edit/2", "/news%2F", "/ws%2Flobby", "/ws/%ff/", "/%2F"),
    ],
)
def test_other_slashes_do(table: RouteTable[str], path: str) -> None:
    assert table.match(path) is None


def test_a_template_with_a_slash_at_its_end_is_the_same_template() -> None:
    assert join("/", "/ws/{room}/") == join("/ws", "{room}") == "/ws/{room}"
    routes: RouteTable[int] = RouteTable()
    assert routes.add(join("/ws/{room}/"), 1) is None
    assert routes.add(join("/ws/{other}"), 2) == 1


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("asked", ["", "/"])
async def test_in_a_declaration_and_in_a_request(slash: str, asked: str) -> None:
    """``request.path`` stays as it was sent."""
    app = Router(f"/api{slash}")
    rooms, admin = Router(f"/{{room}}{slash}"), Router(f"/admin{slash}")
    app.include(rooms, f"/chat{slash}")
    app.include(admin, f"/v1{slash}")

    async def say(message: str, request: Request, room: str = "-") -> str:
        return f"{message} {request.path} {room} {request.query.get('n', '-')}"

    for each in (app, rooms, admin):
        each.consumer(say)
    for path, room in (("/api", "-"), ("/api/chat/my%20room", "my room"), ("/api/v1/admin", "-")):
        async with connect(app, f"{path}{asked}?n=/") as peer:
            await peer.send("hi")
            assert await peer.receive(str) == f"hi {path}{asked} {room} /"
    async with connect(app, "/api//") as refused:
        assert refused.rejected.status == 404


def test_for_a_client_too() -> None:
    app = Router("/rooms/{room}/")

    @app.consumer
    async def heard(message: str, room: str) -> None: ...

    routes = compile_app(app).routes
    for uri in ("ws://h/rooms/a", "ws://h/rooms/a/", "ws://h/rooms/a/?b=c/"):
        assert prepare(routes, uri, Headers()).request.path_params == {"room": "a"}
    with pytest.raises(ValueError, match="the client has no path for /rooms/"):
        prepare(routes, "ws://h/rooms/", Headers())
