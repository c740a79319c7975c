"""``wsflow connect``: from a pipe, and in a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.validation import ValidationError

from tests.messages.kinds import FAMILIES, Family
from wsflow import (
    Call,
    CallError,
    Close,
    ConnectError,
    Connection,
    Disconnected,
    End,
    Router,
    connect,
)
from wsflow.cli import shell
from wsflow.cli.main import main
from wsflow.cli.typed import MistypedError, Typed, route, shown
from wsflow.messages.codec import JSON, MSGPACK
from wsflow.output import stderr
from wsflow.server import Server, Settings
from wsflow.server.serve import serve
from wsflow.wiring.compile import compile_app


class Say(msgspec.Struct, tag="say"):
    text: str
    times: int = 1


class Bye(msgspec.Struct, tag="bye"):
    code: int


class Double(Call[int], tag="double"):
    number: int


app = Router("/chat/{room}")


@app.consumer
async def say(message: Say) -> AsyncIterator[Say]:
    for _ in range(message.times):
        yield message


@app.consumer
async def bye(message: Bye) -> None:
    raise Close(message.code, "as you wish")


@app.consumer
async def double(call: Double) -> int:
    return 2 * call.number


class Asks(Call[str], tag="asks"):
    number: int


@app.consumer
async def asks(call: Asks, connection: Connection) -> str:
    try:
        return str(await connection.call(Double(call.number)))
    except CallError as exc:
        return str(exc)


texts = Router("/texts")


@texts.consumer
async def text(message: str, connection: Connection) -> str:
    if message == "bytes":
        await connection.send(b"\x00\xff")
    return message


app.include(texts)
PATH = "/chat/lobby"
cli_connect: Any = importlib.import_module("wsflow.cli.connect")


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve(app, Settings(port=0)) as server:
        yield server


async def pipe(
    server: Server, lines: str, *options: str, path: str = PATH, wait: str = "0.2"
) -> tuple[int, list[str], str]:
    """Returns exit code, lines of the output, and what is on standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wsflow", "connect", f"ws://127.0.0.1:{server.port}{path}"),
        *("--wait", wait, *options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(lines.encode()), 60)
    return process.returncode or 0, out.decode().splitlines(), err.decode()


KNOWN = ("--app", "tests.cli.test_connect:app")


async def test_lines_go_and_come(server: Server) -> None:
    lines = '{"type":"say","text":"a"}\n\n{"type":"say","text":"b","times":2}'
    code, out, err = await pipe(server, lines)
    assert (code, err) == (0, "")
    assert out == ['{"type":"say","text":"a","times":1}'] + 2 * [
        '{"type":"say","text":"b","times":2}'
    ]


async def test_it_knows_the_app(server: Server) -> None:
    lines = "say text='hello there' times=1\ndouble number=21\n"
    code, out, err = await pipe(server, lines, *KNOWN)
    assert (code, err) == (0, "")
    assert out == [
        '{"type":"say","text":"hello there","times":1}',
        '{"type":"$answer","id":1,"value":42}',
    ]


async def test_messagepack_is_shown_as_json(server: Server) -> None:
    code, out, err = await pipe(server, "say text=hi", *KNOWN, "--codec", "msgpack")
    assert (code, out, err) == (0, ['{"type":"say","text":"hi","times":1}'], "")


async def test_a_line_that_is_no_message(server: Server) -> None:
    code, out, err = await pipe(server, "say txt=hi\n", *KNOWN)
    assert (code, out) == (2, [])
    assert (
        err == "wsflow: line 1: 'txt=hi' is not a field of say: it has text, times; write field=…\n"
    )


async def test_a_bad_end(server: Server) -> None:
    code, _, err = await pipe(server, "bye code=4000\n", *KNOWN, wait="inf")
    assert (code, err) == (7, "wsflow: the connection ended: peer (4000 as you wish)\n")
    code, _, err = await pipe(server, "bye code=1000\n", *KNOWN, wait="inf")
    assert (code, err) == (0, "")


async def test_the_server_closes_before_the_input_ends(server: Server) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wsflow", "connect", f"ws://127.0.0.1:{server.port}{PATH}"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b'{"type":"bye","code":4000}\n')
    assert await asyncio.wait_for(process.wait(), 60) == 7
    process.stdin.close()
    assert process.stderr is not None
    assert b"ended: peer (4000 as you wish)" in await process.stderr.read()


async def test_an_output_that_nobody_reads(server: Server) -> None:
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wsflow", "connect", f"ws://127.0.0.1:{server.port}{PATH}"),
        stdin=subprocess.PIPE,
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    os.close(reading)
    assert process.stdin is not None
    process.stdin.write(b'{"type": "say", "text": "hi"}\n')
    assert process.stderr is not None
    assert await asyncio.wait_for(process.stderr.read(), 10) == b""
    assert await process.wait() == 1
    process.stdin.close()


async def test_an_interrupt(server: Server) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wsflow", "connect", f"ws://127.0.0.1:{server.port}{PATH}"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"type":"say","text":"hi"}\n')
    assert b"hi" in await asyncio.wait_for(process.stdout.readline(), 60)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_a_send_that_meets_the_end(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Ended:
        """A peer that is gone when it is sent to."""

        async def send(self, message: object) -> None:
            raise Disconnected(End("peer", 4001))

        async def receive(self) -> None:
            await asyncio.Event().wait()

    read, write = os.pipe()
    os.write(write, b"x\n")
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        connecting: Any = contextlib.nullcontext(Ended())
        assert await cli_connect._pipe(connecting, Typed(JSON), JSON, 1) == 7
    stderr.drain()
    assert "ended: peer (4001)" in capsys.readouterr().err


async def test_input_that_fails_is_at_its_end() -> None:
    """A terminal that is gone; here a folder."""
    folder = os.open("/", os.O_RDONLY)
    try:
        assert await asyncio.wait_for(cli_connect.Lines(folder).next(), 5) is None
    finally:
        os.close(folder)


async def test_bytes(server: Server) -> None:
    code, out, _ = await pipe(server, "bytes", path="/chat/x/texts")
    assert (code, out) == (0, ["<2 bytes> 00 ff", "bytes"])


async def test_refusals(server: Server) -> None:
    code, _, err = await pipe(server, "", path="/nowhere")
    assert code == 6
    assert "answered 404 Not Found" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["ws://127.0.0.1:1/"], 6, "ws://127.0.0.1:1/ cannot be reached: Connection refused"),
        (["127.0.0.1"], 2, "'127.0.0.1' is not a WebSocket URI"),
        (["ws://x/", "--header", "nonsense"], 2, "no colon; write 'Name: value'"),
        (["ws://x/", *KNOWN], 2, "the app has no path /: it has /chat/{room}"),
        (["ws://x/", "--app", "nowhere:app"], 3, "there is no module 'nowhere'"),
    ],
)
def test_mistakes(
    arguments: list[str], code: int, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["connect", *arguments])
    assert left.value.code == code
    assert why in capfd.readouterr().err


def test_an_interrupt_while_it_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(work: Any) -> None:
        work.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run", interrupted)
    with pytest.raises(SystemExit) as left:
        main(["connect", "ws://127.0.0.1:1/"])
    assert left.value.code == 0


async def test_it_answers_no_calls(server: Server) -> None:
    """A server that asks is told so at once, and the answer that it owes is waited for."""
    code, out, err = await pipe(server, "asks number=4", *KNOWN, wait="0")
    assert (code, err) == (0, "")
    assert out == [
        '{"type":"$call","id":1,"message":{"type":"double","number":4}}',
        '{"type":"$answer","id":1,"value":"unknown: wsflow connect does not answer calls"}',
    ]


# -- what is typed


def typed(path: str = PATH, codec: Any = JSON) -> Typed:
    return Typed(codec, route(compile_app(app), f"ws://x{path}"))


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        ("say text=hi", '{"type":"say","text":"hi","times":1}'),
        ("say text='a b' times=3", '{"type":"say","text":"a b","times":3}'),
        ('{"type": "say", "text": "1"}', '{"type":"say","text":"1","times":1}'),
        ("say text=1", '{"type":"say","text":"1","times":1}'),
        ("double number=1", '{"type":"$call","id":1,"message":{"type":"double","number":1}}'),
    ],
)
def test_what_a_line_is(line: str, sent: str) -> None:
    assert typed().read(line) == sent


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("shout text=hi", "the app takes no 'shout'; it takes say, bye, double, asks"),
        ("say text", "'text' is not a field of say: it has text, times; write field=…"),
        ("say text='a", "No closing quotation: write a value with spaces as field='…'"),
        ("say times=x text=y", "Expected `int`, got `str` - at `$.times`"),
        ("say", "Object missing required field `text`"),
        ('{"type": "say"', "Input data was truncated"),
        ("[1]", "Expected `object`, got `array`"),
    ],
)
def test_what_is_wrong_with_a_line(line: str, why: str) -> None:
    with pytest.raises(MistypedError, match=re.escape(why)):
        typed().read(line)


def test_texts_go_as_they_are() -> None:
    assert typed("/chat/x/texts").read("say what") == "say what"
    assert Typed(JSON).read("{") == "{"
    assert msgspec.msgpack.decode(Typed(MSGPACK).read('{"a": 1}')) == {"a": 1}
    with pytest.raises(MistypedError, match="msgpack needs JSON to write it from"):
        Typed(MSGPACK).read("{")
    only = Router()

    @only.producer
    async def nothing() -> None: ...

    with pytest.raises(MistypedError, match="the app takes no messages here"):
        Typed(JSON, route(compile_app(only), "ws://x")).read("x")

    class Bare(msgspec.Struct):
        number: int

    bare = Router()

    @bare.consumer
    async def take(message: Bare) -> None: ...

    lines = Typed(JSON, route(compile_app(bare), "ws://x"))
    assert lines.read('{"number": 1}') == '{"number":1}'
    with pytest.raises(MistypedError, match="it takes none with a name: write it in JSON"):
        lines.read("bare number=1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["say ", "bye ", "double ", "asks "]),
        ("s", ["say "]),
        ("say ", ["text=", "times="]),
        ("say t", ["text=", "times="]),
        ("say te", ["text="]),
        ("say text=x ", ["times="]),
        ("shout ", []),
    ],
)
def test_completion(text: str, words: list[str]) -> None:
    found = list(typed().complete(text))
    assert [word for word, _, _ in found] == words
    meanings = {word: meaning for word, _, meaning in typed().complete("say ")}
    assert meanings == {"text=": "str", "times=": "int, optional"}
    assert next(typed().complete("say"))[2] == "text=str times=int"


def test_what_is_heard() -> None:
    lines = typed()
    lines.read("double number=1")
    assert lines.asked == {1}
    assert lines.heard('{"type":"$answer","id":1,"value":2}') is None
    assert lines.asked == set()
    assert lines.heard("no JSON") is None
    assert lines.heard(b"\x00") is None
    packed = Typed(MSGPACK).heard(msgspec.msgpack.encode({"type": "$call", "id": 3}))
    assert isinstance(packed, bytes)
    assert msgspec.msgpack.decode(packed)["code"] == "unknown"


def test_what_is_shown() -> None:
    assert shown("x", JSON) == "x"
    assert shown(b"\x01\x02", JSON) == "<2 bytes> 01 02"
    assert shown(msgspec.msgpack.encode({"a": 1}), MSGPACK) == '{"a":1}'
    assert shown(b"\xc1", MSGPACK) == "<1 bytes> c1"
    assert shown(msgspec.msgpack.encode({1.5: 2}), MSGPACK).startswith(("<", "{"))


# -- in a terminal


@asynccontextmanager
async def talking(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str = PATH
) -> AsyncIterator[tuple[PipeInput, list[str], asyncio.Task[Any]]]:
    """A shell whose keys the test presses, and what it printed."""
    printed: list[str] = []
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def note(text: Any) -> None:
        printed.append("".join(part for _, part in text))

    monkeypatch.setattr(shell, "print_formatted_text", note)
    monkeypatch.setattr("builtins.print", lambda text: printed.append(text))
    uri = f"ws://127.0.0.1:{server.port}{path}"
    plan = route(compile_app(app), uri)
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        talk = shell.talk(connect(uri), uri, Typed(JSON, plan), JSON)
        task = asyncio.create_task(talk)
        yield keys, printed, task
        keys.send_text("\x15\x04")
        await asyncio.wait_for(task, 30)


async def until(printed: list[str], text: str) -> str:
    async with asyncio.timeout(30):
        while not any(text in line for line in printed):
            await asyncio.sleep(0.005)
    return next(line for line in printed if text in line)


async def test_a_conversation(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with talking(server, monkeypatch, tmp_path) as (keys, printed, _):
        await until(printed, "connected to ws://127.0.0.1")
        keys.send_text("say text=hi\r")
        sent = await until(printed, "→")
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} → \{.*\"text\":\"hi\".*", sent)
        assert '"text":"hi"' in await until(printed, "←")
        keys.send_text(f"say text={'x' * 100}\r")
        assert "\n  " in await until(printed, "xxx")
        keys.send_text("/help\r")
        await until(printed, "Tab completes")
        keys.send_text("/ping\r")
        await until(printed, "round trip")
        keys.send_text("double number=4\r")
        await until(printed, '"value":8')
        keys.send_text("asks number=4\r")
        await until(printed, "wsflow connect does not answer calls")
    assert "say text=hi" in (tmp_path / "wsflow" / "history").read_text()


async def test_a_mistake_is_not_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with talking(server, monkeypatch, tmp_path) as (keys, printed, _):
        await until(printed, "connected")
        keys.send_text("say nothing\r")  # it is not taken; the line stands there still
        keys.send_text("\x15say text=right\r")
        await until(printed, "←")
        assert sum("→" in line for line in printed) == 1
        keys.send_text("\x03")  # a line that is given up
        keys.send_text("\r")  # an empty one


async def test_the_end(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with talking(server, monkeypatch, tmp_path) as (keys, printed, task):
        await until(printed, "connected")
        keys.send_text("/close 4000 enough\r")
        await until(printed, "the connection ended: closed (4000 enough)")
        await asyncio.wait([task])
        assert task.result().code == 4000
    async with talking(server, monkeypatch, tmp_path) as (keys, printed, task):
        await until(printed, "connected")
        keys.send_text("bye code=4001\r")
        await until(printed, "the connection ended: peer (4001 as you wish)")
    async with talking(server, monkeypatch, tmp_path) as (keys, printed, task):
        await until(printed, "connected")
        keys.send_text("/quit\r")
        await asyncio.wait([task])
        assert task.result() is None
    async with talking(server, monkeypatch, tmp_path) as (keys, printed, task):
        await until(printed, "connected")
        keys.send_text("/close\r")
        await until(printed, "the connection ended: closed (1000)")


async def test_a_text_that_begins_with_a_slash(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with talking(server, monkeypatch, tmp_path, "/chat/x/texts") as (keys, printed, _):
        await until(printed, "connected")
        keys.send_text("//slash\r")
        assert (await until(printed, "←")).endswith("← /slash")


async def test_sending_on_a_connection_that_has_ended(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"ws://127.0.0.1:{server.port}{PATH}"
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        async with connect(uri) as peer:
            talk = shell.Shell(peer, uri, Typed(JSON), JSON)
            await peer.close()
            while peer.end is None:
                await asyncio.sleep(0.001)
            await talk._send("x")
            measuring = asyncio.create_task(talk._measure())
            await asyncio.sleep(0)
            with pytest.raises(Disconnected):
                await talk._command("/ping")
            measuring.cancel()


async def test_a_server_that_refuses_to_have_it_back() -> None:
    class Refused:
        """A peer that has lost its connection for good."""

        end = None

        async def receive(self) -> None:
            raise ConnectError("not you again", retryable=False)

        async def ping(self) -> float:
            return 0.1

    peer: Any = Refused()
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        talk = shell.Shell(peer, "ws://x/", Typed(JSON), JSON)
        with pytest.raises(ConnectError, match="not you again"):
            await talk.run()


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("/nothing", "there is no /nothing: /ping, /close, /help, /quit; //… sends a message"),
        ("/close x", "'x' is not a close code"),
        ("/close 1", None),
        ("/close", None),
        ("//x", "the app takes no '/x'"),
        ("say text=x", None),
        ("say", "missing required field"),
        ("", None),
    ],
)
def test_lines_are_checked(line: str, wrong: str | None) -> None:
    check = shell._Check(typed())
    if wrong is None:
        check.validate(Document(line))
    else:
        with pytest.raises(ValidationError, match=re.escape(wrong)):
            check.validate(Document(line))


def test_words_in_the_terminal() -> None:
    words = shell._Words(typed())

    def after(text: str) -> list[str]:
        return [each.text for each in words.get_completions(Document(text), CompleteEvent())]

    assert after("/p") == ["/ping"]
    assert after("/close ") == []
    assert after("sa") == ["say "]


def test_colours() -> None:
    parts = shell.coloured('{"a": [1, true, "x\\"y"], "b": {}}')
    assert "".join(text for _, text in parts) == '{"a": [1, true, "x\\"y"], "b": {}}'
    styles = {text: style for style, text in parts}
    assert styles['"a"'] == "ansiblue"
    assert styles['"x\\"y"'] == "ansigreen"
    assert (styles["1"], styles["true"]) == ("ansiyellow", "ansimagenta")
    assert shell.coloured("hello") == [("", "hello")]
    assert shell.pretty("x" * 100) == "x" * 100


def test_a_history_that_cannot_be_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert type(shell.history()).__name__ == "InMemoryHistory"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    shell.history()
    assert (tmp_path / ".local/state/wsflow/history").exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_prompt_toolkit(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as left:
        main(["connect", "ws://127.0.0.1:1/"])
    assert left.value.code == 6
    assert "for history and completion: pip install 'wsflow[connect]'" in capfd.readouterr().err


async def test_in_a_real_terminal(server: Server, tmp_path: Path) -> None:
    """With a process and a pseudo-terminal: what a user sees and types."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wsflow", "connect", f"ws://127.0.0.1:{server.port}{PATH}"),
        *KNOWN,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={
            **os.environ,
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",  # nobody answers there
            "XDG_STATE_HOME": str(tmp_path),
        },
    )
    os.close(theirs)
    seen = bytearray()
    loop = asyncio.get_running_loop()
    came = asyncio.Event()

    def read() -> None:
        try:
            seen.extend(os.read(ours, 65536))
        except OSError:
            loop.remove_reader(ours)
        came.set()

    loop.add_reader(ours, read)

    async def sees(pattern: str) -> None:
        async with asyncio.timeout(60):
            while not re.search(
                pattern, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode(errors="replace")), re.S
            ):
                came.clear()
                await came.wait()

    # Each time a prompt must stand there: between two, the terminal takes keys in another way.
    await sees("connected to ws://.*>")
    os.write(ours, b"say text=hi\r")
    await sees('← {"type":"say","text":"hi".*>')
    os.write(ours, b"\x04")
    assert await asyncio.wait_for(process.wait(), 60) == 0
    loop.remove_reader(ours)
    os.close(ours)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_messages_of_each_family_are_typed(family: Family) -> None:
    app = Router()

    async def say(message: Any) -> None: ...

    async def move(message: Any) -> None: ...

    async def number(message: int) -> None: ...

    say.__annotations__["message"], move.__annotations__["message"] = family.say, family.move
    for each in (say, move, number):
        app.consumer(each)
    lines = Typed(JSON, route(compile_app(app), "ws://x"))
    assert msgspec.json.decode(lines.read("say text=hi")) == {"type": "say", "text": "hi"}
    assert msgspec.json.decode(lines.read("move by=2")) == {"type": "move", "by": 2}
    assert [word for word, _, _ in lines.complete("")] == ["say ", "move "]
    assert next(lines.complete("move "))[::2] == ("by=", "int")
    for wrong in ("move by=x", '{"type":"say"}', "[1]"):
        with pytest.raises(MistypedError):
            lines.read(wrong)
