"""The tutorial, step by step as it stands, in an empty folder with the wheel installed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from tests.browser import chromium
from tests.deployed import nginx_in_front
from tests.node import FOLDER, compile_all, program
from tests.processes import free_port

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/tutorial.md").read_text()
FENCE = re.compile(r"^```(?P<kind>\w+)(?P<more>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S)
OUTSIDE = ("VIRTUAL_ENV", "PYTEST", "COV", "PYTHON", "UV_PROJECT", "WSFLOW", "CHAT")


def matches(expected: str, output: str) -> bool:
    """Whether a command has printed what the page says; ``…`` is any text, alone any lines."""
    lines = ["(?:.*\n)*?" if line == "…" else as_pattern(line) for line in expected.splitlines()]
    return re.fullmatch("".join(lines), output) is not None


def as_pattern(line: str) -> str:
    return re.escape(line).replace("…", ".*") + "\n"


class Shell:
    """A terminal in a folder, and the server that was started in another one.

    Attributes:
        folder: where it is.
        env: the environment of its commands.
        port: the one that stands in for 8000.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder, self.port, self._wheel = folder, free_port(), wheel
        self.env = {name: each for name, each in os.environ.items() if not name.startswith(OUTSIDE)}
        self.env["PATH"] = f"{folder}/.venv/bin{os.pathsep}{os.environ['PATH']}"
        self.env["WSFLOW_PORT"] = str(self.port)
        self._server: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[bytes] | None = None

    async def do(self, text: str) -> None:
        """Do what a page says: write its files, run its commands."""
        for block in FENCE.finditer(text.replace("8000", str(self.port))):
            if title := re.search(r'title="(.*)"', block["more"]):
                path = self.folder / title[1]
                path.parent.mkdir(exist_ok=True)
                path.write_text(block["text"])
            elif block["kind"] == "console":
                for part in block["text"].split("$ ")[1:]:
                    command, _, expected = part.partition("\n")
                    await self._type(command, expected)

    async def _type(self, command: str, expected: str) -> None:
        if command.startswith("wsflow run "):
            await self.stop()
            await self.serve(command, expected)
            return
        failing = "the connection ended" in expected
        output = await self.run(self._as_here(command), fails=failing)
        if not command.startswith(("pip ", "npx ")):
            assert matches(expected, output), f"$ {command}\n{output}\nand not\n{expected}"

    def _as_here(self, command: str) -> str:
        """The same with the wheel of this revision, and with the compiler that is here."""
        words = shlex.split(command)
        match words[0]:
            case "python3":
                return f"uv venv --quiet --python {sys.executable} .venv"
            case "pip":
                *_, what = words
                if what.startswith("wsflow"):
                    what = f"{what} @ {self._wheel.as_uri()}"
                return f"uv pip install --quiet --python .venv/bin/python {shlex.quote(what)}"
            case "npx":
                compiler = FOLDER / "node_modules/typescript/bin/tsc"
                return shlex.join(["node", str(compiler), *words[words.index("tsc") + 1 :]])
        return command

    async def run(self, command: str, *, fails: bool = False) -> str:
        """What a command prints. What it exports is there for the next ones."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", f"{command}\ncode=$?; env -0 >.env; exit $code"),
            cwd=self.folder,
            env=self.env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 120)
        assert (process.returncode != 0) == fails, f"$ {command}\n{output.decode()}"
        pairs = (self.folder / ".env").read_text().split("\0")
        self.env = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        return output.decode()

    async def serve(self, command: str, expected: str = "") -> None:
        """Start a server, and wait until it serves."""
        self._server = await asyncio.create_subprocess_exec(
            *shlex.split(command),
            cwd=self.folder,
            env=self.env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert self._server.stdout is not None
        lines = []
        while not lines or " serves " not in lines[-1]:
            line = await asyncio.wait_for(self._server.stdout.readline(), 60)
            assert line, "".join(lines)
            lines.append(line.decode())
        banner = lines[-1]
        for wanted in expected.splitlines():
            assert re.fullmatch(as_pattern(wanted), banner), banner
            banner = (await self._server.stdout.readline()).decode()
        self._reading = asyncio.create_task(self._server.stdout.read())

    async def stop(self) -> None:
        """Stop the server, if there is one, as Ctrl-C does."""
        if self._server is None:
            return
        server, self._server = self._server, None
        assert server.stdout is not None
        with suppress(ProcessLookupError):
            server.terminate()
        said = (await (self._reading or server.stdout.read())).decode()
        self._reading = None
        assert await server.wait() == 0, said
        assert "Traceback" not in said, said

    async def token(self, name: str) -> str:
        link = await self.run(f"python invite.py {name}")
        return link.strip().partition("#")[2]

    @asynccontextmanager
    async def member(
        self, name: str, url: str, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[ClientConnection]:
        bearer = {"Authorization": f"Bearer {await self.token(name)}"}
        async with websockets.connect(
            f"{url}/chat/lobby", additional_headers=bearer, ssl=tls
        ) as peer:
            yield peer


async def heard(peer: ClientConnection, text: str) -> None:
    """Wait until a peer is told that somebody has said something."""
    async with asyncio.timeout(20):
        while json.loads(await peer.recv()).get("text") != text:
            pass


async def page_works(shell: Shell) -> None:
    """Two pages talk to each other, and come back when the server does."""
    until = """
        const until = async (is) => {
          for (const end = Date.now() + 50000; !is();) {
            if (Date.now() > end) throw new Error(document.body.innerText);
            await new Promise(go => setTimeout(go, 20));
          }
        };
        const state = () => document.querySelector("output").textContent;
        const shown = () => document.querySelector("ul").textContent;
    """
    back = f'{until} await until(() => state() === "open");'
    say = f"""{until}
        await until(() => state() === "open");
        document.querySelector("input").value = "%s";
        document.querySelector("button").click();
    """
    see = f'{until} await until(() => shown().includes("%s"));'
    lost = f'{until} await until(() => state() !== "open");'
    url = f"http://127.0.0.1:{shell.port}/#"
    async with (
        chromium(url + await shell.token("ada")) as ada,
        chromium(url + await shell.token("bob")) as bob,
    ):
        await ada.run(say % "hi")
        await bob.run(see % "ada: hi")
        await shell.stop()
        await ada.run(lost)
        await bob.run(lost)
        await shell.serve("wsflow run chat:app --static public")
        await ada.run(back)  # the history went with the server: who comes later has not heard it
        await bob.run(say % "still here")
        await ada.run(see % "bob: still here")


async def workers_work(shell: Shell) -> None:
    """All in a room hear each other, whichever worker they are with."""
    async with AsyncExitStack() as stack:
        url = f"ws://127.0.0.1:{shell.port}"
        peers = [
            await stack.enter_async_context(shell.member(f"user{number}", url))
            for number in range(8)
        ]
        for number, each in enumerate(peers):
            await each.send(json.dumps({"type": "say", "text": f"from {number}"}))
            for peer in peers:
                await heard(peer, f"from {number}")


async def deployed(shell: Shell) -> None:
    """The command of the unit, with nginx in front of it, as the two files say."""
    unit = (ROOT / "docs/deploy/chat.service").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.M)
    wheres: Sequence[tuple[str, Path]] = [("/srv/chat", shell.folder), ("/run/chat", shell.folder)]
    for place, here in wheres:
        command = command.replace(place, str(here))
    await shell.stop()
    await shell.serve(command.replace("--drain-over 20", "--drain-over 0"))
    async with (
        nginx_in_front(shell.folder) as (port, tls),
        shell.member("ada", f"wss://localhost:{port}", tls) as ada,
        shell.member("bob", f"wss://localhost:{port}", tls) as bob,
    ):
        await ada.send('{"type": "say", "text": "from far away"}')
        await heard(bob, "from far away")


AFTER: dict[str, Callable[[Shell], Awaitable[None]]] = {
    "A page in the browser": page_works,
    "Two workers": workers_work,
}


@pytest.mark.long
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_each_step_in_an_empty_folder(tmp_path: Path) -> None:
    for name in ("uv", "node", "chromium", "nginx"):
        program(name)
    compile_all({"nothing.ts": "export {};"})  # installs the compiler, unless it is there
    build = [
        shutil.which("uv") or "",
        "build",
        "--wheel",
        "--quiet",
        "--out-dir",
        tmp_path / "dist",
    ]
    building = await asyncio.create_subprocess_exec(*map(str, build), str(ROOT))
    assert await building.wait() == 0
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    (tmp_path / "chat").mkdir()
    shell = Shell(tmp_path / "chat", wheel)
    try:
        *steps, last = PAGE.split("\n## ")
        for step in steps:
            title = step.partition("\n")[0]
            await shell.do(step)
            if title in AFTER:
                await AFTER[title](shell)
        assert last.startswith("Deployed\n")
        await deployed(shell)
    finally:
        await shell.stop()
