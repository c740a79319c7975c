"""What a connection does while it is open: its consumers and producers, run together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol, cast, final

from wsflow.declare.router import Handler
from wsflow.end import End
from wsflow.errors import Disconnected, InvalidMessage, unwrap
from wsflow.messages.calls import Ask, Auth, Ping, Pong
from wsflow.messages.codec import BadMessage, BoundCodec
from wsflow.messages.weight import HEAVY, LARGE, estimated, weight
from wsflow.observer import NOBODY, Observers
from wsflow.runtime.calls import Calls
from wsflow.runtime.ending import FINISHED, end_of
from wsflow.runtime.handlers import BoundConsumer, Handlers
from wsflow.runtime.inbox import Inbox, Item, KeyedLane, Lane, StreamLane
from wsflow.runtime.outbox import Outbox
from wsflow.runtime.throttle import Throttle
from wsflow.tasks.children import Children, Run
from wsflow.tasks.detached import READY, Begun, checkpoint
from wsflow.tasks.waiting import NOTHING
from wsflow.transports.frames import Found
from wsflow.wiring.environment import Environment
from wsflow.wiring.invocation import Bound
from wsflow.wiring.plan import ConsumerPlan, ProducerPlan, RoutePlan


class Owner(Protocol):
    """The session, as its dispatcher sees it."""

    received: int

    @property
    def end(self) -> End | None: ...
    async def send(self, message: object) -> None: ...
    def finish(self, end: End) -> None: ...
    def left(self, what: object, exc: BaseException) -> None: ...
    def refuse(self, bad: BadMessage) -> None: ...
    def call_failed(self, what: object, exc: BaseException) -> None: ...
    def credential_received(self, frame: Auth) -> None: ...
    def ignored(self, tag: object) -> None: ...


@final
class Dispatcher:
    """Consumers and producers of one connection.

    Consumers without concurrency are run by the host (``consume``); the others, and the producers,
    are its children. While the host waits, a message is handled where it is received, in the host's
    place; if the handler has to wait, the host continues it.

    Attributes:
        ready: whether the host waits for a message, and one can be handled in its place.
        doing: the consumer that the host is running.
    """

    __slots__ = (
        "_begun",
        "_calls",
        "_children",
        "_decoding",
        "_direct",
        "_environment",
        "_handlers",
        "_inbox",
        "_lane",
        "_lanes",
        "_observers",
        "_outbox",
        "_owner",
        "_plan",
        "_throttle",
        "_ways",
        "doing",
        "ready",
    )

    def __init__(
        self,
        plan: RoutePlan,
        environment: Environment,
        inbox: Inbox,
        outbox: Outbox,
        children: Children,
        owner: Owner,
        observers: Observers = NOBODY,
        throttle: Throttle | None = None,
        seen: Callable[[Any, str], None] | None = None,
    ) -> None:
        self._plan = plan
        self._environment = environment
        self._decoding = plan.decodings[outbox.codec.name]
        self._inbox = inbox
        self._outbox = outbox
        self._children = children
        self._owner = owner
        self._observers = observers
        self._lane = Lane(inbox)
        self._lanes: dict[ConsumerPlan, KeyedLane | StreamLane] = NOTHING
        if plan.has_lanes:
            self._lanes = {}
            for each in plan.consumers:
                if each.shares_calls and (others := [by for by in self._lanes if by.shares_calls]):
                    self._lanes[each] = self._lanes[others[0]]
                elif each.concurrent or each.stream:
                    own = KeyedLane(inbox, each) if each.concurrent else StreamLane(inbox)
                    self._lanes[each] = own
        # Where the messages of a consumer enter, if not at the lane of the host.
        self._ways: Mapping[ConsumerPlan, KeyedLane | StreamLane | Throttle] = self._lanes
        self._throttle = throttle
        if throttle is not None:
            throttle.enter = self._enter
            ways = dict.fromkeys(plan.consumers, throttle)
            if plan.invalid is not None:
                ways[plan.invalid] = throttle
            self._ways = ways
        self._begun: Begun | None = None
        self._calls: Calls | None = None
        self._handlers = Handlers(plan, environment, outbox, owner.call_failed, observers, seen)
        # The consumers that may handle messages in the host's place, for raw ones, or by class.
        self._direct: dict[ConsumerPlan | type, BoundConsumer] = NOTHING
        self.ready = False
        self.doing: Handler | None = None

    def speak(self, codec: BoundCodec) -> None:
        """Set the codec, once the subprotocol is negotiated."""
        self._outbox.codec = codec
        self._decoding = self._plan.decodings[codec.name]

    # -- receiving; there is no current task, or it is the host that is ``ready``

    def receive(self, messages: Sequence[Found]) -> int:
        """Take messages while there is room. Returns how many were taken."""
        inbox, decoding = self._inbox, self._decoding
        handlers, direct = self._handlers, self._direct
        count = 0
        for data, text, _ in messages:
            if inbox.full:
                break
            count += 1
            if inbox.closed and not inbox.expecting:
                continue
            if len(data) > LARGE:
                self._receive_large(data, text)
                continue
            decode, taker = decoding.text if text else decoding.binary
            try:
                if text and taker is None and not data.isascii():
                    data.decode()  # also what is not decoded (RFC 6455 §8.1)
                message = decode(data)
            except Exception as exc:
                self._refuse(exc, data)
                continue
            bound = direct.get(taker or type(message))
            if bound is None or not self.ready or inbox.closed:
                self._receive_new(taker, message, data)
                continue
            # The same as _begin, inlined for speed. The steps are not over: after a handler that
            # has raised, nothing is begun.
            steps = handlers.steps
            try:
                yielded = steps.send((handlers, bound, message))
            except BaseException as exc:
                self._owner.left(bound[2].invocation.handler, exc)
            else:
                if yielded is not READY:
                    self._to_finish(bound[2], Begun(steps, yielded))
        return count

    def _receive_new(self, taker: ConsumerPlan | None, message: Any, data: bytes) -> None:
        """Take a message which cannot be handled in the host's place now, or whose class is new."""
        consumer = taker or self._decoding.taker(message)
        try:
            if consumer is None or not self.ready or consumer in self._ways or self._inbox.closed:
                self._take(consumer, message, data)
                return
            bound = self._handlers.bind(consumer)
            if self._decoding.is_sure(type(message)):
                if self._direct is NOTHING:
                    self._direct = {}
                self._direct[taker or type(message)] = bound
            self._begin(bound, message)
        except BaseException as exc:
            # The handler raised, or the key cannot be hashed.
            self._owner.left(consumer.invocation.handler if consumer else "a call", exc)

    def _receive_large(self, data: bytes, text: bool) -> None:
        """Decode a large message and take it, once there is memory for it. Raw text and binary take
        no more than they do."""
        _, taker = self._decoding.text if text else self._decoding.binary
        answers = self._calls is not None and self._calls.asking
        if taker is not None or (size := estimated(data)) <= HEAVY:
            self._decode_large(data, text, 0)
        elif self._inbox.take_memory(
            size, partial(self._decode_later, data, text), answers=answers
        ):
            self._decode_large(data, text, size)

    def _decode_later(self, data: bytes, text: bool, memory: int) -> None:
        self.ready = False  # there is no current task
        self._decode_large(data, text, memory)

    def _decode_large(self, data: bytes, text: bool, memory: int) -> None:
        decode, taker = self._decoding.text if text else self._decoding.binary
        try:
            if text and not data.isascii():
                data.decode()
            message = decode(data)
        except Exception as exc:
            self._refuse(exc, data)
            self._inbox.handled(memory)
            return
        consumer = taker or self._decoding.taker(message)
        try:
            self._take(consumer, message, data, memory, decode)
        except BaseException as exc:
            self._owner.left(consumer.invocation.handler if consumer else "a call", exc)

    def _refuse(self, exc: Exception, data: bytes) -> None:
        """A message cannot be decoded: an ``on_error`` function takes it in its place, or the
        connection ends. Messages with an unknown tag may be ignored."""
        bad = self._decoding.explain(exc, data)
        if not bad.known and self._plan.ignores_unknown:
            self._owner.ignored(bad.tag)
        elif bad.code != 1007 or (taker := self._plan.invalid) is None:
            self._owner.refuse(bad)
        elif not self._inbox.closed:
            invalid = InvalidMessage(bad.reason, bad.where, bad.tag, data)
            invalid.__cause__ = bad.__cause__
            self._put(Item(taker, invalid, len(data)))

    def _take(
        self,
        consumer: ConsumerPlan | None,
        message: Any,
        data: bytes,
        memory: int = 0,
        decode: Callable[[bytes], Any] | None = None,
    ) -> None:
        """Take a message that has taken so much memory: it goes its way, or waits in its lane."""
        if consumer is None:
            self._of_a_call(message, data, memory)
        elif self._inbox.closed:
            self._inbox.handled(memory)  # only answers to calls are still expected
        else:
            if memory and isinstance(message, str | bytes):
                self._inbox.handled(memory)  # it takes no more than it did
                memory = 0
            again = self._again(memory, decode, data)
            self._put(Item(consumer, message, weight(data, message), memory, again=again))

    def _of_a_call(self, frame: Any, data: bytes, memory: int) -> None:
        """Process a frame: a new call waits for its consumer, others take effect at once."""
        if isinstance(frame, Auth):
            self._owner.credential_received(frame)
        elif isinstance(frame, Ping):
            self.calls.urge(Pong)
        elif not isinstance(frame, Ask):
            self.calls.receive(frame)
        elif not self._inbox.closed:
            codec = self._outbox.codec
            asked = self._plan.call_decodings[codec.name]
            decode, _ = asked.text if codec.text else asked.binary
            answering = self.calls.begin(frame, decode)
            if answering is not None:
                consumer = cast(ConsumerPlan, asked.taker(answering.message))
                again = self._again(memory, decode, frame.message)
                self._put(Item(consumer, answering, weight(data, frame), memory, again=again))
                return
            if self._throttle is not None:
                self._throttle.stray()
        self._inbox.handled(memory)

    def _again(
        self, memory: int, decode: Callable[[Any], Any] | None, data: Any
    ) -> Callable[[], Any] | None:
        """What decodes a message once more that may have to wait for its rate limit, if it has
        taken memory."""
        if not memory or self._throttle is None or decode is None:
            return None
        return partial(decode, data)

    def _put(self, item: Item) -> None:
        """A message goes the way of its consumer."""
        way = self._ways.get(item.consumer)
        if way is not None:
            way.put(item)
        else:
            self._enter(item, True)

    def _enter(self, item: Item, here: bool) -> None:
        """A message has passed its rate limits; ``here`` if it may be handled in the host's
        place."""
        consumer = item.consumer
        lane = self._lanes.get(consumer, self._lane)
        if lane is self._lane:
            waits = item.memory or consumer is self._plan.invalid
            if here and self.ready and not waits:
                self._begin(self._handlers.bind(consumer), item.message)
                return
            self.ready = False  # what comes next must not overtake it
        lane.put(item)

    def _begin(self, bound: BoundConsumer, message: Any) -> None:
        """Handle a message in the host's place; if the handler has to wait, the host continues
        it."""
        begun = self._handlers.begin(bound, message)
        if begun is not None:
            self._to_finish(bound[2], begun)

    def _to_finish(self, consumer: ConsumerPlan, begun: Begun) -> None:
        """Have the host finish the handling of a message."""
        self.ready = False
        self.doing = consumer.handler
        self._begun = begun
        self._lane.wake()

    def rebind(self) -> None:
        """Values of the connection have changed: functions that are called from now on receive
        the new ones."""
        self._direct = NOTHING
        self._handlers.rebind()

    @property
    def has_frames(self) -> bool:
        """Whether frames can be told apart from the messages of the path."""
        return self._decoding.calls

    @property
    def calls(self) -> Calls:
        """The calls of the connection, in both directions."""
        if self._calls is None:
            self._calls = Calls(
                self._outbox,
                self._owner,
                self._plan.call_frames,
                self._inbox,
                self._decoding.calls,
                self._observers,
            )
        return self._calls

    def wind_up(self) -> None:
        """The connection is to end: cancel the streams that are being answered, which might never
        end, and hand over a message that waits for its rate limit."""
        if self._calls is not None:
            self._calls.end_streams()
        if self._throttle is not None:
            self._throttle.hurry()

    def lost(self, end: End) -> None:
        """The connection has ended: fail pending calls, and take no message that waits for its
        rate limit."""
        if self._throttle is not None:
            self._throttle.forget()
        if self._calls is not None:
            self._calls.lost(end)

    @property
    def busy(self) -> bool:
        """Whether a message is being handled, or waits."""
        return (
            self.doing is not None
            or self._inbox.waiting
            or self._inbox.held is not None
            or self._children.alive("slot")
            or (self._throttle is not None and self._throttle.held)
        )

    async def recover(self, exc: Exception, *, answer: bool) -> None:
        """Have ``on_error`` handle what an ``on_connect`` function raised: see
        ``Handlers.recover``."""
        await self._handlers.recover(exc, answer=answer)

    # -- the host

    def start(self) -> None:
        """Start the children."""
        handlers, environment = self._handlers, self._environment
        for lane, consumer in {lane: each for each, lane in self._lanes.items()}.items():
            name = str(consumer.handler)
            if isinstance(lane, KeyedLane):
                self._children.start(name, "lane", partial(self._run_lane, handlers, lane))
            else:
                run: Run = partial(self._run_stream, handlers, consumer, lane)
                self._children.start(name, "consumer", run)
        if self._inbox.closed:
            return  # the peer has left: handle what was received, and start no producers
        for producer in self._plan.producers:
            bound = producer.invocation.bind(environment)
            run = partial(self._run_producer, handlers, producer, bound)
            self._children.start(str(producer.handler), "producer", run)

    async def consume(self, *, eager: bool) -> None:
        """Handle messages one by one; once the inbox is closed, wait for the other consumers.

        Args:
            eager: whether messages may be handled in this task's place while it waits.
        """
        lane, handlers = self._lane, self._handlers
        while True:
            while lane.queue:
                item = lane.take()
                self.doing = item.consumer.handler
                if item.consumer is self._plan.invalid:
                    await handlers.recover(item.message)
                else:
                    await handlers.handle(item.consumer, item.message)
                self.doing = None
                lane.release(item)
                del item  # else it is kept until the next one
            if self._inbox.closed:
                break
            cancelled: BaseException | None = None
            self.ready = eager
            try:
                await lane.more()
            except BaseException as exc:
                cancelled = exc
            self.ready = False
            begun, self._begun = self._begun, None
            try:
                if begun is not None:
                    await begun.finish(cancelled)
                    self.doing = None
                elif cancelled is not None:
                    raise cancelled
            finally:
                cancelled = None  # its traceback holds this frame
        if self._children.tasks:
            await self._children.finished("consumer", "lane")

    # -- producers

    async def _run_producer(self, handlers: Handlers, plan: ProducerPlan, bound: Bound) -> None:
        try:
            if plan.style == "each":
                items = bound()
                try:
                    await self._outbox.send_all(items)
                finally:
                    await items.aclose()
            elif plan.style == "once":
                if await bound() is not None:
                    raise TypeError(
                        f"{plan.handler} ({plan.handler.where}) returned a value and has no "
                        "annotation: annotate it with the type to have it called again and again, "
                        "or yield what it sends"
                    )
            else:
                await self._poll(bound)
        except Exception as exc:
            await self._raised(handlers, exc)
        if plan.handler.on_end == "close" and not self._inbox.closed:
            self._owner.finish(FINISHED)

    async def _poll(self, bound: Bound) -> None:
        """Call a function in a loop, and send what it returns."""
        while True:
            item = await bound()
            if item is None:
                await checkpoint()
            else:
                await self._outbox.send(item)
                await self._outbox.drained()

    async def _raised(self, handlers: Handlers, exc: Exception) -> None:
        """A function that runs once per connection raised: end the connection, even if ``on_error``
        handles the error.

        Raises:
            Exception: the error, if it is not handled.
        """
        await handlers.recover(exc)
        error = unwrap(exc)
        if not isinstance(error, Disconnected):
            self._owner.finish(end_of(error, accepted=True))

    # -- consumers with a lane of their own

    async def _run_stream(
        self, handlers: Handlers, consumer: ConsumerPlan, lane: StreamLane
    ) -> None:
        try:
            async with aclosing(lane.messages(handlers.seen)) as messages:
                await handlers.stream(consumer, messages)
        except Exception as exc:
            await self._raised(handlers, exc)
        if not self._inbox.closed:
            self._owner.finish(FINISHED)

    async def _run_lane(self, handlers: Handlers, lane: KeyedLane) -> None:
        """Start slots of a consumer with concurrency, as messages come."""
        while True:
            while lane.queue and lane.free:
                lane.running += 1
                item = lane.take()
                run = partial(self._run_slot, handlers, lane, item)
                self._children.start(str(item.consumer.handler), "slot", run)
            if self._inbox.closed and lane.empty and not lane.running:
                return
            await lane.more()

    async def _run_slot(self, handlers: Handlers, lane: KeyedLane, item: Item) -> None:
        """One slot: handle a message, and further ones while there are any."""
        try:
            while True:
                await handlers.handle(item.consumer, item.message)
                lane.release(item)
                if not lane.queue:
                    break
                item = lane.take()
        finally:
            lane.running -= 1
            lane.wake()
