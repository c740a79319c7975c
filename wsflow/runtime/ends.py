"""The one place that turns what went wrong into how a connection ends."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus

import anyio

from wsflow.connection import End
from wsflow.errors import Close, Reject, cut_reason
from wsflow.runtime.children import unwrap

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


def with_error(end: End, error: BaseException) -> End:
    """The same end, after something failed on the way out.

    An end that would be 1000 becomes 1011: nobody is told that all went well.
    """
    if end.error is not None:
        return end
    if end.code == 1000 and end.cause in ("finished", "closed"):
        return End("error", 1011, "", error)
    return replace(end, error=error)


def is_error(exc: BaseException) -> bool:
    """Whether an exception is nobody's way of ending a connection."""
    return not isinstance(unwrap(exc), Close | Reject)


def is_cancellation(exc: BaseException) -> bool:
    return isinstance(exc, anyio.get_cancelled_exc_class())


def answer(end: End) -> int | None:
    """The HTTP status that tells a peer of an end before the handshake; None to accept first."""
    if end.cause == "rejected":
        return end.code
    return ANSWERS.get(end.cause)


def phrase(status: int) -> str:
    """What an answer without a text of its own says."""
    try:
        return f"{HTTPStatus(status).phrase}\n"
    except ValueError:
        return ""
