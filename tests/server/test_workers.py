"""Several processes on one address: real ones, that are killed and replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from examples import chat
from tests.brokers.servers import BrokerServer
from tests.cluster.scenario import Scenario, Size, children_of, disturbance
from tests.processes import Run, free_port, running
from tests.server.test_process import at_work, finished, gated  # noqa: F401
from wsflow.server import Settings, workers
from wsflow.server.listening import listen

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
decode = msgspec.json.Decoder(chat.Said | chat.Came | chat.Went | chat.Tick).decode


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def serving(*arguments: str, **options: Any) -> AsyncIterator[Run]:
    """A server whose log is read along once it serves."""
    async with running(*arguments, "--no-access-log", **options) as run:
        await run.until("stop it with Ctrl-C")
        yield run


def state(pid: int) -> str:
    """The state of a process, as ps shows it; Z if it has ended, and was waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    return state(pid) == "Z"


async def all_gone(pids: list[int]) -> None:
    with anyio.move_on_after(20):
        while not all(map(gone, pids)):
            await asyncio.sleep(0.02)
    assert [pid for pid in pids if not gone(pid)] == []


class Peer:
    """A person in the chat, who reads all along."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[Any] = []
        self._more = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.seen.append(decode(await self.socket.recv()))
                self._more.set()

    async def until(self, *wanted: Any) -> None:
        """Wait until all of these were seen."""
        with anyio.fail_after(15):
            while not all(each in self.seen for each in wanted):
                self._more.clear()
                await self._more.wait()

    async def until_something(self) -> None:
        """Wait until anything was seen, or the end: a worker may be replaced at that moment."""
        while not self.seen and not self._reading.done():
            await asyncio.sleep(0.005)

    async def closed(self) -> int:
        """Wait for the end; the close code."""
        await asyncio.wait([self._reading])
        return self.socket.close_code or 0


@pytest.mark.long
async def test_a_chat_in_two_processes() -> None:
    """Everybody hears everybody, and sees who is there, through all that happens to workers."""
    port = free_port()
    base = f"ws://127.0.0.1:{port}/chat/lobby?name="
    async with serving("examples.chat:app", "--workers", "2", "--port", str(port)) as run:
        old, servers = children_of(run, "wsflow.server.worker"), children_of(run, "nats-server")
        assert (len(old), len(servers)) == (2, 1)
        async with AsyncExitStack() as stack:
            names = [f"p{number}" for number in range(10)]
            peers = []
            for name in names:
                peers.append(Peer(await stack.enter_async_context(connect(base + name))))
            for peer in peers:
                await peer.until(*map(chat.Came, names))
            await peers[0].socket.send('{"type": "say", "text": "hi"}')
            for peer in peers:
                await peer.until(chat.Said("p0", "hi"))

            os.kill(old[0], signal.SIGKILL)
            await run.until("was killed by SIGKILL; another one starts in")
            left = [await _vanished(name, peer) for name, peer in zip(names, peers, strict=True)]
            stayed = [peer for peer, is_gone in zip(peers, left, strict=True) if not is_gone]
            went = [name for name, is_gone in zip(names, left, strict=True) if is_gone]
            assert stayed
            assert went
            for peer in stayed:
                await peer.until(*map(chat.Went, went))
            again = Peer(await stack.enter_async_context(connect(base + "again")))
            for peer in stayed:
                await peer.until(chat.Came("again"))

            run.process.send_signal(signal.SIGHUP)
            renewing = asyncio.create_task(run.until("all workers are replaced"))
            newcomers = 0
            while not renewing.done():
                async with connect(base + f"new{newcomers}") as newcomer:
                    await Peer(newcomer).until_something()
                newcomers += 1
            assert newcomers > 2
            assert {await peer.closed() for peer in (*stayed, again)} == {1012}
            new = children_of(run, "wsflow.server.worker")
            assert len(new) == 2
            assert not set(new) & set(old)
            last = Peer(await stack.enter_async_context(connect(base + "last")))
            await last.until(chat.Came("last"))
            run.process.terminate()
            assert await last.closed() == 1001
        assert await run.ended() == 0
    await all_gone([*new, *servers])


async def _vanished(name: str, peer: Peer) -> bool:
    """Whether the peer's worker is gone: what it says now fails, or comes back."""
    try:
        await peer.socket.send('{"type": "say", "text": "still here"}')
        back = asyncio.create_task(peer.until(chat.Said(name, "still here")))
        end = asyncio.create_task(peer.closed())
        await asyncio.wait([back, end], return_when=asyncio.FIRST_COMPLETED)
        back.cancel()
        end.cancel()
    except ConnectionClosed:
        return True
    return chat.Said(name, "still here") not in peer.seen


async def test_nothing_is_left_of_a_supervisor_that_is_killed() -> None:
    async with serving("examples.chat:app", "--workers", "2", "--port", "0") as run:
        pids = children_of(run)
        assert len(pids) == 3
        run.process.kill()
        await all_gone(pids)
        log = (await run.process.stderr.read()).decode() if run.process.stderr else ""
        assert log.count("the supervisor is gone") == 2


HANGS = """
import time
from pathlib import Path

if Path("hang").exists():
    Path("begun").touch()
    time.sleep(1000)
"""


async def test_nothing_is_left_of_a_supervisor_that_is_killed_while_a_worker_starts(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text(HANGS + APP)
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    async with serving("mine:app", "--workers", "2", "--port", "0", cwd=tmp_path, env=path) as run:
        (tmp_path / "hang").touch()
        run.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(30):
            while not (tmp_path / "begun").exists():
                await asyncio.sleep(0.01)
        pids = children_of(run)
        assert len(pids) == 4
        run.process.kill()
        await all_gone(pids)
        await run.ended()


@pytest.mark.long
async def test_nothing_is_left_of_a_supervisor_that_is_killed_while_a_worker_is_blocked(
    gated: dict[str, Any],  # noqa: F811
) -> None:
    flags = ("--grace", "0", "--close-timeout", "0", "--worker-timeout", "0")
    async with at_work_in_a_worker(gated, *flags) as (run, client):
        (gated["cwd"] / "open").touch()
        await client.send("block")
        await run.until("the event loop is blocked since")
        pids = children_of(run)
        run.process.kill()
        await all_gone(pids)
        await run.ended()


async def test_workers_are_started_as_their_supervisor(tmp_path: Path) -> None:
    """With the same flags of the interpreter; and the app's files are the app's alone."""
    (tmp_path / "random.py").write_text("MINE = 1")
    (tmp_path / "msgspec.py").write_text("raise SystemExit('not me')")
    (tmp_path / "mine.py").write_text(
        "import sys\n" + APP.replace("os.getpid()", "[__debug__, sys.flags.utf8_mode]")
    )
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    port = free_port()
    flags = ["-P", "-O", "-X", "utf8"]
    arguments = ("mine:app", "--workers", "2", "--port", str(port))
    async with serving(*arguments, flags=flags, cwd=tmp_path, env=path) as run:
        async with connect(f"ws://127.0.0.1:{port}/") as peer:
            await peer.send("what")
            assert msgspec.json.decode(await peer.recv()) == [False, 1]
        run.process.terminate()
        assert await run.ended() == 0


APP = """
import os
from pathlib import Path
from wsflow import Router

app = Router("/")
broken = Path("broken").exists()

@app.lifespan
async def start():
    if broken:
        raise RuntimeError("no database")
    yield

@app.consumer
async def echo(message: str) -> int:
    if message == "exit":
        os._exit(3)
    return os.getpid()
"""


async def test_new_workers_that_do_not_start_replace_nobody(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(APP)
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    port = free_port()
    async with serving(
        "mine:app", "--workers", "2", "--port", str(port), cwd=tmp_path, env=path
    ) as run:
        old = children_of(run, "wsflow.server.worker")
        (tmp_path / "broken").touch()
        run.process.send_signal(signal.SIGHUP)
        line = await run.until("the others stay as they are")
        assert "a worker ended with exit code 1 before it served" in line
        assert sorted(children_of(run, "wsflow.server.worker")) == sorted(old)
        async with connect(f"ws://127.0.0.1:{port}/") as peer:
            await peer.send("who")
            assert int(await peer.recv()) in old
            (tmp_path / "broken").unlink()
            await peer.send("exit")
            assert "ended with exit code 3; another one starts in" in await run.until("exit code 3")
        run.process.send_signal(signal.SIGHUP)  # while one is starting
        await run.until("replacing the workers")
        run.process.send_signal(signal.SIGHUP)
        await run.until("the workers are being replaced already")
        await run.until("all workers are replaced")
        run.process.send_signal(signal.SIGHUP)
        await run.until("replacing the workers")
        run.process.terminate()  # in the midst of it
        assert await run.ended() == 0


async def test_workers_that_do_not_start_at_all(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(APP)
    (tmp_path / "broken").touch()
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    async with running("mine:app", "--workers", "2", "--port", "0", cwd=tmp_path, env=path) as run:
        assert await run.ended() == 1
        assert "RuntimeError: no database" in run.log
        assert run.log.endswith(
            "wsflow: a worker ended with exit code 1 before it served; see above\n"
        )


@pytest.mark.long
@pytest.mark.parametrize("kind", ["valkey", "nats"])
async def test_nothing_is_lost_whatever_dies(kind: Any) -> None:
    """The scenario of ``python -m tests.cluster`` with a tenth of everything."""
    server = BrokerServer(kind, durable=True)
    server.start()
    port = free_port()
    size = Size(workers=2, rooms=4, peers=40, publishers=2, messages=800)
    try:
        async with serving(
            "tests.cluster.app:app",
            *("--workers", "2", "--port", str(port), "--broker", server.url),
            *("--publish-timeout", "30"),
        ) as run:
            scenario = Scenario(run, port, server.url, "kept", size)
            outcome = await scenario.play(disturbance(run, server))
            run.process.terminate()
            assert await run.ended() == 0, run.log
    finally:
        server.stop()
    assert outcome.published >= size.messages
    assert outcome.delivered == outcome.published * size.peers // size.rooms
    assert (outcome.lost, outcome.twice, outcome.disorder) == (0, 0, 0)
    assert (outcome.unrecovered, outcome.refused, outcome.failed) == (0, 0, 0)
    assert set(outcome.reconnects) <= {"1006", "1012", "ConnectionResetError", "EOFError"}


async def test_a_worker_that_keeps_dying(
    monkeypatch: pytest.MonkeyPatch, server_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The back-off begins anew after a stable time; stopping does not wait for it."""
    settings = Settings(broker=server_of("valkey").url, workers=1, port=0)
    sockets = listen(settings, 1)
    serving = asyncio.Event()
    delays = [0.0, 0.0, 3600.0]
    supervisor = workers.Supervisor(
        "examples.echo:app", settings, sockets, lambda: iter([delays.pop(0)])
    )
    monkeypatch.setattr(workers, "STABLE", 0.0)
    running = asyncio.create_task(supervisor.run(serving.set))
    await serving.wait()
    for _ in range(2):
        (worker,) = supervisor._workers
        worker.signal(signal.SIGKILL)
        while worker in supervisor._workers or (delays and not supervisor._workers):
            await asyncio.sleep(0.01)
    while "another one starts in 3600.0 s" not in caplog.text:
        await asyncio.sleep(0.01)
    supervisor.stop()
    await running
    assert supervisor.codes == []
    for each in sockets[0]:
        each.close()


async def test_a_renewal_does_not_wait_until_a_dead_worker_would_be_replaced(
    server_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(broker=server_of("valkey").url, workers=1, port=0)
    sockets = listen(settings, 1)
    serving = asyncio.Event()
    supervisor = workers.Supervisor(
        "examples.echo:app", settings, sockets, lambda: iter([3600.0, 3600.0])
    )
    running = asyncio.create_task(supervisor.run(serving.set))
    await serving.wait()
    (worker,) = supervisor._workers
    worker.signal(signal.SIGKILL)
    for target, renewed in [("examples.nowhere:app", False), ("examples.echo:app", True)]:
        await logged(caplog, "another one starts in 3600.0 s")
        caplog.clear()
        supervisor._target = target
        supervisor.renew()
        assert await supervisor.renewed() is renewed
    supervisor.stop()
    await running
    assert supervisor.codes == [0]
    for each in sockets[0]:
        each.close()


async def test_stopping_while_a_worker_is_replaced(
    server_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(broker=server_of("valkey").url, workers=1, port=0)
    sockets = listen(settings, 1)
    supervisor = workers.Supervisor("examples.echo:app", settings, sockets)
    serving = asyncio.Event()
    running = asyncio.create_task(supervisor.run(serving.set))
    await serving.wait()
    supervisor.renew()
    while len(supervisor._workers) < 2:
        await asyncio.sleep(0)
    supervisor.stop()
    await running
    assert supervisor.codes == [0]
    assert "the others stay as they are" not in caplog.text
    for each in sockets[0]:
        each.close()


async def test_stopping_while_the_first_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(workers=1, port=0)
    sockets = listen(settings, 1)
    supervisor = workers.Supervisor("examples.echo:app", settings, sockets)
    start = workers.Worker.start

    async def stopped_meanwhile(number: int, assignment: workers.Assignment) -> workers.Worker:
        worker = await start(number, assignment)
        supervisor.stop()
        return worker

    monkeypatch.setattr(workers.Worker, "start", stopped_meanwhile)
    await supervisor.run(lambda: None)
    assert supervisor.codes == []  # it did not serve yet
    for each in sockets[0]:
        each.close()


async def test_stopping_before_all_have_started() -> None:
    async with running("examples.echo:app", "--workers", "2", "--port", "0") as run:
        await run.until("an embedded NATS server carries topics")
        while len(children_of(run, "wsflow.server.worker")) < 2:
            await asyncio.sleep(0.01)
        run.process.terminate()
        assert await run.ended() == 0


@asynccontextmanager
async def supervising(
    broker: str, count: int = 1, **limits: float
) -> AsyncIterator[tuple[workers.Supervisor, asyncio.Task[None]]]:
    """A supervisor in this process, whose workers serve, and the task that it runs in."""
    settings = Settings(broker=broker, workers=count, port=0, **limits)  # type: ignore[arg-type]
    sockets = listen(settings, count)
    supervisor = workers.Supervisor("examples.echo:app", settings, sockets)
    serving = asyncio.Event()
    running = asyncio.create_task(supervisor.run(serving.set))
    try:
        await serving.wait()
        yield supervisor, running
        await asyncio.wait([running])
    finally:
        running.cancel()
        await asyncio.wait([running])
        for each in (one for own in sockets for one in own):
            each.close()


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    async with asyncio.timeout(30):
        while text not in caplog.text:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["draining", "at once"])
async def test_a_worker_that_does_not_stop_is_killed(
    how: str, monkeypatch: pytest.MonkeyPatch, server_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "SPARE", 0.2)
    monkeypatch.setattr(workers, "HURRY", 0.0)
    grace = 0.0 if how == "draining" else 1000.0
    broker = server_of("valkey").url
    async with supervising(broker, 2, grace=grace, close_timeout=0.0) as (supervisor, _):
        for worker in supervisor._workers:
            worker.signal(signal.SIGSTOP)
        supervisor.interrupt()
        if how == "at once":
            supervisor.interrupt()
            supervisor.interrupt()
    assert supervisor.codes == [-signal.SIGKILL] * 2
    assert caplog.text.count("has not stopped in time: it is killed") == 2


async def test_a_supervisor_that_is_cancelled_ends_its_workers(server_of: Any) -> None:
    async with supervising(server_of("valkey").url) as (supervisor, running):
        running.cancel()
    assert supervisor.codes == [0]


@pytest.mark.long
async def test_a_worker_that_hangs_is_replaced(
    server_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broker = server_of("valkey").url
    async with supervising(broker, 2, worker_timeout=2.0) as (supervisor, _):
        first, second = supervisor._workers
        first.signal(signal.SIGSTOP)
        await logged(caplog, f"{first} hangs since 2 s (--worker-timeout): it is killed")
        await logged(caplog, f"{first} was killed by SIGKILL; another one starts")
        while len(supervisor._workers) < 2:
            await asyncio.sleep(0.01)
        assert second in supervisor._workers
        (new,) = set(supervisor._workers) - {second}
        await new.served
        supervisor.stop()
    assert supervisor.codes == [0, 0]


async def stopped_before_it_serves(supervisor: workers.Supervisor) -> None:
    """The new worker is stopped, as it is started."""
    while len(supervisor._workers) < 2:
        await asyncio.sleep(0)
    (_, new) = supervisor._workers
    assert not new.served.done()
    new.signal(signal.SIGSTOP)
    while state(new._process.pid) != "T":  # a later SIGTERM would come first
        await asyncio.sleep(0)


async def test_a_worker_that_never_serves(
    monkeypatch: pytest.MonkeyPatch, server_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It replaces nobody, keeps no later one from that, and nobody from stopping."""
    monkeypatch.setattr(workers, "LAST_WORDS", 0.1)
    monkeypatch.setattr(workers, "SPARE", 0.5)
    caplog.set_level("INFO")
    broker = server_of("valkey").url
    async with supervising(broker, grace=0.0, worker_timeout=10.0) as (supervisor, _):
        (old,) = supervisor._workers
        settings = supervisor._settings
        for _ in range(2):
            caplog.clear()
            supervisor._settings = replace(settings, start_timeout=0.001)
            supervisor.renew()
            await stopped_before_it_serves(supervisor)
            await logged(caplog, "does not serve after 0.001 s (--start-timeout): it is killed")
            await logged(caplog, "was killed by SIGKILL before it served: the others stay as they")
            assert list(supervisor._workers) == [old]
        supervisor._settings = settings
        supervisor.renew()
        await logged(caplog, "all workers are replaced")
        assert old not in supervisor._workers
        supervisor.renew()
        await stopped_before_it_serves(supervisor)
        supervisor._settings = replace(settings, close_timeout=0.0)
        supervisor.stop()
        supervisor.renew()
    assert "SIGHUP is ignored: the workers are stopping" in caplog.text
    assert sorted(supervisor.codes) == [-signal.SIGKILL, 0]


async def test_a_first_worker_that_never_serves(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"import time\n{APP}\ntime.sleep(1000)")
    (tmp_path / "check.py").write_text("from mine import app")
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    settings = Settings(workers=1, port=0, start_timeout=1.0, worker_timeout=0.0)
    sockets = listen(settings, 1)
    supervisor = workers.Supervisor("mine:app", settings, sockets)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for name, value in path.items():
            patch.setenv(name, value)
        with pytest.raises(workers.NotStartedError, match="was killed by SIGABRT before it served"):
            await supervisor.run(lambda: None)
    for each in sockets[0]:
        each.close()


async def test_no_limits_at_all(server_of: Any) -> None:
    limits = {"worker_timeout": 0.0, "start_timeout": 0.0}
    async with supervising(server_of("valkey").url, **limits) as (supervisor, _):
        (worker,) = supervisor._workers
        assert worker.silent == 0
        supervisor.stop()
    worker.signal(signal.SIGKILL)  # there is nobody any more
    assert supervisor.codes == [0]


# -- signals as terminals and service managers send them, to real processes


@asynccontextmanager
async def at_work_in_a_worker(
    gated: dict[str, Any],  # noqa: F811
    *flags: str,
) -> AsyncIterator[tuple[Run, ClientConnection]]:
    """A server in two processes, and a peer whose message is at work; stopped by SIGTERM with the
    block, unless it has ended by then."""
    port = free_port()
    flags = ("--workers", "2", "--port", str(port), *flags)
    async with serving("mine:app", *flags, start_new_session=True, **gated) as run:
        async with connect(f"ws://127.0.0.1:{port}/") as client:
            await at_work(client)
            yield run, client
        if run.process.returncode is None:
            run.process.terminate()
            await run.ended()


def to_all(run: Run, *numbers: signal.Signals) -> None:
    """Send signals to all processes, one signal after the other."""
    supervisor = run.process.pid
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text()
    for number in numbers:
        for pid in map(int, (*children.split(), supervisor)):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, number)


def at_once_to_all(run: Run, number: signal.Signals) -> None:
    """As systemd does with KillMode=control-group, its default. None of them acts on it before all
    have it, however busy the machine is: else a worker has just ended, as far as the supervisor
    knows."""
    to_all(run, signal.SIGSTOP, number, signal.SIGCONT)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
async def test_a_signal_to_all_processes_drains(
    gated: dict[str, Any],  # noqa: F811
    number: signal.Signals,
    loop: str,
) -> None:
    """What is at work is finished, and can be published: the broker is started again."""
    async with at_work_in_a_worker(gated, "--loop", loop) as (run, client):
        at_once_to_all(run, number)
        await run.until("the embedded NATS server is running again")
        (gated["cwd"] / "open").touch()
        assert await finished(client) == 1001
        await run.ended()
    assert run.process.returncode == 0
    assert "stopping at once" not in run.log
    assert "another one starts" not in run.log
    assert run.log.count("draining for at most") == 2


@pytest.mark.long
async def test_ctrl_c_twice_in_a_terminal(gated: dict[str, Any]) -> None:  # noqa: F811
    async with at_work_in_a_worker(gated) as (run, client):
        os.killpg(run.process.pid, signal.SIGINT)
        await run.until("draining for at most 20 s")
        await run.until("draining for at most 20 s")
        os.killpg(run.process.pid, signal.SIGTERM)
        await run.until("the drain goes on; SIGINT (Ctrl-C) stops at once")
        os.killpg(run.process.pid, signal.SIGINT)
        await run.until("stopping at once")
        with pytest.raises(ConnectionClosed, match="1001"):
            await asyncio.wait_for(client.recv(), 15)
        await run.ended()
    assert run.process.returncode == 1  # a handler was cancelled


@pytest.mark.long
async def test_sighup_to_all_processes_replaces_them(
    gated: dict[str, Any],  # noqa: F811
) -> None:
    async with at_work_in_a_worker(gated) as (run, client):
        (gated["cwd"] / "open").touch()
        at_once_to_all(run, signal.SIGHUP)
        assert await finished(client) == 1012
        await run.until("all workers are replaced")
    assert run.process.returncode == 0
    assert "another one starts" not in run.log


@pytest.mark.long
async def test_sigterm_while_a_worker_hands_over(gated: dict[str, Any]) -> None:  # noqa: F811
    async with at_work_in_a_worker(gated) as (run, client):
        run.process.send_signal(signal.SIGHUP)
        await run.until("draining for at most")
        at_once_to_all(run, signal.SIGTERM)
        (gated["cwd"] / "open").touch()
        assert await finished(client) in (1001, 1012)
        await run.ended()
    assert run.process.returncode == 0
    assert "stopping at once" not in run.log


@pytest.mark.long
async def test_what_is_suspended_as_a_whole_goes_on(gated: dict[str, Any]) -> None:  # noqa: F811
    async with at_work_in_a_worker(gated, "--worker-timeout", "1") as (run, client):
        pids = children_of(run)
        to_all(run, signal.SIGSTOP)
        await asyncio.sleep(2.5)  # longer than a worker may hang
        os.kill(run.process.pid, signal.SIGCONT)
        to_all(run, signal.SIGCONT)
        (gated["cwd"] / "open").touch()
        assert await client.recv() == "gate"
        assert children_of(run) == pids
    assert run.process.returncode == 0
    assert "hangs" not in run.log


@pytest.mark.long
async def test_a_blocked_loop_is_found_and_named(gated: dict[str, Any]) -> None:  # noqa: F811
    async with at_work_in_a_worker(gated, "--worker-timeout", "2") as (run, client):
        (gated["cwd"] / "open").touch()
        await client.send("block")
        await run.until("was killed by SIGABRT; another one starts")
        assert "hangs since 2 s (--worker-timeout): it is killed" in run.log
        assert "Fatal Python error: Aborted" in run.log
        assert 'mine.py", line 16 in work' in run.log
    assert run.process.returncode == 0


@pytest.mark.long
async def test_workers_close_their_peers_one_after_another(
    gated: dict[str, Any],  # noqa: F811
) -> None:
    """On SIGHUP newcomers are let in meanwhile; and Ctrl-C hurries, as ever."""
    async with at_work_in_a_worker(gated, "--drain-over", "1000") as (run, client):
        (gated["cwd"] / "open").touch()
        host, port = client.remote_address
        peers = [await connect(f"ws://{host}:{port}/") for _ in range(40)]
        run.process.send_signal(signal.SIGHUP)
        await run.until("draining for at most 1020 s")
        for number in range(5):
            async with connect(f"ws://{host}:{port}/") as newcomer:
                await newcomer.send(str(number))
                assert [await newcomer.recv() for _ in range(2)] == ["started", str(number)]
        run.process.send_signal(signal.SIGINT)
        await run.until("draining for at most 1020 s")
        run.process.send_signal(signal.SIGINT)
        await run.until("stopping at once")
        codes = set()
        for each in peers:
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(each.recv(), 20)
            codes.add(closed.value.rcvd.code if closed.value.rcvd else 1006)
        assert codes == {1001, 1012}
        await run.ended()
    assert run.process.returncode == 0
