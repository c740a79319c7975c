"""Scope functions: set something up, hand over a value, tear it down.

A generator is stepped twice, in one task. No cancel scope of ours is opened or closed between the
step that sets up and the one that tears down other than around both: a generator may hold scopes of
its own across its ``yield``, and they nest. Around each function are two: the outer one cancels its
set-up, the inner one shields it from then on and limits its tear-down.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import anyio

from wsflow.declare.router import Handler
from wsflow.wiring.calls import Bound
from wsflow.wiring.plan import ScopePlan

Generator = AsyncGenerator[Any, None]
Step = Literal["set up", "tear down"]


async def enter(plan: ScopePlan, bound: Bound) -> tuple[Any, Generator | None]:
    """Set up: the value, and the generator that is to be left.

    Raises:
        RuntimeError: the generator ended without a ``yield``.
    """
    if not plan.generator:
        return await bound(), None
    generator: Generator = bound()
    try:
        return await anext(generator), generator
    except StopAsyncIteration:
        raise RuntimeError(
            f"{plan.handler} ({plan.handler.where}) ended without a yield: a scope function "
            "yields once, and then tears down"
        ) from None


async def leave(handler: Handler, generator: Generator) -> None:
    """Resume a generator, to tear down.

    Raises:
        RuntimeError: it yielded again.
    """
    try:
        await anext(generator)
    except StopAsyncIteration:
        return
    await _yielded_again(handler, generator)


async def throw(handler: Handler, generator: Generator, exc: BaseException) -> None:
    """Raise ``exc`` at the generator's ``yield``; return if the generator handles it.

    Raises:
        BaseException: what leaves the generator, most often ``exc`` itself.
        RuntimeError: it yielded again.
    """
    try:
        await generator.athrow(exc)
    except StopAsyncIteration:
        return
    except RuntimeError as wrapped:
        # Python wraps these on their way out of a generator, as it does for contextlib.
        if isinstance(exc, StopIteration | StopAsyncIteration) and wrapped.__cause__ is exc:
            raise exc from None
        raise
    await _yielded_again(handler, generator)


async def _yielded_again(handler: Handler, generator: Generator) -> None:
    try:
        raise RuntimeError(
            f"{handler} ({handler.where}) yielded twice: a scope function yields once, and what "
            "comes after tears down"
        )
    finally:
        await generator.aclose()


@dataclass(slots=True)
class Within:
    """Runs something within a scope function that is kept as long.

    Attributes:
        set_up_limit: seconds to set up.
        tear_down_limit: seconds to tear down.
        failed: told what left a step of the function; ``late`` if its limit had passed.
        entering: told the cancel scope that ends the set-up.
        leaving: told that the tear-down begins.
    """

    set_up_limit: float
    tear_down_limit: float
    failed: Callable[[Handler, BaseException, Step, bool], None]
    entering: Callable[[anyio.CancelScope, Handler], None]
    leaving: Callable[[Handler], None]

    async def run(
        self,
        plan: ScopePlan,
        bound: Bound,
        inner: Callable[[Any], Awaitable[None]],
    ) -> bool:
        """Set up, run ``inner`` with the value, tear down. ``inner`` raises nothing.

        Returns:
            Whether it had set up. Nothing is raised: ``failed`` is told.
        """
        handler = plan.handler
        limit = anyio.current_time() + self.set_up_limit
        with anyio.CancelScope(deadline=limit) as setting_up, anyio.CancelScope() as keeping:
            self.entering(setting_up, handler)
            try:
                value, generator = await enter(plan, bound)
            except BaseException as exc:
                self.failed(handler, exc, "set up", anyio.current_time() >= limit)
                return False
            # From here on the outer scope does not reach the function, even if it was cancelled
            # in the very moment in which the set-up was done.
            keeping.shield = True
            await inner(value)
            if generator is not None:
                self.leaving(handler)
                keeping.deadline = limit = anyio.current_time() + self.tear_down_limit
                try:
                    await leave(handler, generator)
                except BaseException as exc:
                    self.failed(handler, exc, "tear down", anyio.current_time() >= limit)
        return True
