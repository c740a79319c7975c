"""When a client reconnects, and how long it waits before that.

==================== ==========================================================================
the connection ended  reconnects
==================== ==========================================================================
1000, 1005            no: the other end is done
1001, 1006            yes: it went away, or vanished
1002, 1003, 1007,     no: one end does not understand the other, and would not the next time
1009, 1010
1008                  no: a policy forbids it
1011, 1012, 1013,     yes: an error, a restart, too much load, a bad gateway
1014
3000-3999             no, but 3008 (timeout)
4400-4499             no: the client's mistake, as HTTP's 4xx
other 4000-4999       yes
==================== ==========================================================================

A server that cannot be reached is tried again, and so is one whose answer is 408, 425, 429 or 5xx;
after any other answer, and after a certificate that is not valid, it is not. ``Retry-After`` is
heeded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from wsflow.end import End
from wsflow.errors import ConnectError
from wsflow.tasks.backoff import back_off

DONE = frozenset({1000, 1001, 1005})
"""Close codes that say that all is well: the other end is done, or goes away in order."""

STAY_AWAY = frozenset({1000, 1002, 1003, 1005, 1007, 1008, 1009, 1010})
"""Close codes below 3000 after which a client does not reconnect."""


def reconnects(end: End) -> bool:
    """Whether a client tries again after a connection that ended so."""
    if isinstance(end.error, ConnectError):
        return end.error.retryable
    code = end.code
    if end.cause == "rejected" or code in STAY_AWAY or 4400 <= code <= 4499:
        return False
    return not 3000 <= code <= 3999 or code == 3008


@dataclass(frozen=True, kw_only=True)
class Reconnect:
    """How a client reconnects: exponential back-off with full jitter.

    Attributes:
        initial_delay: seconds; before the first attempt it waits up to so long, at random; before
            each next one up to twice as long.
        max_delay: seconds that it waits at most, unless the server asks for more by
            ``Retry-After``.
        stable_after: seconds after which an open connection starts the count anew.
        when: whether it reconnects at all, given how the connection ended; by default by the table
            above.

    Raises:
        ValueError: a delay is 0 or less, or the first is longer than the longest.
    """

    initial_delay: float = 1.0
    max_delay: float = 60.0
    stable_after: float = 30.0
    when: Callable[[End], bool] = reconnects

    def __post_init__(self) -> None:
        if not (0 < self.initial_delay <= self.max_delay and self.stable_after >= 0):
            raise ValueError(
                "Reconnect: 0 < initial_delay <= max_delay, and stable_after is 0 or more"
            )


class Pauses:
    """How long to wait before each attempt of one client.

    Attributes:
        attempt: which one is the next, since a connection was stable.
    """

    def __init__(self, reconnect: Reconnect) -> None:
        self._reconnect = reconnect
        self.attempt = 1
        self._delays: Iterator[float] = iter(())

    def after(self, end: End, open_for: float) -> float:
        """Seconds to wait after a connection that was open for so many seconds.

        Who is asked to wait waits for that, and then for the same as others: not all of them come
        at one moment.
        """
        if self.attempt == 1 or open_for >= self._reconnect.stable_after:
            self.attempt = 1
            self._delays = back_off(self._reconnect.initial_delay, self._reconnect.max_delay)
        self.attempt += 1
        asked = end.error.retry_after if isinstance(end.error, ConnectError) else None
        return (asked or 0.0) + next(self._delays)
