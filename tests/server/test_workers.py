"""Several processes on one address: real ones, that are killed and replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
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
from wsflow.server import Settings, workers
from wsflow.server.listening import listen

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


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has, too."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


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
        assert "a worker ended before it served, with exit code 1" in line
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
            "wsflow: a worker ended before it served, with exit code 1; see above\n"
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

    async def stopped_meanwhile(assignment: workers.Assignment) -> workers.Worker:
        worker = await start(assignment)
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


async def test_a_worker_that_does_not_stop_is_killed(
    monkeypatch: pytest.MonkeyPatch, server_of: Any
) -> None:
    monkeypatch.setattr(workers, "SPARE", 0.2)
    settings = Settings(
        broker=server_of("valkey").url, workers=1, port=0, grace=0.0, close_timeout=0.0
    )
    sockets = listen(settings, 1)
    supervisor = workers.Supervisor("examples.echo:app", settings, sockets)
    serving = asyncio.Event()
    running = asyncio.create_task(supervisor.run(serving.set))
    await serving.wait()
    (worker,) = supervisor._workers
    worker.signal(signal.SIGSTOP)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert supervisor.codes == [-signal.SIGKILL]
    for each in sockets[0]:
        each.close()
