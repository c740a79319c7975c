"""The event loop that sockets run on, wherever they are."""

from __future__ import annotations

import asyncio
import importlib

from wsflow.tasks.detached import on_trio


def event_loop() -> asyncio.AbstractEventLoop:
    """The running event loop; on Trio the one that Trio carries.

    Raises:
        RuntimeError: neither asyncio nor Trio runs.
    """
    if on_trio():
        carried: asyncio.AbstractEventLoop = importlib.import_module(
            "wsflow.tasks.carried"
        ).carried_loop()
        return carried
    return asyncio.get_running_loop()
