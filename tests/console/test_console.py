"""The page of the console, and who may see it."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from websockets import Headers
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from examples.chat import app as chat
from tests.browser import Page, chromium
from tests.contract.apps import app_of
from tests.node import UNTIL
from tests.processes import free_port, running
from tests.server.test_serve import quick
from wsflow import Router
from wsflow.addresses import Address
from wsflow.console.page import Access, made
from wsflow.contract.describe import describe
from wsflow.errors import Reject
from wsflow.request import Request
from wsflow.server import Settings, serve
from wsflow.wiring.compile import compile_app

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def asks(path: str = "/_wsflow/", client: str | None = "127.0.0.1", **headers: str) -> Request:
    given = {"Host": "localhost:8000", **headers}
    return Request.parse(path, Headers(given), None if client is None else Address(client, 5))


def two_origins() -> Request:
    request = asks(Origin="http://localhost:8000")
    request.headers["Origin"] = "http://localhost:3000"
    return request


@pytest.mark.parametrize(
    ("token", "request_", "status"),
    [
        ("", asks(), 0),
        ("", asks(client="::1"), 0),
        ("", asks(client="::ffff:127.0.0.1"), 0),
        ("", asks(client="192.0.2.1"), 403),
        ("", asks(client=None), 403),  # a Unix socket: whose client is anywhere
        ("", asks(Host="evil.example"), 403),  # a name that was pointed here, or a proxy
        ("", asks(Host="127.0.0.1:8000"), 0),
        ("", asks(Origin="http://localhost:8000"), 0),
        ("", asks(Origin="http://localhost:3000"), 403),
        ("", asks(Origin="null"), 403),
        ("", two_origins(), 403),
        ("", asks(**{"X-Forwarded-For": "192.0.2.1"}), 403),
        ("", asks(Via="1.1 proxy"), 403),
        (TOKEN, asks(), 401),
        (TOKEN, asks("/_wsflow/?token=x"), 401),
        (TOKEN, asks(f"/_wsflow/?token={TOKEN}"), 0),
        (TOKEN, asks(f"/_wsflow/?token={TOKEN}", "192.0.2.1", Host="a.example"), 0),
        (TOKEN, asks(f"/_wsflow/?token={TOKEN}", Host="a.example", Origin="http://b.example"), 403),
        (TOKEN, asks("/_wsflow/?token=%C3%A9"), 401),
    ],
)
def test_who_may_see_it(token: str, request_: Request, status: int) -> None:
    access = Access(token)
    if status:
        with pytest.raises(Reject, match=str(status)):
            access.check(request_)
    else:
        access.check(request_)


async def test_the_page_and_its_socket() -> None:
    async with serve(chat, quick(console=TOKEN)) as server:
        base = f"127.0.0.1:{server.port}"
        async with httpx2.AsyncClient(base_url=f"http://{base}") as client:
            answer = await client.get(f"/_wsflow/?token={TOKEN}")
            assert answer.status_code == 200
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert not re.findall(r"(?:src|href)=\"(?!data:)", answer.text)  # no other file
            assert (await client.get("/_wsflow/")).status_code == 401
        with pytest.raises(InvalidStatus, match="401"):
            await connect(f"ws://{base}/_wsflow/live")
        async with connect(f"ws://{base}/_wsflow/live?token={TOKEN}") as socket:
            assert json.loads(await socket.recv())["type"] == "process"
        async with connect(f"ws://{base}/chat/lobby?name=ada") as socket:  # the app's own
            assert json.loads(await socket.recv())["type"] in ("tick", "came")
    async with serve(chat, quick()) as server, httpx2.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{server.port}/_wsflow/")
        assert answer.status_code == 404


def test_what_the_page_has() -> None:
    contract = describe(compile_app(app_of()))
    page = made(contract)
    found = re.search(r'id="contract">(.*?)</script>', page)
    assert found is not None
    data: Any = json.loads(found[1])
    assert data == json.loads(msgspec.json.encode(contract))
    app = Router("/a", title="</script><script>alert(1)</script>")

    @app.consumer
    async def take(message: str) -> None: ...

    page = made(describe(compile_app(app)))
    assert page.count("</script>") == 2


def test_a_token_that_can_be_guessed() -> None:
    with pytest.raises(ValueError, match="console has 5 characters, and nothing else keeps others"):
        Settings(console="short")


@asynccontextmanager
async def console(
    *options: str, app: str = "examples.chat:app", cwd: Path = ROOT
) -> AsyncIterator[Page]:
    """The console of an app, in a browser."""
    port = free_port()
    options = ("--port", str(port), "--console", "", *options)
    async with running(app, *options, cwd=cwd) as run:
        await run.until(f"console: http://127.0.0.1:{port}/_wsflow/")
        async with chromium(f"http://127.0.0.1:{port}/_wsflow/") as page:
            await page.show(1280, 900)
            await page.run(TOOLS)
            yield page
        run.process.send_signal(signal.SIGTERM)
        assert await run.ended() == 0
        assert "Traceback" not in run.log


TOOLS = (
    UNTIL
    + """
globalThis.labelled = (label, scope = document) => [...scope.querySelectorAll("label")]
  .find((each) => each.textContent.trim().startsWith(label))
  .querySelector("input,select,textarea");
globalThis.joined = async (fields) => {
  for (const [name, value] of Object.entries(fields)) labelled(name).value = value;
  const count = peers.length;
  at("connect").requestSubmit();
  await until(() => peers.length > count && current.state !== "connecting");
};
globalThis.sent = (name) => entries.filter((each) => each.way === "out" && each.name === name);
globalThis.got = (name) => entries.filter((each) => each.way === "in" && each.name === name);
globalThis.choose = (id, value) => {
  at(id).value = value;
  at(id).dispatchEvent(new Event("change"));
};
globalThis.look = (id, value) => {
  at(id).value = value;
  at(id).dispatchEvent(new Event("input"));
};
globalThis.enter = (name, value) => { labelled(name, at("form")).value = value; };
globalThis.submit = () => at("composer").requestSubmit();
globalThis.serverShows = async (connections) => {
  at("tab-server").click();
  await until(() => at("connections").children.length === connections);
};
"""
)


@pytest.mark.long
async def test_two_people_in_a_chat() -> None:
    """Both sides are seen; what is wrong is said before it goes, and what the server says of it."""
    async with console() as page:
        await page.run('await joined({ room: "lobby", name: "ada" })')
        await page.run('await joined({ room: "lobby", name: "bob" })')
        await page.run(
            'enter("text", "hello"); submit(); await until(() => got("said").length === 2)'
        )
        peers = await page.run('return got("said").map((each) => each.peer)')
        assert sorted(peers) == ["ada", "bob"]
        await page.run('choose("as", "text"); at("text").value = `{"type": "say", "txt": 1}`')
        assert await page.run('submit(); return at("send-error").textContent') == (
            "the message needs text"
        )
        assert await page.run('return sent("say").length') == 1
        await page.run('at("unchecked").checked = true; submit()')
        await page.run('await until(() => current.state === "ended")')
        assert await page.run("return current.end") == ("1007 Object missing required field `text`")
        assert await page.run('return at("peer-state").textContent.startsWith("ended: 1007")')
        await page.run('at("again").click(); await until(() => current.state === "open")')
        await page.run("await until(() => entries.every((each) => each.element))")
        await page.run('look("search", "hello")')
        shown = await page.run(
            "return entries.filter((each) => each.element && !each.element.hidden).length"
        )
        assert shown == 3
        assert page.console == []


@pytest.mark.long
async def test_a_refusal() -> None:
    async with console() as page:
        await page.run('await joined({ room: "lobby", name: "" })')
        await page.run('await until(() => current.state === "ended")')
        assert await page.run("return current.end") == "refused with 401: a name is needed"
        await page.run('labelled("room").value = ""; at("connect").requestSubmit()')
        assert await page.run('return at("connect-error").textContent') == "room is needed"


@pytest.mark.long
async def test_calls_streams_and_what_is_asked() -> None:
    async with console(app="examples.calls:app") as page:
        await page.run("await joined({})")
        await page.run('choose("message", "divide"); enter("a", "1"); enter("b", "3"); submit()')
        await page.run('await until(() => !at("asked").hidden)')
        await page.run('labelled("answer", at("questions")).value = "4"')
        await page.run('at("questions").querySelector("form").requestSubmit()')
        await page.run('await until(() => got("answer to divide").length)')
        text, took = await page.run(
            'const [found] = got("answer to divide"); return [found.text, found.took]'
        )
        assert json.loads(text)["value"] == {"value": 0.3333}
        assert took > 0
        await page.run('choose("message", "primes"); enter("upto", "1000000000"); submit()')
        await page.run('await until(() => got("item of primes").length > 70)')  # it grants more
        await page.run('at("peer-state").querySelector("button").click()')
        assert await page.run('return sent("$cancel").length') == 1
        assert await page.run(
            'enter("upto", "x"); submit(); return at("send-error").textContent'
        ) == ('upto is "x", and has to be a whole number')
        assert page.console == []


@pytest.mark.long
async def test_saved_and_copied() -> None:
    async with console() as page:
        await page.run('await joined({ room: "lobby", name: "ada" })')
        await page.run('enter("text", "it\'s"); at("save-name").value = "greeting"')
        await page.run('at("save").click(); enter("text", "other")')
        await page.run('at("saved").querySelector("button").click()')
        assert await page.run('return labelled("text", at("form")).value') == "it's"
        copied = 'document.querySelector("[data-copy=%s]").click(); return at("copy").textContent'
        command = await page.run(copied % "command")
        sent = shlex.split(command.partition(" | ")[0])
        assert sent == ["printf", "%s\\n", '{"type":"say","text":"it\'s"}']
        assert " | wsflow connect 'ws://127.0.0.1:" in command
        typescript = await page.run(copied % "typescript")
        assert 'connection.send("say", {"text":"it\'s"});' in typescript
        assert 'import { chatRoom } from "./client.js";' in typescript
        python = await page.run(copied % "python")
        compile(python, "copied", "exec")
        assert 'await peer.send(json.dumps({"type": "say", "text": "it\'s"}))' in python


LOOKS = """
const wide = document.documentElement.scrollWidth - WIDTH;
const unnamed = [...document.querySelectorAll("input,select,textarea,button")].filter((each) =>
  each.offsetParent && !each.textContent.trim() && !each.labels?.length
  && !each.getAttribute("aria-label"));
const luminance = (text) => {
  const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((each) => each / 255)
    .map((each) => each <= .03928 ? each / 12.92 : ((each + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
};
const ground = (each) => {
  const found = getComputedStyle(each).backgroundColor;
  return found === "rgba(0, 0, 0, 0)" ? ground(each.parentElement) : found;
};
const faint = [...document.querySelectorAll("p,span,button,b,summary,dt,td,th,h2,code")]
  .filter((each) => each.offsetParent && each.textContent.trim() && !each.disabled)
  .filter((each) => {
    const [one, two] = [luminance(getComputedStyle(each).color), luminance(ground(each))];
    return (Math.max(one, two) + .05) / (Math.min(one, two) + .05) < 4.5;
  }).map((each) => each.outerHTML.slice(0, 80));
return [wide, unnamed.map((each) => each.outerHTML), faint];
"""


@pytest.mark.long
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
async def test_how_it_looks(width: int, dark: bool, tmp_path: Path) -> None:
    """Nothing sticks out, all has a name, and what is written can be read (WCAG 2.1, 4.5:1)."""
    async with console() as page:
        await page.show(width, 900, dark=dark)
        await page.run('await joined({ room: "lobby", name: "ada" })')
        await page.run('await until(() => got("came").length)')
        looks = LOOKS.replace("WIDTH", str(width))
        assert await page.run(looks) == [0, [], []]
        picture = await page.screenshot()
        assert len(picture) > 10_000
        (tmp_path / "try.png").write_bytes(picture)
        await page.run("await serverShows(1)")
        assert await page.run(looks) == [0, [], []]


RECURSIVE = """
from __future__ import annotations
import msgspec
from wsflow import Router

class Node(msgspec.Struct, tag="node"):
    next: Node | None
    name: str
    tree: list[Node] = []
    note: str = "none"
    size: int = 0

app = Router("/{number}")

@app.on_connect
async def enter(number: int) -> None: ...

@app.consumer
async def take(message: Node) -> Node:
    return message

@app.producer
async def many() -> None:
    import anyio
    await anyio.sleep_forever()
"""


@pytest.mark.long
async def test_odd_types_and_values(tmp_path: Path) -> None:
    """A type that has itself within, empty texts, lines, and integers beyond 2^53."""
    (tmp_path / "odd.py").write_text(RECURSIVE)
    async with console(app="odd:app", cwd=tmp_path) as page:
        assert await page.run('return labelled("number").value') == ""
        await page.run('await joined({ number: "5" })')
        assert await page.run('return at("message").value') == "node"
        await page.run('enter("name", "a"); submit(); await until(() => got("node").length === 1)')
        text = await page.run('return got("node")[0].text')
        assert json.loads(text) == {
            "type": "node",
            "next": None,
            "name": "a",
            "tree": [],
            "note": "none",
            "size": 0,
        }
        note = 'const note = labelled("note", at("form")); note.value = ""'
        await page.run(f"{note}; note.dispatchEvent(new Event('input')); submit()")
        await page.run('await until(() => got("node").length === 2)')
        assert json.loads(await page.run('return got("node")[1].text'))["note"] == ""
        await page.run('enter("size", "9007199254740993"); submit()')
        assert "size is beyond 2^53" in await page.run('return at("send-error").textContent')
        large = '{"type":"node","next":null,"name":"a\\nb","size":9007199254740993}'
        await page.run(f'choose("as", "text"); at("text").value = {json.dumps(large)}')
        await page.run('at("unchecked").checked = true; submit()')
        await page.run('await until(() => got("node").length === 3)')
        await page.run("await until(() => entries.at(-1).element)")
        await page.run('entries.at(-1).element.querySelector("details").open = true')
        await page.run('await until(() => entries.at(-1).element.querySelector("pre"))')
        shown = await page.run('return entries.at(-1).element.querySelector("pre").textContent')
        assert '"size": 9007199254740993' in shown
        assert '"tree": []' in shown
        await page.run('choose("as", "form")')
        assert await page.run('return labelled("name", at("form")).value') == "a\nb"
        await page.run('choose("as", "text"); at("text").value = "{"; submit()')
        await page.run('await until(() => current.state === "ended")')
        assert (await page.run("return current.end")).startswith("1007")
        assert page.console == []


@pytest.mark.long
async def test_many_messages_at_once() -> None:
    async with console() as page:
        await page.run('await joined({ room: "lobby", name: "ada" })')
        await page.run("for (let n = 0; n < 5000; n++) note(current, `line ${n}`)")
        await page.run('await until(() => at("log").textContent.includes("line 4999"))')
        # What the app has said may come only now, and is not drawn at once.
        await page.run('await until(() => at("log").children.length === entries.length)')
        assert await page.run("return entries.length") == 2000
        assert await page.run('return at("count").textContent') == "2000 entries"
        await page.run('look("search", "line 49")')
        assert await page.run('return at("count").textContent') == "100 of 2000 entries"


@pytest.mark.long
async def test_an_app_that_was_loaded_anew(tmp_path: Path) -> None:
    """The page says that it is that of the old one."""
    (tmp_path / "odd.py").write_text(RECURSIVE)
    port = free_port()
    async with running("odd:app", "--port", str(port), cwd=tmp_path, command="dev") as run:
        await run.until("console: ")
        async with chromium(f"http://127.0.0.1:{port}/_wsflow/") as page:
            await page.run(TOOLS)
            await page.run('await joined({ number: "5" })')
            (tmp_path / "odd.py").write_text(RECURSIVE.replace("note: str", "remark: str"))
            await run.until("reloaded")
            await page.run('await until(() => !at("changed").hidden)')
            assert (await page.run("return current.end")).startswith("1012")
        run.process.send_signal(signal.SIGINT)
        assert await run.ended() == 0


@pytest.mark.long
async def test_it_is_used_with_the_keyboard_alone() -> None:
    async with console() as page:
        for _ in range(20):
            await page.press("Tab")
            if await page.run('return document.activeElement === labelled("room")'):
                break
        await page.run("document.activeElement.select()")
        await page.type("den")
        await page.press("Tab")
        await page.type("ada")
        await page.press("Enter")
        await page.run('await until(() => current?.state === "open")')
        assert await page.run("return current.url.endsWith('/chat/den?name=ada')")
        await page.run('at("tab-try").focus()')
        await page.press("ArrowRight")
        assert await page.run('return document.activeElement.id + at("server").hidden') == (
            "tab-serverfalse"
        )


@pytest.mark.long
async def test_the_servers_of_all_workers() -> None:
    """Both tell what they do, and a connection of either can be closed."""
    async with console("--workers", "2") as page:
        for number in range(6):
            await page.run(f'await joined({{ room: "r{number}", name: "ada" }})')
        await page.run("await serverShows(6); await until(() => processes.size === 2)")
        await page.run('look("who", "/chat/r3")')
        await page.run('await until(() => at("connections").children.length === 1)')
        await page.run('at("connections").querySelector("button").click()')
        await page.run('await until(() => peers.some((each) => each.state === "ended"))')
        ended = await page.run(
            "return peers.filter((each) => each.end).map((each) => each.url + each.end)"
        )
        assert len(ended) == 1
        assert ended[0].endswith("/chat/r3?name=ada1000 disconnected from the console")
        await page.run("await serverShows(0)")
        topics = await page.run('return [...at("topics").children].map((each) => each.dataset.key)')
        assert sorted(topics) == [f"room.r{number}" for number in (0, 1, 2, 4, 5)]
