"""Scope functions: set something up, provide a value, tear it down.

A generator is resumed twice, in the same task. A generator may hold cancel scopes across its
``yield``, and scopes must nest: so no scope of wsflow is opened or closed between its set-up and
its tear-down, except around both. Each generator has two scopes around it: the outer one cancels
its set-up, the inner one shields it from then on and limits its tear-down. Nothing is left of
another function once it has set up: it has the outer one, until then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, Protocol

import anyio

from wsflow.declare.router import Handler
from wsflow.declare.signatures import EMPTY, members, type_name
from wsflow.wiring.environment import Environment
from wsflow.wiring.invocation import Bound
from wsflow.wiring.plan import ScopePlan

Generator = AsyncGenerator[Any, None]
Step = Literal["set up", "tear down"]


async def enter(plan: ScopePlan, bound: Bound) -> tuple[Any, Generator | None]:
    """Set up. Returns the value, and the generator that must be left.

    Raises:
        RuntimeError: the generator ended without a ``yield``.
        TypeError: the value is not what the function says that it provides.
    """
    if not plan.generator:
        return _given(plan, await bound()), None
    generator: Generator = bound()
    try:
        value = await anext(generator)
    except StopAsyncIteration:
        raise RuntimeError(
            f"{plan.handler} ({plan.handler.where}) ended without a yield: a scope function "
            "yields once, and then tears down"
        ) from None
    try:
        return _given(plan, value), generator
    except TypeError:
        await generator.aclose()
        raise


def _given(plan: ScopePlan, value: Any) -> Any:
    """The value, unless it is one that other frameworks refuse with: nobody would notice.

    Raises:
        TypeError: it is ``False``, or ``None`` where another value was promised.
    """
    if value is not None and value is not False:
        return value
    says = plan.gives not in (None, EMPTY)
    provides = members(plan.gives) if says else (NoneType,)
    if any(kind in (Any, object, value, type(value)) for kind in provides):
        return value
    verb = "yield" if plan.generator else "return"
    promised = f" and is annotated with {type_name(plan.gives)}" if says else ""
    cure = "to refuse a connection, raise Reject(403)"
    if plan.handler.kind == "lifespan":
        cure = f"{verb} one, or annotate it with `| None`"
    raise TypeError(f"{plan.handler} ({plan.handler.where}) {verb}ed {value}{promised}: {cure}")


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


class Steps(Protocol):
    """Is notified of the steps of a nest: an app, or a connection."""

    @property
    def stopping(self) -> bool:
        """Whether no further function may set up."""

    def entering(self, handler: Handler, scope: anyio.CancelScope) -> None:
        """A function begins to set up; cancelling ``scope`` cancels that."""

    async def recover(self, exc: Exception) -> BaseException | None:
        """The set-up of a function raised ``exc``. Returns what nobody has handled of it. Raises
        nothing."""

    def entered(self, handler: Handler) -> None:
        """A function has set up."""

    def leaving(self, handler: Handler) -> None:
        """A function begins to tear down."""

    def failed(self, handler: Handler, exc: BaseException, step: Step, late: bool) -> None:
        """A step of a function raised ``exc``; ``late`` if its timeout had passed."""


@dataclass(slots=True)
class Nest:
    """The nested scope functions of an app or of a connection.

    Attributes:
        plans: the functions, outermost first.
        environment: the source of their parameters, and the destination of their values.
        set_up_limit: the timeout of each set-up, in seconds.
        tear_down_limit: the timeout of each tear-down, in seconds.
        steps: is notified of each step.
    """

    plans: Sequence[ScopePlan]
    environment: Environment
    set_up_limit: float
    tear_down_limit: float
    steps: Steps

    async def run(self, inner: Callable[[bool], Awaitable[None]], index: int = 0) -> None:
        """Set up, run ``inner``, tear down in reverse.

        Args:
            inner: called within all functions that have set up, with whether these are all
                functions. Raises nothing.
            index: the function to begin with.
        """
        entered = True
        while entered and index < len(self.plans) and not self.steps.stopping:
            plan = self.plans[index]
            index += 1
            if not plan.generator:
                entered = await self._call(plan)
                continue
            limit = anyio.current_time() + self.set_up_limit
            with anyio.CancelScope(deadline=limit) as setting_up, anyio.CancelScope() as keeping:
                entered, generator = await self._enter(plan, setting_up, limit)
                if generator is not None:
                    # From here on the outer scope does not cancel the function, even if it was
                    # cancelled at the moment when the set-up was complete.
                    keeping.shield = True
                    await self.run(inner, index)
                    await self._leave(plan.handler, generator, keeping)
                    return
        await inner(entered and index == len(self.plans))

    async def _call(self, plan: ScopePlan) -> bool:
        """Set up by a function of which nothing is left then. Returns whether it has."""
        limit = anyio.current_time() + self.set_up_limit
        with anyio.CancelScope(deadline=limit) as setting_up:
            entered, _ = await self._enter(plan, setting_up, limit)
        return entered

    async def _enter(
        self, plan: ScopePlan, scope: anyio.CancelScope, limit: float
    ) -> tuple[bool, Generator | None]:
        """Set up within a scope. Returns whether it has, and what must be left. Raises nothing that
        the function has raised."""
        handler = plan.handler
        bound = plan.invocation.bind(self.environment)
        self.steps.entering(handler, scope)
        try:
            value, generator = await enter(plan, bound)
        except BaseException as exc:
            left = await self.steps.recover(exc) if isinstance(exc, Exception) else exc
            if left is not None:
                self.steps.failed(handler, left, "set up", anyio.current_time() >= limit)
            return False, None
        self.steps.entered(handler)
        if plan.gives is not None:
            self.environment.values[handler] = value
        return True, generator

    async def _leave(
        self, handler: Handler, generator: Generator, scope: anyio.CancelScope
    ) -> None:
        """Tear down within a scope. Raises nothing that the function has raised."""
        self.steps.leaving(handler)
        scope.deadline = limit = anyio.current_time() + self.tear_down_limit
        try:
            await leave(handler, generator)
        except BaseException as exc:
            self.steps.failed(handler, exc, "tear down", anyio.current_time() >= limit)
