"""Says which handler blocks the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from wsflow.log import Log

log = Log("wsflow")

AGAIN = 1.0
"""Seconds after which it is said again of a loop that is still blocked."""

TURNS = 4
"""How often the event loop says that it turns, within the time that it may be blocked."""

LOOKS = 2
"""How often it is looked within that time. Each look takes the interpreter's lock from the loop,
which costs a busy loop far more than a turn."""

_LIBRARIES = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_NOT_THE_APPS = (*(f"{each}{os.sep}" for each in (Path(__file__).parents[1], *_LIBRARIES)), "<")


def _in_libraries(*modules: str) -> tuple[str, ...]:
    return tuple(f"{library}/{module}" for library in _LIBRARIES for module in modules)


_LOOPS = _in_libraries(
    "asyncio/base_events.py", "asyncio/runners.py", "selectors.py", "trio/_core/"
)
_DEBUGGERS = _in_libraries("bdb.py", "pdb.py")
"""Those of others are built on these."""


@contextlib.contextmanager
def watching(
    loop: asyncio.AbstractEventLoop, longest: float, blocked: Callable[[], None]
) -> Iterator[None]:
    """Log each time that the event loop does not turn for longer than it should, with the function
    that runs meanwhile, unless that is looked at in a debugger. Entered in the thread of the loop.

    Args:
        loop: the event loop.
        longest: seconds; 0 to watch nothing.
        blocked: called in the loop each time.
    """
    if not longest:
        yield
        return
    watchdog = _Watchdog(loop, longest, blocked)
    watchdog.turn()
    thread = threading.Thread(target=watchdog.run, name="wsflow watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watchdog.stop.set()


class _Watchdog:
    def __init__(
        self, loop: asyncio.AbstractEventLoop, longest: float, blocked: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._longest = longest
        self._blocked = blocked
        self._thread = threading.get_ident()
        self._turned = threading.Event()  # since it was looked last
        self._due = time.monotonic()  # when the loop is to turn next
        self.stop = threading.Event()

    def turn(self) -> None:
        """The loop turns. To be called in it, and calls itself from then on."""
        if not self.stop.is_set():
            every = self._longest / TURNS
            self._due = time.monotonic() + every
            self._turned.set()
            self._loop.call_later(every, self.turn)

    def run(self) -> None:
        while not self.stop.wait(self._longest / LOOKS):
            if self._turned.is_set():
                self._turned.clear()
            elif self._loop.is_closed():
                return
            else:
                self._watch()

    def _watch(self) -> None:
        """Wait until the loop turns, which is late; if it is too late, say so."""
        began, now = self._due, time.monotonic()
        if now > began + self._longest:  # the process was stopped: what runs now may have begun now
            began = now
        earlier = _call(sys._current_frames().get(self._thread))
        # Some time passes in any case, to tell one long call from many short ones.
        if self._turned.wait(max(began + self._longest - now, self._longest / TURNS)):
            return
        frame = sys._current_frames().get(self._thread)
        busy, place = _place(frame)
        debugged = _debugged(frame)
        blamed = bool(place) and _call(frame) is earlier  # not one of many short calls
        if not blamed:
            place = "by no single function of the app"
        del frame, earlier
        while not self._turned.wait(AGAIN) and not self.stop.is_set():
            debugged = debugged or _debugged(sys._current_frames().get(self._thread))
            if not debugged:
                seconds = time.monotonic() - began
                log.often(
                    logging.ERROR, "the event loop is blocked since %.0f s: %s", seconds, place
                )
        if debugged or not self._turned.is_set() or not busy:
            return
        with contextlib.suppress(RuntimeError):  # it was closed meanwhile
            self._loop.call_soon_threadsafe(self._blocked)
        level = logging.WARNING if blamed else logging.DEBUG
        log.often(
            level,
            "the event loop was blocked for %.2f s, and nothing else could run: %s. Use an async "
            "library, or anyio.to_thread.run_sync",
            time.monotonic() - began,
            place,
        )


def _call(frame: FrameType | None) -> FrameType | None:
    """What an event loop has called, and waits for."""
    call = None
    while frame is not None and not frame.f_code.co_filename.startswith(_LOOPS):
        call, frame = frame, frame.f_back
    return call


def _debugged(frame: FrameType | None) -> bool:
    """Whether what runs is looked at in a debugger."""
    while frame is not None and not frame.f_code.co_filename.startswith(_DEBUGGERS):
        frame = frame.f_back
    return frame is not None


def _place(frame: FrameType | None) -> tuple[bool, str]:
    """What an event loop's thread does.

    Returns:
        Whether the loop calls something, and does not wait (the process may have been stopped).
        And the function of the app that runs, with what it has called; empty if none does.
    """
    called: list[FrameType] = []  # the innermost first
    while frame is not None and not frame.f_code.co_filename.startswith(_LOOPS):
        called.append(frame)
        frame = frame.f_back
    apps = [each for each in called if not each.f_code.co_filename.startswith(_NOT_THE_APPS)]
    if not apps:
        return bool(called), ""
    within = f", in {_named(called[0])}" if called[0] is not apps[-1] else ""
    return True, f"{_named(apps[-1])}{within}"


def _named(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_qualname} ({code.co_filename}:{frame.f_lineno})"
