"""The answer to a plain HTTP request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from wsflow.http import HeaderItems, check_encodable, check_own_headers, header_pairs

HTML = "text/html; charset=utf-8"
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"


@dataclass(frozen=True)
class Response:
    """What a page returns, where a ``str`` (HTML), ``bytes`` or a value (JSON) does not say enough.

    Args:
        body: the body; a ``str`` is sent as UTF-8.
        status: the HTTP status, from 200 to 599.
        headers: more headers, a mapping or pairs.
        content_type: the type of the body; by default HTML for a ``str``, and
            ``application/octet-stream`` for ``bytes``.

    Raises:
        TypeError: the body is neither a str nor bytes, or the headers are not pairs of str.
        ValueError: the status or a header may not be sent.
    """

    body: str | bytes = b""
    status: int = 200
    headers: HeaderItems = ()
    content_type: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.body, str | bytes):
            raise TypeError(
                f"the body of a Response is a {type(self.body).__name__}: use a str or bytes; a "
                "page may return other values as they are, for JSON"
            )
        if not (isinstance(self.status, int) and 200 <= self.status <= 599):
            raise ValueError(f"{self.status!r} is no status of an answer: use one from 200 to 599")
        if self.body and self.status in (204, 205, 304):
            raise ValueError(f"an answer with {self.status} has no body (RFC 9110 §15)")
        if isinstance(self.body, str):
            check_encodable("the body of a Response", self.body)
        object.__setattr__(self, "headers", tuple(header_pairs(self.headers)))  # as it is now
        check_own_headers(self.pairs)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The headers that are sent."""
        kind = self.content_type or (HTML if isinstance(self.body, str) else BINARY)
        said = self.body or self.content_type
        return [*([("Content-Type", kind)] if said else []), *header_pairs(self.headers)]

    @property
    def data(self) -> bytes:
        """The bytes of the body."""
        return self.body.encode() if isinstance(self.body, str) else self.body

    @staticmethod
    def of(value: Any) -> Response:
        """The answer for what a page has returned.

        Raises:
            TypeError: it cannot be encoded.
        """
        return response_of(value, msgspec.json.encode)


def response_of(value: Any, to_json: Callable[[Any], bytes]) -> Response:
    """The answer for what a page has returned, and what encodes it.

    Raises:
        TypeError: it cannot be encoded.
    """
    if isinstance(value, Response):
        return value
    if isinstance(value, str | bytes):
        return Response(value)
    if value is None:
        return Response(status=204)
    return Response(to_json(value), content_type=JSON)
