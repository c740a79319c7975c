"""Waiting that outlives cancellation, for what may be over already, and for what takes too long."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from wsflow.transports.base import Timer, Transport


async def wait_through(event: anyio.Event) -> None:
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


class Over:
    """Something that will be over, once. May be made and set where there is no current task."""

    __slots__ = ("_waiting", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._waiting: tuple[anyio.Event, ...] = ()

    def set(self) -> None:
        self.is_set = True
        for event in self._waiting:
            event.set()

    async def wait(self) -> None:
        """Wait for it. Cancelling it changes nothing."""
        if not self.is_set:
            await self._event().wait()

    async def wait_through(self) -> None:
        """Wait for it, whatever cancels the caller."""
        if not self.is_set:
            await wait_through(self._event())

    def _event(self) -> anyio.Event:
        event = anyio.Event()
        self._waiting += (event,)
        return event


class Watch:
    """Calls somebody when something takes too long: one thing at a time."""

    __slots__ = ("_stopped", "_timer", "_transport")

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._timer: Timer | None = None
        self._stopped = False

    def set(self, seconds: float, late: Callable[[], None]) -> None:
        """Call ``late`` in so many seconds, and no longer what was to be called before."""
        self.clear()
        if not self._stopped:
            self._timer = self._transport.after(seconds, late)

    def clear(self) -> None:
        """Call nobody."""
        if self._timer is not None:
            self._timer.cancel()

    def stop(self) -> None:
        """Call nobody any more."""
        self._stopped = True
        self.clear()
