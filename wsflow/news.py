"""Waiting for something to be so, where nobody says when but that something has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import anyio


@final
class News:
    """Wakes those who wait for something to be so. May be made where there is no event loop."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def changed(self) -> None:
        """Something may be so now: all who wait look again, in a later turn of the loop."""
        event, self._event = self._event, None
        if event is not None:
            event.set()

    async def until(self, ready: Callable[[], object]) -> None:
        """Wait until ``ready`` says so. Cancelling it changes nothing for the others."""
        while not ready():
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
