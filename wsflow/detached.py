"""Tasks that belong to no scope: nobody's cancellation reaches them, and nobody must wait for them.

A connection's host belongs to no caller. A task group could not be left while one of its tasks
swallows its cancellation; these can be given up.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine
from typing import Any

_running: set[asyncio.Task[None]] = set()  # the event loop itself holds its tasks weakly


def detach(run: Callable[[], Coroutine[Any, Any, None]], /, *, name: str) -> None:
    """Start a task, on asyncio or as a system task of Trio, in a copy of the current context.

    Needs a running event loop, and no current task. ``run`` must raise nothing.
    """
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        trio.lowlevel.spawn_system_task(run, name=name, context=contextvars.copy_context())
    else:
        task = asyncio.get_running_loop().create_task(run(), name=name)
        _running.add(task)
        task.add_done_callback(_running.discard)
