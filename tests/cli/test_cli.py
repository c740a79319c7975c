"""The command line, as a person meets it: real processes, exit codes, and no traceback."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.processes import free_port, running
from wsflow.cli.explain import try_lines
from wsflow.cli.flags import GROUPS
from wsflow.cli.main import main
from wsflow.server import Settings, process
from wsflow.server.loading import wired
from wsflow.server.process import Stopping

ROOT = Path(__file__).parents[2]
APP = """
import sys
import anyio
from wsflow import Connection, Router

app = Router("/work/{n}")
not_an_app = 3


def make_app():
    return app


def needs(x):
    return app


async def later():
    return app


def broken_factory():
    raise ValueError("no luck")


@app.lifespan
async def lifespan():
    print("lifespan in", file=sys.stderr, flush=True)
    yield
    print("lifespan out", file=sys.stderr, flush=True)


@app.consumer
async def work(message: str, connection: Connection, n: int) -> str:
    await connection.send("started")
    if message == "block":
        import time
        time.sleep(1000)
    if message == "stubborn":
        while True:
            try:
                await anyio.sleep(1000)
            except anyio.get_cancelled_exc_class():
                pass
    await anyio.sleep(float(message))
    return "answer"
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def receive(client: Any) -> list[str]:
    """All that comes, and the close code."""
    got: list[str] = []
    try:
        while True:
            got.append(await client.recv())
    except ConnectionClosed as exc:
        return [*got, str(exc.rcvd.code if exc.rcvd else 1006)]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
async def test_a_signal_answers_what_was_received(
    folder: Path, sign: signal.Signals, loop: str
) -> None:
    port = free_port()
    async with running("mine:make_app()", "--port", str(port), "--loop", loop) as run:
        await run.until("try it")
        assert f"ws://127.0.0.1:{port}/work/{{n}}" in run.log
        assert f'wsflow connect "ws://127.0.0.1:{port}/work/1"' in run.log
        async with connect(f"ws://127.0.0.1:{port}/work/1") as client:
            await client.send("0.2")
            await client.send("0")
            assert await client.recv() == "started"
            run.process.send_signal(sign)
            assert await receive(client) == ["answer", "started", "answer", "1001"]
        assert await run.ended() == 0
    assert "lifespan out" in run.log
    assert "wsflow.access: /work/{n} id=" in run.log
    assert "end=shutdown code=1001 in=2 out=4" in run.log
    assert "Traceback" not in run.log


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
async def test_a_grace_time_that_is_too_short(folder: Path, loop: str) -> None:
    port = free_port()
    flags = ("--port", str(port), "--loop", loop, "--grace", "0.05")
    async with running("mine:app", *flags) as run:
        await run.until("try it")
        async with connect(f"ws://127.0.0.1:{port}/work/1") as client:
            await client.send("1000")
            assert await client.recv() == "started"
            run.process.terminate()
            assert await receive(client) == ["1001"]
        assert await run.ended() == 1
    assert "the time was over: consumer work" in run.log
    assert "lifespan out" in run.log


BLOCKS = """
import time
from wsflow import Registry, Router

app = Router("/")


@app.consumer
async def block(message: float, registry: Registry) -> int:
    time.sleep(message)
    return registry.counters()["stalled"]
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
async def test_a_handler_that_blocks_is_named_and_counted(tmp_path: Path, loop: str) -> None:
    (tmp_path / "mine.py").write_text(BLOCKS)
    port = free_port()
    async with running("mine:app", "--port", str(port), "--loop", loop, cwd=tmp_path) as run:
        await run.until("try it")
        async with connect(f"ws://127.0.0.1:{port}/") as client:
            counted = "0"
            while counted == "0":  # the thread that looks may have had no turn in that time
                await client.send("0.5")
                counted = str(await client.recv())
        await run.until("the event loop was blocked for ")
        run.process.terminate()
        assert await run.ended() == 0
    assert "block (" in run.log
    assert "mine.py:10" in run.log


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_ctrl_c_stops_at_once_what_drains(
    folder: Path, first: signal.Signals, loop: str
) -> None:
    port = free_port()
    async with running("mine:app", "--port", str(port), "--loop", loop) as run:
        await run.until("try it")
        async with connect(f"ws://127.0.0.1:{port}/work/1") as client:
            await client.send("1000")
            assert await client.recv() == "started"
            run.process.send_signal(first)
            await run.until("stopping: draining for at most 20 s")
            run.process.send_signal(signal.SIGINT)
            assert await receive(client) == ["1001"]
        assert await run.ended() == 1
    assert "stopping at once" in run.log
    assert "lifespan out" in run.log


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
async def test_a_stubborn_handler_does_not_keep_the_process(folder: Path, loop: str) -> None:
    port = free_port()
    flags = ("--port", str(port), "--loop", loop, "--close-timeout", "0.1")
    async with running("mine:app", *flags) as run:
        await run.until("try it")
        async with connect(f"ws://127.0.0.1:{port}/work/1") as client:
            await client.send("stubborn")
            assert await client.recv() == "started"
            run.process.terminate()
            await run.until("stopping: draining")
            run.process.send_signal(signal.SIGINT)
            assert (await receive(client))[-1] in ("1001", "1006")
        assert await run.ended() == 1
    assert "consumer work" in run.log


async def test_settings_from_everywhere(folder: Path) -> None:
    """Flags before the environment before pyproject.toml."""
    ports = [free_port() for _ in range(3)]
    (folder / "pyproject.toml").write_text(
        f'[tool.wsflow]\nport = {ports[0]}\nping_interval = 7\norigin = ["https://a.example"]\n'
    )
    service = {  # what Kubernetes sets for Services named wsflow and wsflow-chat
        "WSFLOW_SERVICE_HOST": "10.0.0.1",
        "WSFLOW_SERVICE_PORT": "80",
        "WSFLOW_SERVICE_PORT_HTTP": "80",
        "WSFLOW_PORT_80_TCP": "tcp://10.0.0.1:80",
        "WSFLOW_PORT_80_TCP_PROTO": "tcp",
        "WSFLOW_PORT_80_TCP_PORT": "80",
        "WSFLOW_PORT_80_TCP_ADDR": "10.0.0.1",
        "WSFLOW_CHAT_PORT": "tcp://10.0.0.2:80",
        "WSFLOW_CHAT_SERVICE_HOST": "10.0.0.2",
    }
    environment = {
        **os.environ,
        **service,
        "WSFLOW_PORT": str(ports[1]),
        "WSFLOW_ACCESS_LOG": "false",
    }
    async with running("mine:app") as run:
        assert str(ports[0]) in await run.until("ws://")
    async with running("mine:app", env=environment) as run:
        assert str(ports[1]) in await run.until("ws://")
        await run.until("try it")
        async with connect(f"ws://127.0.0.1:{ports[1]}/work/1", origin="https://a.example"):  # type: ignore[arg-type]
            pass
        run.process.terminate()
        assert await run.ended() == 0
        assert "wsflow.access" not in run.log
    environment["WSFLOW_PORT"] = "tcp://10.0.0.1:80"
    async with running("mine:app", env=environment) as run:
        assert str(ports[0]) in await run.until("ws://")
        await run.until("try it")
        run.process.send_signal(signal.SIGHUP)
        await run.until("SIGHUP is ignored: to reload without refusing a connection, use --workers")
        run.process.terminate()
        assert await run.ended() == 0
    environment["WSFLOW_PORT"] = str(ports[1])
    async with running("mine:app", "--port", str(ports[2]), env=environment) as run:
        assert str(ports[2]) in await run.until("ws://")


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
async def test_a_unix_socket_is_announced(folder: Path, loop: str) -> None:
    async with running("mine:app", "--uds", "here.sock", "--loop", loop) as run:
        assert "here.sock" in await run.until("  on ")
        run.process.terminate()
        assert await run.ended() == 0


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
async def test_a_crash_is_exit_code_1(folder: Path, loop: str) -> None:
    (folder / "crash.py").write_text(
        "from wsflow import Router\napp = Router('/')\n"
        "@app.lifespan\nasync def start() -> None:\n    raise RuntimeError('no database')\n"
        "@app.consumer\nasync def work(message: str) -> None: ...\n"
    )
    async with running("crash:app", "--port", "0", "--loop", loop) as run:
        assert await run.ended() == 1
    assert "RuntimeError: no database" in run.log


def wsflow(*arguments: str, **options: Any) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "wsflow", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        **options,
    )
    return done.returncode, done.stdout, done.stderr


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The same in this process."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    output = capsys.readouterr()
    code = left.value.code
    return int(code or 0), output.out, output.err


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere:app", "there is no module 'nowhere' in "),
        ("mine.sub:app", "there is no module 'mine.sub'"),
        ("mine:nothing", "has no attribute 'nothing': did you mean mine:app?"),
        ("mine:make_app", "'mine:make_app' is a function: if it is a factory, write"),
        ("mine:not_an_app", "is an int, not a Router: did you mean mine:app?"),
        ("mine:not_an_app()", "'mine:not_an_app' cannot be called: remove the ()"),
        ("mine:broken_factory()", "calling 'mine:broken_factory()' failed: ValueError: no luck"),
        ("mine:needs()", "'mine:needs()' is called without arguments: missing a required argument"),
        ("mine:later()", "'mine:later()' is async: a factory must be a plain function"),
        ("mine.py:app", "name the module, not the file: mine:app"),
        ("./mine:app", "name the module, not the file: mine:app"),
        (".mine:app", "'.mine:app' is relative: name the module in full"),
        ("leaving:app", "importing 'leaving' failed: SystemExit: 0 ("),
        ("mine:Router", "is a type, not a Router"),
        ("mine", "'mine' is not module:attribute"),
        (":app", "':app' is not module:attribute"),
        ("failing:app", "importing 'failing' failed: ZeroDivisionError"),
        ("imports:app", "importing 'imports' failed: ModuleNotFoundError: No module named 'nope"),
        ("syntax:app", "importing 'syntax' failed: SyntaxError"),
        ("empty:app", "has no attribute 'app': 'empty' has no Router"),
        ("others:fast", "is an ASGI application (FastAPI), and wsflow serves a Router: serve that"),
        ("others:asgi", "is an ASGI application (function), and wsflow serves a Router"),
        ("others:wsgi", "is a WSGI application (function), and wsflow serves a Router"),
        ("others:django()", "is an ASGI application (Django), and wsflow serves a Router"),
        ("others:django()", "; 'others' has no Router"),
        ("others:Alias", "is a _AnnotatedAlias, not a Router"),
        ("others:builtin", "is a type, not a Router"),
        ("others:bound", "'others:bound' is a function: if it is a factory, write others:bound()"),
        ("mistyped:app", "has no attribute 'on_conect': did you mean on_connect? ("),
        ("mistyped:app", "mistyped.py:3)"),
        ("unlike:app", "has no attribute 'zzzzzz' ("),
        ("given:app", "TypeError: Requires(5): use the name of a role, or a plain function ("),
        ("given:app", "given.py:2)"),
    ],
)
def test_apps_that_cannot_be_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str], target: str, says: str
) -> None:
    (folder / "failing.py").write_text("1 / 0\n")
    (folder / "imports.py").write_text("import nope_nope\n")
    (folder / "syntax.py").write_text("def f(:\n")
    (folder / "empty.py").write_text("")
    (folder / "mistyped.py").write_text(
        "from wsflow import Router\napp = Router()\n@app.on_conect\nasync def f(): ...\n"
    )
    (folder / "unlike.py").write_text("from wsflow import Router\nRouter().zzzzzz\n")
    (folder / "given.py").write_text("from wsflow import Requires\nRequires(5)\n")
    (folder / "others.py").write_text(
        "from typing import Annotated\nfrom fastapi import FastAPI\nfast = FastAPI()\n"
        "async def asgi(scope, receive, send): ...\ndef wsgi(environ, start_response): ...\n"
        "class Django:\n    async def __call__(self, scope, receive, send): ...\n"
        "def django(): return Django()\nAlias = Annotated[str, 'x']\nbuiltin = dict\n"
        "bound = min\n"
    )
    (folder / "leaving.py").write_text("raise SystemExit(0)\n")
    for command in ("run", "check", "routes"):
        code, out, err = call(capsys, command, target)
        assert code == 3
        assert out == ""
        assert err.startswith("wsflow: ")
        assert says in err
        assert err.count("\n") == 1


def test_an_app_that_does_not_wire(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "wrong.py").write_text(
        "from wsflow import Router\napp = Router('/')\n"
        "@app.consumer\nasync def work(message: str, db: dict) -> None: ...\n"
        "@app.producer\ndef produce(): ...\n"
    )
    code, _, err = call(capsys, "run", "wrong:app")
    assert code == 3
    assert err.startswith("wsflow: 2 problems in the app's declarations")
    assert "wrong.py:3: consumer work, parameter `db: dict`" in err
    assert "wrong.py:5: producer produce" in err


def test_check_says_what_is_required() -> None:
    code, out, err = wsflow("check", "examples.members:app", cwd=ROOT)
    assert (code, err) == (0, "")
    lines = re.sub(r":\d+\)", ":N)", out).splitlines()
    mute = lines.index("  consumer mute takes Mute (examples/members.py:N)")
    assert lines[mute + 1 : mute + 4] == [
        "      admin: on_connect Bearer",
        "      muted: lifespan muted",
        "      requires 'admin' of on_connect Bearer",
    ]
    assert "  on_connect Bearer (examples/members.py:N)" in lines


def test_check_says_where_every_parameter_comes_from() -> None:
    code, out, err = wsflow("check", "examples.tutorial:app", cwd=ROOT)
    assert (code, err) == (0, "")
    assert re.sub(r":\d+\)", ":N)", out).splitlines() == [
        "lifespan of the app",
        "  lifespan games (examples/tutorial.py:N)",
        "/play (json, msgpack)",
        "  sends Refused, Invite, Played, Won",
        "  on_connect sit (examples/tutorial.py:N)",
        "      games: lifespan games",
        "      registry: the app's registry",
        "      connection: this connection",
        "      join: query 'join'",
        "  consumer play takes Play (examples/tutorial.py:N)",
        "      seat: on_connect sit",
        "      registry: the app's registry",
        "  on_error refuse (examples/tutorial.py:N)",
    ]


def test_check_says_where_unknown_tags_are_ignored(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "lenient.py").write_text(
        "import msgspec\nfrom wsflow import Router\n"
        "class Say(msgspec.Struct, tag='say'): ...\n"
        "app = Router('/a', unknown='ignore')\nother = Router('/b', unknown='close')\n"
        "@app.consumer\nasync def a(message: Say) -> None: ...\n"
        "@other.consumer\nasync def b(message: Say) -> None: ...\n"
        "app.include(other)\n"
    )
    code, out, _ = call(capsys, "check", "lenient:app")
    assert code == 0
    assert out.splitlines()[:2] == [
        "/a (json, msgpack)",
        "  ignores messages with a tag that no consumer takes",
    ]
    assert out.count("ignores") == 1


def test_routes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "several.py").write_text(
        "from collections.abc import AsyncIterator\nfrom typing import Annotated\n"
        "from wsflow import Query, Router\n"
        "app = Router('/')\nother = Router('/other/{x}')\napp.include(other)\n"
        "@app.consumer\nasync def a(message: list[int]) -> str: ...\n"
        "@other.consumer\nasync def b(messages: AsyncIterator[bytes], x: float,\n"
        "  y: Annotated[bool, Query()], z: Annotated[int, Query()] = 5) -> None: ...\n"
        "@other.get('/page')\nasync def page(x: float) -> str: ...\n"
    )
    code, out, _ = call(capsys, "check", "several:app")
    assert code == 0
    assert "/other/{x}/page (plain HTTP)\n" in out
    assert "      x: path parameter {x}" in out
    code, out, _ = call(capsys, "routes", "several:app")
    assert code == 0
    assert out.splitlines() == [
        "/                takes list[int]       sends str",
        "/other/{x}       takes bytes (stream)  sends nothing",
        "/other/{x}/page  answers GET           by page",
    ]
    plan = wired("several:app")
    assert list(try_lines(plan, "ws://h:1")) == [
        "  ws://h:1/",
        '      try it: wsflow connect "ws://h:1/"',
        "  ws://h:1/other/{x}",
        '      try it: wsflow connect "ws://h:1/other/1.5?y=true"',
        "  http://h:1/other/{x}/page",
    ]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--port", "x"], 'unable to convert "x" into int'),
        (["--port", "1.5"], 'unable to convert "1.5" into int'),
        (["--port", "70000"], "--port is 70000: ports go up to 65535"),
        (["--nonsense"], "nonsense"),
        (["Bearer", "secret"], "Too many arguments, by 2: put quotes around those"),
        (["--port", "ws://me:secret@h"], 'unable to convert "ws://…@h" into int'),
        (["--loop", "curio"], "curio"),
        (["--host", "256.0.0.1"], "cannot listen on 256.0.0.1:8000: "),
        (["--fd", "987"], "cannot listen on file descriptor 987: "),
        (["--uds", "/no/such/folder/socket"], "cannot listen on /no/such/folder/socket: "),
        (["--ssl-certfile", "nope.pem"], "TLS cannot use nope.pem: No such file or directory"),
        (["--trusted-proxy", "nonsense"], "--trusted-proxy is 'nonsense'"),
        (["--workers", "-2"], "--workers is -2: it must be more than 0"),
        (["--origin", "a,b"], "several values are several flags (--origin A --origin B), have"),
    ],
)
def test_usage(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    code, out, err = call(capsys, "run", "mine:app", *flags)
    assert code == 2
    assert says in out + err
    assert "Traceback" not in out + err
    assert "secret" not in out + err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "mine:app", "--bind", "0.0.0.0:80"], "Unknown option: --bind. Use --host and"),
        (["run", "mine:app", "--bind=0.0.0.0:80"], "Unknown option: --bind. Use --host and"),
        (["run", "mine:app", "-p", "80"], "Unknown option: -p. Use --port."),
        (["run", "mine:app", "--reload"], "Use wsflow dev module:app."),
        (["connect", "ws://h", "--cookie", "a=b"], 'Use --header "Cookie: name=value".'),
        (["client", "mine:app", "ws://h", "--cookie", "a=b"], 'Use --header "Cookie: name=value"'),
        (["run"], "Or set WSFLOW_TARGET, or target in [tool.wsflow] of pyproject.toml."),
        (["check"], "Or set WSFLOW_TARGET, or target in [tool.wsflow] of pyproject.toml."),
        (["routes"], "Or set WSFLOW_TARGET, or target in [tool.wsflow] of pyproject.toml."),
    ],
)
def test_what_is_used_to_other_programs(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    code, out, err = call(capsys, *arguments)
    said = re.sub(r"\s*│\n?\s*│?\s*", " ", out + err)
    assert code in (1, 2)
    assert says in re.sub(r"\s+", " ", said)
    assert "Did you mean" not in said


@pytest.mark.parametrize("arguments", [["client"], ["publish"]])
def test_what_has_no_setting_names_none(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    _, out, err = call(capsys, *arguments)
    assert "requires an argument" in out + err
    assert "WSFLOW_TARGET" not in out + err


def test_usage_in_the_environment(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSFLOW_PROT", "1")
    code, out, err = call(capsys, "run", "mine:app")
    assert code == 2
    assert "WSFLOW_PROT is not a setting: did you mean WSFLOW_PORT?" in err
    monkeypatch.setenv("WSFLOW_PORT_80_TPC", "1")  # looks like one of a Service, and is none
    monkeypatch.delenv("WSFLOW_PROT")
    code, out, err = call(capsys, "run", "mine:app")
    assert code == 2
    assert "WSFLOW_PORT_80_TPC is not a setting" in err
    monkeypatch.delenv("WSFLOW_PORT_80_TPC")
    monkeypatch.setenv("WSFLOW_PORT", "x")
    code, out, err = call(capsys, "run", "mine:app")
    assert code == 2
    assert 'unable to convert "x" into int' in out + err


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(("loop", "extra"), [("uvloop", "speed"), ("trio", "trio")])
def test_a_loop_that_is_not_installed(
    loop: str,
    extra: str,
    workers: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, loop, None)
    code, _, err = call(capsys, "run", "mine:app", "--loop", loop, "--workers", workers)
    assert code == 2
    assert err.strip().splitlines() == [
        f"wsflow: --loop {loop} needs {loop}, which is not installed: pip install 'wsflow[{extra}]'"
    ]


def test_an_address_in_use(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = call(capsys, "run", "mine:app", "--port", str(port))
    assert code == 4
    assert err.splitlines()[-1] == (
        f"wsflow: 127.0.0.1:{port} is in use: stop what listens there, or choose another with "
        "--port"
    )


async def test_an_address_that_is_taken_while_a_lifespan_sets_up(folder: Path) -> None:
    """By a server that was started at the same time."""
    port = free_port()
    (folder / "taken.py").write_text(f"""
import socket
from mine import app

@app.lifespan
async def another():
    with socket.create_server(("127.0.0.1", {port})):
        yield
""")
    async with running("taken:app", "--port", str(port)) as run:
        assert await run.ended() == 4
    assert "Traceback" not in run.log
    assert f"wsflow: 127.0.0.1:{port} is in use: stop what listens there" in run.log


def test_help_is_in_groups_and_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "run", "--help")
    assert code == 0
    at = [out.index(f"─ {group} ─") for group in GROUPS]
    assert at == sorted(at)
    for field in dataclasses.fields(Settings):
        assert f"--{field.name.replace('_', '-')}" in out
        shown = "".join(out.split()).replace("│", "")
        assert f"WSFLOW_{field.name.upper()}" in shown
        assert all(word in out for word in field.metadata["help"].split() if "*" in word)


def test_version() -> None:
    code, out, _ = wsflow("--version")
    assert (code, out.strip()) == (0, "0.1.0")


class FakeServer:
    def __init__(self) -> None:
        self.stopped: list[bool] = []
        self.running: list[str] = []
        self.left_behind: list[str] = []

    def stop(self, *, now: bool = False, restart: bool = False) -> None:
        self.stopped.append(now)


def test_the_watchdog_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop that is blocked cannot end itself: a thread does."""
    codes: list[int] = []
    exited = threading.Event()

    def leave(code: int) -> None:
        codes.append(code)
        exited.set()

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    server: Any = FakeServer()
    monkeypatch.setattr(process, "HURRY", 0.001)
    stopping = Stopping(server, Settings(grace=0, close_timeout=0))
    stopping.terminated()
    assert exited.wait(10)
    assert codes == [1]
    assert "not stopped in time, exiting; still running: -" in caplog.text
    exited.clear()
    stopping.interrupted()
    assert exited.wait(10)  # before ``os._exit`` is the real one again
    stopping.done()
    assert server.stopped == [False, True]


def test_a_keyboard_interrupt_before_the_signals_are_handled(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_runner: asyncio.Runner, serving: Any) -> None:
        serving.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio.Runner, "run", interrupted)
    assert call(capsys, "run", "mine:app")[0] == 0


def test_done_while_something_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    exited = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda _code: exited.set())
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    server: Any = FakeServer()
    server.left_behind = ["consumer stubborn"]
    monkeypatch.setattr(process, "HURRY", 0.001)
    stopping = Stopping(server, Settings())
    stopping.done()
    assert exited.wait(10)


def test_a_privileged_port(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(settings: Settings) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(sys.modules["wsflow.server.serve"], "bind", refused)
    code, _, err = call(capsys, "run", "mine:app", "--port", "81")
    assert code == 2
    assert "Permission denied; ports below 1024 need privileges" in err


def test_check_from_elsewhere(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "more.py").write_text(
        "from collections.abc import AsyncIterator\nfrom typing import Annotated\n"
        "from wsflow import Message, Router, Topic\n"
        "app = Router('/')\n"
        "class Work: ...\n"
        "@app.on_message\n"
        "async def around(message: Annotated[object, Message()]) -> AsyncIterator[Work]:\n"
        "    yield Work()\n"
        "@app.consumer\nasync def a(message: list[int], work: Work,\n"
        "  odd: Annotated[str, []] = 'x') -> tuple[int, ...]: ...\n"
    )
    _, inside, _ = call(capsys, "check", "more:app")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    _, outside, _ = call(capsys, "check", "more:app")
    assert "      message: the message" in inside
    assert "      work: on_message around" in inside
    assert "      odd: its default" in inside
    assert "(more.py:6)" in inside
    assert f"({folder}/more.py:6)" in outside


def test_calls_are_listed_with_their_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["routes", "examples.calls:app"])
    assert "takes Divide -> Result, Primes -> stream of int" in capsys.readouterr().out


LOG_TOML = """
[formatters.own]
"()" = "wsflow.log.JSONFormatter"
[handlers.file]
class = "logging.FileHandler"
filename = "own.log"
formatter = "own"
[root]
level = "INFO"
handlers = ["file"]
"""
LOG_INI = """
[loggers]
keys=root
[handlers]
keys=file
[formatters]
keys=own
[logger_root]
level=INFO
handlers=file
[handler_file]
class=FileHandler
args=("own.log",)
formatter=own
[formatter_own]
format={"message": "%(message)s", "logger": "%(name)s"}
"""
LOG_JSON = {
    "formatters": {"own": {"()": "wsflow.log.JSONFormatter"}},
    "handlers": {
        "file": {"class": "logging.FileHandler", "filename": "own.log", "formatter": "own"}
    },
    "root": {"level": "INFO", "handlers": ["file"]},
}


async def one_connection(folder: Path, *arguments: str) -> str:
    """Serve one connection. Returns what was printed."""
    (folder / "mine.py").write_text(APP)
    port = free_port()
    async with running("mine:app", "--port", str(port), *arguments, cwd=folder) as run:
        await run.until("stop it with Ctrl-C")
        async with connect(f"ws://127.0.0.1:{port}/work/1"):
            pass
        run.process.send_signal(signal.SIGTERM)
        assert await run.ended() == 0, run.log
        return run.log


@pytest.mark.parametrize(
    ("name", "text"),
    [("log.toml", LOG_TOML), ("log.ini", LOG_INI), ("log.json", json.dumps(LOG_JSON))],
)
async def test_logging_as_a_file_says(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    printed = await one_connection(tmp_path, "--log-config", name)
    assert "INFO" not in printed
    lines = [json.loads(line) for line in (tmp_path / "own.log").read_text().splitlines()]
    access = [each for each in lines if each["logger"] == "wsflow.access"]
    assert [each["message"].partition(" ")[0] for each in access] == ["/work/{n}"]


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
async def test_logs_as_json(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """Each line that is logged is an object, with what the line of text says by name."""
    printed = await one_connection(tmp_path, "--log-format", "json", *workers)
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [each["logger"] for each in lines].count("wsflow.access") == 1, printed
    (access,) = [each for each in lines if each["logger"] == "wsflow.access"]
    for name, value in {"route": "/work/{n}", "path": "/work/1", "event": "end", "in": 0}.items():
        assert access[name] == value
    assert access["id"] in access["message"]
    assert access["level"] == "INFO"
    assert not re.search(r"^\d{4}-", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--log-config", "none.toml"), "--log-config is 'none.toml', which is no file"),
        (("--log-config", "bad.toml"), "--log-config bad.toml: "),
        (("--log-config", "bad.json"), "--log-config bad.json: "),
        (("--log-config", "list.json"), "--log-config list.json: it has no object of JSON"),
        (("--log-config", "bad.ini"), "--log-config bad.ini: "),
        (("--log-config", "empty.ini"), "--log-config empty.ini: "),
        (("--log-config", "lacks.ini"), "--log-config lacks.ini: it has no 'formatters'"),
        (("--log-config", "class.toml"), "Unable to configure handler 'x' ("),
        (
            ("--log-config", "bad.ini", "--log-format", "json"),
            "--log-format and --log-config are both",
        ),
        (
            ("--log-config", "bad.ini", "--log-level", "debug"),
            "--log-level and --log-config are both",
        ),
        (("--admin-host", "::1"), "--admin-host is set and --admin-port is not"),
        (("--admin-port", "70000"), "--admin-port is 70000: ports go up to 65535"),
    ],
)
async def test_what_cannot_be_used(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    (tmp_path / "mine.py").write_text(APP)
    for name in ("bad.toml", "bad.json", "bad.ini"):
        (tmp_path / name).write_text("[nonsense")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "empty.ini").write_text("")
    (tmp_path / "lacks.ini").write_text("[loggers]\nkeys = root\n")
    (tmp_path / "class.toml").write_text('[handlers.x]\nclass = "no.such.Handler"')
    async with running("mine:app", "--port", "0", *arguments, cwd=tmp_path) as run:
        assert await run.ended() == 2
        assert says in run.log
        assert "Traceback" not in run.log


async def test_one_port_for_two(tmp_path: Path) -> None:
    async with running("mine:app", "--port", "4000", "--admin-port", "4000", cwd=tmp_path) as run:
        assert await run.ended() == 2
        assert "--port and --admin-port are both 4000" in run.log


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
async def test_metrics_without_what_shows_them(tmp_path: Path, workers: tuple[str, ...]) -> None:
    (tmp_path / "mine.py").write_text(APP)
    (tmp_path / "prometheus_client.py").write_text("raise ModuleNotFoundError")
    path = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    options = ("mine:app", "--port", "0", "--metrics", *workers)
    async with running(*options, cwd=tmp_path, env=path) as run:
        assert await run.ended() == 2
        assert "pip install 'wsflow[metrics]'" in run.log
        assert "Traceback" not in run.log


async def test_an_admin_port_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for more in ((), ("--workers", "2")):
            options = ("mine:app", "--port", "0", "--admin-port", port, *more)
            async with running(*options, cwd=tmp_path) as run:
                assert await run.ended() == 4
                assert f"127.0.0.1:{port} is in use" in run.log
                assert "--admin-port" in run.log
                assert "Traceback" not in run.log
