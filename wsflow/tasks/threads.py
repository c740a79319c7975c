"""Blocking calls in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, final

import anyio

from wsflow.tasks.loops import event_loop

T = TypeVar("T")


class Stuck(Exception):
    """All threads are in calls that were given up and have not returned."""


@final
class Threads:
    """Makes blocking calls, each in a thread of its own, so many at a time.

    A call counts until it has returned, also if it was given up. The end of the process waits for
    none of them.

    Args:
        most: how many at a time; further ones wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = anyio.Semaphore(most)
        self._given_up = 0

    async def run(self, call: Callable[[], T]) -> T:
        """Make a call in a thread. Cancelling it gives the call up.

        Raises:
            Stuck: all threads are.
            BaseException: what the call raised.
        """
        if self._given_up >= self._most:
            raise Stuck
        await self._free.acquire()
        made = _Call(call, event_loop(), self._returned)
        try:
            threading.Thread(target=made.run, daemon=True).start()
        except BaseException:
            self._free.release()
            raise
        try:
            await made.done.wait()
        except BaseException:
            made.given_up = not made.done.is_set()
            self._given_up += made.given_up
            raise
        return made.result()

    def _returned(self, made: _Call[T]) -> None:
        self._free.release()
        self._given_up -= made.given_up
        made.done.set()


@final
class _Call(Generic[T]):
    """One call.

    Attributes:
        done: set when it has returned.
        result: returns what it has returned, or raises what it has raised.
        given_up: whether nobody waits for it.
    """

    def __init__(
        self,
        call: Callable[[], T],
        loop: asyncio.AbstractEventLoop,
        returned: Callable[[_Call[T]], None],
    ) -> None:
        self.done = anyio.Event()
        self.result = call
        self.given_up = False
        self._loop = loop
        self._returned = returned

    def run(self) -> None:
        """In the thread."""
        try:
            value = self.result()
        except BaseException as exc:
            self.result = _raising(exc)
        else:
            self.result = lambda: value
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._returned, self)


def _raising(exc: BaseException) -> Callable[[], Any]:
    def raise_it() -> Any:
        raise exc

    return raise_it
