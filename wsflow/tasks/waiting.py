"""Waiting: for what has to become true, for what happens once, no longer than a deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, final

import anyio

EMPTY: Final[Any] = ()
"""Stands for a queue in which nothing has waited yet: most never need one of their own."""


async def wait_shielded(event: anyio.Event) -> None:
    """Wait for ``event``, whatever cancels the caller.

    A shield stops cancel scopes. A native ``task.cancel()`` pierces it, so that the wait begins
    anew.
    """
    while not event.is_set():
        try:
            with anyio.CancelScope(shield=True):
                await event.wait()
        except anyio.get_cancelled_exc_class():
            continue


class Condition:
    """Wakes tasks that wait for something to become true. May be made without an event loop."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def notify_all(self) -> None:
        """Have all who wait look again, in a later turn of the loop."""
        event, self._event = self._event, None
        if event is not None:
            event.set()

    async def wait_for(self, predicate: Callable[[], object]) -> None:
        """Wait until ``predicate`` is true. Cancelling it changes nothing for the others."""
        while not predicate():
            await self._next().wait()

    def _next(self) -> anyio.Event:
        if self._event is None:
            self._event = anyio.Event()
        return self._event


@final
class Latch(Condition):
    """Is set once, and stays so. May be made and set where there is no current task."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        super().__init__()
        self.is_set = False

    def set(self) -> None:
        self.is_set = True
        self.notify_all()

    async def wait(self) -> None:
        """Wait until it is set. Cancelling it changes nothing."""
        if not self.is_set:
            await self._next().wait()

    async def wait_shielded(self) -> None:
        """Wait until it is set, whatever cancels the caller."""
        if not self.is_set:
            await wait_shielded(self._next())


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Forget the call, if it has not been made."""


class Clock(Protocol):
    """Tells the time, and calls when it has come."""

    def now(self) -> float:
        """Seconds on the clock that ``after`` uses."""

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call ``call`` in ``seconds``."""
