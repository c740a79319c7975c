"""Waiting that outlives cancellation, and for what may be over before anybody waits."""

from __future__ import annotations

import anyio


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

    def __init__(self) -> None:
        self.is_set = False
        self._waiting: list[anyio.Event] = []

    def set(self) -> None:
        self.is_set = True
        for event in self._waiting:
            event.set()

    async def wait(self) -> None:
        """Wait for it. Cancelling it changes nothing."""
        if not self.is_set:
            self._waiting.append(event := anyio.Event())
            await event.wait()

    async def wait_through(self) -> None:
        """Wait for it, whatever cancels the caller."""
        if not self.is_set:
            self._waiting.append(event := anyio.Event())
            await wait_through(event)
