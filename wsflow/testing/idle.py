"""Waiting until nothing goes on by itself."""

from __future__ import annotations

import asyncio
import importlib
import time
from typing import Any

import anyio

from wsflow.tasks.detached import on_trio

_waiting: dict[object, int] = {}
"""How many tasks wait here, by event loop: they do not wait for each other."""


async def wait_idle(timeout: float) -> None:
    """Wait until all other tasks of this event loop wait for something.

    Raises:
        AssertionError: one still goes on after ``timeout`` seconds of the processor's time: neither
            a busy machine nor a clock that the test has set makes a difference.
        RuntimeError: the event loop does not say what is ready, as uvloop does not.
    """
    until = time.thread_time() + timeout
    idle = await (_wait_on_trio(until) if on_trio() else _wait_on_asyncio(until))
    if not idle:
        raise AssertionError(f"something still goes on by itself after {timeout:g} s")


def asyncios_own(what: str) -> Any:
    """The running event loop, which is asyncio's own.

    Args:
        what: what needs that, for the error's message.

    Raises:
        RuntimeError: it is another one.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        raise RuntimeError(f"{what} needs asyncio's own event loop, or Trio, and this is {loop}")
    return loop


def only_waiting(loop: Any) -> bool:
    """Whether nothing is ready on an event loop of asyncio but those who wait here."""
    return len(loop._ready) <= _waiting.get(loop, 0)


async def _wait_on_asyncio(until: float) -> bool:
    """Returns whether all is idle at last."""
    loop = asyncios_own("idle()")
    _waiting[loop] = _waiting.get(loop, 0) + 1
    try:
        await asyncio.sleep(0)
        while len(loop._ready) >= _waiting[loop]:
            if time.thread_time() >= until:
                return False
            await asyncio.sleep(0)
        return True
    finally:
        _waiting[loop] -= 1
        if not _waiting[loop]:
            del _waiting[loop]


async def _wait_on_trio(until: float) -> bool:
    """Returns whether all is idle at last."""
    trio = importlib.import_module("trio")
    with anyio.CancelScope() as scope:
        watch = _Watch(until, scope)
        trio.lowlevel.add_instrument(watch)
        try:
            await importlib.import_module("trio.testing").wait_all_tasks_blocked()
        finally:
            trio.lowlevel.remove_instrument(watch)
    return not scope.cancelled_caught


class _Watch:
    """An instrument of Trio that cancels a scope when it is too late."""

    def __init__(self, until: float, scope: anyio.CancelScope) -> None:
        self._until = until
        self._scope = scope

    def before_io_wait(self, _timeout: float) -> None:
        if time.thread_time() >= self._until:
            self._scope.cancel()
