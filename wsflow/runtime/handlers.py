"""Calling a handler: the ``on_message`` functions around it, its reply, and ``on_error``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Hashable, Mapping
from contextlib import AbstractContextManager, aclosing
from functools import partial
from time import perf_counter_ns
from types import FunctionType, MethodType
from types import coroutine as coroutine_of
from typing import Any, cast, final

from wsflow.declare.router import Handler
from wsflow.errors import CallError, Close, Disconnected, Forbidden, Reject, leaves, let_go, unwrap
from wsflow.messages.events import event_id_field
from wsflow.observer import Observers
from wsflow.runtime.calls import Answering
from wsflow.runtime.outbox import Outbox
from wsflow.runtime.scopes import enter, leave, throw
from wsflow.tasks.detached import READY, Begun, checkpoint
from wsflow.tasks.waiting import NOTHING
from wsflow.wiring.environment import Environment
from wsflow.wiring.invocation import Bound, Invocation, MessageValues
from wsflow.wiring.plan import ConsumerPlan, ErrorPlan, RoutePlan, ScopePlan

Bind = Callable[[MessageValues], Bound]
BoundConsumer = tuple[Callable[[Any], Any], Callable[[int], object], ConsumerPlan]
"""A consumer that is bound to a connection: what returns a coroutine for a message, and what is
told how long that took."""
BURST = 64
"""How many messages that have waited are handled in a row before other tasks run."""

TIMED = 16
"""One of so many messages of a connection is timed, the first among them: all would be felt."""

Caught = list[tuple[ErrorPlan, BaseException]]


@final
class Handlers:
    """A connection's functions, bound to it.

    Args:
        plan: the path's plan.
        environment: the values of the connection.
        outbox: sends to the peer.
        call_failed: called with an unhandled error of a consumer that answers a call.
        observers: are told of the handling of messages.
        seen: called with each message that carries an event id, as it is handled.

    Attributes:
        bound: the consumers that have had a message, until values of the connection change.
        steps: what ``begin`` has handle messages: see ``_one_by_one``.
    """

    __slots__ = (
        "_call_failed",
        "_environment",
        "_handled",
        "_observers",
        "_outbox",
        "_plan",
        "_scopes",
        "_seen",
        "bound",
        "steps",
    )

    def __init__(
        self,
        plan: RoutePlan,
        environment: Environment,
        outbox: Outbox,
        call_failed: Callable[[object, BaseException], None],
        observers: Observers,
        seen: Callable[[Any, str], None] | None = None,
    ) -> None:
        self._plan = plan
        self._environment = environment
        self._outbox = outbox
        self._call_failed = call_failed
        self._observers = observers
        self._seen = seen
        self.bound: dict[ConsumerPlan, BoundConsumer] = NOTHING
        self._handled = 0  # of those that were not begun in the host's place, or ended its steps
        self.steps: _Steps = _OVER
        self._scopes: list[tuple[ScopePlan, Bind]] | None = None  # bound with the first message

    def rebind(self) -> None:
        """Values of the connection have changed: calls from now on receive the new ones."""
        self.bound = NOTHING
        self._scopes = None

    def _bind(self, call: Invocation) -> Bind:
        if call.per_message:
            return call.bind_each(self._environment)
        bound = call.bind(self._environment)
        return lambda _values: bound

    def bind(self, consumer: ConsumerPlan) -> BoundConsumer:
        """A consumer, bound to the connection."""
        return self.bound.get(consumer) or self._bind_consumer(consumer)

    def _bind_consumer(self, consumer: ConsumerPlan) -> BoundConsumer:
        """Bind a consumer. Without ``on_message`` functions, calls and generators, it is the bound
        function itself."""
        call: Callable[[Any], Any]
        if consumer.calls or consumer.generator or self._plan.on_message:
            around = self._answer_call if consumer.calls else self._around
            call = partial(around, consumer, self._bind(consumer.invocation))
        else:
            call = consumer.invocation.bind(self._environment, leads=True)
            if not _is_coroutine_function(consumer.handler.call):
                call = partial(_wait_for, call)
        if self._seen is not None and not consumer.calls:
            call = partial(self._noting, call)
        route, name = self._plan.template, str(consumer.handler)
        if self._observers.around_messages and not consumer.calls:
            call = partial(self._observed, consumer, call)
        if self.bound is NOTHING:
            self.bound = {}
        bound = self.bound[consumer] = call, self._observers.timer(route, name), consumer
        return bound

    async def _observed(
        self, consumer: ConsumerPlan, call: Callable[[Any], Any], message: Any
    ) -> Any:
        with self._handling(consumer, message, {}):
            return await call(message)

    def _handling(
        self, consumer: ConsumerPlan, message: Any, carried: Mapping[str, str]
    ) -> AbstractContextManager[None]:
        """What observers have to be entered around the handling of a message."""
        connection = self._environment.connection
        assert connection is not None  # it is a consumer's
        route, name = self._plan.template, str(consumer.handler)
        return self._observers.handling(connection, route, name, message, carried)

    def _noting(self, call: Callable[[Any], Any], message: Any) -> Any:
        self.seen(message)
        return call(message)

    def seen(self, message: Any) -> None:
        """A message is being handled: report its event id, if it has one."""
        if (
            self._seen is not None
            and (field := event_id_field(cast(Hashable, type(message)))) is not None
        ):
            self._seen(message, getattr(message, field))

    def begin(self, consumer: BoundConsumer, message: Any) -> Begun | None:
        """Have a consumer handle a message in the host's place, up to its first wait. That of the
        message before must have finished.

        Returns:
            The rest of the work, None if it is done.

        Raises:
            Close, Reject, Exception: as ``handle``.
        """
        try:
            yielded = self.steps.send((self, consumer, message))
        except StopIteration:  # it is the first one, or the one before has raised
            self.steps = self._begin_steps()
            yielded = self.steps.send((self, consumer, message))
        return None if yielded is READY else Begun(self.steps, yielded)

    def _begin_steps(self) -> _Steps:
        turn = self._handled % TIMED
        self._handled += 1
        steps = _one_by_one(turn)
        next(steps)
        return steps

    async def handle(self, consumer: ConsumerPlan, message: Any) -> None:
        """Have a consumer handle a message. Lets other tasks run every 64 messages.

        Raises:
            Close, Reject: the handler raised it.
            Exception: the handler raised it, and no ``on_error`` function has handled it.
        """
        steps = self._begin_steps()
        if self._handled % BURST == 0:
            await checkpoint()
        await Begun(steps, steps.send((self, self.bind(consumer), message))).finish()

    async def _around(self, consumer: ConsumerPlan, bind: Bind, message: Any) -> None:
        """Run a consumer within the ``on_message`` functions."""
        await self._within(0, partial(self._answer, consumer, bind, message), {None: message})

    async def _within(
        self, index: int, inner: Callable[[MessageValues], Any], values: dict[Handler | None, Any]
    ) -> None:
        if self._scopes is None:
            plans = self._plan.on_message
            self._scopes = [(plan, self._bind(plan.invocation)) for plan in plans]
        if index == len(self._scopes):
            await inner(values)
            return
        scope, bind = self._scopes[index]
        values[scope.handler], generator = await enter(scope, bind(values))
        if generator is None:
            await self._within(index + 1, inner, values)
            return
        try:
            await self._within(index + 1, inner, values)
        except BaseException as exc:
            await throw(scope.handler, generator, exc)
        else:
            await leave(scope.handler, generator)

    async def _answer(
        self, consumer: ConsumerPlan, bind: Bind, message: Any, values: MessageValues
    ) -> None:
        await self.reply(bind(values), consumer.generator, message)

    async def _answer_call(self, consumer: ConsumerPlan, bind: Bind, call: Answering) -> None:
        """Answer a call within the ``on_message`` functions, unless it was cancelled."""
        answer: Any = None

        async def inner(values: MessageValues) -> None:
            nonlocal answer
            working = bind(values)(call.message)
            if consumer.generator:
                await call.stream(working)
            else:
                answer = await working

        try:
            if not call.cancelled:
                with call.working(), self._handling(consumer, call.message, call.carried):
                    await self._within(0, inner, {None: call.message})
                    await (call.end() if consumer.generator else call.answer(answer))
        except Exception as exc:
            await call.fail(await self._call_error(consumer, exc))
        finally:
            call.forget()

    async def _call_error(self, consumer: ConsumerPlan, exc: Exception) -> CallError:
        """The error that the caller receives.

        Raises:
            Close, Reject: the handler raised it.
        """
        error = unwrap(exc)
        try:
            if not isinstance(error, CallError):
                await self.recover(exc)
                error = CallError("internal")
        except CallError as raised:
            error = raised
        except Exception as unhandled:
            if _is_meant(unhandled):
                raise
            if isinstance(refused := unwrap(unhandled), Forbidden):
                let_go(refused)
                return CallError("forbidden", str(refused))
            self._call_failed(consumer.handler, unhandled)
            error = CallError("internal")
        let_go(error)
        return error

    async def reply(self, bound: Bound, generator: bool, *leading: Any) -> None:
        """Call a handler, and send what it returns or yields."""
        if generator:
            async with aclosing(bound(*leading)) as items:
                async for item in items:
                    if item is not None:
                        await self._outbox.send(item)
        elif (item := await bound(*leading)) is not None:
            await self._outbox.send(item)

    async def stream(self, consumer: ConsumerPlan, messages: Any) -> None:
        """Run a consumer that iterates its messages itself."""
        await self.reply(self._bind(consumer.invocation)({}), consumer.generator, messages)

    async def recover(self, exc: Exception, *, answer: bool = True) -> None:
        """Have ``on_error`` handle what a handler raised. Functions that ask for what is not
        provided yet are not called.

        Args:
            exc: what was raised.
            answer: whether what they return is sent.

        Raises:
            Exception: ``exc``, or what is left of a group, if no function handles it; or what an
                ``on_error`` function raised.
        """
        caught = self._catch(exc)
        if caught:
            await self._recover(exc, caught, answer)

    def _catch(self, exc: Exception) -> Caught:
        """The ``on_error`` functions for an exception, or for those in a group, each with its
        error; none for ``Disconnected``.

        Raises:
            Exception: there is no function for it.
        """
        errors = leaves(exc)
        if not errors:
            return []
        if not self._plan.on_error or _is_meant(exc):
            raise unwrap(exc)
        plans = ((self._plan.error_plan(each), each) for each in errors)
        found = [
            (plan, error)
            for plan, error in plans
            if plan is not None and plan.invocation.has_all(self._environment)
        ]
        if not found:
            raise unwrap(exc)
        return found

    async def _recover(self, exc: Exception, caught: Caught, answer: bool = True) -> None:
        for plan, error in caught:
            bound = plan.invocation.bind(self._environment)
            try:
                if answer:
                    await self.reply(bound, False, error)
                else:
                    await bound(error)
            except Disconnected:
                return
        handled = {id(error) for _, error in caught}
        left = [each for each in leaves(exc) if id(each) not in handled]
        if left:
            raise left[0] if len(left) == 1 else BaseExceptionGroup(str(exc), left)


def _is_meant(exc: Exception) -> bool:
    """Whether it ends the connection on purpose: ``Close`` or ``Reject``."""
    return any(isinstance(each, Close | Reject) for each in leaves(exc))


_Steps = Generator[Any, tuple[Handlers, BoundConsumer, Any], None]


@coroutine_of
def _one_by_one(turn: int) -> _Steps:
    """Have consumers handle messages, one after another.

    Args:
        turn: of the first one. With turn 0 it is timed.
    """
    while True:
        for each in range(turn, TIMED):  # cheaper than to count
            handlers = consumer = message = reply = None  # they are not kept until the next one
            handlers, consumer, message = yield READY
            try:
                if each:
                    reply = yield from consumer[0](message)
                else:
                    reply = yield from _timed(consumer, message)
                if reply is not None and not handlers._outbox.reply(reply):
                    yield from handlers._outbox.send(reply)
            except Exception as exc:
                yield from handlers.recover(exc)
        turn = 0


_OVER = _one_by_one(0)
_OVER.close()


async def _timed(consumer: BoundConsumer, message: object) -> Any:
    call, timer, _ = consumer
    began = perf_counter_ns()
    result = await call(message)
    timer(perf_counter_ns() - began)
    return result


async def _wait_for(call: Callable[[Any], Any], message: object) -> Any:
    """For a function that may return something else to be awaited."""
    return await call(message)


def _is_coroutine_function(fn: object) -> bool:
    """Whether calling a function returns a coroutine, and cannot return anything else."""
    if type(fn) is MethodType:
        fn = fn.__func__
    return type(fn) is FunctionType and bool(fn.__code__.co_flags & inspect.CO_COROUTINE)
