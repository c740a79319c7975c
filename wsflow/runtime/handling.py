"""One call of a handler: around it ``on_message``, behind it the reply, and ``on_error``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from contextlib import aclosing
from functools import partial
from types import CoroutineType
from typing import Any, cast, final

from wsflow.declare.router import Handler
from wsflow.detached import Begun, begin, checkpoint
from wsflow.errors import CallError, Close, Disconnected, Reject
from wsflow.runtime.calls import Answering
from wsflow.runtime.children import leaves, unwrap
from wsflow.runtime.outbox import BURST_MESSAGES
from wsflow.runtime.scopes import enter, leave, throw
from wsflow.topic_type import event_id_field
from wsflow.wiring.calls import Bound, Call, MessageValues
from wsflow.wiring.plan import ConsumerPlan, RoutePlan, ScopePlan
from wsflow.wiring.sources import Environment

Bind = Callable[[MessageValues], Bound]


@final
class Handling:
    """A connection's functions, bound to it.

    Args:
        plan: the path's plan.
        environment: what the connection knows.
        send: sends to the peer.
        post: sends to the peer if that needs no waiting, and says whether it did.
        call_failed: told what was raised in answering a call, and nobody handled.
        seen: told of each message that carries an event id, as it is handled.
    """

    __slots__ = (
        "_call_failed",
        "_calls",
        "_environment",
        "_errors",
        "_handled",
        "_plan",
        "_post",
        "_scopes",
        "_seen",
        "_send",
    )

    def __init__(
        self,
        plan: RoutePlan,
        environment: Environment,
        send: Callable[[object], Awaitable[None]],
        post: Callable[[object], bool],
        call_failed: Callable[[str, BaseException], None],
        seen: Callable[[Any, str], None] | None = None,
    ) -> None:
        self._seen = seen
        self._call_failed = call_failed
        self._plan = plan
        self._environment = environment
        self._send = send
        self._post = post
        self._calls: dict[ConsumerPlan, Callable[[Any], Any]] = {}  # bound with the first message
        self._scopes: list[tuple[ScopePlan, Bind]] = []
        self._errors: dict[Handler, Bound] = {}
        self._handled = 0

    def _bind(self, call: Call) -> Bind:
        if call.per_message:
            return call.bind_each(self._environment)
        bound = call.bind(self._environment)
        return lambda _values: bound

    def _bind_consumer(self, consumer: ConsumerPlan) -> Callable[[Any], Any]:
        """Most consumers need nothing around them: then it is the bound function itself."""
        call: Callable[[Any], Any]
        if consumer.calls or consumer.generator or self._plan.on_message:
            around = self._answer_call if consumer.calls else self._around
            call = partial(around, consumer, self._bind(consumer.call))
            self._scopes = [(scope, self._bind(scope.call)) for scope in self._plan.on_message]
        else:
            call = consumer.call.bind(self._environment, leads=True)
        if self._seen is not None and not consumer.calls:
            call = partial(self._noting, call)
        self._calls[consumer] = call
        return call

    def _noting(self, call: Callable[[Any], Any], message: Any) -> Any:
        self.seen(message)
        return call(message)

    def seen(self, message: Any) -> None:
        """A message is being handled: if it has an event id, that is noted."""
        if (
            self._seen is not None
            and (field := event_id_field(cast(Hashable, type(message)))) is not None
        ):
            self._seen(message, getattr(message, field))

    def begin(self, consumer: ConsumerPlan, message: Any) -> Begun | None:
        """Have a consumer handle a message, as far as that goes without waiting.

        Returns:
            What is left to do, None if nothing is.

        Raises:
            Close, Reject: as the handler did.
            Exception: what it raised, and no ``on_error`` function handled.
        """
        call = self._calls.get(consumer) or self._bind_consumer(consumer)
        rest: Awaitable[Any]
        try:
            coroutine = call(message)
            if type(coroutine) is not CoroutineType:
                coroutine = _wait_for(coroutine)
            try:
                yielded = coroutine.send(None)
            except StopIteration as done:
                reply = done.value
                if reply is None or self._post(reply):
                    return None
                rest = self._send(reply)
            else:
                rest = Begun(coroutine, yielded).finish()
        except Exception as exc:
            rest = _raise(exc)
        return begin(self._settle(rest))

    async def handle(self, consumer: ConsumerPlan, message: Any) -> None:
        """Have a consumer handle a message. Other tasks get their turn once in a while.

        Raises:
            Close, Reject, Exception: as ``begin``.
        """
        self._handled += 1
        if self._handled % BURST_MESSAGES == 0:
            await checkpoint()
        begun = self.begin(consumer, message)
        if begun is not None:
            await begun.finish()

    async def _settle(self, handling: Awaitable[Any]) -> None:
        """Send what a handler returns, and recover from what it raises."""
        try:
            if (reply := await handling) is not None:
                await self._send(reply)
        except Exception as exc:
            await self.recover(exc)

    async def _around(self, consumer: ConsumerPlan, bind: Bind, message: Any) -> None:
        """Run a consumer within the ``on_message`` functions."""
        await self._within(0, partial(self._answer, consumer, bind, message), {None: message})

    async def _within(
        self, index: int, inner: Callable[[MessageValues], Any], values: dict[Handler | None, Any]
    ) -> None:
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
        """Answer a call within the ``on_message`` functions, unless nobody waits any more."""
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
                with call.working():
                    await self._within(0, inner, {None: call.message})
                    await (call.end() if consumer.generator else call.answer(answer))
        except Exception as exc:
            await call.fail(await self._call_error(consumer, exc))
        finally:
            call.forget()

    async def _call_error(self, consumer: ConsumerPlan, exc: Exception) -> CallError:
        """What the caller is told of an error.

        Raises:
            Close, Reject: as the handler did.
        """
        error = unwrap(exc)
        try:
            if not isinstance(error, CallError):
                await self.recover(exc)
                error = CallError("internal")
        except CallError as raised:
            error = raised
        except Exception as unhandled:
            if any(isinstance(each, Close | Reject) for each in leaves(unhandled)):
                raise
            self._call_failed(str(consumer.handler), unhandled)
            error = CallError("internal")
        return error

    async def reply(self, bound: Bound, generator: bool, *leading: Any) -> None:
        """Call a handler, and send what it returns or yields."""
        if generator:
            async with aclosing(bound(*leading)) as items:
                async for item in items:
                    if item is not None:
                        await self._send(item)
        elif (item := await bound(*leading)) is not None:
            await self._send(item)

    async def stream(self, consumer: ConsumerPlan, messages: Any) -> None:
        """Run a consumer that iterates its messages itself."""
        await self.reply(self._bind(consumer.call)({}), consumer.generator, messages)

    async def recover(self, exc: Exception) -> None:
        """Have ``on_error`` handle what a handler raised.

        Raises:
            Exception: ``exc`` if nobody handles it, or what the ``on_error`` function raised.
        """
        if any(isinstance(each, Close | Reject) for each in leaves(exc)):
            raise exc
        error = unwrap(exc)
        if isinstance(error, Disconnected):
            return
        plan = self._plan.error_plan(error)
        if plan is None:
            raise error
        bound = self._errors.get(plan.call.handler)
        if bound is None:
            bound = self._errors[plan.call.handler] = plan.call.bind(self._environment)
        try:
            await self.reply(bound, False, error)
        except Disconnected:
            return


async def _raise(exc: Exception) -> None:
    raise exc


async def _wait_for(awaitable: Awaitable[Any]) -> Any:
    """For a function that says it gives a coroutine, and gives something like it."""
    return await awaitable
