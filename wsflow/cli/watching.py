"""Which files are watched while an app is written."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

from wsflow.server.exits import UsageError

Changes = AsyncIterator[set[tuple[Any, str]]]
"""Each time the files that have changed: how, and their paths."""

LOOK = 1
"""Seconds between two looks whether a directory is still there."""


def watchers(watch: Sequence[Path]) -> list[Callable[[], Changes]]:
    """What watches these directories and files.

    Raises:
        UsageError: watchfiles is not installed.
    """
    try:
        watchfiles: Any = importlib.import_module("watchfiles")
    except ModuleNotFoundError:
        raise UsageError(
            "wsflow dev needs watchfiles, which is not installed: pip install 'wsflow[dev]'"
        ) from None
    directories = [each.resolve() for each in watch if not each.is_file()]
    # Of a link both may be replaced, it and what it leads to.
    files = {at for each in watch if each.is_file() for at in (each.absolute(), each.resolve())}
    found: list[Callable[[], Changes]] = [partial(_below, watchfiles, each) for each in directories]
    return [*found, partial(_these, watchfiles, files)] if files else found


def _these(watchfiles: Any, files: set[Path]) -> Changes:
    """Watch files. Editors put another file in the place of one: only its directory tells."""
    names = {*map(str, files)}
    changes: Changes = watchfiles.awatch(
        *{each.parent for each in files},
        watch_filter=lambda _, path: path in names,
        recursive=False,
    )
    return changes


async def _below(watchfiles: Any, directory: Path) -> Changes:
    """Watch the Python files below a directory, also when it was removed and made again."""
    python = watchfiles.PythonFilter()
    removed = (watchfiles.Change.deleted, str(directory))

    def counts(change: Any, path: str) -> bool:
        # What stands above is not asked: the project may lie below node_modules, for example.
        return (change, path) == removed or python(change, str(Path(path).relative_to(directory)))

    while True:
        inode = _inode(directory)
        watching = watchfiles.awatch(
            directory, watch_filter=counts, rust_timeout=1000 * LOOK, yield_on_timeout=True
        )
        async with aclosing(watching):
            async for found in watching:
                if removed in found or _inode(directory) != inode:
                    break
                if found:
                    yield found
        while _inode(directory) is None:  # noqa: ASYNC110  (nobody tells)
            await asyncio.sleep(LOOK)
        yield {(watchfiles.Change.added, str(directory))}


def _inode(directory: Path) -> tuple[int, int] | None:
    """Which directory it is; None if there is none. The system tells nothing of the end of one
    that is still the current directory of a process."""
    try:
        found = directory.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
