"""What a connection does while it is open: its consumers and producers, run together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, final

from anyio.lowlevel import checkpoint

from wsflow.connection import End
from wsflow.declare.router import Handler
from wsflow.errors import Disconnected
from wsflow.runtime import ends
from wsflow.runtime.children import Children, Run, unwrap
from wsflow.runtime.handling import Handling
from wsflow.runtime.inbox import Inbox, Item, KeyedLane, Lane
from wsflow.runtime.outbox import Outbox
from wsflow.wiring.calls import Bound
from wsflow.wiring.plan import ConsumerPlan, ProducerPlan, RoutePlan
from wsflow.wiring.sources import Environment

FINISHED = End("finished", 1000)


@final
class Work:
    """Consumers and producers of one connection.

    Consumers one at a time are run by the host (``consume``); the others, and the producers, are
    its children.

    Attributes:
        doing: the consumer that the host is in.
    """

    def __init__(
        self,
        plan: RoutePlan,
        inbox: Inbox,
        outbox: Outbox,
        children: Children,
        send: Callable[[object], Awaitable[None]],
        finish: Callable[[End], None],
    ) -> None:
        self._plan = plan
        self._inbox = inbox
        self._outbox = outbox
        self._children = children
        self._send = send
        self._finish = finish
        self._lane = Lane(inbox)
        self._lanes: dict[ConsumerPlan, Lane] = {
            each: KeyedLane(inbox, each) if each.concurrent else Lane(inbox)
            for each in plan.consumers
            if each.concurrent or each.stream
        }
        self.doing: Handler | None = None

    def put(self, item: Item) -> None:
        """Take a received message. Needs no current task.

        Raises:
            TypeError: its key cannot be hashed.
        """
        self._lanes.get(item.consumer, self._lane).put(item)

    @property
    def busy(self) -> bool:
        """Whether some message is being handled, or waits."""
        return self.doing is not None or self._inbox.waiting or self._children.alive("slot")

    def start(self, environment: Environment) -> Handling:
        """Bind all functions to the connection, and start the children."""
        handling = Handling(self._plan, environment, self._send)
        for consumer, lane in self._lanes.items():
            run: Run
            if isinstance(lane, KeyedLane):
                run = partial(self._run_lane, handling, lane)
            else:
                run = partial(self._run_stream, handling, consumer, lane)
            self._children.start(str(consumer.handler), "consumer", run)
        for producer in self._plan.producers:
            bound = producer.call.bind(environment)
            run = partial(self._run_producer, handling, producer, bound)
            self._children.start(str(producer.handler), "producer", run)
        return handling

    async def consume(self, handling: Handling) -> None:
        """Handle messages one by one; once no more can come, wait for the other consumers."""
        lane = self._lane
        while True:
            while lane.queue:
                item = lane.take()
                self.doing = item.consumer.handler
                await handling.handle(item.consumer, item.message)
                self.doing = None
            if self._inbox.closed:
                break
            await lane.more()
        await self._children.finished("consumer")

    # -- producers

    async def _run_producer(self, handling: Handling, plan: ProducerPlan, bound: Bound) -> None:
        try:
            if plan.style == "each":
                async with aclosing(bound()) as items:
                    async for item in items:
                        await self._produced(item)
            elif plan.style == "once":
                await bound()
            else:
                while True:
                    await self._produced(await bound())
        except Exception as exc:
            await self._raised(handling, exc)
        if plan.handler.on_end == "close" and not self._inbox.closed:
            self._finish(FINISHED)

    async def _produced(self, item: Any) -> None:
        """Send an item, and return when the next one may be asked for."""
        if item is None:
            await checkpoint()
        else:
            await self._send(item)
            await self._outbox.drained()

    async def _raised(self, handling: Handling, exc: Exception) -> None:
        """What serves the whole connection raised: the connection ends, handled or not.

        Raises:
            Exception: what nobody handled.
        """
        await handling.recover(exc)
        if not isinstance(unwrap(exc), Disconnected):
            self._finish(ends.end_of(exc, accepted=True))

    # -- consumers with a lane of their own

    async def _run_stream(self, handling: Handling, consumer: ConsumerPlan, lane: Lane) -> None:
        try:
            async with aclosing(lane.messages()) as messages:
                await handling.stream(consumer, messages)
        except Exception as exc:
            await self._raised(handling, exc)
        if not self._inbox.closed:
            self._finish(FINISHED)

    async def _run_lane(self, handling: Handling, lane: KeyedLane) -> None:
        """Keep the slots of a consumer with concurrency busy."""
        name = str(lane.consumer.handler)
        while True:
            while lane.queue and lane.free:
                lane.running += 1
                run = partial(self._run_slot, handling, lane, lane.take())
                self._children.start(name, "slot", run)
            if self._inbox.closed and lane.empty and not lane.running:
                return
            await lane.more()

    async def _run_slot(self, handling: Handling, lane: KeyedLane, item: Item) -> None:
        """One slot: handle a message, and more as long as there are some."""
        try:
            while True:
                await handling.handle(lane.consumer, item.message)
                lane.release(item)
                if not lane.queue:
                    break
                item = lane.take()
        finally:
            lane.running -= 1
            lane.wake()
