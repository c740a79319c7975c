"""The documents say what the code does: their blocks are run, their links and commands hold."""

from __future__ import annotations

import ast
import asyncio
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Annotated, Any, Union

import aiohttp
import anyio
import anyio.lowlevel
import jwt
import msgspec
import pytest
import trio.testing
import uvicorn
import websockets
from anyio.abc import TaskGroup
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import WebSocketDenialResponse

from tests.conformance.asgi_wires import LACKS, SERVERS
from wsflow import (
    Call,
    CallError,
    Close,
    Connection,
    Cookie,
    EventId,
    Header,
    InvalidMessage,
    MemberJoined,
    MemberLeft,
    Opening,
    Query,
    Reconnect,
    Registry,
    Reject,
    Router,
    Stream,
    Topic,
    TopicName,
)
from wsflow.limits import Limits
from wsflow.messages.calls import FRAMES, WINDOW
from wsflow.messages.events import TopicOptions
from wsflow.observer import HOOKS
from wsflow.request import MAX_QUERY_FIELDS
from wsflow.runtime import rates
from wsflow.runtime.calls import MOST_ASKED
from wsflow.server import Settings
from wsflow.testing import (
    FAULTS,
    FakeBroker,
    FakeClock,
    MemoryPeer,
    connect,
    serve_in_memory,
    sweep_cancellation,
)
from wsflow.wiring.plan import CALLS_AT_ONCE

ROOT = Path(__file__).parents[1]
FILE = re.compile(r'title="(?P<module>\w+)\.py"')
BLOCK = re.compile(r"^```python(?P<kind>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


class Clock:
    def __init__(self, time: str = "midnight") -> None:
        self.time = time

    def now(self) -> str:
        return self.time


def import_as(name: str, code: CodeType) -> dict[str, Any]:
    """Run a file of a page as the module that it is; what is in it."""
    module = sys.modules[name] = ModuleType(name)
    exec(code, module.__dict__)
    return module.__dict__


def blocks(name: str) -> dict[str, dict[str, Any]]:
    """Run a page's blocks in one namespace; what each app's path is, and the namespace."""
    space: dict[str, Any] = {
        "AsyncIterator": AsyncIterator,
        "Annotated": Annotated,
        "Call": Call,
        "CallError": CallError,
        "Clock": Clock,
        "Close": Close,
        "Connection": Connection,
        "Cookie": Cookie,
        "EventId": EventId,
        "FakeBroker": FakeBroker,
        "FakeClock": FakeClock,
        "InvalidMessage": InvalidMessage,
        "MemberJoined": MemberJoined,
        "MemberLeft": MemberLeft,
        "MemoryPeer": MemoryPeer,
        "Opening": Opening,
        "Query": Query,
        "Registry": Registry,
        "Reject": Reject,
        "Router": Router,
        "Stream": Stream,
        "TaskGroup": TaskGroup,
        "Topic": Topic,
        "TopicName": TopicName,
        "Any": Any,
        "Header": Header,
        "anyio": anyio,
        "connect": connect,
        "jwt": jwt,
        "msgspec": msgspec,
        "serve_in_memory": serve_in_memory,
        "sweep_cancellation": sweep_cancellation,
        "database": "notes.db",
        "check_password": lambda name, password: space["User"](name, ["admin"]),
        "heard": [],
        "itertools": itertools,
        "log": [],
        "logged_in": lambda: space["User"]("ada"),
        "secrets": secrets,
        "time": time,
        "token": lambda: "secret",
        "tokens": {},
    }
    apps: dict[str, dict[str, Any]] = {}
    for match in BLOCK.finditer((ROOT / name).read_text()):
        ast.parse(match["code"])
        if "by-hand" in match["kind"]:
            continue
        code = compile(match["code"], name, "exec", dont_inherit=True)
        if file := FILE.search(match["kind"]):
            space = import_as(file["module"], code)
        else:
            exec(code, space)
        if isinstance(space.get("app"), Router):
            apps[space["app"].path] = dict(space)
    return apps or {"": space}


async def test_the_readmes_twenty_lines() -> None:
    first = BLOCK.search((ROOT / "README.md").read_text())
    assert first is not None
    lines = [line for line in first["code"].splitlines() if line.strip()]
    assert len(lines) <= 20
    app: dict[str, Any] = {}
    exec(first["code"], app)
    async with (
        connect(app["app"], "/chat/a?name=ada") as ada,
        connect(app["app"], "/chat/a?name=bob") as bob,
    ):
        await ada.send(app["Say"]("hi"))
        assert await bob.receive(app["Said"]) == app["Said"]("ada", "hi")


@pytest.mark.long
def test_the_readmes_test_in_an_empty_folder(tmp_path: Path) -> None:
    """With nothing but the wheel and pytest installed."""

    def run(*command: object) -> str:
        done = subprocess.run(
            [*map(str, command)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    outside = ("VIRTUAL_ENV", "PYTEST", "COV", "PYTHON", "UV_PROJECT")
    env = {name: value for name, value in os.environ.items() if not name.startswith(outside)}
    uv = shutil.which("uv") or "uv"
    run(uv, "build", "--wheel", "--quiet", "--out-dir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run(uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    run(uv, "pip", "install", "--quiet", "--python", python, wheel, "pytest")
    app, test = BLOCK.findall((ROOT / "README.md").read_text())[:2]
    (tmp_path / "chat.py").write_text(app[1])
    (tmp_path / "test_chat.py").write_text(test[1])
    assert "1 passed" in run(python, "-m", "pytest", "-q", "-W", "error", "test_chat.py")


def test_the_readme_has_exactly_two_set_up_commands() -> None:
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^\$ (.*)$", text, re.MULTILINE)
    assert commands == [
        "pip install uv && uv run wsflow run examples.chat:app",
        "pip install uv && uv run pytest",
    ]
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link


@pytest.mark.parametrize(
    "name",
    [
        "docs/index.md",
        "docs/tutorial.md",
        "docs/recipes.md",
        "docs/patterns.md",
        "docs/guide.md",
        "docs/scaling.md",
        "docs/client.md",
        "docs/limits.md",
        "docs/observing.md",
        "docs/schema.md",
        "docs/security.md",
        "docs/testing.md",
    ],
)
def test_all_blocks_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_KEY", "0123456789" * 4)
    before = set(sys.modules)
    assert blocks(name)
    for module in set(sys.modules) & {"chat", "test_chat", "invite"} - before:
        del sys.modules[module]


async def test_patterns() -> None:
    apps = blocks("docs/patterns.md")
    say, tick = apps["/producer"]["Say"], apps["/producer"]["Tick"]
    for path in ("/consumer", "/both", "/several"):
        space = apps[path]
        space["heard"].clear()
        async with connect(space["app"], path) as peer:
            await peer.send(say("hi"))
            while not space["heard"]:
                await anyio.lowlevel.checkpoint()
        assert space["heard"] == ["hi"]
    async with connect(apps["/producer"]["app"], "/producer") as peer:
        assert [await peer.receive(tick) for _ in range(3)] == [tick(0), tick(1), tick(2)]
        assert (await peer.wait_closed()).code == 1000
    move = apps["/several"]["Move"]
    async with connect(apps["/several"]["app"], "/several") as peer:
        await peer.send(move(1, 2))
        assert await peer.receive() == move(2, 1)
    registration = apps["/registration"]
    async with (
        connect(registration["app"], "/registration") as one,
        connect(registration["app"], "/registration"),
    ):
        await one.send(say("how many?"))
        assert (await one.receive()).connections == 2
    news = apps["/news"]
    async with connect(news["app"], "/news") as one, connect(news["app"], "/news") as two:
        await one.send(say("extra"))
        assert await two.receive() == say("extra")
    rooms = apps["/rooms/{room}"]
    ada, bob = ({"Cookie": f"name={name}"} for name in ("ada", "bob"))
    async with (
        connect(rooms["app"], "/rooms/a", headers=ada) as one,
        connect(rooms["app"], "/rooms/a", headers=bob) as two,
        connect(rooms["app"], "/rooms/a?quiet=true", headers=bob) as quiet,
    ):
        for number in (1, 2):
            await one.send(say("hi"))
            assert await two.receive() == say(f"ada, {number}: hi")
        await two.send(rooms["Leave"]())
        await two.idle()
        await one.send(say("hi"))
        for each in (one, two, quiet):
            await each.receive_nothing()
    async with connect(rooms["app"], "/rooms/a") as nobody:
        assert nobody.rejected.status == 403


BY_HAND = re.compile(r"^```python by-hand\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_patterns_by_hand() -> None:
    """The other side runs, too, with what its documentation leaves to the reader."""
    heard: list[Any] = []

    async def consume(text: str) -> None:
        heard.append(text)

    told = set[asyncio.Task[Any] | None]()

    async def produce() -> str:
        """Once for each connection: a send after the end is what the documentation leaves open."""
        task = asyncio.current_task()
        if task in told:
            await asyncio.Event().wait()
        told.add(task)
        return "tick"

    space: dict[str, Any] = {
        "asyncio": asyncio,
        "consume": consume,
        "json": json,
        "move": consume,
        "produce": produce,
        "say": consume,
        "websockets": websockets,
    }
    say = json.dumps({"type": "say", "text": "hi"})

    @asynccontextmanager
    async def peers(handler: str) -> AsyncIterator[list[Any]]:
        async with websockets.serve(space[handler], "127.0.0.1", 0) as server:
            (listening,) = server.sockets
            uri = f"ws://127.0.0.1:{listening.getsockname()[1]}"
            async with websockets.connect(uri) as one, websockets.connect(uri) as two:
                yield [one, two]

    codes = BY_HAND.findall((ROOT / "docs/patterns.md").read_text())
    consumer, producer, both, several, registration, publish = codes
    for code in (consumer, producer, both):
        exec(code, space)
    async with peers("consumer_handler") as (one, _):
        await one.send(say)
        while not heard:
            await asyncio.sleep(0.001)
    async with peers("handler") as (one, two):
        assert [await one.recv(), await two.recv()] == ['"tick"', '"tick"']
        await one.send(say)
        while len(heard) < 2:
            await asyncio.sleep(0.001)
    exec(several, space)
    async with peers("consumer_handler") as (one, _):
        for event in ("say", "move", "leave"):
            await one.send(json.dumps({"type": event}))
        assert json.loads(await one.recv()) == {"type": "error"}
    assert heard == ["hi", "hi", {"type": "say"}, {"type": "move"}]
    exec(registration, space)
    exec(publish, space)
    async with peers("handler") as (one, two):
        while len(space["connected"]) < 2:
            await asyncio.sleep(0.001)
        await space["message_all"]("to all")
        assert [await one.recv(), await two.recv()] == ['"to all"', '"to all"']
    assert not space["connected"]


async def test_the_recipes_for_users_and_jobs() -> None:
    apps = blocks("docs/recipes.md")
    space = apps["/direct"]
    async with (
        connect(space["app"], "/direct?name=ada") as ada,
        connect(space["app"], "/direct?name=bob") as bob,
    ):
        await ada.send(space["Tell"]("bob", "hi"))
        assert await bob.receive(timeout=10) == space["Told"]("ada", "hi")
        await ada.send(space["Tell"]("eve", "hi"))
        assert await ada.receive(timeout=10) == space["Away"]("eve")
        await bob.receive_nothing()
    space = apps["/resize"]
    async with connect(space["app"], "/resize") as peer:
        async with peer.stream(space["Resize"](["a", "b"]), timeout=10) as steps:
            assert [(step.done, step.of) async for step in steps] == [(1, 2), (2, 2)]
    space = apps["/jobs"]
    async with serve_in_memory(space["app"]) as server:
        async with server.connect("/jobs") as peer:
            job = await peer.call(space["Start"](["a", "b", "c"]), timeout=10)
        async with server.connect("/jobs") as peer:
            await peer.send(space["Watch"](job))
            while (await peer.receive(space["Step"], timeout=10)).done < 3:
                pass
        async with server.connect("/jobs") as late:
            await late.send(space["Watch"](job))
            assert (await late.receive(space["Step"], timeout=10)).done == 3


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_recipes_for_what_is_shared(tmp_path: Path) -> None:
    """A variable is one for each process; what is in a database is for all of them."""
    for path, sums in (("/wrong", {1}), ("/right", {1, 2})):
        space, broker = blocks("docs/recipes.md")[path], FakeBroker()
        for function in (space["right"], space["Right"].open) if path == "/right" else ():
            function.__globals__["database"] = str(tmp_path / "sums.db")
        async with (
            serve_in_memory(space["app"], broker=broker) as one,
            serve_in_memory(space["app"], broker=broker) as two,
            one.connect(path) as ada,
            two.connect(path) as bob,
        ):
            seen = set()
            for peer in (ada, bob):
                await peer.send(space["Add"](1))
                seen.add((await ada.receive(space["Sum"], timeout=10)).sum)
            assert seen == sums


async def test_the_recipes_for_order() -> None:
    apps = blocks("docs/recipes.md")
    space = apps["/market"]
    async with connect(space["app"], "/market") as peer:
        snapshot = await peer.receive(timeout=10)
        assert snapshot == space["Snapshot"](0, {"ADA": 4200})
        await peer.send(space["Quote"]("ADA", 4300))
        assert await peer.receive(timeout=10) == space["Changed"](1, "ADA", 4300)
    space = apps["/hello"]
    async with connect(space["app"], "/hello") as peer:
        await peer.send(space["Hello"]("ada"))
        await peer.send(space["Say"]("hi"))
        assert await peer.receive(timeout=10) == space["Said"]("ada", "hi")
    async with connect(space["app"], "/hello") as peer:
        await peer.send(space["Say"]("hi"))
        assert (await peer.wait_closed(timeout=10)).code == 4000
    space = apps["/position"]
    async with connect(space["app"], "/position") as peer:
        for old in ({"type": "moved", "x": 1, "y": 2}, {"type": "position", "x": 1, "y": 2}):
            await peer.send({"type": "of tomorrow"})
            await peer.send(old)
            assert await peer.receive(timeout=10) == space["Position"](1, 2)


async def test_the_recipes_for_what_ends(tmp_path: Path) -> None:
    apps = blocks("docs/recipes.md")
    space, path = apps["/stored"], tmp_path / "notes.db"
    space["pool"].__globals__["database"] = str(path)
    db = space["sqlite3"].connect(path)
    db.execute("CREATE TABLE notes (text TEXT)")
    async with connect(space["app"], "/stored") as peer:
        await peer.send(space["Note"]("kept"))
        while not db.execute("SELECT text FROM notes").fetchall():
            await anyio.sleep(0.01)
        await peer.send(space["Note"](""))
        assert (await peer.wait_closed(timeout=10)).code == 4000
    assert db.execute("SELECT text FROM notes").fetchall() == [("kept",)]
    db.close()
    space = apps["/work"]
    space["log"].clear()
    async with connect(space["app"], "/work") as peer:
        await peer.send(space["Work"]())
        while "begun" not in space["log"]:
            await anyio.lowlevel.checkpoint()
        (connection,) = peer.registry
        await peer.registry.disconnect(connection.id, 4000)
        await peer.wait_closed(timeout=10)
    assert space["log"] == ["begun", "stopped", "told others", "left", "torn down"]


async def test_scaling() -> None:
    apps = blocks("docs/scaling.md")
    notes, hall = apps["/notes/{room}"], apps["/hall/{name}"]
    note, app = notes["Note"], notes["app"]
    async with connect(app, "/notes/a") as ada:
        for text in ("one", "two", "three"):
            await ada.send(note(text))
        ids = [(await ada.receive(note)).id for _ in range(3)]
        async with connect(app, f"/notes/a?after={ids[0]}") as back:
            assert [(await back.receive(note)).text for _ in range(2)] == ["two", "three"]
        async with connect(app, "/notes/a?after=nonsense") as late:
            assert await late.receive(notes["Gap"])
    async with connect(hall["app"], "/hall/ada") as ada:
        assert await ada.receive() == "ada is here"
        async with connect(hall["app"], "/hall/bob") as bob:
            assert await ada.receive() == "bob has come"
            there = {await bob.receive(), await bob.receive()}
            assert there == {"ada is here", "bob is here"}
        assert await ada.receive() == "bob has left"
    tick = apps["/ticks"]["Tick"]
    async with connect(apps["/ticks"]["app"], "/ticks") as peer:
        assert (await peer.receive(tick)).number < (await peer.receive(tick)).number


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_job_among_several_processes() -> None:
    space = blocks("docs/scaling.md")["/reports"]
    app, report, broker = space["app"], space["Report"], FakeBroker()
    async with FakeClock() as clock:
        space["reporter"].__globals__["time"] = SimpleNamespace(time=lambda: clock.time)
        async with (
            serve_in_memory(app, broker=broker) as one,
            serve_in_memory(app, broker=broker) as two,
            one.connect("/reports") as ada,
            two.connect("/reports") as bob,
        ):
            for minute in (1, 2):
                for each in (ada, bob):
                    assert await each.receive(timeout=61) == report(minute)
                    await each.receive_nothing(within=10)


async def test_clients() -> None:
    apps = blocks("docs/client.md")
    space = apps["/calls"]
    await space["test_calls"]()
    client, say, heard = space["client"], space["Say"], space["heard"]
    seen: list[str] = []
    chat = Router("/chat/{room}")

    @chat.on_connect
    async def enter(authorization: Annotated[str, Header()]) -> None:
        seen.append(authorization)

    async def echo(message: Any) -> Any:
        return message

    echo.__annotations__["message"] = say
    chat.consumer(echo)
    async with connect(chat, "/chat/lobby", client=client):
        while not heard:
            await anyio.lowlevel.checkpoint()
    assert (seen, heard) == (["Bearer secret"], ["lobby: here I am"])
    notes, reader, read = apps["/notes"], Router("/notes"), []

    async def note(message: Any) -> None:
        read.append(message.text)

    note.__annotations__["message"] = notes["Note"]
    reader.consumer(note)
    soon = Reconnect(initial_delay=0.01)
    async with connect(
        notes["app"], "/notes", client=reader, reconnect=soon, resume="after"
    ) as linked:
        for text in ("a", "b"):
            await linked.client.send(say(text))
            while text not in read:
                await anyio.lowlevel.checkpoint()
        linked.link.down = True
        linked.link.cut()
        await linked.registry.topic("notes", notes["Note"]).publish(notes["Note"]("c"))
        linked.link.down = False
        while "c" not in read:
            await anyio.lowlevel.checkpoint()
    assert read == ["a", "b", "c"]


@asynccontextmanager
async def over_http(api: Any) -> AsyncIterator[str]:
    """An app of FastAPI, served."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(api, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        await asyncio.sleep(0.001)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_security() -> None:
    apps = blocks("docs/security.md")
    last = apps["/admins"]
    say, said = last["Say"], last["Said"]

    async def heard(path: str, target: str = "", **options: Any) -> Any:
        async with connect(apps[path]["app"], target or path, **options) as peer:
            await peer.send(say("hi"))
            return await peer.receive(said)

    async with over_http(last["api"]) as url, aiohttp.ClientSession() as http:
        form = {"name": "ada", "password": "x"}
        async with http.post(f"{url}/token", json=form) as answer:
            token = (await answer.json())["access_token"]
        async with http.post(f"{url}/ticket") as answer:
            ticket = await answer.json()
    offered = ["wsflow.json", f"bearer.{token}"]
    assert await heard("/bearer", subprotocols=offered) == said("ada", "hi")
    assert await heard("/ticket", f"/ticket?ticket={ticket}") == said("ada", "hi")
    rotated = jwt.encode({"sub": "ada"}, last["KEY"], "HS256", headers={"kid": "2026-01"})
    bearer = {"Authorization": f"Bearer {rotated}"}
    assert await heard("/rotating", headers=bearer) == said("ada", "hi")
    assert await heard("/cookie", headers={"Cookie": "session=f00d"}) == said("ada", "hi")
    last["tokens"]["opaque"] = last["User"]("bob")
    opaque = {"Authorization": "Bearer opaque"}
    assert await heard("/opaque", headers=opaque) == said("bob", "hi")
    async with connect(apps["/opaque"]["app"], "/opaque") as peer:
        assert peer.rejected.status == 401

    async def sign_in(request: HttpRequest) -> PlainTextResponse:
        request.session["user"] = "ada"
        return PlainTextResponse("")

    theirs = Starlette(
        routes=[Route("/", sign_in)],
        middleware=[Middleware(SessionMiddleware, secret_key=last["KEY"])],
    )
    async with over_http(theirs) as url, aiohttp.ClientSession() as http:
        async with http.get(url) as answer:
            cookie = answer.cookies["session"].value
    assert await heard("/starlette", headers={"Cookie": f"session={cookie}"}) == said("ada", "hi")
    for wrong in ("x", cookie[:-2]):
        session = {"Cookie": f"session={wrong}"}
        async with connect(apps["/starlette"]["app"], "/starlette", headers=session) as peer:
            assert peer.rejected.status == 401
    app, ban = last["app"], last["Ban"]
    member = jwt.encode({"sub": "eve"}, last["KEY"], "HS256")
    async with connect(app, "/admins", headers={"Authorization": f"Bearer {member}"}) as peer:
        await peer.send(ban("ada"))
        assert await peer.receive(said) == said("the server", "forbidden")


def test_beside_fastapi() -> None:
    space = blocks("docs/asgi.md")[""]
    space["test_post"]()
    outer = TestClient(space["outer"])
    with outer.websocket_connect("/t/41/news") as socket:
        socket.send_text("hi")
        assert socket.receive_text() == "41: hi"
    token = jwt.encode({"sub": "ada"}, space["KEY"], "HS256")
    for headers, status in (({"Authorization": f"Bearer {token}"}, 200), ({}, 401)):
        pages = TestClient(space["pages"], headers=headers)
        assert pages.get("/me").status_code == status
        if status == 200:
            with pages.websocket_connect("/ws/me") as socket:
                socket.send_text("who am I?")
                assert socket.receive_text() == "ada"
        else:
            with (
                pytest.raises(WebSocketDenialResponse) as refused,
                pages.websocket_connect("/ws/me"),
            ):
                pass
            assert refused.value.status_code == 401


def test_the_table_of_what_asgi_servers_lack() -> None:
    page = (ROOT / "docs/asgi.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE)
    told = [cells for name, *cells in rows if name.strip("-") and not cells[0].startswith("-")]
    wanted = [[lacks.get(server, "yes") for server in SERVERS] for lacks in LACKS.values()]
    assert told == wanted


def rows_of(page: str, heading: str) -> set[str]:
    """The names in the first column of the tables below a heading."""
    text = (ROOT / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


async def test_observing() -> None:
    """All loggers and all metrics are on the page, and its code does what it says."""
    source = "\n".join(each.read_text() for each in (ROOT / "wsflow").rglob("*.py"))
    loggers = re.findall(r'^log = Log\("(.*)"\)', source, re.MULTILINE)
    named = rows_of("docs/observing.md", "Logs")
    assert {each for each in named if each.startswith("wsflow")} == set(loggers)
    space = blocks("docs/observing.md")["/chat"]
    app, metrics = space["app"], space["prometheus_client"].REGISTRY

    @app.consumer
    async def echo(message: str) -> str:
        return message

    async with serve_in_memory(app) as server:
        async with server.connect("/chat") as peer:
            await peer.send("four")
            assert await peer.receive() == "four"
        shown = {each.name for each in metrics.collect() if each.name.startswith("wsflow")}
    assert {
        name.removesuffix("_total") for name in rows_of("docs/observing.md", "Metrics")
    } == shown
    (bill,) = [each for each in app._declared.observers if isinstance(each, space["Bill"])]
    assert bill.bytes == {"nobody": 4}
    assert rows_of("docs/observing.md", "Observers") == set(HOOKS)


def test_the_protocols_frames() -> None:
    """Each frame on the page is one that wsflow reads and writes so."""
    page = (ROOT / "docs" / "protocol.md").read_text()
    decode = msgspec.json.Decoder(Union[FRAMES]).decode  # noqa: UP007
    lines = re.findall(r'^\{"type": "\$.*\}$', page, re.MULTILINE)
    assert len(lines) == 13
    for line in lines:
        frame = decode(line)
        written = msgspec.json.decode(msgspec.json.encode(frame))
        assert written == msgspec.json.decode(line)
    told = set(re.findall(r"^\| `(\$[a-z]+)` \|", page, re.MULTILINE))
    assert told == {each.__struct_config__.tag for each in FRAMES}
    assert f"wsflow grants {WINDOW}" in page
    assert f"more than {Limits().inbox_hard_messages:,}" in page
    assert f"no more than {MOST_ASKED:,} calls" in page


def test_the_guides_sweep() -> None:
    blocks("docs/testing.md")["/greeting/{name}"]["test_no_fault_leaves_an_order_reserved"]()
    page = (ROOT / "docs" / "testing.md").read_text()
    rows = re.findall(r"^\| ((?:`[a-z_]+` ?)+)\| [^|]+ \|$", page, re.MULTILINE)
    assert set(FAULTS) <= set(re.findall(r"`([a-z_]+)`", "".join(rows)))


async def test_the_guide() -> None:
    apps = blocks("docs/guide.md")
    space = apps["/jobs"]
    async with connect(space["app"], "/jobs") as peer:
        await peer.send(space["Job"]("ada", 1))
        assert await peer.receive() == 1
    space = apps["/transactions"]
    async with connect(space["app"], "/transactions") as peer:
        await peer.send(5)
        await peer.send(-5)
        assert (await peer.wait_closed()).code == 4000
    assert space["log"] == ["begin", "commit", "begin", "rollback"]
    space = apps["/errors"]
    async with connect(space["app"], "/errors") as peer:
        await peer.send(0)
        assert await peer.receive() == space["Refused"]("by zero")
        await peer.send(2)
        assert await peer.receive() == 0.5
    space = apps["/strict"]
    async with connect(space["app"], "/strict") as peer:
        for message in ("five", 5):
            peer._transport.peer_send(msgspec.json.encode(message), True)
        bad = await peer.receive(space["Bad"])
        assert (bad.why, bad.where) == ("Expected `int | object`, got `str`", "$")
        assert await peer.receive(int) == -5
    await blocks("docs/testing.md")["/greeting/{name}"]["test_greeting"]()


async def test_the_guides_messages() -> None:
    apps = blocks("docs/guide.md")
    space = apps["/board"]
    space["log"].clear()
    async with connect(space["app"], "/board") as peer:
        await peer.send(space["Clear"]())
        await peer.send(space["Draw"](x=1, y=2))
        assert await peer.receive() == space["Drawn"](at=(1, 2))
        assert space["log"] == ["clear"]
        await peer.send({"type": "draw", "x": -1, "y": 2})
        end = await peer.wait_closed()
        why = "Input should be greater than or equal to 0 - at `$.x`"
        assert (end.code, end.reason) == (1007, why)
    space = apps["/till"]
    async with connect(space["app"], "/till") as peer:
        await peer.send({"type": "pay", "amount": "1.50"})
        assert (await peer.receive(space["Pay"])).amount.cents == 300
    space = apps["/sensors"]
    async with connect(space["app"], "/sensors") as peer:
        await peer.send(space["Reading"](b"\xff", 1.5))
        assert await peer.receive() == space["Reading"](b"\xff", 3)


def test_the_guides_codec_has_ten_lines() -> None:
    code = next(
        match["code"]
        for match in BLOCK.finditer((ROOT / "docs/guide.md").read_text())
        if "class CBOR" in match["code"]
    )
    shown = code.partition("class Reading")[0]
    assert len([line for line in shown.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize(
    "anyio_backend",
    ["asyncio", ("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})],
    ids=["asyncio", "trio"],
)
async def test_the_guides_clock() -> None:
    await blocks("docs/testing.md")["/greeting/{name}"]["test_reminders"]()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_guides_broker() -> None:
    space = blocks("docs/testing.md")["/greeting/{name}"]
    await space["test_nothing_is_lost_while_the_broker_is_away"]()


TOPIC_BOUNDS = ("history", "max_age", "history_bytes", "idle")


def shown(default: Any) -> str:
    """A default, as the page on limits writes it."""
    match default:
        case None | ():
            return "none"
        case bool():
            return "yes" if default else "no"
        case int() | float():
            return f"{default:,.10g}"
        case _:
            return f"`{default}`"


def test_one_page_has_all_limits_and_settings_with_their_defaults() -> None:
    page = (ROOT / "docs/limits.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE)
    told = {name: default for name, default in rows if name not in ("rate", "burst", "per")}
    settings = {each.name: shown(each.default) for each in fields(Settings)}
    options = {name: shown(getattr(TopicOptions(), name)) for name in TOPIC_BOUNDS}
    options["backlog"] = shown(TopicOptions().backlog)
    assert {**settings, **options} == {k: v for k, v in told.items() if k != "when_over"}
    assert {each.name for each in fields(Limits)} <= set(told)
    for number in (rates.MOST, rates.INTERVAL * 1000, MAX_QUERY_FIELDS, MOST_ASKED, CALLS_AT_ONCE):
        assert f" {number:,.0f} " in page.replace("\n", " "), number
