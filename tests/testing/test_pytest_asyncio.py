"""With pytest-asyncio, whose fixtures are set up and torn down in different tasks."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

SUITE = """
import asyncio

import pytest_asyncio
import pytest

from examples.chat import Said, Say, app
from wsflow.testing import connect, serve_in_memory

tasks = []


@pytest_asyncio.fixture
async def ada():
    tasks.append(asyncio.current_task())
    async with connect(app, "/chat/lobby?name=ada") as peer:
        yield peer
    tasks.append(asyncio.current_task())


@pytest_asyncio.fixture
async def server():
    async with serve_in_memory(app) as server:
        yield server


@pytest.mark.asyncio
async def test_peer(ada):
    await ada.send(Say("hi"))
    assert await ada.receive(Said) == Said("ada", "hi")


@pytest.mark.asyncio
async def test_server(server):
    async with server.connect("/chat/a?name=bob") as bob:
        await bob.send(Say("hi"))
        assert await bob.receive(Said) == Said("bob", "hi")


def test_they_were_different_tasks():
    assert tasks[0] is not tasks[1]
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_yield_fixtures(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"),
        *("-o", "asyncio_default_fixture_loop_scope=function"),
        *("--rootdir", str(tmp_path), str(tmp_path / "test_suite.py")),
        cwd=root,
        env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert "3 passed" in output.decode()
