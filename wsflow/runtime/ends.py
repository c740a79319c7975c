"""The one place that turns what went wrong into how a connection ends."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus

import anyio

from wsflow.connection import End
from wsflow.errors import Close, Reject, check_close_code, cut_reason
from wsflow.runtime.children import leaves, unwrap
from wsflow.transports.base import Transport

ANSWERS = {"error": 500, "slow": 503, "shutdown": 503, "restart": 503}
"""The HTTP status of an end that came before the handshake was answered."""


def end_of(exc: BaseException, *, accepted: bool) -> End:
    """How a connection ends if ``exc`` leaves one of its functions.

    Of an error the wire is told its code, and nothing else.
    """
    error = unwrap(exc)
    if isinstance(error, Close):
        return End("closed", error.code, error.reason)
    if isinstance(error, Reject):
        if accepted:
            return End("policy", 1008, cut_reason(error.body.strip()))
        return End("rejected", error.status, error.body.strip())
    return End("error", 1011, "", error)


def sort(exc: BaseException) -> tuple[Close | Reject | None, list[BaseException]]:
    """What somebody meant, if he did, and what are errors."""
    found = leaves(exc)
    signals = [each for each in found if isinstance(each, Close | Reject)]
    if not signals:
        return None, [unwrap(exc)]
    return signals[0], [each for each in found if each not in signals]


def with_error(end: End, error: BaseException) -> End:
    """The same end, after something failed on the way out.

    An end that would be 1000 becomes 1011: nobody is told that all went well.
    """
    if end.error is not None:
        return end
    if end.code == 1000 and end.cause in ("finished", "closed"):
        return End("error", 1011, "", error)
    return replace(end, error=error)


def is_cancellation(exc: BaseException) -> bool:
    return isinstance(exc, anyio.get_cancelled_exc_class())


def tell(
    transport: Transport,
    end: End,
    accepted: bool,
    subprotocol: str | None,
    rejection: Reject | None,
) -> bool:
    """Tell the peer of an end: an HTTP answer if there was none yet, else a close frame.

    An end with a close code of its own is told by one even then: the handshake is accepted first.

    Returns:
        Whether the handshake is accepted.
    """
    if end.cause in ("peer", "vanished"):
        return accepted  # the peer told us
    status = end.code if end.cause == "rejected" else ANSWERS.get(end.cause)
    if not accepted and status is not None:
        answer = rejection or Reject(status)
        body = answer.body or phrase(status)
        transport.reject(answer.status, answer.headers, body.encode("utf-8", "replace"))
        return False
    if not accepted:
        transport.accept(subprotocol)
    transport.close(end.code, end.reason)
    return True


def sendable(end: End) -> tuple[int, str]:
    """The close code and reason that a client's end is told by."""
    try:
        return check_close_code(end.code), end.reason
    except ValueError:
        return 1000, ""  # it was refused: there is nobody to tell


def phrase(status: int) -> str:
    """What an answer without a text of its own says."""
    try:
        return f"{HTTPStatus(status).phrase}\n"
    except ValueError:
        return ""
