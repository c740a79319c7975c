"""The event loop of sockets."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import anyio
import pytest

from wsflow.tasks.carried import CarriedLoop
from wsflow.tasks.loops import event_loop


async def test_it_is_the_running_one_or_carried(anyio_backend_name: str) -> None:
    loop = event_loop()
    assert loop is event_loop()
    if anyio_backend_name == "asyncio":
        assert loop is asyncio.get_running_loop()
    else:
        assert isinstance(loop, CarriedLoop)


def test_each_run_of_trio_has_its_own() -> None:
    async def main() -> CarriedLoop:
        loop = event_loop()
        assert isinstance(loop, CarriedLoop)
        return loop

    one, other = (anyio.run(main, backend="trio") for _ in range(2))
    assert one is not other
    assert one.is_closed()


def test_none_is_running() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        event_loop()


def test_trio_is_imported_on_trio_only() -> None:
    script = (
        "import asyncio, sys\n"
        "from wsflow import Router\n"
        "from wsflow.server import Settings, serve\n"
        "async def main():\n"
        "    app = Router()\n"
        "    @app.consumer\n"
        "    async def echo(message: str) -> str: ...\n"
        "    async with serve(app, Settings(port=0)): ...\n"
        "asyncio.run(main())\n"
        "print('trio' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
