"""The fast path of opening requests: what it reads, the library reads likewise, and accepts."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.http11 import MAX_LINE_LENGTH, Request
from websockets.server import ServerProtocol

from tests.raw import request
from wsflow.transports import library
from wsflow.transports.handshake import Acceptance, Common, common

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
BROWSER = (
    "GET /chat/1?a=b%20c HTTP/1.1",
    "Host: example.com:8765",
    "Connection: keep-alive, Upgrade",
    "Pragma: no-cache",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64)",
    "Upgrade: websocket",
    "Origin: https://example.com",
    "Sec-WebSocket-Version: 13",
    "Cookie: a=1; b=\xe9",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: chat, superchat",
)


def written(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def at_once(data: bytes, *, deflate: bool = False, largest: int = 65536) -> Common | None:
    return common(data, largest=largest, extensions=deflate)


def by_the_library(data: bytes, *, deflate: bool) -> tuple[Request, bytes] | None:
    """The request and the answer to it; None if it is not accepted."""
    protocol = ServerProtocol(extensions=[library._DEFLATE] if deflate else None)
    protocol.logger.setLevel("CRITICAL")
    protocol.receive_data(data)
    for event in protocol.events_received():
        assert isinstance(event, Request)
        response = protocol.accept(event)
        if response.status_code == 101:
            return event, response.serialize()
    return None


def agree(data: bytes, *, deflate: bool) -> bool:
    """Whether it took the fast path; then the library has accepted it, with the same answer."""
    found = at_once(data, deflate=deflate)
    if found is None:
        return False
    accepted = by_the_library(data[: found.size], deflate=deflate)
    assert accepted is not None, data
    asked, answer = accepted
    assert (found.target, list(found.headers.raw_items())) == (
        asked.path,
        list(asked.headers.raw_items()),
    )
    date = re.search(rb"Date: (.*?)\r\n", answer)
    assert date is not None
    assert found.acceptance.serialize(date[1].decode(), None) == answer
    return True


# -- requests, and what is wrong with them

lines = st.one_of(
    st.sampled_from(
        [
            *BROWSER,
            DEFLATE,
            "Sec-WebSocket-Extensions: x",
            "Sec-WebSocket-Extensions: ;",
            "Content-Length: 0",
            "Content-Length: 5",
            "Transfer-Encoding: chunked",
            "Upgrade: WebSocket",
            "Upgrade: h2c, websocket",
            "Upgrade: websocket/13",
            "Connection: upgrade",
            "Connection: close",
            "Connection: ,Upgrade",
            "Connection: Upgrade\t,\tx",
            "Connection: Upgrade;q=1",
            "connection:Upgrade",
            "Sec-WebSocket-Version: 8",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==",
            "Sec-WebSocket-Key: ",
            "Sec-WebSocket-Protocol: ",
            "Sec-WebSocket-Protocol: a b",
            "Origin: null",
            " folded: line",
            "no colon",
            "A:",
            "A: \t b \t",
            "A : b",
            ": empty",
            "A: \x7f",
            "A: \x00",
            "A: \xa0\x85b\xa0",
            "A: a\nB: b",
            "A: a\rB: b",
            "A: " + "x" * 8190,
        ]
    ),
    st.builds(
        "{}: {}".format,
        st.text(st.characters(max_codepoint=255), max_size=6),
        st.text(st.characters(max_codepoint=255), max_size=12),
    ),
)
first_lines = st.sampled_from(
    [
        BROWSER[0],
        "GET / HTTP/1.1",
        "GET / HTTP/1.0",
        "GET  / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /\xe9 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET  HTTP/1.1",
        "get / HTTP/1.1",
        "HEAD / HTTP/1.1",
        "POST / HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET http://example.com/ HTTP/1.1",
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A browser's request: with lines replaced, removed or added, and characters changed."""
    first, *headers = BROWSER
    if draw(st.booleans()):
        first = draw(first_lines)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(headers)))
        headers[at : at + draw(st.integers(0, 1))] = draw(st.lists(lines, max_size=1))
    data = bytearray(written(first, *draw(st.permutations(headers))))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


@settings(max_examples=1000, deadline=None)
@given(requests(), st.booleans())
@example(written(BROWSER[0], *["A: b"] * 117, *BROWSER[1:]), False)
@example(written(BROWSER[0], *["A: b"] * 120, *BROWSER[1:]), False)
@example(written(*BROWSER, "A: " + "x" * (MAX_LINE_LENGTH - 4)), False)
@example(written(*BROWSER, "Origin: https://example.com"), False)
def test_what_takes_the_fast_path_the_library_accepts_likewise(data: bytes, deflate: bool) -> None:
    agree(data, deflate=deflate)


def test_what_clients_send_takes_the_fast_path() -> None:
    assert agree(written(*BROWSER), deflate=True)
    assert agree(written(*BROWSER[:-1]), deflate=False)
    assert agree(written(*BROWSER, DEFLATE), deflate=False)
    assert agree(request("/", b"Content-Type: text/plain\r\n"), deflate=False)
    assert agree(request() + b"\x81\x80\0\0\0\0", deflate=False)


def test_what_is_unusual_is_for_the_library() -> None:
    assert at_once(written(*BROWSER, DEFLATE), deflate=True) is None
    assert at_once(written(*BROWSER)[:-1]) is None
    size = len(written(*BROWSER))
    assert at_once(written(*BROWSER), largest=size) is not None
    assert at_once(written(*BROWSER), largest=size - 1) is None
    for line, other in [
        ("Upgrade: websocket", "Upgrade: h2c"),
        ("Connection: keep-alive, Upgrade", "Connection: keep-alive"),
        ("Connection: keep-alive, Upgrade", "Connection: keep-alive,, Upgrade"),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Key: short"),
        ("Pragma: no-cache", "Content-Length: 0"),
        ("Pragma: no-cache", "Transfer-Encoding: chunked"),
        ("Pragma: no-cache", "Origin: https://example.com"),
    ]:
        assert at_once(written(*[other if each == line else each for each in BROWSER])) is None


def test_an_answer_says_what_was_agreed() -> None:
    assert Acceptance("key", "permessage-deflate").serialize("now", "chat").split(b"\r\n") == [
        b"HTTP/1.1 101 Switching Protocols",
        b"Date: now",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: key",
        b"Sec-WebSocket-Extensions: permessage-deflate",
        b"Sec-WebSocket-Protocol: chat",
        b"",
        b"",
    ]
