"""Which changes count."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from wsflow.cli.watching import watchers

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Seen:
    """The changed paths, read along."""

    def __init__(self) -> None:
        self.paths: asyncio.Queue[str] = asyncio.Queue()

    async def read(self, watcher) -> None:  # type: ignore[no-untyped-def]
        async with aclosing(watcher()) as changes:
            async for found in changes:
                for _, path in sorted(found):
                    self.paths.put_nowait(path)

    async def next(self) -> str:
        return await asyncio.wait_for(self.paths.get(), 30)


@asynccontextmanager
async def watching(*paths: Path) -> AsyncIterator[Seen]:
    seen = Seen()
    tasks = [asyncio.create_task(seen.read(each)) for each in watchers(paths)]
    await asyncio.sleep(0)
    try:
        yield seen
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.wait(tasks)


def put(path: Path, text: str = "") -> None:
    """Write a file as many editors do: another one takes its place."""
    other = path.with_name("being-written")
    other.write_text(text)
    other.replace(path)


async def test_a_file_that_is_replaced(tmp_path: Path) -> None:
    """Whatever its name, each time; no other one, and not what is beside it."""
    (tmp_path / "below").mkdir()
    mine = tmp_path / "chat.toml"
    put(mine)
    async with watching(mine) as seen:
        for text in "abc":
            put(tmp_path / "other.py")
            put(tmp_path / "below" / "chat.toml")
            put(mine, text)
            assert await seen.next() == str(mine)
        mine.unlink()
        assert await seen.next() == str(mine)
        mine.write_text("again")
        assert await seen.next() == str(mine)


async def test_a_link_to_a_file(tmp_path: Path) -> None:
    for each in ("one", "two"):
        (tmp_path / each).mkdir()
        put(tmp_path / each / "chat.toml")
    link = tmp_path / "chat.toml"
    link.symlink_to(tmp_path / "one" / "chat.toml")
    async with watching(link) as seen:
        put(tmp_path / "one" / "chat.toml")
        assert await seen.next() == str(tmp_path / "one" / "chat.toml")
        (tmp_path / "new").symlink_to(tmp_path / "two" / "chat.toml")
        (tmp_path / "new").replace(link)
        assert await seen.next() == str(link)


@pytest.mark.parametrize("above", [".", "node_modules", ".venv/lib/site-packages", "__pycache__"])
async def test_where_the_project_lies(tmp_path: Path, above: str) -> None:
    """There may be any names above; what is installed below is not the project's."""
    project = tmp_path / above / "mine"
    for each in ("node_modules", ".venv", "lib"):
        (project / each).mkdir(parents=True)
    async with watching(project) as seen:
        for name in ("node_modules/a.py", ".venv/a.py", "a.txt", "lib/a.py"):
            put(project / name)
        assert await seen.next() == str(project / "lib" / "a.py")


@pytest.mark.parametrize("how", ["removed", "moved"])
@pytest.mark.parametrize("held", [True, False])
async def test_a_directory_that_is_made_again(
    tmp_path: Path, how: str, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is some process's current directory: then the system does not tell of its end."""
    project = tmp_path / "mine"
    project.mkdir()
    put(project / "a.py")
    if held:
        monkeypatch.chdir(project)
    async with watching(project) as seen:
        for _ in range(2):
            if how == "removed":
                shutil.rmtree(project)
            else:
                os.rename(project, tmp_path / f"other{_}")
            project.mkdir()
            put(project / "b.py")
            while await seen.next() != str(project):
                pass
            put(project / "c.py")
            assert await seen.next() == str(project / "c.py")
    monkeypatch.chdir(tmp_path)
