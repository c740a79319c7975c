"""How a connection ends: from exceptions to one ``End``.

Only the first end takes effect. Later errors are logged, and ``End.error`` is the first error. The
peer receives the close code of an error, and no details.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import final

import anyio

from wsflow.credential import FORBIDDEN
from wsflow.declare.router import Handler
from wsflow.end import CAUSE_OF_CODE, End, check_close_code, cut_reason
from wsflow.errors import (
    Close,
    ConnectError,
    Disconnected,
    Forbidden,
    InvalidMessage,
    Reject,
    leaves,
    let_go,
    unwrap,
)
from wsflow.http import status_phrase
from wsflow.log import Log
from wsflow.messages.codec import BadMessage
from wsflow.transports.base import Transport
from wsflow.transports.handshake import NO_CONTENT

log = Log("wsflow")

FINISHED = End("finished", 1000)
VANISHED = End("vanished", 1006)
SHUTDOWN = End("shutdown", 1001)
RESTART = End("restart", 1012)
SLOW = End("slow", 1013, "the messages are not read fast enough")
OVERFLOWN = End("policy", 1008, "too many messages are waiting while a call is pending")

PEER_LEFT = frozenset({"peer", "vanished"})
"""Causes of an end by the peer, which needs no close frame."""

MEANT = (Close, Reject, Forbidden)
"""What functions raise to end their connection on purpose; it is no error."""

RAISED = "%s raised %s"

ANSWERS = {"error": 500, "slow": 503, "shutdown": 503, "restart": 503}
"""The HTTP status of an end before the handshake was answered."""


def is_cancellation(exc: BaseException) -> bool:
    return isinstance(exc, anyio.get_cancelled_exc_class())


def end_of(exc: BaseException, *, accepted: bool) -> End:
    """How a connection ends if one of its functions raises ``exc``.

    Args:
        exc: not a group, unless it holds several errors.
        accepted: whether the handshake has been answered.
    """
    if isinstance(exc, Close):
        return End("closed", exc.code, exc.reason)
    if isinstance(exc, Reject):
        if accepted:
            return End("policy", 1008, cut_reason(exc.body.strip()))
        return End("rejected", exc.status, exc.body.strip())
    if isinstance(exc, InvalidMessage):
        return End("invalid", 1007, cut_reason(str(exc)))
    if isinstance(exc, Forbidden):
        if accepted:
            return End("policy", FORBIDDEN, cut_reason(str(exc)))
        return End("rejected", 403, str(exc).strip())
    return End("error", 1011, "", exc)


def end_of_bad_message(bad: BadMessage) -> End:
    """How it ends when the peer has sent a message that is not accepted."""
    return End(CAUSE_OF_CODE[bad.code], bad.code, cut_reason(str(bad)))


def end_of_protocol_error(code: int, reason: str) -> End:
    """How it ends when the peer violates the protocol or a limit."""
    return End(CAUSE_OF_CODE.get(code, "protocol"), code, reason)


def end_of_refusal(error: ConnectError) -> End:
    """How a client's connection ends that was refused, or could not be made."""
    if error.status is not None:
        return End("rejected", error.status, cut_reason(error.body), error)
    return End("unreachable", 1006, cut_reason(str(error)), error)


VISIBLE = "wsflow.refuse"
"""The subprotocol of clients that cannot see an HTTP answer to their handshake: pages."""


def refuse(transport: Transport, rejection: Reject, offered: Sequence[str] = ()) -> None:
    """Refuse a handshake: with an HTTP error; or, if the client has offered ``VISIBLE``, by
    accepting it and closing at once with 4000 and the status."""
    if VISIBLE not in offered:
        transport.reject(rejection.status, rejection.headers, body_of(rejection))
        return
    reason = body_of(rejection).decode().partition("\n")[0]
    transport.accept(VISIBLE)
    transport.close(4000 + rejection.status, cut_reason(reason))


def body_of(rejection: Reject) -> bytes:
    """The body of an HTTP error; by default the reason phrase."""
    phrase = status_phrase(rejection.status)
    body = rejection.body or (f"{phrase}\n" if phrase else "")
    return b"" if rejection.status in NO_CONTENT else body.encode("utf-8", "replace")


@final
class Ending:
    """Decides how a connection ends, and logs errors.

    Args:
        id: the connection's id, for the log.
        template: its path, for the log.

    Attributes:
        end: how it ended; None while it is open.
        errors: the unhandled errors, in order.
        refused: the HTTP status with which the handshake was refused; None if it was not.
        overran: whether handlers were cancelled because their time was over, or did not end.
        left_behind: handlers that have swallowed their cancellation, and may still run.
    """

    __slots__ = (
        "_id",
        "_provisional",
        "_rejection",
        "_template",
        "end",
        "errors",
        "left_behind",
        "overran",
        "refused",
    )

    def __init__(self, id: str, template: str) -> None:
        self._id = id
        self._template = template
        self._rejection: Reject | None = None
        self._provisional = False  # the end is a cancellation, whose cause may still be reported
        self.end: End | None = None
        self.errors: tuple[BaseException, ...] = ()
        self.refused: int | None = None
        self.overran = False
        self.left_behind: tuple[str, ...] = ()

    # -- deciding the end

    def settle(self, end: End) -> End:
        """Set the end, unless there is one. Returns the end."""
        if self.end is None:
            self.end = end
        return self.end

    def raised(self, what: object, exc: BaseException, *, accepted: bool) -> bool:
        """``what`` has raised an exception: it decides the end, unless there is one.

        Returns:
            Whether the connection must stop. Once it has ended, ``Disconnected`` is not an error.
        """
        cause, errors = exc, [exc]
        if isinstance(exc, BaseExceptionGroup):
            cause, errors = _sort(exc)
        elif isinstance(exc, InvalidMessage) and exc.__cause__ is None:
            self.invalid(exc)
            errors = []
        elif isinstance(exc, MEANT):
            errors = []
        for each in leaves(exc):
            if isinstance(each, MEANT):
                let_go(each)
        try:
            cause = _copied(cause)
        except Exception as broken:
            cause = broken
            errors.append(broken)
        if self.end is None or self._provisional:
            self._provisional = False
            self.end = end_of(cause, accepted=accepted)
            self._rejection = _rejection_of(cause)
        elif isinstance(cause, Disconnected):
            return False
        for error in errors:
            self.failed(what, error)
            if self.end.error is None:
                self.end = _with_error(self.end, error)
        return True

    def cancelled(self, what: object) -> None:
        """``what`` was cancelled from outside. An exception of a scope function may still replace
        this end by its cause."""
        self.end = End("error", 1011, "", RuntimeError(f"{what} was cancelled from outside"))
        self._provisional = True

    def reject(self, status: int, *, accepted: bool) -> None:
        """End with an HTTP error, or with 1008 after the handshake, unless there is an end."""
        if self.end is None:
            self._rejection = Reject(status)
            self.end = end_of(self._rejection, accepted=accepted)

    def confirm(self) -> None:
        """The connection is over: log a cancellation from outside whose cause was not reported."""
        if self._provisional and self.end is not None and self.end.error is not None:
            self.failed("the connection", self.end.error)

    # -- closing

    def tell(
        self,
        transport: Transport,
        accepted: bool,
        subprotocol: str | None,
        offered: Sequence[str] = (),
    ) -> bool:
        """Send the end to the peer: by a refusal before the handshake, else by a close frame.

        An end that has only a close code is sent by a close frame in any case: the handshake is
        accepted first.

        Returns:
            Whether the handshake is accepted.
        """
        end = self.end
        if end is None or end.cause in PEER_LEFT:
            return accepted
        if transport.dials:
            transport.close(*_sendable(end))
            return accepted
        status = end.code if end.cause == "rejected" else ANSWERS.get(end.cause)
        if not accepted and status is not None:
            self.refused = status
            refuse(transport, self._rejection or Reject(status), offered)
            return False
        if not accepted:
            transport.accept(subprotocol)
        transport.close(end.code, end.reason)
        return True

    # -- the log

    def failed(self, what: object, exc: BaseException) -> None:
        """Log an unhandled error, and keep it."""
        self.errors += (exc,)
        self._log(logging.ERROR, RAISED, what, type(exc).__name__, exc_info=exc)

    def note(self, what: object, exc: BaseException) -> None:
        """Log an error of decoding a message, which does not count as an error of a handler."""
        self._log(logging.ERROR, RAISED, what, type(exc).__name__, exc_info=exc)

    def invalid(self, why: Exception) -> None:
        """Log why a message is not accepted, at most once per second: peers cause that."""
        log.often(logging.WARNING, "%sinvalid message: %s", self._place, why)

    def scope_cancelled(self, handler: Handler, why: str) -> None:
        """Log that a step of a scope function was cancelled."""
        self._log(logging.ERROR, "%s (%s) %s", handler, handler.where, why)

    def cut_off(self, running: Sequence[str]) -> None:
        """Log the handlers that are cancelled because their time is over."""
        self.overran = True
        names = ", ".join(running) or "nothing"
        self._log(logging.WARNING, "cancelled because the time was over: %s", names)

    def stuck(self, running: Sequence[str], seconds: float) -> None:
        """Log the handlers that swallow their cancellation."""
        self.overran = True
        self.left_behind += tuple(running)
        self._log(
            logging.ERROR,
            "cancelled %g seconds ago and still running: %s. "
            "A handler must not swallow its cancellation",
            seconds,
            ", ".join(running) or "nothing",
        )

    def _log(
        self, level: int, text: str, *values: object, exc_info: BaseException | None = None
    ) -> None:
        log.log(level, "%s" + text, self._place, *values, exc_info=exc_info)

    @property
    def _place(self) -> str:
        return f"connection {self._id} at {self._template}: "


def _sort(exc: BaseException) -> tuple[BaseException, list[BaseException]]:
    """The exception of a group that decides the end, and its errors.

    ``Close``, ``Reject`` and ``Forbidden`` take precedence; without them, the group is one error.
    """
    found = leaves(exc)
    for each in found:
        if isinstance(each, MEANT):
            return each, [other for other in found if not isinstance(other, MEANT)]
    error = unwrap(exc)
    return error, [error]


def _copied(exc: BaseException) -> BaseException:
    """The same ``Close``, ``Reject`` or ``Forbidden``, made anew: a subclass may have left out an
    attribute, and a handler may have changed one.

    Raises:
        Exception: it has none that may be sent.
    """
    if isinstance(exc, Close):
        return Close(exc.code, exc.reason)
    if isinstance(exc, Forbidden):
        return Forbidden(str(exc))
    return Reject(exc.status, exc.body, exc.headers) if isinstance(exc, Reject) else exc


def _rejection_of(exc: BaseException) -> Reject | None:
    """The answer to a handshake that an exception has refused; None without one."""
    if isinstance(exc, Forbidden):
        return Reject(403, f"{exc}\n")
    return exc if isinstance(exc, Reject) else None


def _with_error(end: End, error: BaseException) -> End:
    """The same end with an error of the tear-down.

    An end with 1000 becomes one with 1011, since the connection did not end normally.
    """
    if end.code == 1000 and end.cause in ("finished", "closed"):
        return End("error", 1011, "", error)
    return replace(end, error=error)


def _sendable(end: End) -> tuple[int, str]:
    """The close code and reason that a client sends for an end."""
    try:
        return check_close_code(end.code), end.reason
    except ValueError:
        return 1000, ""  # it was refused: there is no peer to send it to
