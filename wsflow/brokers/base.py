"""What carries topics between the processes of an app, and what it carries.

A broker hands every event of a topic to each process that has subscribed to it, in one order per
publisher; on a topic with history in one order for all, with an id that the broker gives.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, final

import anyio
import anyio.lowlevel

from wsflow.messages.events import Envelope, Event, TopicOptions

_MARK = re.compile(r"([0-9a-f]{1,32})((?:-[0-9]{1,20}){1,2})")


PORTION = 64
"""Events that are replayed to one member in a row, at most."""

PORTION_BYTES = 64 * 1024
"""Bytes of them after which no further one is added."""

MAX_PART = 2**64 - 1
"""The largest number in the place of an event."""

MAX_CLAIM = 30 * 24 * 3600
"""Seconds for which a name can be claimed."""


class Mark(NamedTuple):
    """A place in the history of a topic. As text it is an event id.

    Attributes:
        epoch: which history: one that was lost and begun anew has another.
        order: the place in it; empty before the first event.
    """

    epoch: str = ""
    order: tuple[int, ...] = ()

    def __str__(self) -> str:
        return "-".join([self.epoch, *map(str, self.order)])

    @staticmethod
    def parse(id: str) -> Mark | None:
        """The mark that an event id names; None if it is none that a broker gave."""
        found = _MARK.fullmatch(id)
        if found is None:
            return None
        order = tuple(int(part) for part in found[2][1:].split("-"))
        return Mark(found[1], order) if max(order) <= MAX_PART else None


def before(order: tuple[int, ...]) -> tuple[int, ...]:
    """A place before an event in a history, and after the event before that."""
    *head, last = order
    if last or not head:
        return (*head, last - 1)
    return (*before(tuple(head)), MAX_PART)


class OvertakenError(Exception):
    """The history no longer has the events that were to be replayed next."""


class Replay(Protocol):
    """The events of a history that a member has missed, and those that come meanwhile.

    Attributes:
        recovered: whether these are all that it has missed.
        cleared: how often the history was cleared while it was taken: what came before is removed.
    """

    @property
    def recovered(self) -> bool: ...
    @property
    def cleared(self) -> int: ...

    def take(self, ready: Callable[[], None]) -> Sequence[Event] | None:
        """The next events, oldest first; at most ``PORTION``.

        Args:
            ready: called once there is something to take, if None is returned.

        Returns:
            The events. Empty if it has caught up: what is delivered from now on is later than all
            that was taken. None if they must be read first.

        Raises:
            OvertakenError: the history has lost the next events; it goes on with those that are
                left.
            BrokerError: the history cannot be read.
        """


@final
class Nothing:
    """A replay that has nothing to take; also in the place of one that is not known yet."""

    recovered = False
    cleared = 0

    def take(self, ready: Callable[[], None]) -> Sequence[Event]:
        return ()


class Page(NamedTuple):
    """Events that were read from a history.

    Attributes:
        events: oldest first.
        recovered: whether none is missing after the one that was asked for.
        more: whether others follow.
    """

    events: Sequence[Event]
    recovered: bool
    more: bool


async def read_replay(
    replay: Replay, limit: int, within: Callable[[Awaitable[None]], Awaitable[None]]
) -> Page:
    """The first events of a replay, at most ``limit``.

    Args:
        replay: the replay.
        limit: how many.
        within: waits for what must be read, as long as that may take.
    """
    events: list[Event] = []
    recovered = replay.recovered
    while len(events) <= limit:
        ready, cleared = anyio.Event(), replay.cleared
        try:
            part = replay.take(ready.set)
        except OvertakenError:
            recovered = False
            continue
        if replay.cleared != cleared:
            recovered = False
            events.clear()
        if part is None:
            await within(ready.wait())
        elif not part:
            return Page(events, recovered, more=False)
        else:
            events += part
            await anyio.lowlevel.checkpoint()  # others have their turn
    return Page(events[:limit], recovered, more=True)


class BrokerListener(Protocol):
    """A process's side of its topics, to which a broker reports. Nothing here waits."""

    def deliver(self, topic: str, event: Event) -> None:
        """An event of a topic that is subscribed to."""

    def missed(self, topic: str) -> None:
        """Events of a topic that is subscribed to may be missing here; those that are delivered
        from now on are later."""

    def unreadable(self, where: str, why: object) -> None:
        """Something came that no wsflow has sent."""

    def heard(self, process: str, note: bytes) -> None:
        """A note from another process."""

    def appeared(self, process: str) -> None:
        """Another process has started; or it runs, and may have missed notes."""

    def gone(self, process: str) -> None:
        """Another process has ended, in order or not."""


class Broker(Protocol):
    """Carries topics between the processes of an app."""

    @property
    def processes(self) -> Collection[str]:
        """The other processes of the app that are known to be there."""

    @property
    def connected(self) -> bool:
        """Whether it can be reached, as far as is known."""

    @property
    def counters(self) -> Mapping[str, int]:
        """How often things have happened: ``published``, ``lost`` and ``reconnected``, and how many
        events of histories were dropped for want of room in this process: ``history_dropped``."""

    async def start(self) -> None:
        """Connect.

        Raises:
            BrokerError: it cannot be reached.
        """

    async def stop(self) -> None:
        """Disconnect."""

    def subscribe(self, topic: str, options: TopicOptions) -> None:
        """The first connection of this process has joined ``topic``."""

    async def subscribed(self, topic: str) -> None:
        """Wait until what is published to ``topic`` from now on will be delivered.

        Raises:
            BrokerError: the broker is unreachable.
        """

    def unsubscribe(self, topic: str) -> None:
        """The last connection of this process has left ``topic``."""

    async def publish(self, topic: str, envelope: Envelope, options: TopicOptions) -> str:
        """Send to all processes, and keep it if ``options`` say so.

        Returns:
            The event's id, ``""`` on a topic without history.

        Raises:
            BrokerError: the broker is unreachable, or refuses.
        """

    def declare(self, template: str, options: TopicOptions) -> None:
        """The app has declared a topic with history while it runs."""

    async def replay(self, topic: str, after: str, last: int = 0) -> Replay:
        """What came after the event ``after``, or else the latest events, on a topic that is
        subscribed to.

        Args:
            topic: its name.
            after: an event id; ``""`` for the latest events, which are never ``recovered``.
            last: how many of the latest events, at most.

        Returns:
            The replay, which also has what is delivered until it has caught up.

        Raises:
            BrokerError: the broker is unreachable.
        """

    async def read(self, topic: str, after: str, limit: int) -> Page:
        """The first events after the event ``after``, or else the latest ones, of a topic that is
        subscribed to: of all that were published before.

        Args:
            topic: its name.
            after: an event id; ``""`` for the latest events.
            limit: how many, at most.

        Raises:
            BrokerError: the broker is unreachable.
        """

    async def clear(self, topic: str, options: TopicOptions) -> None:
        """Remove all events of a topic's history, for all processes.

        Raises:
            BrokerError: the broker is unreachable, or refuses. Some or all events may still be
                there.
        """

    async def claim(self, name: str, seconds: float) -> bool:
        """Claim a name, once among all processes.

        Returns:
            Whether this is the first claim of the name, for at least ``seconds``.

        Raises:
            BrokerError: the broker is unreachable, or cannot do it.
        """

    def tell(self, process: str, note: bytes) -> None:
        """Send a note to another process, or with ``""`` to all of them. It may be lost:
        ``appeared`` is called again for a process that may have missed something."""

    async def settled(self, answers: Callable[[], Awaitable[None]]) -> None:
        """Wait until ``processes`` is complete, and then for their answers to a question.

        Raises:
            BrokerError: the broker is unreachable, or was lost meanwhile.
        """
