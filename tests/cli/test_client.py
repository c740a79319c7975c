"""``wsflow client``, as a person meets it."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
import pytest

from tests.processes import Run, free_port
from wsflow import Close, Header, Router
from wsflow.cli.main import main
from wsflow.server import Settings
from wsflow.server.serve import serve


class Say(msgspec.Struct, tag="say"):
    text: str


bot = Router("/")


@bot.producer(on_end="keep")
async def talk() -> AsyncIterator[Say]:
    yield Say("hello")


@bot.consumer
async def hear(message: Say) -> None:
    print("heard", message.text, flush=True)
    if message.text == "fail":
        raise ZeroDivisionError("in the bot")
    if message.text == "slow":
        try:
            await asyncio.sleep(60)
        finally:
            print("cut off", flush=True)


broken = Router("/")


@broken.lifespan
async def fails() -> None:
    raise ZeroDivisionError("no database")


broken.consumer(hear)


def server(*answers: Any) -> Router:
    """Answers each message with the next of these."""
    router, left = Router("/"), list(answers)

    @router.on_connect
    async def enter(agent: Annotated[str, Header("X-Agent")] = "") -> None: ...

    @router.consumer
    async def say(message: Say) -> Say:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Say(answer)

    return router


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio"


async def start(port: int, *options: str, target: str = "bot") -> Run:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wsflow", "client", f"tests.cli.test_client:{target}"),
        *(f"ws://127.0.0.1:{port}/", *options),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    return Run(process)


async def line(run: Run) -> str:
    assert run.process.stdout is not None
    return (await asyncio.wait_for(run.process.stdout.readline(), 60)).decode().strip()


@pytest.mark.parametrize(
    ("answer", "options", "code", "logged"),
    [
        (Close(1000), (), 0, ""),
        (Close(4403, "not you"), (), 7, "wsflow: the connection ended: peer (4403 not you)"),
        (Close(1012), ("--no-reconnect",), 7, "wsflow: the connection ended: peer (1012)"),
        ("fail", ("--no-reconnect",), 1, "ZeroDivisionError: in the bot"),
    ],
)
async def test_exit_codes(answer: Any, options: tuple[str, ...], code: int, logged: str) -> None:
    async with serve(server(answer), Settings(port=0)) as serving:
        run = await start(serving.port, "--header", "X-Agent: bot", *options)
        assert await run.ended() == code
        assert logged in run.log


async def test_a_signal_stops_it_in_order() -> None:
    async with serve(server("hi"), Settings(port=0)) as serving:
        run = await start(serving.port)
        assert await line(run) == "heard hi"
        run.process.send_signal(signal.SIGTERM)
        assert await run.ended() == 0


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_waits_for_nobody_once_it_drains(first: signal.Signals) -> None:
    async with serve(server("slow"), Settings(port=0)) as serving:
        run = await start(serving.port)
        assert await line(run) == "heard slow"
        run.process.send_signal(first)
        await run.until("stopping: draining for at most 10 s")
        run.process.send_signal(signal.SIGTERM)  # a wrapper's, in addition to a service manager's
        run.process.send_signal(signal.SIGINT)
        assert await line(run) == "cut off"
        assert await run.ended() == 0


async def test_it_waits_for_a_server() -> None:
    port = free_port()
    run = await start(port)
    await run.until("cannot be reached: Connection refused; reconnecting in")
    async with serve(server(Close(1000)), Settings(port=port)):
        assert await run.ended() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["tests.cli.test_client:bot", "http://x"], 2, "'http://x' is not a WebSocket URI"),
        (["tests.cli.test_client:bot", "ws://x/", "--header", "x"], 2, "is not a header"),
        (["tests.cli.test_client:nobody", "ws://x/"], 3, "has no attribute 'nobody'"),
        (["tests.cli.test_client:bot", "ws://127.0.0.1:1/", "--no-reconnect"], 6, "refused"),
        (["tests.cli.test_client:broken", "ws://x/"], 1, "no database"),
        (["tests.cli.test_client:bot", "ws://x/", "--broker", "x://y"], 2, "x://y"),
    ],
)
def test_mistakes(
    arguments: list[str],
    code: int,
    why: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["client", *arguments])
    assert left.value.code == code
    assert why in capsys.readouterr().err + caplog.text
