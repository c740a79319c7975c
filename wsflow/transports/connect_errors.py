"""Error messages for failed connection attempts, and whether a retry may succeed."""

from __future__ import annotations

import email.utils
import os
import socket
import ssl
import time

from websockets.datastructures import Headers
from websockets.exceptions import (
    InvalidHandshake,
    InvalidMessage,
    InvalidProxyStatus,
    InvalidStatus,
    SecurityError,
)

from wsflow.errors import ConnectError
from wsflow.http import status_phrase
from wsflow.log import shown

PASSING = frozenset({408, 425, 429, *range(500, 600)})
"""HTTP statuses (RFC 9110 §15) after which a later attempt may succeed."""

LONGEST = 3600.0
"""The upper limit of a Retry-After, in seconds."""


def connect_error(exc: Exception, uri: str, open_timeout: float) -> ConnectError:
    """The ConnectError for an exception of ``websockets.connect``."""
    if isinstance(exc, InvalidStatus):
        answer = exc.response
        body = bytes(answer.body or b"").decode("utf-8", "replace")
        return refusal_error(uri, answer.status_code, answer.headers, body)
    if isinstance(exc, TimeoutError):
        return ConnectError(f"{uri} did not answer within {open_timeout:g} s")
    if isinstance(exc, ssl.SSLError):
        said_by_tls = (getattr(exc, name, None) for name in ("verify_message", "reason"))
        why = next(filter(None, said_by_tls), None) or str(exc)
        return ConnectError(f"{uri}: TLS failed: {why}", retryable=isinstance(exc, ssl.SSLEOFError))
    if isinstance(exc, OSError):
        number = None if isinstance(exc, socket.gaierror) else exc.errno
        why = os.strerror(number) if number is not None else exc.strerror or str(exc)
        return ConnectError(f"{uri} cannot be reached: {why or 'the connection was lost'}")
    if isinstance(exc, InvalidProxyStatus):
        status = exc.response.status_code
        return ConnectError(
            f"{uri}: the proxy answered {_said(status)}", status=status, retryable=status in PASSING
        )
    if isinstance(exc, InvalidMessage) and isinstance(exc.__cause__, EOFError):
        return ConnectError(f"{uri} closed the connection without an answer")
    if isinstance(exc, InvalidHandshake | SecurityError):
        return ConnectError(
            f"{uri} does not answer as a WebSocket server: {shown(exc)}", retryable=False
        )
    return ConnectError(f"{uri}: {shown(exc)}", retryable=False)


def refusal_error(uri: str, status: int, headers: Headers, body: str) -> ConnectError:
    """The ConnectError for an HTTP answer that refuses the connection."""
    body = body.strip()
    text = (
        f": {shown(body)}"
        if body not in ("", _said(status)[4:]) and "\n" not in body and len(body) <= 200
        else ""
    )
    return ConnectError(
        f"{uri} answered {_said(status)}{text}",
        status=status,
        headers=tuple(headers.raw_items()),
        body=body,
        retryable=status in PASSING,
        retry_after=retry_after(headers.get("Retry-After")),
    )


def _said(status: int) -> str:
    """A status with its phrase."""
    return f"{status} {status_phrase(status)}".strip()


def retry_after(value: str | None) -> float | None:
    """The seconds of a Retry-After header (RFC 9110 §10.2.3), which has a number or a date; None
    without a valid one."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(LONGEST, float(value))
    try:
        asked = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(LONGEST, max(0.0, asked))
