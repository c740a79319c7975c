"""Waiting until nothing goes on by itself."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import anyio

from wsflow.tasks.detached import on_trio

_waiting: dict[object, int] = {}
"""How many tasks wait here, by event loop: they do not wait for each other."""


async def wait_idle(timeout: float) -> None:
    """Wait until all other tasks of this event loop wait for something.

    Raises:
        AssertionError: one still goes on after ``timeout`` seconds.
        RuntimeError: the event loop does not say what is ready, as uvloop does not.
    """
    with anyio.move_on_after(timeout) as scope:
        if on_trio():
            await importlib.import_module("trio.testing").wait_all_tasks_blocked()
        else:
            await _wait_on_asyncio(asyncio.get_running_loop())
    if scope.cancelled_caught:
        raise AssertionError(f"something still goes on by itself after {timeout:g} s")


async def _wait_on_asyncio(loop: Any) -> None:
    if not hasattr(loop, "_ready"):
        raise RuntimeError(f"idle() needs asyncio's own event loop, or Trio, and this is {loop}")
    _waiting[loop] = _waiting.get(loop, 0) + 1
    try:
        await asyncio.sleep(0)
        while len(loop._ready) >= _waiting[loop]:  # noqa: ASYNC110  (there is no event for it)
            await asyncio.sleep(0)
    finally:
        _waiting[loop] -= 1
        if not _waiting[loop]:
            del _waiting[loop]
