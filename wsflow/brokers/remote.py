"""A broker on a server, independent of single connections to it.

There is one connection at a time. When it is lost, the broker reconnects, after a jittered
back-off; subscriptions are restored, and topics with history recover missed events. Publishing
waits for a connection; a message that may or may not have arrived is sent again, marked so that it
can be deduplicated. The connection belongs to tasks of the broker: cancelling a publisher does not
affect it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar, final

from wsflow.brokers.base import BrokerListener, Mark, Nothing, Page, Replay, read_replay
from wsflow.brokers.engine import (
    RETRY,
    Attempt,
    ConnectionLostError,
    Engine,
    EngineConnection,
    NoAnswerError,
    NoRoomError,
    Stamp,
    loop_time,
)
from wsflow.brokers.feed import Feed
from wsflow.brokers.processes import Processes
from wsflow.brokers.pulse import watch
from wsflow.brokers.recent import Recent, Total
from wsflow.brokers.replays import Replays, StoredReplay
from wsflow.brokers.wire import pack, unpack
from wsflow.errors import BrokerError
from wsflow.log import Log
from wsflow.messages.events import Envelope, Event, TopicOptions, UnreadableError
from wsflow.tasks.backoff import back_off
from wsflow.tasks.detached import start_task

T = TypeVar("T")
log = Log("wsflow.broker")

PATIENCE = 3.0
"""The timeout, in seconds, of connecting, and of a ping while nothing else comes."""
PING_INTERVAL = 1.0
BEAT = 1.0
"""Seconds between two heartbeats of a process; after three without one it is considered dead."""
REMIND = 30.0
"""Seconds after which the topics with history are declared again."""
STABLE = 10.0
"""Seconds after which a connection counts as stable, and the back-off is reset."""
SUBSCRIBE_BATCH = 1000
"""Topics that are subscribed to with one request."""
LATER = (0.0, 0.005, 0.02, 0.1)
"""Seconds after which it is looked again whether what was published has come."""
REMEMBERED = 10_000
"""Messages whose sender and number are remembered, to deduplicate them: one that was sent again may
come a second time, late, over the connection that was given up."""


@final
class RemoteBroker:
    """Carries topics by a server.

    Args:
        listener: what it delivers to; None to publish only, without being a process of the app.
        engine: creates the connections.
        timeout: seconds that operations wait for the server. Connecting, joining and listing
            members wait for at least ``PATIENCE``; with 0, publishing and replaying fail at once
            while there is no connection.
        declared: the app's topics with history, by template.
    """

    def __init__(
        self,
        listener: BrokerListener | None,
        engine: Engine,
        timeout: float,
        declared: Mapping[str, TopicOptions],
    ) -> None:
        self.counters: Counter[str] = Counter(published=0, lost=0, reconnected=0, history_dropped=0)
        self._listener = listener if listener is not None else _Nobody()
        self._is_process = listener is not None
        self._engine = engine
        self._timeout = timeout
        self._declared = declared
        self._stored: Mapping[str, TopicOptions] = {}  # what the server knows
        self._declared_since: dict[str, TopicOptions] = {}  # while the app runs
        self._undeclared: dict[str, TopicOptions] = {}  # of these, what the server does not know
        self._processes = Processes(self._listener, BEAT, self._send)
        self._numbers = itertools.count(1)
        self._wanted: dict[str, TopicOptions] = {}
        self._ready: dict[str, asyncio.Event] = {}
        self._feeds: dict[str, Feed] = {}
        self._recent = Total()
        self._replays = Replays(self)
        self._refused: dict[str, BrokerError] = {}
        self._changed: dict[str, None] = {}  # topics to subscribe to, or to unsubscribe from
        self._change = asyncio.Event()
        self._to_recover: dict[str, None] = {}
        self._recovery = asyncio.Event()
        self._seen: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._connection: EngineConnection | None = None
        self._connected = asyncio.Event()
        self._begun = asyncio.Event()  # it has connected once, or is refused
        self._refusal: BrokerError | None = None
        self._given_up = asyncio.Event()  # an operation has found the connection to be lost
        self._why = "not connected yet"
        self._told = ""  # the reason that was logged last
        self._asked = float("-inf")
        self._task: asyncio.Task[None] | None = None

    @property
    def processes(self) -> list[str]:
        return self._processes.others

    @property
    def connected(self) -> bool:
        return self._connection is not None

    # -- lifecycle

    async def start(self) -> None:
        patience = max(self._timeout, PATIENCE)
        log.info("connecting to the broker %s, for at most %g s", self._engine.address, patience)
        self._task = start_task(self._live(), name="wsflow broker")
        try:
            async with asyncio.timeout(patience):
                await self._begun.wait()
            if self._refusal is not None:
                raise BrokerError(
                    f"the broker {self._engine.address} cannot be used: {self._refusal}"
                )
        except TimeoutError:
            await self.stop()
            raise BrokerError(
                f"the broker {self._engine.address} cannot be reached: {self._why}"
            ) from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        if self._connection is not None and self._is_process:
            self._processes.tell("", "bye")
            try:
                await asyncio.wait_for(self._connection.ping(), 0.5)
            except (ConnectionLostError, TimeoutError):
                log.debug("the broker did not acknowledge the goodbye")
        await self._replays.stop()
        while not task.done():  # a task group that fails at that moment swallows a cancellation
            task.cancel()
            await asyncio.wait([task], timeout=0.1)

    async def _live(self) -> None:
        delays = back_off()
        while True:
            began = loop_time()
            try:
                async with asyncio.timeout(PATIENCE):
                    connection = await self._engine.connect(self, self._processes.own)
            except (ConnectionLostError, BrokerError, TimeoutError) as exc:
                if isinstance(exc, BrokerError) and not self._begun.is_set():
                    self._refusal = exc
                    self._begun.set()  # ``start`` raises it
                else:
                    self._unreachable(str(exc) or f"no answer within {PATIENCE:g} s")
            except Exception as exc:
                self._unreachable("an error in wsflow, or in the client")
                log.error("connecting to the broker failed", exc_info=exc)
            else:
                why = await self._live_on(connection)
                self._told = ""
                self._unreachable(why)
                self.counters["reconnected"] += 1
                if loop_time() - began > STABLE:
                    delays = back_off()
            await asyncio.sleep(next(delays))

    def _unreachable(self, why: str) -> None:
        """There is no connection. Each reason of an outage is logged once."""
        self._why = why
        if why != self._told:
            is_ = "is still" if self._told else "is"
            self._told = why
            log.warning("the broker %s %s unreachable: %s", self._engine.address, is_, why)

    async def _live_on(self, connection: EngineConnection) -> str:
        """Use a connection until it is lost. Returns the reason."""
        self._given_up.clear()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._lost(connection))
                tasks.create_task(self._until_given_up())
                tasks.create_task(watch(connection, PATIENCE, PING_INTERVAL))
                self._undeclared = {}
                await self._declare(connection, self._declared, at_start=True)
                for feed in self._feeds.values():
                    feed.live.clear()
                    self._to_recover[feed.topic] = None
                there = dict(self._wanted)
                self._changed.clear()
                self._undeclared |= self._declared_since
                self._change.set()
                await self._subscribe(connection, there)
                tasks.create_task(self._follow(connection, there))
                tasks.create_task(self._recover(connection))
                tasks.create_task(self._remind(connection))
                tasks.create_task(self._try_again())
                if self._is_process:
                    tasks.create_task(self._processes.live())
                self._connection = connection
                self._connected.set()
                self._begun.set()
                log.info("connected to the broker %s", self._engine.address)
        except* ConnectionLostError as lost:
            why = str(_first(lost))
        except* BrokerError as refused:
            why = str(_first(refused))
        except* Exception as errors:
            why = "an error in wsflow, or in the client"
            log.error("the broker's connection failed", exc_info=errors)
        finally:
            self.give_up(self._connection)
            await connection.close()
        return why

    @staticmethod
    async def _lost(connection: EngineConnection) -> None:
        """Wait until the connection is lost.

        Raises:
            ConnectionLostError: it is: at the earliest once the tasks beside this one have started,
                also where tasks begin at once.
        """
        await asyncio.sleep(0)
        await connection.lost()

    def give_up(self, connection: EngineConnection | None) -> None:
        """The connection is lost: it is not used from now on."""
        if self._connection is connection:
            self._connection = None
            self._connected.clear()
            self._given_up.set()

    async def _until_given_up(self) -> None:
        await self._given_up.wait()
        raise ConnectionLostError("the connection failed")

    # -- subscribing

    def subscribe(self, topic: str, options: TopicOptions) -> None:
        self._wanted[topic] = options
        self._ready[topic] = asyncio.Event()
        if options.history:
            self._feeds[topic] = Feed(
                topic,
                options,
                Recent(options, self._recent),
                self._pass,
                self._must_recover,
                self._lose,
                self.unreadable,
            )
        self._changed[topic] = None
        self._change.set()

    def unsubscribe(self, topic: str) -> None:
        if (feed := self._feeds.get(topic)) is not None:
            feed.stop()
        for held in (self._wanted, self._ready, self._feeds, self._refused):
            held.pop(topic, None)
        self._changed[topic] = None
        self._change.set()

    async def subscribed(self, topic: str) -> None:
        ready = self._ready[topic]
        if not ready.is_set():
            await self._within(ready.wait(), f"joining topic {topic!r}")
        self._check_refused(topic)

    def _check_refused(self, topic: str) -> None:
        if (refused := self._refused.get(topic)) is not None:
            raise BrokerError(str(refused))

    async def _subscribe(
        self, connection: EngineConnection, topics: Mapping[str, TopicOptions]
    ) -> None:
        names = list(topics)
        for start in range(0, len(names), SUBSCRIBE_BATCH):
            part = {name: topics[name] for name in names[start : start + SUBSCRIBE_BATCH]}
            try:
                await connection.subscribe(part)
            except BrokerError as exc:
                await self._sort_out(connection, part, exc)
                continue
            for name in part:
                if name in self._feeds:
                    self._must_recover(name)
                elif name in self._ready:
                    self._refused.pop(name, None)
                    if self._ready[name].is_set():  # the connection was lost, or it was refused
                        self._listener.missed(name)
                    self._ready[name].set()

    async def _sort_out(
        self, connection: EngineConnection, part: Mapping[str, TopicOptions], exc: BrokerError
    ) -> None:
        """One of these topics is refused: subscribe to them one by one."""
        if len(part) == 1:
            self._refuse(next(iter(part)), exc)
        else:
            for name, options in part.items():
                await self._subscribe(connection, {name: options})

    async def _follow(self, connection: EngineConnection, there: dict[str, TopicOptions]) -> None:
        """Subscribe and unsubscribe as the topics of this process change."""
        while True:
            await self._change.wait()
            self._change.clear()
            undeclared, self._undeclared = self._undeclared, {}
            await self._declare(connection, undeclared)
            changed, self._changed = self._changed, {}
            gone = [name for name in changed if name not in self._wanted and name in there]
            if gone:
                await connection.unsubscribe(gone)
            new = {}
            for name in changed:
                there.pop(name, None)
                if name in self._wanted:
                    new[name] = there[name] = self._wanted[name]
            await self._subscribe(connection, new)

    def declare(self, template: str, options: TopicOptions) -> None:
        self._declared_since[template] = self._undeclared[template] = options
        self._change.set()

    async def _remind(self, connection: EngineConnection) -> None:
        """Declare the topics with history again, now and then: a server that was emptied does not
        say so. And have idle histories forgotten."""
        while True:
            await asyncio.sleep(REMIND)
            self._declare_again()
            forget = getattr(connection, "forget_idle", None)
            try:
                if forget is not None:
                    await forget({**self._declared, **self._declared_since})
            except BrokerError as exc:
                log.often(logging.WARNING, "idle histories are not forgotten: %s", exc)

    async def _try_again(self) -> None:
        """Subscribe again to topics that were refused, as long as somebody wants them."""
        while True:
            await asyncio.sleep(RETRY)
            for topic in self._refused:
                self._changed[topic] = None
                self._change.set()

    def refused(self, topic: str, exc: BrokerError) -> None:
        if topic in self._wanted:
            self._refuse(topic, exc)

    async def _declare(
        self,
        connection: EngineConnection,
        topics: Mapping[str, TopicOptions],
        *,
        at_start: bool = False,
    ) -> None:
        """Declare topics with history. What is refused hurts those alone who publish from outside
        of the app; what may not be refused later is tried again.

        Raises:
            BrokerError: at the start, the server cannot keep them.
        """
        try:
            if topics or at_start:
                await connection.declare(topics)
        except BrokerError as exc:
            again = isinstance(exc, NoAnswerError | NoRoomError)
            if at_start and not again:
                raise
            log.often(
                logging.ERROR,
                "publishers do not find the history of %s: %s",
                ", ".join(topics),
                exc,
            )
            if again:
                self._undeclared = {**topics, **self._undeclared}
                asyncio.get_running_loop().call_later(RETRY, self._change.set)

    def _declare_again(self) -> None:
        """The server may have lost what was declared."""
        self._undeclared = {**self._declared, **self._declared_since}
        self._change.set()

    def _must_recover(self, topic: str) -> None:
        self._to_recover[topic] = None
        self._recovery.set()

    async def _recover(self, connection: EngineConnection) -> None:
        """Recover the missed events of topics with history."""
        async with asyncio.TaskGroup() as tasks:
            room = asyncio.Semaphore(64)
            while True:
                await self._recovery.wait()
                self._recovery.clear()
                topics, self._to_recover = self._to_recover, {}
                for topic in topics:
                    if (feed := self._feeds.get(topic)) is not None:
                        await room.acquire()
                        task = tasks.create_task(self._recover_one(feed, connection))
                        task.add_done_callback(lambda _: room.release())

    async def _recover_one(self, feed: Feed, connection: EngineConnection) -> None:
        try:
            while True:
                try:
                    await feed.recover(connection)
                    break
                except NoAnswerError as exc:
                    log.often(logging.WARNING, "topic %r waits: %s", feed.topic, exc)
                    await asyncio.sleep(RETRY)
        except BrokerError as exc:
            self._refuse(feed.topic, exc)
        else:
            if self._feeds.get(feed.topic) is feed:
                self._refused.pop(feed.topic, None)
                self._ready[feed.topic].set()

    def _refuse(self, topic: str, exc: BrokerError) -> None:
        log.often(logging.ERROR, "topic %r cannot be subscribed to: %s", topic, exc)
        if topic in self._ready:
            self._refused[topic] = exc
            self._ready[topic].set()

    # -- what a connection reports

    def arrived(self, topic: str, stamp: Stamp | None, data: bytes) -> None:
        feed = self._feeds.get(topic)
        if feed is not None and stamp is not None:
            feed.take(stamp, data)
        elif feed is not None:
            log.often(
                logging.WARNING,
                "topic %r: a message has come that is not in its history: whoever has published it "
                "knows another one, or none",
                topic,
            )
            self._declare_again()
            self._pass(topic, None, data)
        elif topic in self._wanted:
            self._pass(topic, stamp.mark if stamp else None, data)

    def _pass(self, topic: str, mark: Mark | None, data: bytes) -> Event | None:
        """Deliver an event. Returns None if it cannot be read, or is known."""
        try:
            packet = unpack(data)
        except UnreadableError as exc:
            self.unreadable(f"topic {topic!r}", exc)
            return None
        if self._is_known(packet.sender, packet.number):
            return None
        event = Event(str(mark) if mark else "", packet.envelope)
        if not packet.envelope.clears:
            self._listener.deliver(topic, event)
        return event

    def _is_known(self, sender: str, number: int) -> bool:
        """Whether a message has come before. Remembers it."""
        if (sender, number) in self._seen:
            return True
        self._seen[sender, number] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return False

    def told(self, data: bytes) -> None:
        try:
            self._processes.told(data)
        except UnreadableError as exc:
            self.unreadable("the notes between processes", exc)

    def unreadable(self, where: str, why: object) -> None:
        self._listener.unreadable(where, why)

    def _lose(self, topic: str, what: str) -> None:
        self.counters["lost"] += 1
        log.warning("topic %r: %s", topic, what)
        self._listener.missed(topic)
        self._declare_again()

    # -- publishing

    async def publish(self, topic: str, envelope: Envelope, options: TopicOptions) -> str:
        number = next(self._numbers)
        attempt = Attempt(f"{self._processes.own}-{number}")
        began = loop_time()
        what = f"publishing on topic {topic!r}"
        while True:
            connection = await self._within_connection(began, what)
            data = pack(envelope, self._processes.own, number, attempt.again)
            left = began + self._timeout - loop_time() if self._timeout else None
            try:
                async with asyncio.timeout(left):
                    id = await connection.publish(topic, data, options, attempt)
            except TimeoutError:
                raise self._too_late(what, "; the message may still arrive") from None
            except ConnectionLostError:
                self.give_up(connection)
            except NoAnswerError as exc:
                if left is None or left < RETRY:
                    raise self._too_late(what, "; the message may still arrive") from exc
                await asyncio.sleep(RETRY)
            else:
                self.counters["published"] += 1
                return id
            attempt.again = True
            attempt.age = loop_time() - began

    async def replay(self, topic: str, after: str, last: int = 0) -> Replay:
        began = loop_time()
        mark = Mark.parse(after)
        what = f"replaying topic {topic!r}"
        while True:
            connection = await self._within_connection(began, what)
            feed = self._feeds.get(topic)
            if feed is None or (after and mark is None):
                return Nothing()
            await self._within(feed.live.wait(), what)
            for _ in range(2):  # a recovery in progress may have begun before the event was stored
                if mark is not None and feed.behind(mark):
                    feed.catch_up()
                    await self._within(feed.live.wait(), what)
            try:
                if mark is None:
                    latest = self._replays.latest(connection, feed, last)
                    place, found = await self._within(latest, what)
                    return StoredReplay(self._replays, feed, place, recovered=False, found=found)
                start = await self._within(self._replays.find(feed, mark), what)
            except ConnectionLostError:
                self.give_up(connection)
            else:
                assert feed.position is not None
                return StoredReplay(
                    self._replays, feed, start or feed.position, recovered=start is not None
                )

    async def read(self, topic: str, after: str, limit: int) -> Page:
        what = f"reading the history of topic {topic!r}"
        await self._ask(what, lambda connection: self._catch_up(topic, connection))
        replay = await self.replay(topic, after, 0 if after else limit)
        return await read_replay(replay, limit, lambda waits: self._within(waits, what))

    async def _catch_up(self, topic: str, connection: EngineConnection) -> None:
        """Wait until all that was published on a topic with history before is here.

        What is missing here is on its way as a rule. Only if it does not come the history is read:
        that may have dropped by then what members are about to hear.
        """
        feed = self._feeds[topic]
        for delay in LATER:
            last = await connection.last(topic, feed.options)
            await connection.ping()  # it comes behind what the server has sent by now
            self._check_refused(topic)
            await feed.live.wait()
            if not feed.lacks(last):
                return
            await asyncio.sleep(delay)
        feed.catch_up()
        while not feed.live.is_set():
            await asyncio.sleep(LATER[1])
            self._check_refused(topic)

    async def clear(self, topic: str, options: TopicOptions) -> None:
        id = await self.publish(topic, Envelope({}, clears=True), options)
        mark = Mark.parse(id)
        if mark is None:
            raise BrokerError(f"the history of topic {topic!r} was lost meanwhile: clear it again")

        async def remove(connection: EngineConnection) -> None:
            if not hasattr(connection, "remove"):
                raise BrokerError(
                    f"the broker {self._engine.address} cannot remove a history: its engine has no "
                    "`remove`"
                )
            await connection.remove(topic, options, mark)

        await self._ask(f"removing the history of topic {topic!r}", remove)

    async def declared(self) -> Mapping[str, TopicOptions]:
        """The app's topics with history, as stored at this broker, by template; at most one second
        old.

        What was stored once stays known here: a broker that was emptied has nothing until a process
        of the app is back, and what is published until then belongs into the histories all the
        same.

        Raises:
            BrokerError: the broker is unreachable.
        """
        began = loop_time()
        if began - self._asked >= 1:
            stored = await self._ask(
                "asking for the topics with history", lambda connection: connection.declared()
            )
            self._stored = {**self._stored, **stored}
            self._asked = began
        return self._stored

    async def connection(self) -> EngineConnection:
        """Wait for a connection, and return it."""
        while self._connection is None:
            await self._connected.wait()
        return self._connection

    async def _within_connection(self, began: float, what: str) -> EngineConnection:
        """Wait for a connection, and return it."""
        while self._connection is None:
            left = began + self._timeout - loop_time()
            try:
                async with asyncio.timeout(max(left, 0)):
                    await self._connected.wait()
            except TimeoutError:
                raise self._too_late(what) from None
        return self._connection

    async def _ask(self, what: str, asks: Callable[[EngineConnection], Awaitable[T]]) -> T:
        """Ask the server what may be asked again, if the connection is lost or nothing answers."""
        began = loop_time()
        while True:
            connection = await self._within_connection(began, what)
            try:
                return await self._within(asks(connection), what)
            except ConnectionLostError:
                self.give_up(connection)
            except NoAnswerError:
                if loop_time() - began + RETRY > max(self._timeout, PATIENCE):
                    raise
                await asyncio.sleep(RETRY)

    async def _within(self, waits: Awaitable[T], what: str) -> T:
        try:
            async with asyncio.timeout(max(self._timeout, PATIENCE)):
                return await waits
        except TimeoutError:
            raise self._too_late(what) from None

    def _too_late(self, what: str, more: str = "") -> BrokerError:
        why = (
            "it did not answer"
            if self._connection is not None
            else f"it is unreachable ({self._why})"
        )
        return BrokerError(
            f"{what} at the broker {self._engine.address} failed: {why}; publish_timeout is "
            f"{self._timeout:g} s{more}"
        )

    async def claim(self, name: str, seconds: float) -> bool:
        attempt = Attempt(os.urandom(16).hex())

        async def claim(connection: EngineConnection) -> bool:
            if not hasattr(connection, "claim"):
                raise BrokerError(
                    f"the broker {self._engine.address} cannot see to it that something happens "
                    "once among all processes: its engine has no `claim`. Use Redis or NATS, or a "
                    "store of your own: Ticket(…, store=…)"
                )
            try:
                return await connection.claim(name, seconds, attempt)
            finally:
                attempt.again = True

        return await self._ask("claiming a name", claim)

    # -- between processes

    def tell(self, process: str, note: bytes) -> None:
        self._processes.tell(process, "note", note)

    def _send(self, process: str, data: bytes) -> None:
        if self._connection is not None:
            self._connection.tell(process, data)

    async def settled(self, answers: Callable[[], Awaitable[None]]) -> None:
        async def everybody() -> None:
            await self._processes.settled.wait()
            await answers()

        await self._within(everybody(), "listing members")


class _Nobody:
    """A listener that ignores everything."""

    def ignore(self, *_: object) -> None:
        """Do nothing."""

    deliver = heard = appeared = gone = missed = unreadable = ignore


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception of nested groups."""
    inner = errors.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
