"""When a client reconnects, and how long it waits before that.

============================== ================================================================
how the connection ended        reconnects
============================== ================================================================
1000, or without a code (1005)  no: the peer is done
1001, 1006                      yes: the peer goes away, or the connection was lost
1002, 1003, 1007, 1009, 1010    no: the peers do not understand each other
1008                            no: a policy forbids it
1011, 1012, 1013, 1014          yes: an error, a restart, overload, a bad gateway
3000-3999                       no, except 3008 (timeout)
4401                            with a ``credential``: once, with a new one; else no
other 4400-4499                 no: a client error, as HTTP's 4xx
other 4000-4999                 yes
the server cannot be reached,   yes
or does not answer in time
the server answers 408, 425,    yes, after its ``Retry-After`` (an hour at most)
429 or 5xx
any other answer, or an         no
invalid certificate
============================== ================================================================

A client that has come back after a 4401 does so again once that connection was open for
``stable_after`` seconds; one that is refused before that, with 4401 or 401, stays away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from wsflow.credential import EXPIRED
from wsflow.end import End
from wsflow.errors import ConnectError
from wsflow.limits import check_types
from wsflow.tasks.backoff import back_off

DONE = frozenset({1000, 1001, 1005})
"""Close codes of a normal end: the peer is done, or goes away in order."""

STAY_AWAY = frozenset({1000, 1002, 1003, 1005, 1007, 1008, 1009, 1010})
"""Close codes below 3000 after which a client does not reconnect."""


def reconnects(end: End) -> bool:
    """Whether a client reconnects after a connection that ended this way."""
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
        initial_delay: seconds: the longest random wait before the first attempt; it doubles with
            each further attempt.
        max_delay: seconds: the longest wait before any attempt. A ``Retry-After`` of the server is
            waited for in addition.
        stable_after: seconds after which an open connection resets the back-off.
        when: whether to reconnect, given how the connection ended; by default the
            table of the module ``wsflow.client.reconnecting``.

    Raises:
        ValueError: a delay is 0 or less, or not finite, ``initial_delay`` is greater than
            ``max_delay``, or ``stable_after`` is negative.
        TypeError: a delay is no number, or ``when`` no function.
    """

    initial_delay: float = 1.0
    max_delay: float = 60.0
    stable_after: float = 30.0
    when: Callable[[End], bool] = reconnects

    def __post_init__(self) -> None:
        check_types(self)
        if not callable(self.when):
            raise TypeError(f"when is a {type(self.when).__name__}: use a function of an End")
        if not (0 < self.initial_delay <= self.max_delay and self.stable_after >= 0):
            raise ValueError(
                "Reconnect: 0 < initial_delay <= max_delay, and stable_after is 0 or more"
            )


class Pauses:
    """Whether one client reconnects, and how long it waits before each attempt.

    Args:
        reconnect: its settings.
        renews: whether it can bring a new credential.

    Attributes:
        attempt: the number of the next attempt, counted from 1 since a connection was stable.
    """

    def __init__(self, reconnect: Reconnect, *, renews: bool = False) -> None:
        self._reconnect = reconnect
        self._renews = renews
        self._came_back = False  # with a new credential, and was not open for long since
        self.attempt = 1
        self._delays: Iterator[float] = iter(())

    def again(self, end: End, open_for: float) -> bool:
        """Whether the client reconnects after a connection that was open for ``open_for``
        seconds."""
        if open_for >= self._reconnect.stable_after:
            self._came_back = False
        when = self._reconnect.when
        if when is reconnects and self._renews and end.code == EXPIRED and not self._came_back:
            self._came_back = True
            return True
        return when(end)

    def after(self, end: End, open_for: float) -> float:
        """Seconds to wait after a connection that was open for ``open_for`` seconds.

        The back-off is added to the ``Retry-After`` of the server, so that the clients that have
        received the same one do not reconnect all at once.
        """
        if self.attempt == 1 or open_for >= self._reconnect.stable_after:
            self.attempt = 1
            self._delays = back_off(self._reconnect.initial_delay, self._reconnect.max_delay)
        self.attempt += 1
        asked = end.error.retry_after if isinstance(end.error, ConnectError) else None
        return (asked or 0.0) + next(self._delays)
