"""The chat of FastAPI's guide, as it stands: with a Router beside it, and played by one instead.

It comes with the source distribution of the FastAPI that is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.browser import Page, chromium
from tests.node import UNTIL, program
from tests.processes import free_port, running

ROOT = Path(__file__).parents[2]
CHAT = Path("docs_src/websockets_/tutorial003.py")
TESTS = Path("tests/test_tutorial/test_websockets/test_tutorial003.py")

BESIDE = """
import wsflow
from examples.chat import app as rooms
wsflow.asgi(rooms).mount(app, "/rooms")
"""

INSTEAD = """
from wsflow import Connection, Registry, Router

app = Router("/ws/{client_id}")


@app.consumer
async def say(
    message: str, client_id: int, connection: Connection, registry: Registry
) -> None:
    await connection.send(f"You wrote: {message}")
    await registry.broadcast(f"Client #{client_id} says: {message}")


@app.on_disconnect
async def leave(client_id: int, registry: Registry) -> None:
    await registry.broadcast(f"Client #{client_id} left the chat")
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def guide(tmp_path: Path) -> Path:
    """A copy of the chat and of its tests."""
    number = version("fastapi")
    kept = ROOT / "build" / "fastapi"
    archive = kept / f"fastapi-{number}.tar.gz"
    kept.mkdir(parents=True, exist_ok=True)
    with (kept / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            options = ["--quiet", "--no-deps", "--no-binary", "fastapi", f"fastapi=={number}"]
            command = [program("uv"), "tool", "run", "pip", "download", *options]
            got = subprocess.run(command, cwd=kept, capture_output=True, text=True)
            if got.returncode or not archive.exists():
                pytest.skip(f"FastAPI's source cannot be had: {got.stderr[-200:]}")
    with tarfile.open(archive) as files:
        for each in (CHAT, TESTS):
            to = tmp_path / each
            to.parent.mkdir(parents=True)
            found = files.extractfile(f"fastapi-{number}/{each}")
            assert found is not None
            to.write_bytes(found.read())
            (to.parent / "__init__.py").touch()
    return tmp_path


def html_of(guide: Path) -> str:
    """The page."""
    text = (guide / CHAT).read_text()
    return text.partition('html = """\n')[2].partition('"""')[0]


@contextlib.asynccontextmanager
async def pages(port: int) -> AsyncIterator[tuple[Page, Page]]:
    """The page in two browsers. It asks for localhost:8000, whatever it came from."""
    moved = f"--host-resolver-rules=MAP localhost:8000 127.0.0.1:{port}"
    async with (
        chromium("http://localhost:8000/", moved) as one,
        chromium("http://localhost:8000/", moved) as two,
    ):
        for each in (one, two):
            await each.run(WAITS)
            await each.run("await until(() => ws.readyState === 1)")
        yield one, two


WAITS = (
    UNTIL
    + """
globalThis.shown = () =>
  [...document.querySelectorAll("#messages li")].map((each) => each.textContent);
"""
)
TYPES = """
document.getElementById("messageText").value = "hello";
document.querySelector("button").click();
await until(() => shown().length === 2);
return shown();
"""


async def talk(one: Page, two: Page) -> None:
    """Somebody types, both see it, and one sees that the other leaves."""
    id = await one.run("return client_id")
    assert await one.run(TYPES) == ["You wrote: hello", f"Client #{id} says: hello"]
    await two.run("await until(() => shown().length === 1)")
    assert await two.run("return shown()") == [f"Client #{id} says: hello"]
    await one.run("ws.close()")
    await two.run(f'await until(() => shown().includes("Client #{id} left the chat"))')


@pytest.mark.long
async def test_a_router_beside_it(guide: Path) -> None:
    """In three lines: its own tests pass, its page works, and so does the Router, on one port."""
    with (guide / CHAT).open("a") as file:
        file.write(BESIDE)
    path = {**os.environ, "PYTHONPATH": f"{guide}:{ROOT}"}
    options = ("-q", "--noconftest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", ".")
    own = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", *options, str(TESTS)),
        cwd=guide,
        env=path,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(own.communicate(), 60)
    assert own.returncode == 0, out.decode()
    assert "2 passed" in out.decode()
    port = free_port()
    module = ".".join(CHAT.with_suffix("").parts)
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", f"{module}:app", "--port", str(port)),
        cwd=guide,
        env=path,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stderr is not None
        while b"running on" not in (line := await asyncio.wait_for(server.stderr.readline(), 60)):
            assert line
        async with pages(port) as (one, two):
            heard = """
            globalThis.room = new WebSocket("ws://localhost:8000/rooms/chat/lobby?name=ada");
            room.heard = [];
            room.onmessage = ({ data }) => room.heard.push(JSON.parse(data));
            await until(() => room.readyState === 1);
            room.send(JSON.stringify({ type: "say", text: "hi" }));
            await until(() => room.heard.some((each) => each.type === "said"));
            return room.heard.find((each) => each.type === "said");
            """
            assert await two.run(heard) == {"type": "said", "who": "ada", "text": "hi"}
            await talk(one, two)
    finally:
        server.terminate()
        await server.communicate()


@pytest.mark.long
async def test_its_page_from_a_directory(guide: Path) -> None:
    """``--static`` serves the page, and a Router of ten lines plays its part."""
    site = guide / "site"
    site.mkdir()
    (site / "index.html").write_text(html_of(guide))
    (guide / "mine.py").write_text(INSTEAD)
    shutil.rmtree(guide / "tests")
    port = free_port()
    async with running("mine:app", "--static", "site", "--port", str(port), cwd=guide) as run:
        await run.until("try it")
        async with pages(port) as (one, two):
            await talk(one, two)
        run.process.send_signal(signal.SIGTERM)
        assert await run.ended() == 0
