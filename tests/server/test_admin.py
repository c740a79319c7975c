"""Pages about the process: on a port of their own, on the app's, and of several workers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from tests.cluster.scenario import children_of
from tests.processes import Run, free_port, running
from tests.server.test_serve import echo_app, quick
from wsflow import Router
from wsflow.cli import supervise
from wsflow.runtime.status import Status
from wsflow.server import Server, serve
from wsflow.server.accepting import AddressInUse, Listener
from wsflow.server.admin import Admin
from wsflow.server.exits import AdminAddressError
from wsflow.server.workers import Supervisor
from wsflow.wiring.compile import compile_app

ROOT = Path(__file__).parents[2]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def asking(port: int) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield client


async def metrics(client: httpx2.AsyncClient) -> dict[str, float]:
    """The metrics, by name and labels."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert answer.headers["Cache-Control"] == "no-store"
    found = {}
    for each in text_string_to_metric_families(answer.text):
        for sample in each.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


async def test_an_admin_port(caplog: pytest.LogCaptureFixture) -> None:
    """What is there is not on the app's port, and the other way round."""
    caplog.set_level("INFO", "wsflow.access")
    async with serve(echo_app(), quick(admin_port=0, metrics=True)) as server:
        assert server.admin is not None
        async with asking(server.admin.port or 0) as admin, asking(server.port) as app:
            for path in ("/healthz", "/readyz", "/metrics"):
                for method, status in (("GET", 200), ("HEAD", 200), ("OPTIONS", 204), ("PUT", 405)):
                    answer = await admin.request(method, path)
                    assert answer.status_code == status
                    assert bool(answer.content) is (method in ("GET", "PUT"))
                assert (await app.get(path)).status_code == 404
            assert (await admin.get("/")).status_code == 404
            headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
            headers |= {
                "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
                "Sec-WebSocket-Version": "13",
            }
            assert (await admin.get("/", headers=headers)).status_code == 404
            assert (await admin.get("/healthz", headers={"Host": "any.example"})).status_code == 200
            async with connect(f"ws://127.0.0.1:{server.port}/") as client:
                await client.send("x")
                assert await client.recv() == "x"
                found = await metrics(admin)
            assert found["wsflow_connections{route=/}"] == 1
            assert found["wsflow_messages_sent_total{route=/}"] == 1
            assert found["wsflow_broker_connected{}"] == 1
    assert [each.getMessage() for each in caplog.records if "healthz" in each.getMessage()] == [
        f"/healthz peer=127.0.0.1:{port} refused=404" for port in ports_of(caplog)
    ]


def ports_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = "\n".join(each.getMessage() for each in caplog.records)
    return re.findall(r"^/healthz peer=127\.0\.0\.1:(\d+)", lines, re.MULTILINE)


async def test_metrics_on_the_port_of_the_app() -> None:
    """There the host is checked, as for all pages: another site must not read them."""
    async with serve(echo_app(), quick(metrics=True)) as server, asking(server.port) as client:
        assert "wsflow_event_loop_lag_seconds_count{}" in await metrics(client)
        for path, status in (("/healthz", 200), ("/metrics", 403)):
            answer = await client.get(path, headers={"Host": "evil.example"})
            assert answer.status_code == status
    async with serve(echo_app(), quick()) as server, asking(server.port) as client:
        assert (await client.get("/metrics")).status_code == 404


async def test_a_supervisor_that_does_not_answer() -> None:
    """Nothing is not zero: who asks is told that there is no answer."""
    settings = quick(metrics=True)
    server = Server(compile_app(echo_app()), settings, (), lambda take: take(None))
    server.bind()
    running = asyncio.create_task(server.run())
    await server.started.wait()
    async with asking(server.port) as client:
        answer = await client.get("/metrics")
    assert (answer.status_code, answer.text) == (503, "The supervisor does not answer\n")
    server.stop()
    await running


async def test_it_answers_from_the_start_until_the_end() -> None:
    app, go, leaving = Router("/"), anyio.Event(), anyio.Event()

    @app.lifespan
    async def wait() -> AsyncIterator[None]:
        await go.wait()
        yield
        await leaving.wait()

    @app.consumer
    async def echo(message: str) -> str:
        return message

    server = Server(compile_app(app), quick(admin_port=0, drain_delay=0.01))
    server.bind()
    running = asyncio.create_task(server.run())
    assert server.admin is not None
    async with asking(server.admin.port or 0) as client:
        assert (await client.get("/healthz")).status_code == 200
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["it has not started"])
        go.set()
        await server.started.wait()
        assert (await client.get("/readyz")).status_code == 200
        server.stop()
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["it stops"])
        leaving.set()
        await running
        with pytest.raises(httpx2.ConnectError):
            await client.get("/healthz")


async def test_the_lag_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsflow.runtime.metrics.TICK", 0.001)
    async with serve(echo_app(), quick(metrics=True)) as server:
        lag = server._app.metrics.lag
        while sum(lag.counts) < 3:
            await asyncio.sleep(0.001)
        assert lag.total >= 0
    seen = sum(lag.counts)
    await asyncio.sleep(0.01)
    assert sum(lag.counts) == seen  # it is no longer watched


@asynccontextmanager
async def workers(*arguments: str) -> AsyncIterator[tuple[Run, int]]:
    """Two workers, and the port of the app."""
    port = free_port()
    options = ("--workers", "2", "--port", str(port), "--no-access-log", "--metrics", *arguments)
    async with running("tests.server.echo_in_workers:app", *options, cwd=ROOT) as run:
        yield run, port
        run.process.send_signal(signal.SIGTERM)
        assert await run.ended() == 0


async def echoes(port: int, count: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            client = await stack.enter_async_context(connect(f"ws://127.0.0.1:{port}/"))
            await client.send("x")
            assert await client.recv() == "x"


async def test_workers_are_added_up() -> None:
    """Also what was counted by those that were replaced or killed; on both ports."""
    messages = "wsflow_messages_received_total{route=/}"
    admin = free_port()
    async with (
        workers("--admin-port", str(admin)) as (run, port),
        asking(admin) as client,
    ):
        line = await run.until("on http://127.0.0.1")
        assert line == f"  /healthz, /readyz and /metrics on http://127.0.0.1:{admin}\n"
        answer = await client.get("/readyz")
        if answer.status_code == 503:  # it has just begun
            assert answer.json()["reasons"] == ["it has not started"]
        await run.until("stop it with Ctrl-C")
        assert (await client.get("/readyz")).json() == {"ready": True, "reasons": []}
        await echoes(port, 20)
        assert (await metrics(client))[messages] == 20
        run.process.send_signal(signal.SIGHUP)
        await run.until("all workers are replaced")
        await echoes(port, 10)
        assert (await metrics(client))[messages] == 30
        old = children_of(run, "wsflow.server.worker")
        os.kill(old[0], signal.SIGKILL)
        await run.until("was killed by SIGKILL")
        assert (await metrics(client))[messages] == 30  # as it was asked for last
        assert (await client.get("/readyz")).status_code == 200  # by the other one
        os.kill(old[1], signal.SIGSTOP)
        both = await asyncio.gather(metrics(client), metrics(client))  # who asks later waits along
        assert [each[messages] for each in both] == [30, 30]
        os.kill(old[1], signal.SIGCONT)


async def test_any_worker_shows_the_metrics_of_all() -> None:
    async with workers() as (run, port), asking(port) as client:
        await run.until("stop it with Ctrl-C")
        await echoes(port, 20)
        found = await asyncio.gather(*(metrics(client) for _ in range(6)))
        assert [each["wsflow_messages_received_total{route=/}"] for each in found] == [20] * 6
        assert (await client.get("/readyz")).status_code == 200


async def test_an_address_that_is_taken_at_the_last_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(listener: Listener) -> None:
        raise AddressInUse(errno.EADDRINUSE, "taken")

    admin = Admin(quick(admin_port=0), Status(lambda take: take([])))
    with monkeypatch.context() as context:
        context.setattr(Listener, "start", taken)
        with pytest.raises(AdminAddressError) as raised:
            admin.start()
    assert (raised.value.errno, raised.value.filename) == (errno.EADDRINUSE, str(admin.address))
    await admin.stop()


async def test_before_there_are_workers() -> None:
    said: list[Any] = []
    crew = supervise._Crew(lambda **_: cast(Any, None))
    crew.unready(said.append)
    crew.measured(said.append)
    assert said == [["it has not started"], []]


async def test_workers_that_do_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor("x:app", quick(), [])
    assert await supervisor.unready() == ["it has not started"]
    supervisor._served = True
    assert await supervisor.unready() == ["no worker answers"]
    supervisor._reports.close()
    await supervisor._tell_sum(cast(Any, None))
    assert "what is measured cannot be passed on" in caplog.text
    supervisor.stop()
    assert await supervisor.unready() == ["it stops"]


async def test_metrics_that_nothing_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wsflow.prometheus", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'wsflow\[metrics\]'"):
        async with serve(echo_app(), quick(metrics=True)):
            pass
