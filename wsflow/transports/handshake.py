"""The opening handshake on a socket: the end of the request, and refusals."""

from __future__ import annotations

import email.utils
from collections.abc import Iterable
from typing import final

from websockets.datastructures import Headers
from websockets.http11 import Response

from wsflow.http import status_phrase

_END = b"\r\n\r\n"


@final
class Head:
    """Finds the end of the opening request in the data that is read.

    Data after it must not be parsed before the handshake is answered.

    Attributes:
        size: how many bytes of the request have come.
    """

    def __init__(self) -> None:
        self.size = 0
        self._tail = b""  # the last bytes, since the end may be split between two reads

    def take(self, data: bytes) -> int:
        """How many bytes of ``data`` belong to the request."""
        seen = self._tail + data
        end = seen.find(_END)
        size = len(data) if end < 0 else end + len(_END) - len(self._tail)
        self._tail = seen[-3:]
        self.size += size
        return size


def refusal(status: int, headers: Iterable[tuple[str, str]], body: bytes) -> Response:
    """An HTTP answer that refuses the handshake. ``headers`` may replace the content type."""
    answer = Headers(
        [
            ("Date", email.utils.formatdate(usegmt=True)),
            ("Connection", "close"),
            ("Content-Length", str(len(body))),
            ("Content-Type", "text/plain; charset=utf-8"),
        ]
    )
    for name, value in headers:
        if name.lower() == "content-type":
            del answer[name]
        answer[name] = value
    return Response(status, status_phrase(status), answer, body)
