"""How one connection ends: exceptions go in, one End comes out, and nothing is lost.

The first end counts. What fails after it is logged, and stands in ``End.error`` if nothing did.
Of an error the wire is told its code, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import final

import anyio

from wsflow.declare.router import Handler
from wsflow.end import CAUSE_OF_CODE, End, check_close_code, cut_reason
from wsflow.errors import Close, ConnectError, Disconnected, Reject, leaves, unwrap
from wsflow.http import status_phrase
from wsflow.messages.codec import BadMessage
from wsflow.transports.base import Transport

log = logging.getLogger("wsflow")

FINISHED = End("finished", 1000)
VANISHED = End("vanished", 1006)
SHUTDOWN = End("shutdown", 1001)
RESTART = End("restart", 1012)
SLOW = End("slow", 1013, "the messages are not read fast enough")
OVERFLOWN = End("policy", 1008, "more messages came than can wait during a call")

PEER_LEFT = frozenset({"peer", "vanished"})
"""Causes of an end that the peer knows already."""

RAISED = "%s raised %s"

ANSWERS = {"error": 500, "slow": 503, "shutdown": 503, "restart": 503}
"""The HTTP status of an end that came before the handshake was answered."""


def is_cancellation(exc: BaseException) -> bool:
    return isinstance(exc, anyio.get_cancelled_exc_class())


def end_of(exc: BaseException, *, accepted: bool) -> End:
    """How a connection ends if ``exc`` leaves one of its functions.

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
    return End("error", 1011, "", exc)


def end_of_bad_message(bad: BadMessage) -> End:
    """How it ends when the peer has sent what cannot be decoded, or what it may not."""
    return End(CAUSE_OF_CODE[bad.code], bad.code, cut_reason(bad.reason))


def end_of_protocol_error(code: int, reason: str) -> End:
    """How it ends when the peer broke the protocol, or a limit."""
    return End(CAUSE_OF_CODE.get(code, "protocol"), code, reason)


def end_of_refusal(error: ConnectError) -> End:
    """How a client's connection ends that was not taken."""
    if error.status is not None:
        return End("rejected", error.status, cut_reason(error.body), error)
    return End("unreachable", 1006, cut_reason(str(error)), error)


def refuse(transport: Transport, rejection: Reject) -> None:
    """Answer a handshake with an HTTP error; without a body it says its status."""
    phrase = status_phrase(rejection.status)
    body = rejection.body or (f"{phrase}\n" if phrase else "")
    transport.reject(rejection.status, rejection.headers, body.encode("utf-8", "replace"))


@final
class Ending:
    """Decides how a connection ends, and logs what went wrong.

    Args:
        id: the connection's id, for the log.
        template: its path, for the log.

    Attributes:
        end: how it ended; None while it is open.
        errors: what failed and nobody handled, in order.
        overran: whether something had to be cut off because its time was over.
        left_behind: handlers that swallowed their cancellation, and may still run.
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
    )

    def __init__(self, id: str, template: str) -> None:
        self._id = id
        self._template = template
        self._rejection: Reject | None = None
        self._provisional = False  # the end is a cancellation whose cause may come to be known
        self.end: End | None = None
        self.errors: list[BaseException] = []
        self.overran = False
        self.left_behind: list[str] = []

    # -- what decides the end

    def settle(self, end: End) -> End:
        """End so, unless it has ended. Returns how it ended."""
        if self.end is None:
            self.end = end
        return self.end

    def raised(self, what: object, exc: BaseException, *, accepted: bool) -> bool:
        """An exception has left ``what``: that decides the end, unless it came too late.

        Returns:
            Whether the connection is to stop. Once it has ended, ``Disconnected`` is no error.
        """
        cause, errors = exc, [exc]
        if isinstance(exc, BaseExceptionGroup):
            cause, errors = _sort(exc)
        elif isinstance(exc, Close | Reject):
            errors = []
        if self.end is None or self._provisional:
            self._provisional = False
            self.end = end_of(cause, accepted=accepted)
            self._rejection = cause if isinstance(cause, Reject) else None
        elif isinstance(cause, Disconnected):
            return False
        for error in errors:
            self.failed(what, error)
            if self.end.error is None:
                self.end = _with_error(self.end, error)
        return True

    def cancelled(self, what: object) -> None:
        """Somebody else has cancelled ``what``. What leaves a scope function may yet say why."""
        if self.end is None:
            self.end = End("error", 1011, "", RuntimeError(f"{what} was cancelled from outside"))
            self._provisional = True

    def reject(self, status: int, *, accepted: bool) -> None:
        """It ends with an HTTP error, unless it has ended; after the handshake, with 1008."""
        if self.end is None:
            self._rejection = Reject(status)
            self.end = end_of(self._rejection, accepted=accepted)

    def confirm(self) -> None:
        """It is over: if it was cancelled by somebody else, nothing has said why."""
        if self._provisional and self.end is not None and self.end.error is not None:
            self.failed("the connection", self.end.error)

    # -- telling the peer

    def tell(self, transport: Transport, accepted: bool, subprotocol: str | None) -> bool:
        """Tell the peer: by an HTTP answer if there was none yet, else by a close frame.

        An end with a close code of its own is told by one even then: the handshake is accepted
        first.

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
            refuse(transport, self._rejection or Reject(status))
            return False
        if not accepted:
            transport.accept(subprotocol)
        transport.close(end.code, end.reason)
        return True

    # -- the log

    def failed(self, what: object, exc: BaseException) -> None:
        """Something raised, and nobody handled it."""
        self.errors.append(exc)
        self._log(logging.ERROR, RAISED, what, type(exc).__name__, exc_info=exc)

    def note(self, what: object, exc: BaseException) -> None:
        """Something raised, and it is the peer's doing; but somebody should look at it."""
        self._log(logging.ERROR, RAISED, what, type(exc).__name__, exc_info=exc)

    def scope_cancelled(self, handler: Handler, why: str) -> None:
        """A step of a scope function was cancelled."""
        self._log(logging.ERROR, "%s (%s) %s", handler, handler.where, why)

    def cut_off(self, running: Sequence[str]) -> None:
        """Handlers were given time to finish, and it is over."""
        self.overran = True
        names = ", ".join(running) or "nothing"
        self._log(logging.WARNING, "cancelled, for its time was over: %s", names)

    def stuck(self, running: Sequence[str], seconds: float) -> None:
        """Handlers do not end although they were cancelled."""
        self.overran = True
        self.left_behind += running
        self._log(
            logging.ERROR,
            "cancelled %g seconds ago and still running: %s. "
            "A handler must not catch its cancellation and go on",
            seconds,
            ", ".join(running) or "nothing",
        )

    def _log(
        self, level: int, text: str, *values: object, exc_info: BaseException | None = None
    ) -> None:
        place = f"connection {self._id} at {self._template}: "
        log.log(level, "%s" + text, place, *values, exc_info=exc_info)


def _sort(exc: BaseException) -> tuple[BaseException, list[BaseException]]:
    """Of a group, what decides the end, and what are errors.

    What was raised to end the connection comes first; without that, all of it is one error.
    """
    found = leaves(exc)
    for each in found:
        if isinstance(each, Close | Reject):
            return each, [other for other in found if not isinstance(other, Close | Reject)]
    error = unwrap(exc)
    return error, [error]


def _with_error(end: End, error: BaseException) -> End:
    """The same end, after something failed on the way out.

    An end that would be 1000 becomes 1011: nobody is told that all went well.
    """
    if end.code == 1000 and end.cause in ("finished", "closed"):
        return End("error", 1011, "", error)
    return replace(end, error=error)


def _sendable(end: End) -> tuple[int, str]:
    """The close code and reason that a client's end is told by."""
    try:
        return check_close_code(end.code), end.reason
    except ValueError:
        return 1000, ""  # it was refused: there is nobody to tell
