"""The rate limits of one connection: whether a message may come, and what happens if not.

Only a connection on a path with rate limits has a throttle. It stands where messages enter their
lanes. Reading pauses while a message waits in it, unless the renewal of a credential is overdue:
then further messages wait behind the first, and are measured once it has gone. A message that waits
is counted before, so that those of several connections with one limit take turns. One that has
taken memory gives it back while it waits, as bytes, and is decoded once more when its time has come
and there is memory for it: else who is over a limit would hold up the large messages of all.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Protocol, final

from wsflow.connection import Connection
from wsflow.log import Log
from wsflow.messages.codec import BadMessage, bad_message
from wsflow.runtime.calls import Answering
from wsflow.runtime.inbox import Inbox, Item
from wsflow.runtime.rates import SharedRates, client_key, spend, until, user_key
from wsflow.tasks.waiting import EMPTY, Clock, Timer
from wsflow.wiring.plan import RatePlan, RoutePlan

log = Log("wsflow")


class Owner(Protocol):
    """The session, as its throttle sees it."""

    @property
    def id(self) -> str: ...
    def refuse(self, bad: BadMessage) -> None: ...
    def left(self, what: object, exc: BaseException) -> None: ...


@final
class Throttle:
    """Measures the messages of one connection against the limits of its path.

    Args:
        plan: the path.
        shared: the limits per client and per user.
        counters: counts messages that came too early, as ``rate_limited``.
        clock: the clock of the connection.
        connection: the connection; its user is known once it is open.
        inbox: has reading pause.
        owner: the session.

    Attributes:
        enter: hands a message to its consumer; and whether that may happen in the host's place.
    """

    # fmt: off
    __slots__ = (
        "_behind", "_client", "_clock", "_connection", "_counters", "_forgotten", "_hurried",
        "_inbox", "_item", "_owner", "_plan", "_shared", "_timer", "_used", "_without_memory",
        "enter",
    )
    # fmt: on

    def __init__(
        self,
        plan: RoutePlan,
        shared: SharedRates,
        counters: Counter[str],
        clock: Clock,
        connection: Connection,
        inbox: Inbox,
        owner: Owner,
    ) -> None:
        self._plan = plan
        self._shared = shared
        self._counters = counters
        self._clock = clock
        self._connection = connection
        self._inbox = inbox
        self._owner = owner
        self._client = client_key(connection.request)
        self._used: dict[RatePlan, float] = {}  # of the limits per connection: when they are full
        self._item: Item | None = None  # that waits until the timer fires
        self._timer: Timer | None = None
        self._without_memory: Item | None = None  # whose time has come
        self._behind: deque[Item | None] = EMPTY
        self._hurried = False
        self._forgotten = False
        self.enter: Callable[[Item, bool], None]

    @property
    def held(self) -> bool:
        """Whether a message waits."""
        return self._timer is not None or self._without_memory is not None

    def check(self) -> None:
        """Check that the user may open another connection.

        Raises:
            Reject: a limit of the user is used up.
        """
        for rate in self._plan.user_limits:
            self._shared.check([rate], self._who(rate), self._clock.now())

    # -- receiving; there may be no current task

    def put(self, item: Item) -> None:
        """A message for a consumer has come."""
        if self.held:
            self._wait_behind(item)
        elif self._may_come(item):
            self.enter(item if item.again is None else item._replace(again=None), True)

    def stray(self) -> None:
        """A call has come that no consumer takes. It counts for the Routers' limits."""
        if self.held:
            self._wait_behind(None)
        else:
            self._may_come(None)

    def _may_come(self, item: Item | None) -> bool:
        """Count a message, and do what its limits say if it comes too early. Returns whether its
        consumer may have it now."""
        rates = self._plan.rates if item is None else item.consumer.rates
        now = self._clock.now()
        early = [(rate, seconds) for rate in rates if (seconds := self._until(rate, now))]
        refusing = {rate.when_over: rate for rate, _ in early}
        if (rate := refusing.get("close")) is not None:
            self._over(rate)
            self._owner.refuse(BadMessage(1008, "rate limit"))
        elif (rate := refusing.get("drop")) is not None:
            self._over(rate)
            self._drop(self._shelved(item))
        else:
            for rate in rates:
                self._spend(rate, now)
            if not early:
                return True
            rate, seconds = max(early, key=itemgetter(1))
            self._over(rate)
            self._hold(item, seconds)
        return False

    def _until(self, rate: RatePlan, now: float) -> float:
        if rate.per == "connection":
            return until(rate, self._used.get(rate, now), now)
        return self._shared.until(rate, self._who(rate), now)

    def _spend(self, rate: RatePlan, now: float) -> None:
        if rate.per == "connection":
            spend(self._used, rate, rate.interval, now)
        else:
            self._shared.spend(rate, self._who(rate), now, self._clock)

    def _who(self, rate: RatePlan) -> str:
        """Whose limit it is."""
        user = self._connection.user
        return user_key(user) if rate.per == "user" and user is not None else self._client

    def _over(self, rate: RatePlan) -> None:
        self._counters["rate_limited"] += 1
        log.often(
            logging.WARNING,
            "connection %s is over the rate limit of %s per %s: %s",
            self._owner.id,
            rate.name,
            rate.per,
            rate.when_over,
        )

    # -- messages that wait; those that can be decoded again are not decoded

    def _hold(self, item: Item | None, seconds: float) -> None:
        shelved = self._shelved(item)
        if self._forgotten:
            self._drop(shelved)
            return
        self._item = shelved
        self._timer = self._clock.after(seconds, self._release)
        self._inbox.slow()

    def _wait_behind(self, item: Item | None) -> None:
        if self._behind is EMPTY:
            self._behind = deque()
        self._behind.append(self._shelved(item))
        self._inbox.added(item.size if item is not None else 0)

    def _shelved(self, item: Item | None) -> Item | None:
        """The message without what has taken memory: ``None`` in its place."""
        if item is None or item.again is None or item.message is None:
            return item
        if isinstance(item.message, Answering):
            if item.message.message is not None:
                item.message.message = None
                self._inbox.handled(item.memory)
            return item
        self._inbox.handled(item.memory)
        return item._replace(message=None)

    def _release(self) -> None:
        """The time of the message has come."""
        self._advance(self._take())

    def hurry(self) -> None:
        """Hand over the messages that wait, but do not read on. Without effect if none waits."""
        self._hurried = True
        if self._timer is not None:
            self._release()

    def _advance(self, item: Item | None) -> None:
        """Hand over a message, and those behind it, until one has to wait."""
        self._hand_over(item)
        while self._behind and not self.held:
            item = self._next()
            if self._hurried or self._may_come(item):
                self._hand_over(item)
        if not self.held and not self._hurried:
            self._inbox.quicken()

    def _hand_over(self, item: Item | None) -> None:
        if item is None:
            return
        if item.again is None:
            self._enter(item)
        elif self._inbox.take_memory(item.memory, self._granted, answers=False):
            self._decode(item, item.again)
        else:
            self._without_memory = item

    def _granted(self, memory: int) -> None:
        """There is memory for the message whose time has come."""
        item, self._without_memory = self._without_memory, None
        if item is None or item.again is None:
            self._inbox.handled(memory)
        else:
            self._decode(item, item.again)
            self._advance(None)

    def _decode(self, item: Item, decode: Callable[[], Any]) -> None:
        """Hand over a message that has waited without memory."""
        try:
            message = decode()
        except Exception as exc:  # its own code may take it once, and then no more
            self._inbox.handled(item.memory)
            bad = bad_message(exc)
            if isinstance(item.message, Answering):
                item.message.refuse("invalid" if bad.code == 1007 else "internal", str(bad))
            else:
                self._owner.refuse(bad)
            return
        if isinstance(item.message, Answering):
            item.message.message = message
            message = item.message
        self._enter(item._replace(message=message, again=None))

    def _enter(self, item: Item) -> None:
        try:
            self.enter(item, False)
        except BaseException as exc:  # the key cannot be hashed
            self._owner.left(item.consumer.handler, exc)

    def forget(self) -> None:
        """The connection has ended: drop the messages that wait, and those that would have to."""
        self._forgotten = True
        waiting, self._without_memory = self._without_memory, None
        for item in (waiting, self._take()):
            self._drop(item)
        while self._behind:
            self._drop(self._next())

    def _take(self) -> Item | None:
        if self._timer is not None:
            self._timer.cancel()
        item, self._item, self._timer = self._item, None, None
        return item

    def _next(self) -> Item | None:
        item = self._behind.popleft()
        self._inbox.taken(item.size if item is not None else 0)
        return item

    def _drop(self, item: Item | None) -> None:
        """Drop a message; tell the caller if it is a call."""
        if item is not None and isinstance(item.message, Answering):
            item.message.refuse("rate_limited", "more calls than the rate limit allows")
