"""A broker in memory, which the processes of an app share and a test can cut off."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, final
from weakref import WeakValueDictionary

from wsflow.brokers.base import Mark
from wsflow.brokers.engine import (
    PAGE,
    Attempt,
    ConnectionLostError,
    EngineListener,
    Failure,
    Stamp,
    Stored,
    loop_time,
    settle,
)
from wsflow.brokers.select import register_engine
from wsflow.errors import BrokerError
from wsflow.messages.events import TopicOptions
from wsflow.runtime.app import App
from wsflow.tasks.detached import start_task
from wsflow.tasks.waiting import Condition
from wsflow.testing.link import Link

T = TypeVar("T")

SCHEME = "fake"

_numbers = itertools.count(1)
_brokers: WeakValueDictionary[str, FakeBroker] = WeakValueDictionary()
"""By URL."""


class Served(Protocol):
    """A server of ``serve_in_memory``."""

    _app: App


@final
class FakeBroker(Link):
    """A broker for one test, without a server. Each server that uses it is a process
    of the app, as over Redis or NATS::

        broker = FakeBroker()
        async with (
            serve_in_memory(app, broker=broker) as one,
            serve_in_memory(app, broker=broker) as two,
        ):
            ...

    It is the ``Link`` of all of them to the broker: ``cut()`` breaks their connections, and they
    connect again; ``down`` refuses that, ``stall()`` and ``resume()`` have the broker hang for a
    while, ``delay`` is for each message. What was published before is kept.

    Attributes:
        url: what ``wsflow.publisher`` and others reach it by, on this event loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self.url = f"{SCHEME}://{next(_numbers)}"
        self._store = _Store()
        _brokers[self.url] = self
        register_engine(SCHEME, _engine)

    def link(self, server: Served) -> Link:
        """The link of one server alone. Cut and ``down``, it is as if its process was killed, for
        the others.

        Raises:
            ValueError: the server does not use this broker.
        """
        broker = server._app.directory.channels.broker
        engine = getattr(getattr(broker, "carried", broker), "_engine", None)
        if not isinstance(engine, _Engine) or engine.broker is not self:
            raise ValueError("that server has another broker: serve_in_memory(app, broker=…)")
        return engine.link


def _engine(url: str) -> _Engine:
    """The engine of one process.

    Raises:
        ValueError: there is no such broker.
    """
    if (broker := _brokers.get(url)) is None:
        raise ValueError("its FakeBroker is gone, or in another process: keep it, and pass it on")
    return _Engine(broker)


# -- what the broker has


class _Entry(NamedTuple):
    """An event in a history."""

    time: float
    place: int
    data: bytes


class _History:
    """The history of a topic. Only what is too old, or too much, is forgotten."""

    def __init__(self) -> None:
        self.epoch = os.urandom(4).hex()
        self.last = 0
        self._entries: deque[_Entry] = deque()
        self._bytes = 0

    def mark(self, place: int) -> Mark:
        return Mark(self.epoch, (place,) if place else ())

    def add(self, data: bytes, options: TopicOptions) -> Stamp:
        """Returns where it stands."""
        self.until(self.mark(0), options)  # what is too old is gone
        previous = self.last
        self.last += 2  # as where topics share a stream: the place before an event is none
        self._entries.append(_Entry(loop_time(), self.last, data))
        self._bytes += len(data)
        most = options.history_bytes
        # One more, to prove that no event is missing before the oldest.
        while len(self._entries) > options.history + 1 or (most and self._bytes > most):
            self._drop()
        return Stamp(self.mark(self.last), self.mark(previous).order)

    def _drop(self) -> None:
        self._bytes -= len(self._entries.popleft().data)

    def remove(self, before: Mark) -> None:
        while self._entries and (self._entries[0].place,) < before.order:
            self._drop()

    def until(self, upto: Mark, options: TopicOptions) -> list[_Entry]:
        """The entries that are not later than ``upto``, and not too old."""
        now = loop_time()
        while self._entries and _is_over(self._entries[0], options.max_age, now):
            self._drop()
        if self._entries and _is_over(self._entries[-1], options.idle, now):
            self._entries.clear()
            self._bytes = 0
        return [each for each in self._entries if (each.place,) <= upto.order]


def _is_over(entry: _Entry, limit: float, now: float) -> bool:
    """Whether an event is older than a limit, if there is one."""
    return bool(limit) and entry.time <= now - limit


class _Store:
    """What a broker has, whoever is connected."""

    def __init__(self) -> None:
        self.connections: dict[_Connection, None] = {}
        self._histories: dict[str, _History] = {}
        self._published: dict[str, str] = {}
        self._claims: dict[str, tuple[str, float]] = {}
        self.declared: dict[str, TopicOptions] = {}

    def publish(self, topic: str, data: bytes, options: TopicOptions, attempt: Attempt) -> str:
        """Returns the event's id."""
        if attempt.key in self._published:
            return self._published[attempt.key]
        stamp = self._history(topic).add(data, options) if options.history else None
        for each in self.connections:
            if topic in each.topics:
                each.come(topic, stamp, data)
        if stamp is None:
            return ""
        id = self._published[attempt.key] = str(stamp.mark)
        return id

    def _history(self, topic: str) -> _History:
        return self._histories.setdefault(topic, _History())

    def last(self, topic: str) -> Mark:
        history = self._history(topic)
        return history.mark(history.last)

    def read(self, topic: str, options: TopicOptions, after: Mark, upto: Mark) -> Stored:
        history = self._history(topic)
        found = history.until(upto, options)
        later = [each for each in found if (each.place,) > after.order]
        complete = any((each.place,) == after.order for each in found)
        page = [(history.mark(each.place), each.data) for each in later[:PAGE]]
        return Stored(complete, page, page[-1][0] if len(later) > PAGE else upto)

    def latest(
        self, topic: str, options: TopicOptions, upto: Mark, count: int
    ) -> Sequence[tuple[Mark, bytes]]:
        history = self._history(topic)
        found = history.until(upto, options)
        latest = found[max(len(found) - count, 0) :]
        return [(history.mark(each.place), each.data) for each in latest]

    def remove(self, topic: str, before: Mark) -> None:
        self._history(topic).remove(before)

    def claim(self, name: str, seconds: float, attempt: Attempt) -> bool:
        first, until = self._claims.get(name, (attempt.key, 0.0))
        if until <= loop_time():
            first, until = attempt.key, loop_time() + seconds
            self._claims[name] = first, until
        return first == attempt.key

    def tell(self, process: str, data: bytes) -> None:
        for each in self.connections:
            if process in ("", each.process):
                each.told(data)


# -- the connections to it


@final
class _Engine:
    """Connects one process to a broker, on the event loop of the others.

    Attributes:
        link: the link of this process alone.
    """

    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker
        self.address = broker.url
        self.link = Link()

    async def connect(self, listener: EngineListener, process: str) -> _Connection:
        links = (self.broker, self.link)
        if any(each.down for each in links):
            raise ConnectionLostError("the link is down")
        here = asyncio.get_running_loop()
        if any(each.loop is not here for each in self.broker._store.connections):
            raise BrokerError(
                "a FakeBroker serves one event loop, and this is another one (blocking_publisher "
                "has its own): use wsflow.publisher in the test"
            )
        connection = _Connection(self.broker._store, links, listener, process)
        try:
            await connection.ping()
        except BaseException:
            await connection.close()
            raise
        return connection


class _Way:
    """One direction of a connection: what is sent arrives in its order, after the delay of the
    links, and not while one is stalled.

    Args:
        links: the links on the way.
        fail: called with the error if something that arrives raises one.
    """

    def __init__(self, links: Sequence[Link], fail: Callable[[Exception], object]) -> None:
        self._links = links
        self._fail = fail
        self._sent: deque[tuple[float, Callable[[], object]]] = deque()
        self._condition = Condition()
        self.changed = self._condition.notify_all
        self.task = start_task(self._carry(), name="wsflow link")

    def send(self, arrives: Callable[[], object]) -> None:
        delay = sum(each.delay for each in self._links)
        self._sent.append((loop_time() + delay, arrives))
        self.changed()

    def _passes(self) -> bool:
        return bool(self._sent) and not any(each.stalled for each in self._links)

    async def _carry(self) -> None:
        while True:
            await self._condition.wait_for(self._passes)
            due, arrives = self._sent[0]
            if due > loop_time():
                await asyncio.sleep(due - loop_time())
                continue
            self._sent.popleft()
            try:
                arrives()
            except Exception as exc:
                self._fail(exc)


@final
class _Connection:
    """One connection of a process to the broker."""

    def __init__(
        self, store: _Store, links: Sequence[Link], listener: EngineListener, process: str
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.process = process
        self.heard = 0
        self.topics: set[str] = set()
        self._store = store
        self._links = links
        self._listener = listener
        self._failure = Failure()
        self.lost = self._failure.wait
        self._waiting: set[asyncio.Future[Any]] = set()
        self._there, self._back = _Way(links, self._fail), _Way(links, self._fail)
        store.connections[self] = None
        for each in links:
            each.ends.add(self)

    # -- as the end of a link

    def cut(self) -> None:
        self._fail(ConnectionLostError("the link was cut"))

    def changed(self) -> None:
        self._there.changed()
        self._back.changed()

    def _fail(self, exc: Exception) -> None:
        lost = self._failure.set(exc)
        for waiting in self._waiting:
            settle(waiting, lost)
        for way in (self._there, self._back):
            way.task.cancel()
        for each in self._links:
            each.ends.discard(self)
        self._store.connections.pop(self, None)

    async def close(self) -> None:
        self._fail(ConnectionLostError("closed"))
        await asyncio.wait([self._there.task, self._back.task])

    # -- from the broker

    def come(self, topic: str, stamp: Stamp | None, data: bytes) -> None:
        """An event is on its way to the process."""
        self._answer(lambda: self._listener.arrived(topic, stamp, data))

    def told(self, data: bytes) -> None:
        """A note is on its way to the process."""
        self._answer(lambda: self._listener.told(data))

    def _answer(self, arrives: Callable[[], object]) -> None:
        def hear() -> None:
            self.heard += 1
            arrives()

        self._back.send(hear)

    # -- from the process

    async def _ask(self, work: Callable[[], T]) -> T:
        """Have the broker do something, and wait for the result."""
        self._failure.check()
        answer: asyncio.Future[T] = self.loop.create_future()

        def do() -> None:
            result = work()
            self._answer(lambda: settle(answer, result))

        self._waiting.add(answer)
        self._there.send(do)
        try:
            return await answer
        finally:
            self._waiting.discard(answer)

    async def ping(self) -> None:
        await self._ask(lambda: None)

    async def subscribe(self, topics: Mapping[str, TopicOptions]) -> None:
        await self._ask(lambda: self.topics.update(topics))

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        self._there.send(lambda: self.topics.difference_update(topics))

    async def publish(
        self, topic: str, data: bytes, options: TopicOptions, attempt: Attempt
    ) -> str:
        return await self._ask(lambda: self._store.publish(topic, data, options, attempt))

    async def last(self, topic: str, options: TopicOptions) -> Mark:
        return await self._ask(lambda: self._store.last(topic))

    async def read(self, topic: str, options: TopicOptions, after: Mark, upto: Mark) -> Stored:
        return await self._ask(lambda: self._store.read(topic, options, after, upto))

    async def latest(
        self, topic: str, options: TopicOptions, upto: Mark, count: int
    ) -> Sequence[tuple[Mark, bytes]]:
        return await self._ask(lambda: self._store.latest(topic, options, upto, count))

    async def remove(self, topic: str, options: TopicOptions, before: Mark) -> None:
        await self._ask(lambda: self._store.remove(topic, before))

    async def claim(self, name: str, seconds: float, attempt: Attempt) -> bool:
        return await self._ask(lambda: self._store.claim(name, seconds, attempt))

    def tell(self, process: str, data: bytes) -> None:
        self._there.send(lambda: self._store.tell(process, data))

    async def declare(self, topics: Mapping[str, TopicOptions]) -> None:
        await self._ask(lambda: self._store.declared.update(topics))

    async def declared(self) -> Mapping[str, TopicOptions]:
        return await self._ask(lambda: dict(self._store.declared))

    async def forget_idle(self, topics: Mapping[str, TopicOptions]) -> None:
        """Does nothing: what is idle is seen when it is used."""
