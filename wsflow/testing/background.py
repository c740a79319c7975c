"""A task that belongs to no scope of the test.

A fixture's set-up and teardown may run in different tasks, so that no task group can stay open
between them.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import anyio


class Background:
    """Runs one function beside the test.

    Attributes:
        error: what it raised, once it is over.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._over = anyio.Event()

    def start(self, run: Callable[[], Awaitable[None]]) -> None:
        async def live() -> None:
            try:
                await run()
            except BaseException as exc:
                self.error = exc
            finally:
                self._over.set()

        trio = sys.modules.get("trio")
        if trio is not None and trio.lowlevel.in_trio_run():
            trio.lowlevel.spawn_system_task(live, name="wsflow test server")
        else:
            self._task = asyncio.get_running_loop().create_task(live(), name="wsflow test server")

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    async def wait(self) -> None:
        await self._over.wait()
