"""The event loops that sockets run on.

A module whose tests run on each of them imports the fixture. It stands in place of the one that
runs tests on asyncio and on Trio.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import pytest
import uvloop

from wsflow.tasks.carried import CarriedLoop
from wsflow.tasks.loops import event_loop

T = TypeVar("T")


def eager_loop() -> asyncio.AbstractEventLoop:
    """An event loop on which each task begins where it is created, from Python 3.12 on."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    return loop


async def on_asyncio(call: Callable[..., Coroutine[Any, Any, T]], *args: Any, **named: Any) -> T:
    """Call what knows asyncio only: on Trio too, on the event loop that Trio carries."""
    loop = event_loop()
    if isinstance(loop, CarriedLoop):
        return await loop.run(partial(call, *args, **named))
    return await call(*args, **named)


EAGER: dict[str, object] = (
    {"eager": ("asyncio", {"loop_factory": eager_loop})} if sys.version_info >= (3, 12) else {}
)

LOOPS: dict[str, object] = {
    "asyncio": "asyncio",
    "uvloop": ("asyncio", {"loop_factory": uvloop.new_event_loop}),
    "trio": "trio",
    **EAGER,
}


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return LOOPS[request.param]
