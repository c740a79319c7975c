"""A function that runs concurrently with its caller, in a task that belongs to no scope.

A block may be entered in one task and left in another, as with test fixtures, so that no task group
can stay open in between.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import final

from wsflow.tasks.detached import detach
from wsflow.tasks.waiting import Latch


@final
class Background:
    """Runs one function in a task of its own.

    Attributes:
        over: set when it has returned or raised.
        settled: set when it is ready, or over.
    """

    def __init__(self) -> None:
        self.over = Latch()
        self._error: BaseException | None = None
        self.settled = Latch()

    def begin(
        self,
        run: Callable[[Callable[[], None]], Awaitable[None]],
        name: str,
        ended: Callable[[], None] = lambda: None,
        context: Context | None = None,
    ) -> None:
        """Start the function, without waiting for it.

        Args:
            run: the function; it calls its argument when it is ready.
            name: the name of the task.
            ended: called when the function has returned or raised.
            context: the context of the task; by default a copy of the current one.
        """

        async def live() -> None:
            try:
                await run(self.settled.set)
            except BaseException as exc:
                self._error = exc
            finally:
                self.over.set()
                self.settled.set()
                ended()

        detach(live, name=name, context=context)

    async def ready(self, abort: Callable[[], None]) -> None:
        """Wait until the function is ready or has ended. If this is cancelled, it calls ``abort``
        and waits for the end.

        Raises:
            BaseException: what the function raised.
        """
        try:
            await self.settled.wait()
        except BaseException:
            abort()
            await self.over.wait_shielded()
            raise
        if self.over.is_set:
            self.result()

    async def finished(self, abort: Callable[[], None] = lambda: None) -> None:
        """Wait until the function has ended. If this is cancelled, it calls ``abort`` and still
        waits for the end.

        Raises:
            BaseException: what the function raised.
        """
        try:
            await self.over.wait()
        except BaseException:
            abort()
            await self.over.wait_shielded()
            raise
        self.result()

    def result(self) -> None:
        """Raise what the function raised, if it did."""
        if self._error is not None:
            raise self._error
