"""``wsflow dev``: an app that changes while it is served."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import termios
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import watchfiles
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.processes import Run, running
from wsflow.cli import dev as command
from wsflow.cli.dev import Reloading
from wsflow.cli.main import main
from wsflow.cli.terminal import Terminal
from wsflow.server import Settings
from wsflow.server.workers import NotStartedError

pytestmark = pytest.mark.anyio

APP = """
from wsflow import Router
app = Router("/")
@app.consumer
async def work(text: str) -> str:
    if text == "crash":
        raise RuntimeError("oh")
    return f"{text} VERSION"
"""

PAGE = """
from wsflow import Router
app = Router("/")
@app.get("/")
async def page() -> str:
    return "hello"
"""

IMPORTS = "import time; time.sleep(1000)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {IMPORTS}"
STARTS = (
    APP
    + """
@app.lifespan
async def start() -> None:
    """
)

STARTS_NOT = """
@app.lifespan
async def start() -> None:
    raise OSError("no")
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "one")
    return tmp_path


def write(folder: Path, version: str) -> None:
    (folder / "mine.py").write_text(APP.replace("VERSION", version))


def remake(folder: Path) -> None:
    folder.mkdir()
    write(folder, "two")


@asynccontextmanager
async def developing(*arguments: str, **options: Any) -> AsyncIterator[tuple[Run, str]]:
    """``wsflow dev``, and where it serves. It stops by Ctrl-C."""
    async with running("mine:app", "--port", "0", *arguments, command="dev", **options) as run:
        where = (await run.until("  on ws")).split()[-1]
        yield run, where
        with contextlib.suppress(ProcessLookupError):  # it has stopped
            run.process.send_signal(signal.SIGINT)
        assert await run.ended() == 0, run.log
        assert run.log.count("Traceback") == run.log.count("RuntimeError: oh"), run.log


async def answer(peer: ClientConnection, text: str = "x") -> str | bytes:
    await peer.send(text)
    return await peer.recv()


async def test_a_change_reloads(folder: Path) -> None:
    async with developing() as (run, where):
        assert "mine:app and reloads it" in run.log
        old = await connect(where)
        assert await answer(old) == "x one"
        write(folder, "two")
        await run.until("mine.py changed")
        await run.until("reloaded")
        with pytest.raises(ConnectionClosed) as closed:
            await old.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        async with connect(where) as new:
            assert await answer(new) == "x two"
        run.process.send_signal(signal.SIGHUP)
        await run.until("reloaded")
    assert "watchfiles" not in run.log


async def test_a_version_that_cannot_be_loaded(folder: Path) -> None:
    """The one before it goes on, and its connections."""
    async with developing() as (run, where):
        async with connect(where) as peer:
            (folder / "mine.py").write_text("def broken(:\n")
            await run.until("importing 'mine' failed: SyntaxError")
            await run.until("the old version goes on")
            assert await answer(peer) == "x one"
        write(folder, "three")
        await run.until("reloaded")
        async with connect(where) as peer:
            assert await answer(peer) == "x three"


@pytest.mark.parametrize(
    ("first", "says"),
    [
        ("def broken(:\n", "importing 'mine' failed: SyntaxError"),
        ("app = 1\n", "'mine:app' is an int, not a Router"),
        (APP + STARTS_NOT, "OSError: no"),
    ],
)
async def test_an_app_that_does_not_start(folder: Path, first: str, says: str) -> None:
    """It is loaded again after the next change; Ctrl-C ends the wait."""
    (folder / "mine.py").write_text(first)
    async with running("mine:app", "--port", "0", command="dev") as run:
        await run.until(says)
        await run.until("the app is loaded again after the next change; stop with Ctrl-C")
        write(folder, "one")
        where = (await run.until("  on ws")).split()[-1]
        async with connect(where) as peer:
            assert await answer(peer) == "x one"
        run.process.terminate()
        assert await run.ended() == 0, run.log
    (folder / "mine.py").write_text(first)
    for number in (signal.SIGINT, signal.SIGTERM):
        async with running("mine:app", "--port", "0", command="dev") as run:
            await run.until("stop with Ctrl-C")
            run.process.send_signal(number)
            assert await run.ended() == 0, run.log


async def test_pages_of_this_machine_and_own_tracebacks(folder: Path) -> None:
    async with developing("--workers", "4", "--origin", "https://a.example") as (run, where):
        for origin in (
            "http://localhost:3000",
            "https://app.localhost",
            "http://127.0.0.1:5173",
            "http://[::1]:80",
            "https://a.example",
        ):
            async with connect(where, origin=origin) as peer:  # type: ignore[arg-type]
                assert await answer(peer) == "x one"
        for origin in ("http://b.example:3000", "http://localhost.b.example"):
            with pytest.raises(InvalidStatus):
                await connect(where, origin=origin)  # type: ignore[arg-type]
        async with connect(where) as peer:
            with pytest.raises(ConnectionClosed):
                await answer(peer, "crash")
        await run.until("Traceback")
        assert f'File "{folder / "mine.py"}"' in await run.until("File")
        await run.until("RuntimeError: oh")


@pytest.mark.parametrize(
    "text",
    [IMPORTS, STUBBORN, STARTS + IMPORTS, STARTS + "import anyio; await anyio.sleep(1000)"],
)
async def test_a_version_that_hangs_while_it_starts(folder: Path, text: str) -> None:
    """The next change takes its place, be it the first version or a later one."""
    mine, begun = folder / "mine.py", folder / "begun"
    mark = f"open({str(begun)!r}, 'w').close()"
    text = text.replace("import time", f"{mark}; import time").replace(
        "import any", f"{mark}; import any"
    )

    async def hang() -> None:
        begun.unlink(missing_ok=True)
        mine.write_text(text)
        while not begun.exists():
            await asyncio.sleep(0.01)

    mine.write_text(text)
    async with running("mine:app", "--port", "0", command="dev") as run:
        while not begun.exists():
            await asyncio.sleep(0.01)
        write(folder, "one")
        where = (await run.until("  on ws")).split()[-1]
        async with connect(where) as peer:
            await hang()
            assert await answer(peer) == "x one"
            write(folder, "two")
            await run.until("reloaded")
        async with connect(where) as peer:
            assert await answer(peer) == "x two"
        await hang()
        run.process.send_signal(signal.SIGINT)
        assert await run.ended() == 0
    for says in ("the old version goes on", "after the next change", "as they are"):
        assert says not in run.log


async def test_a_version_that_does_not_leave(folder: Path) -> None:
    """A further change does not wait for it."""
    busy = APP.replace("    return f", "    await anyio.sleep(1000)\n    return f")
    (folder / "mine.py").write_text(f"import anyio\n{busy}")
    async with developing("--grace", "1000") as (run, where), connect(where) as peer:
        await peer.send("x")
        await (await peer.ping())
        write(folder, "two")
        await run.until("stopping: draining for at most 1000 s")
        write(folder, "three")
        await run.until("reloaded")
        with pytest.raises(ConnectionClosed):
            await peer.recv()
        async with connect(where) as newcomer:
            assert await answer(newcomer) == "x three"


async def test_what_is_said_of_the_paths(folder: Path) -> None:
    text = APP.replace('"/"', '"/room/{name}"').replace("text: str", "text: bytes")
    (folder / "mine.py").write_text(text)
    async with developing() as (run, where):
        assert f'try it: wsflow connect "{where}/room/name"' in await run.until("try it")
        page = where.replace("ws", "http", 1)
        assert await run.until("console") == f"     console: {page}/_wsflow/\n"
    (folder / "mine.py").write_text(PAGE)
    async with developing() as (run, _):
        pass
    assert "try it" not in run.log
    write(folder, "one")
    async with running("mine:app", "--uds", "s", command="dev") as run:
        await run.until("  on s")
        run.process.send_signal(signal.SIGINT)
        assert await run.ended() == 0
    assert "try it" not in run.log


async def test_settings_for_what_runs_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process needs no broker, however many there will be."""
    for name, value in {"WORKERS": "4", "BROKER": "memory://", "GRACE": "20"}.items():
        monkeypatch.setenv(f"WSFLOW_{name}", value)
    async with developing() as (run, where), connect(where) as peer:
        assert await answer(peer) == "x one"
    assert "draining for at most 20 s" in run.log  # though that is the default elsewhere


async def test_files_that_are_named_as_modules(folder: Path) -> None:
    """They are the app's alone."""
    for name in ("random", "msgspec", "wsflow"):
        (folder / f"{name}.py").write_text("raise SystemExit('not me')\n")
    async with developing(flags=["-P"]) as (_, where), connect(where) as peer:
        assert await answer(peer) == "x one"


async def test_a_directory_that_is_made_again(folder: Path) -> None:
    async with developing() as (run, where):
        shutil.rmtree(folder)
        run.process.send_signal(signal.SIGHUP)
        await run.until(f"the app cannot be loaded from {folder}: No such file or directory")
        await run.until("the old version goes on")
        remake(folder)
        await run.until("reloaded")
        async with connect(where) as peer:
            assert await answer(peer) == "x two"


async def test_what_is_watched(folder: Path) -> None:
    """Python files below the directories that are named, and files that are named."""
    (folder / "lib").mkdir()
    (folder / "chat.toml").write_text("")
    async with developing("--watch", "lib", "--watch", "chat.toml") as (run, _):
        write(folder, "two")
        (folder / "lib" / "notes.txt").write_text("")
        (folder / "lib" / "a.py").write_text("")
        assert "lib/a.py changed" in await run.until("changed")
        await run.until("reloaded")
        (folder / "chat.toml").write_text("x = 1")
        assert "chat.toml changed" in await run.until("changed")
        await run.until("reloaded")


class Window:
    """A terminal, and what is shown in it."""

    def __init__(self) -> None:
        self.end, self.terminal = os.openpty()

    async def until(self, text: bytes) -> None:
        shown = b""
        while text not in shown:
            shown += await asyncio.to_thread(os.read, self.end, 1000)

    @property
    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.terminal)[3] & termios.ECHO)


@pytest.fixture
def window() -> Iterator[Window]:
    window = Window()
    yield window
    for each in (window.end, window.terminal):
        os.close(each)


@asynccontextmanager
async def debugging(
    folder: Path, window: Window
) -> AsyncIterator[tuple[Run, str, ClientConnection]]:
    """A handler that stands in a debugger, with one who waits for its answer."""
    (folder / "mine.py").write_text(APP.replace("    return f", "    breakpoint()\n    return f"))
    ends = {"stdin": window.terminal, "stdout": window.terminal}
    async with (
        asyncio.timeout(30),
        developing(**ends) as (run, where),
        connect(where, close_timeout=0) as peer,
    ):
        await peer.send("x")
        await window.until(b"(Pdb)")
        while window.echoes:
            await asyncio.sleep(0.01)
        yield run, where, peer
    assert "blocked" not in run.log
    assert window.echoes


async def test_a_debugger(folder: Path, window: Window) -> None:
    """``breakpoint()`` talks to the terminal, for as long as one likes."""
    async with debugging(folder, window) as (_, _, peer):
        os.write(window.end, b"text = 'y'\nc\n")
        assert await peer.recv() == "y VERSION"


async def test_ctrl_c_in_a_debugger(folder: Path, window: Window) -> None:
    """It is over soon, and the terminal is as before."""
    async with debugging(folder, window):
        ...


async def test_ctrl_c_twice_in_a_debugger(folder: Path, window: Window) -> None:
    """Nobody waits for a grace period, then."""
    (folder / "pyproject.toml").write_text("[tool.wsflow]\ngrace = 1000")
    async with debugging(folder, window) as (run, _, _):
        killed = asyncio.create_task(run.until("has not stopped in time: it is killed"))
        while not killed.done():  # two that come at the same time are one
            run.process.send_signal(signal.SIGINT)
            await asyncio.wait([killed], timeout=0.1)


async def test_a_change_in_a_debugger(folder: Path, window: Window) -> None:
    async with debugging(folder, window) as (run, where, _):
        write(folder, "two")
        await run.until("reloaded")
        assert window.echoes
        async with connect(where) as peer:
            assert await answer(peer) == "x two"


async def test_a_terminal_that_is_closed(folder: Path, window: Window) -> None:
    ends = {"stdin": window.terminal, "stdout": window.terminal}
    async with running("mine:app", "--port", "0", command="dev", **ends) as run:
        await run.until("  on ws")
        run.process.send_signal(signal.SIGHUP)  # by somebody, while it is there
        await run.until("reloaded")
        os.close(window.end)
        window.end = os.dup(window.terminal)
        run.process.send_signal(signal.SIGHUP)
        assert await run.ended() == 1  # its output is gone
    assert "Traceback" not in run.log
    assert "changed" not in run.log
    assert run.log.count("reloaded") == 1


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(["dev", "mine:app", *arguments])
    return int(left.value.code or 0), capsys.readouterr().err


def test_what_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(capsys, "--watch", "nowhere") == (
        2,
        "wsflow: --watch is 'nowhere', which does not exist\n",
    )
    code, says = refused(capsys, "--host", "203.0.113.1")
    assert (code, "cannot listen on 203.0.113.1" in says) == (2, True)
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    code, says = refused(capsys)
    assert (code, "pip install 'wsflow[dev]'" in says) == (2, True)
    assert "Traceback" not in says


# -- without processes


class Starting:
    """A supervisor whose app does not start, until told."""

    trials: Sequence[str] = ()

    def __init__(self, *, serves: bool = False) -> None:
        self.serves = serves
        self.starts = asyncio.Event()
        self.fails = asyncio.Event()
        self.replaced = asyncio.Event()
        self.told: list[str] = []

    async def run(self, serving: Any) -> None:
        self.starts.set()
        if self.serves:
            serving()
        await self.fails.wait()
        raise NotStartedError(3)

    def renew(self) -> None:
        self.told.append("renew")

    async def renewed(self) -> bool:
        await self.replaced.wait()
        self.replaced.clear()
        return True

    def supersede(self) -> None:
        self.told.append("supersede")

    def stop(self) -> None:
        self.told.append("stop")

    def interrupt(self) -> None:
        self.told.append("interrupt")


class Edited:
    """Files that change when told."""

    def __init__(self) -> None:
        self.found: asyncio.Queue[set[tuple[Any, str]] | Exception] = asyncio.Queue()

    async def __call__(self) -> AsyncIterator[set[tuple[Any, str]]]:
        while True:
            found = await self.found.get()
            if isinstance(found, Exception):
                raise found
            if not found:
                return
            yield found


def loader(edited: Edited) -> Reloading:
    return Reloading("mine:app", Settings(), [edited], Terminal(()))


@asynccontextmanager
async def reloading(edited: Edited, *supervisors: Starting) -> AsyncIterator[asyncio.Task[Any]]:
    left = iter(supervisors)
    made: Any = lambda dev: next(left)  # noqa: E731
    task = asyncio.create_task(loader(edited).run(made, 1))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_stop_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start fails afterwards: it ends, and does not wait for a change."""
    handlers: list[Any] = []
    monkeypatch.setattr(command, "on_signals", lambda *given: handlers.extend(given))
    supervisor = Starting()
    async with asyncio.timeout(10), reloading(Edited(), supervisor) as task:
        await supervisor.starts.wait()
        stop, interrupt, _ = handlers
        stop()
        interrupt()
        supervisor.fails.set()
        assert list(await task) == []
    assert supervisor.told == ["stop", "interrupt"]


async def test_a_change_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again at once."""
    monkeypatch.setattr(command, "on_signals", lambda *given: None)
    first, second, edited = Starting(), Starting(), Edited()
    async with asyncio.timeout(10), reloading(edited, first, second):
        await first.starts.wait()
        edited.found.put_nowait({(watchfiles.Change.modified, "mine.py")})
        while not edited.found.empty():
            await asyncio.sleep(0)
        assert first.told == ["supersede"]
        first.fails.set()
        await second.starts.wait()


async def test_what_is_said_once_it_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of changes, neither of those before nor of those that come then."""
    handlers: list[Any] = []
    monkeypatch.setattr(command, "on_signals", lambda *given: handlers.extend(given))
    said: list[str] = []
    monkeypatch.setattr(command, "say", said.append)
    supervisor, edited = Starting(serves=True), Edited()
    async with asyncio.timeout(10), reloading(edited, supervisor) as task:
        await supervisor.starts.wait()
        stop, _, hung_up = handlers
        hung_up()
        while "renew" not in supervisor.told:
            await asyncio.sleep(0)
        stop()
        hung_up()
        supervisor.replaced.set()
        while supervisor.replaced.is_set():
            await asyncio.sleep(0)
        edited.found.put_nowait({(watchfiles.Change.modified, "mine.py")})
        while not edited.found.empty():
            await asyncio.sleep(0)
        supervisor.fails.set()
        assert list(await task) == []
    assert supervisor.told == ["supersede", "renew", "stop"]
    assert said[3:] == []


async def test_many_changes_and_files_that_cannot_be_watched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "on_signals", lambda *given: None)
    said: list[str] = []
    monkeypatch.setattr(command, "say", said.append)
    edited, supervisor = Edited(), Starting()
    async with asyncio.timeout(10), reloading(edited, supervisor):
        await supervisor.starts.wait()
        paths = [str(Path.cwd() / f"{name}.py") for name in "abcde"] + ["/elsewhere/\n.py"]
        edited.found.put_nowait({(watchfiles.Change.added, path) for path in paths})
        edited.found.put_nowait(OSError("too many files"))
        while len(said) < 2:
            await asyncio.sleep(0)
    assert said == [
        "/elsewhere/\\n.py, a.py, b.py and 3 more changed",
        "wsflow: files cannot be watched, SIGHUP reloads: too many files",
    ]
    edited = Edited()
    edited.found.put_nowait(set())  # whatever has ended it
    await loader(edited)._watch(edited)
