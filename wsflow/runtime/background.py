"""A function that runs beside its caller, in a task that belongs to no scope.

A block may be entered in one task and left in another, as fixtures are, so that no task group can
stay open between the two.
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

    def start(
        self,
        run: Callable[[], Awaitable[None]],
        name: str,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """Run it; ``ended`` is called once it is over."""

        async def live() -> None:
            try:
                await run()
            except BaseException as exc:
                self.error = exc
            finally:
                self.over.set()
                ended()

        detach(live, name=name)
