"""The credential of one connection: in a server when it ends and how the peer renews it, in a
client how it is renewed.

All times are on the transport's clock. Timers may fire where there is no current task. Both sides
run what may wait, one at a time, in a child of the connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, final

import anyio

from wsflow.credential import EXPIRED, FORBIDDEN, Credential, same
from wsflow.end import End, cut_reason
from wsflow.errors import Reject, let_go
from wsflow.log import Log
from wsflow.messages.calls import Auth
from wsflow.tasks.children import Run
from wsflow.tasks.waiting import Clock, Timer
from wsflow.transports.deadline import LOOK

log = Log("wsflow")

LONGEST = 24 * 3600.0
"""The longest timer, in seconds: a credential may end in a thousand years."""

LEAD = 0.2
"""The part of a credential's time that is left when a client renews it."""

SOONEST = 1.0
"""Seconds that a client waits at least between two renewals."""

RETRY = 5.0
"""Seconds until a client asks again, if its callback has failed."""

RENEWAL = "the renewal of the credential"
"""The name of its task."""

ENDED = End("policy", EXPIRED, "the credential has expired")

Ask = Callable[[], Awaitable[str]]
"""Returns a client's credential, anew each time."""


class Owner(Protocol):
    """The session, as its credential sees it."""

    def finish(self, end: End) -> None: ...
    def errand(self, name: str, run: Run, scope: anyio.CancelScope) -> None:
        """Start a task of the connection. There may be no current task."""

    def expect_renewal(self, overdue: bool) -> None:
        """A renewal must be read although other messages wait; or no longer."""

    def replace(self, old: object, new: object) -> None:
        """A user has a new value."""

    def tell(self, frame: type, **fields: object) -> None:
        """Send a frame, without waiting."""


class _Timed:
    """One timer at a time, for a moment that may be far away."""

    def __init__(self, owner: Owner, clock: Clock) -> None:
        self._owner = owner
        self._clock = clock
        self._timer: Timer | None = None
        self._stopped = False

    def _at(self, moment: float, call: Callable[[], None]) -> None:
        """Call ``call`` at a moment."""
        self._cancel()
        if not self._stopped:
            left = max(moment - self._clock.now(), 0.0)
            due = call if left <= LONGEST else partial(self._at, moment, call)
            self._timer = self._clock.after(min(left, LONGEST), due)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stop(self) -> None:
        self._stopped = True
        self._cancel()


@final
class Held(_Timed):
    """The credential that a server's connection is open on.

    Args:
        owner: the session.
        clock: its transport.
        limit: seconds that a renewal may take.
        speaks: whether the peer is told when it ends.

    Attributes:
        credential: the current one; None before the first.
    """

    def __init__(self, owner: Owner, clock: Clock, limit: float, *, speaks: bool) -> None:
        super().__init__(owner, clock)
        self._limit = limit
        self.credential: Credential | None = None
        self._speaks = speaks
        self._ends: float | None = None
        self._overdue = False  # it has ended, and a renewal is expected
        self._looked = False
        self._token: str | None = None  # of a renewal that has not begun
        self._renewing = False
        self._scope: anyio.CancelScope | None = None  # of the next renewal: it may need a task

    def hold(self, credential: Credential) -> None:
        """Hold a new credential, in place of an earlier one."""
        self.credential = credential
        if credential.renew is not None and self._scope is None:
            self._scope = anyio.CancelScope()
        self._expect(False)
        self._looked = False
        self._cancel()
        self._ends = None
        if credential.expires_in is not None:
            self._ends = self._clock.now() + credential.expires_in
            self._look()

    def tell(self) -> None:
        """Tell the peer when the credential ends."""
        if self._speaks and self.credential is not None:
            left = None if self._ends is None else max(self._ends - self._clock.now(), 0.0)
            self._owner.tell(Auth, expires_in=left)

    def _expect(self, overdue: bool) -> None:
        if self._overdue is not overdue:
            self._overdue = overdue
            self._owner.expect_renewal(overdue)

    def _look(self) -> None:
        """Look at the clock: the credential ends, or the time to renew it."""
        credential, ends = self.credential, self._ends
        if self._stopped or credential is None or ends is None:
            return
        now = self._clock.now()
        last = ends + (credential.grace if credential.renew is not None else 0.0)
        if now < ends:
            self._at(ends, self._look)
        elif now < last:
            self._expect(True)
            self._at(last, self._look)
        elif not self._looked:
            self._looked = True
            self._expect(True)
            self._at(now + LOOK, self._look)
        elif not self._renewing:  # a renewal that came in time decides
            self._owner.finish(ENDED)

    def received(self, frame: Auth) -> None:
        credential, scope = self.credential, self._scope
        if self._stopped or scope is None or credential is None or credential.renew is None:
            return
        self._speaks = True
        self._token = frame.token
        if not self._renewing:
            self._renewing = True
            self._owner.errand(RENEWAL, self._renew, scope)

    async def _renew(self) -> None:
        while (token := self._token) is not None:
            self._token = None
            if not await self._renewed(token):
                return
        self._scope = anyio.CancelScope()
        self._renewing = False

    async def _renewed(self, token: str) -> bool:
        """Verify a token. Returns whether the connection goes on."""
        old = self.credential
        if old is None or old.renew is None:
            return True  # the last renewal has brought a credential that is not renewed
        try:
            with anyio.fail_after(self._limit):
                new = await old.renew(token)
        except Reject as refused:
            let_go(refused)
            why = cut_reason(refused.body.strip()) or "the credential is not accepted"
            self._owner.finish(End("policy", EXPIRED, why))
            return False
        if not same(old.identity, new.identity):
            self._owner.finish(End("policy", FORBIDDEN, "the credential is that of another user"))
            return False
        if not self._stopped:
            self._owner.replace(old.user, new.user)
            self.hold(new)
            self.tell()
        return True

    def stop(self) -> None:
        super().stop()
        self._expect(False)


@final
class Renewing(_Timed):
    """How a client's connection renews its credential, when the server says that it ends.

    Args:
        owner: the session.
        clock: its transport.
        ask: returns a credential.
        limit: seconds that it may take.
    """

    def __init__(self, owner: Owner, clock: Clock, ask: Ask, limit: float) -> None:
        super().__init__(owner, clock)
        self._ask = ask
        self._limit = limit
        self._busy = False
        self._scope = anyio.CancelScope()

    def received(self, frame: Auth) -> None:
        if frame.expires_in is None:
            self._cancel()
        else:
            self._wait(max(frame.expires_in * (1 - LEAD), SOONEST))

    def _wait(self, seconds: float) -> None:
        self._at(self._clock.now() + seconds, self._look)

    def _look(self) -> None:
        if not self._busy:
            self._busy = True
            self._owner.errand(RENEWAL, self._renew, self._scope)

    async def _renew(self) -> None:
        try:
            with anyio.fail_after(self._limit):
                token = await self._ask()
        except Exception as exc:
            log.error("the credential could not be renewed; again in %g s", RETRY, exc_info=exc)
            self._wait(RETRY)
        else:
            self._owner.tell(Auth, token=token)
        self._scope = anyio.CancelScope()
        self._busy = False
