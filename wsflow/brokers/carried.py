"""A broker of asyncio, as topics see it on Trio: it runs on the event loop that Trio carries.

All of it stays in one thread. What the broker reports is delivered at once, and what is asked of it
at once is answered at once: a replay and what is delivered meanwhile fit together as on asyncio.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast, final

from wsflow.brokers.base import BrokerListener, Nothing, Page, Replay
from wsflow.brokers.remote import RemoteBroker
from wsflow.messages.events import Envelope, Event, TopicOptions
from wsflow.tasks.loops import event_loop

if TYPE_CHECKING:
    from wsflow.tasks.carried import CarriedLoop

Make = Callable[[BrokerListener | None], RemoteBroker]
"""Makes a broker for those that listen to it; without any it publishes only."""


@final
class CarriedBroker:
    """Carries topics by a broker of asyncio.

    Args:
        make: makes it.
        listener: what it delivers to.

    Attributes:
        carried: the broker.
    """

    def __init__(self, make: Make, listener: BrokerListener | None) -> None:
        loop = self._loop = cast("CarriedLoop", event_loop())
        hears = _Hears(listener, loop.left) if listener is not None else None
        with loop.entered():
            self.carried = make(hears)

    @property
    def processes(self) -> Collection[str]:
        return self.carried.processes

    @property
    def connected(self) -> bool:
        return self.carried.connected

    @property
    def counters(self) -> Mapping[str, int]:
        return self.carried.counters

    # -- what is done at once

    def subscribe(self, topic: str, options: TopicOptions) -> None:
        with self._loop.entered():
            self.carried.subscribe(topic, options)

    def unsubscribe(self, topic: str) -> None:
        with self._loop.entered():
            self.carried.unsubscribe(topic)

    def declare(self, template: str, options: TopicOptions) -> None:
        with self._loop.entered():
            self.carried.declare(template, options)

    def tell(self, process: str, note: bytes) -> None:
        with self._loop.entered():
            self.carried.tell(process, note)

    # -- what is waited for

    async def start(self) -> None:
        await self._loop.run(self.carried.start)

    async def stop(self) -> None:
        await self._loop.run(self.carried.stop)

    async def subscribed(self, topic: str) -> None:
        await self._loop.run(self.carried.subscribed, topic)

    async def publish(self, topic: str, envelope: Envelope, options: TopicOptions) -> str:
        return await self._loop.run(self.carried.publish, topic, envelope, options)

    async def replay(self, topic: str, after: str, last: int = 0) -> Replay:
        replay = await self._loop.run(self.carried.replay, topic, after, last)
        return replay if isinstance(replay, Nothing) else _CarriedReplay(replay, self._loop)

    async def read(self, topic: str, after: str, limit: int) -> Page:
        return await self._loop.run(self.carried.read, topic, after, limit)

    async def clear(self, topic: str, options: TopicOptions) -> None:
        await self._loop.run(self.carried.clear, topic, options)

    async def claim(self, name: str, seconds: float) -> bool:
        return await self._loop.run(self.carried.claim, name, seconds)

    async def settled(self, answers: Callable[[], Awaitable[None]]) -> None:
        await self._loop.run(self.carried.settled, answers)

    async def declared(self) -> Mapping[str, TopicOptions]:
        """As ``RemoteBroker.declared``."""
        return await self._loop.run(self.carried.declared)


class _CarriedReplay:
    """A replay, which reads from the broker."""

    def __init__(self, replay: Replay, loop: CarriedLoop) -> None:
        self._replay = replay
        self._loop = loop

    @property
    def recovered(self) -> bool:
        return self._replay.recovered

    @property
    def cleared(self) -> int:
        return self._replay.cleared

    def take(self, ready: Callable[[], None]) -> Sequence[Event] | None:
        def wake() -> None:
            with self._loop.left():
                ready()

        with self._loop.entered():
            return self._replay.take(wake)


class _Hears:
    """Hands on what a broker reports, which it does in tasks of asyncio."""

    def __init__(
        self, listener: BrokerListener, left: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._listener = listener
        self._left = left

    def deliver(self, topic: str, event: Event) -> None:
        with self._left():
            self._listener.deliver(topic, event)

    def missed(self, topic: str) -> None:
        with self._left():
            self._listener.missed(topic)

    def unreadable(self, where: str, why: object) -> None:
        with self._left():
            self._listener.unreadable(where, why)

    def heard(self, process: str, note: bytes) -> None:
        with self._left():
            self._listener.heard(process, note)

    def appeared(self, process: str) -> None:
        with self._left():
            self._listener.appeared(process)

    def gone(self, process: str) -> None:
        with self._left():
            self._listener.gone(process)
