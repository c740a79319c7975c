"""The opening handshake on a socket: the end of the request, the answers, and the fast path of
requests that are as nearly all are."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterable
from sys import intern
from typing import NamedTuple, final

from websockets.datastructures import Headers
from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS, Response
from websockets.utils import accept_key

from wsflow.http import status_phrase

_END = b"\r\n\r\n"

NO_CONTENT = (204, 304)
"""Statuses of answers that have none (RFC 9110 §8.6)."""

ALLOW = ("Allow", "GET, HEAD, OPTIONS")

EVERYTHING = ("OPTIONS", "*")
"""The method and the target of a request that asks what the server can do (RFC 9110 §9.3.7)."""


@final
class Head:
    """Finds the end of the opening request in the data that is read.

    Data after it must not be parsed before the handshake is answered.

    Attributes:
        data: what has come of the request.
    """

    def __init__(self) -> None:
        self.data = bytearray()

    def take(self, data: bytes) -> int:
        """How many bytes of ``data`` belong to the request."""
        before = len(self.data)
        self.data += data
        end = self.data.find(_END, max(0, before - len(_END) + 1))  # it may be split between reads
        if end >= 0:
            del self.data[end + len(_END) :]
        return len(self.data) - before


class Acceptance(NamedTuple):
    """The answer to an opening request that asks for a connection in the right way.

    Attributes:
        accept: the value of Sec-WebSocket-Accept, which answers the request's key.
        extensions: that of Sec-WebSocket-Extensions; None for none.
    """

    accept: str
    extensions: str | None = None

    def serialize(self, date: str, subprotocol: str | None) -> bytes:
        """Its bytes.

        Args:
            date: the value of Date.
            subprotocol: the one that was chosen.
        """
        answer = (
            f"HTTP/1.1 101 Switching Protocols\r\nDate: {date}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Accept: {self.accept}\r\n"
        )
        if self.extensions is not None:
            answer += f"Sec-WebSocket-Extensions: {self.extensions}\r\n"
        if subprotocol is not None:
            answer += f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
        return (answer + "\r\n").encode("latin-1")


_TOKEN = r"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_COMMON = re.compile(
    rf"GET ([!-~]+) HTTP/1\.1\r\n"
    rf"((?:{_TOKEN}:[\t -~\x80-\xff]*\r\n){{1,{MAX_NUM_HEADERS}}})\r\n".encode("latin-1")
)
_TOKENS = re.compile(rf"{_TOKEN}(?:[ \t]*,[ \t]*{_TOKEN})*")
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")


class Common(NamedTuple):
    """An opening request on the fast path.

    Attributes:
        target: its target.
        headers: its headers.
        acceptance: the answer to it.
        size: how many bytes it has.
    """

    target: str
    headers: Headers
    acceptance: Acceptance
    size: int


def common(data: bytes, *, largest: int, extensions: bool) -> Common | None:
    """Read a complete opening request at the beginning of ``data``, if it is as nearly all are.

    What is unusual in any way is for the library, which says what is wrong: it is None then. What
    is read here, the library reads likewise, and accepts.

    Args:
        data: what was read.
        largest: the largest request that is read, in bytes.
        extensions: whether one that asks for extensions is for the library.
    """
    found = _COMMON.match(data)
    if found is None or found.end() > min(largest, MAX_LINE_LENGTH):
        return None
    headers = Headers()
    for line in found[2].decode("latin-1").split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        headers[intern(name)] = intern(value.strip(" \t"))  # most are those of other connections
    if extensions and "Sec-WebSocket-Extensions" in headers:
        return None
    if "Content-Length" in headers or "Transfer-Encoding" in headers:
        return None
    try:
        upgrade, version = headers["Upgrade"], headers["Sec-WebSocket-Version"]
        key, options = headers["Sec-WebSocket-Key"], headers["Connection"]
        headers.get("Origin")
    except LookupError:  # there is none, or there are several
        return None
    if upgrade.lower() != "websocket" or version != "13" or not _KEY.fullmatch(key):
        return None
    if not all(map(_TOKENS.fullmatch, (options, *headers.get_all("Sec-WebSocket-Protocol")))):
        return None
    if "upgrade" not in map(str.strip, options.lower().split(",")):
        return None
    return Common(found[1].decode("ascii"), headers, Acceptance(accept_key(key)), found.end())


def asks_to_connect(headers: Headers) -> bool:
    """Whether a request is for a WebSocket, rightly or wrongly (RFC 6455 §4.2.1)."""
    asked = ",".join(headers.get_all("Upgrade")).lower()
    return "websocket" in {each.strip() for each in asked.split(",")}


def refusal(status: int, headers: Iterable[tuple[str, str]], body: bytes) -> Response:
    """An HTTP answer in place of a connection. ``headers`` may replace the type and the length of
    its content: to a HEAD there is none."""
    answer = Headers([("Date", email.utils.formatdate(usegmt=True)), ("Connection", "close")])
    if status not in NO_CONTENT:
        answer["Content-Length"] = str(len(body))
    if body:
        answer["Content-Type"] = "text/plain; charset=utf-8"
    for name, value in headers:
        if name.lower() in ("content-type", "content-length") and name in answer:
            del answer[name]
        answer[name] = value
    return Response(status, status_phrase(status), answer, body)
