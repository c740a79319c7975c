"""Waiting for conditions and for events, and timers."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final, Protocol, final

import anyio

EMPTY: Final[Any] = ()
"""A placeholder for a queue that was never used, since most connections need none."""

NOTHING: Final[Any] = MappingProxyType({})
"""The same for a dict."""


async def wait_shielded(event: anyio.Event) -> None:
    """Wait for ``event``, even if the caller is cancelled.

    Most often nothing cancels it, and a shield costs more than the wait: so there is none at first.
    It protects from cancel scopes, but not from a native ``task.cancel()``, after which the wait is
    repeated.
    """
    try:
        await event.wait()
    except anyio.get_cancelled_exc_class():
        while not event.is_set():
            try:
                with anyio.CancelScope(shield=True):
                    await event.wait()
            except anyio.get_cancelled_exc_class():
                continue


class Condition:
    """Wakes tasks that wait for a condition to become true. May be created without an event
    loop."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def notify_all(self) -> None:
        """Have all waiting tasks check their condition, in a later iteration of the event loop."""
        event, self._event = self._event, None
        if event is not None:
            event.set()

    async def wait_for(self, predicate: Callable[[], object]) -> None:
        """Wait until ``predicate`` is true. Cancelling it does not affect other tasks."""
        while not predicate():
            await self._next().wait()

    def _next(self) -> anyio.Event:
        if self._event is None:
            self._event = anyio.Event()
        return self._event


@final
class Latch(Condition):
    """An event that stays set. May be created and set without a current task."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        super().__init__()
        self.is_set = False

    def set(self) -> None:
        self.is_set = True
        self.notify_all()

    async def wait(self) -> None:
        """Wait until it is set. Cancelling it has no effect on other tasks."""
        if not self.is_set:
            await self._next().wait()

    async def wait_shielded(self) -> None:
        """Wait until it is set, even if the caller is cancelled."""
        if not self.is_set:
            await wait_shielded(self._next())


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Cancel the call, if it was not made."""


class Clock(Protocol):
    """A monotonic clock with timers."""

    def now(self) -> float:
        """Seconds on the clock that ``after`` uses."""

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call ``call`` in ``seconds``."""
