"""One call of a handler: around it ``on_message``, behind it the reply, and ``on_error``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, final

from anyio.lowlevel import checkpoint

from wsflow.declare.router import Handler
from wsflow.errors import Close, Disconnected, Reject
from wsflow.runtime.children import leaves, unwrap
from wsflow.runtime.outbox import BURST_MESSAGES
from wsflow.runtime.scopes import enter, leave, throw
from wsflow.wiring.calls import Bound, Call, MessageValues
from wsflow.wiring.plan import ConsumerPlan, RoutePlan
from wsflow.wiring.sources import Environment

Bind = Callable[[MessageValues], Bound]


@final
class Handling:
    """A connection's functions, bound to it.

    Args:
        plan: the path's plan.
        environment: what the connection knows.
        send: sends to the peer.
    """

    def __init__(
        self,
        plan: RoutePlan,
        environment: Environment,
        send: Callable[[object], Awaitable[None]],
    ) -> None:
        self._plan = plan
        self._environment = environment
        self._send = send
        self._consumers: Mapping[ConsumerPlan, Bind] = {
            consumer: self._bind(consumer.call) for consumer in plan.consumers
        }
        self._scopes = [(scope, self._bind(scope.call)) for scope in plan.on_message]
        # Most consumers need nothing around them: a look-up and a call.
        self._direct: Mapping[ConsumerPlan, Bound] = {
            consumer: bind({})
            for consumer, bind in self._consumers.items()
            if not (self._scopes or consumer.generator)
        }
        self._errors: dict[Handler, Bound] = {}
        self._handled = 0

    def _bind(self, call: Call) -> Bind:
        if call.per_message:
            return call.bind_each(self._environment)
        bound = call.bind(self._environment)
        return lambda _values: bound

    async def handle(self, consumer: ConsumerPlan, message: Any) -> None:
        """Have a consumer handle a message.

        Raises:
            Close, Reject: as the handler did.
            Exception: what it raised, and no ``on_error`` function handled.
        """
        self._handled += 1
        if self._handled % BURST_MESSAGES == 0:
            await checkpoint()
        direct = self._direct.get(consumer)
        try:
            if direct is None:
                await self._within(0, consumer, message, {None: message})
            elif (reply := await direct(message)) is not None:
                await self._send(reply)
        except Exception as exc:
            await self.recover(exc)

    async def _within(
        self,
        index: int,
        consumer: ConsumerPlan,
        message: Any,
        values: dict[Handler | None, Any],
    ) -> None:
        """Run the consumer within the ``on_message`` functions from ``index`` on."""
        if index == len(self._scopes):
            await self.reply(self._consumers[consumer](values), consumer.generator, message)
            return
        scope, bind = self._scopes[index]
        values[scope.handler], generator = await enter(scope, bind(values))
        if generator is None:
            await self._within(index + 1, consumer, message, values)
            return
        try:
            await self._within(index + 1, consumer, message, values)
        except BaseException as exc:
            await throw(scope.handler, generator, exc)
        else:
            await leave(scope.handler, generator)

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
        await self.reply(self._consumers[consumer]({}), consumer.generator, messages)

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
