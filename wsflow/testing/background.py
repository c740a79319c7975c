"""A function that runs beside the test.

A fixture's set-up and teardown may run in different tasks, so that no task group can stay open
between them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from wsflow.detached import detach
from wsflow.runtime.waiting import Over


class Background:
    """Runs one function in a task of its own.

    Attributes:
        error: what it raised, once it is over.
        over: set when it has returned or raised.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.over = Over()

    def start(self, run: Callable[[], Awaitable[None]]) -> None:
        async def live() -> None:
            try:
                await run()
            except BaseException as exc:
                self.error = exc
            finally:
                self.over.set()

        detach(live, name="wsflow test server")
