"""Errors, requests, codecs: the leaves."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections import namedtuple
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers

from wsflow import Close, Disconnected, End, Reject, Request
from wsflow.codec import JSON, BadMessage, Decoding, decode_or_refuse, runtime_classes
from wsflow.errors import cut_reason
from wsflow.request import Address, Params
from wsflow.transports.frames import Frame
from wsflow.wiring.messages import unknown_type


@given(st.text())
def test_reasons_are_cut_at_a_character(reason: str) -> None:
    cut = cut_reason(reason)
    assert len(cut.encode()) <= 123
    if len(reason.encode()) <= 123:
        assert cut == reason
    else:
        assert reason.startswith(cut)
        assert len(cut.encode()) > 119


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1014, 3000, 4999])
def test_codes_that_may_be_sent(code: int) -> None:
    assert Close(code, "x").code == code


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2000, 2999, 5000, "1000"])
def test_codes_that_may_not(code: Any) -> None:
    with pytest.raises(ValueError, match="is not a close code that may be sent: use 1000"):
        Close(code)


def test_reject_checks_what_it_sends() -> None:
    assert Reject(302, headers={"Location": "/x"}).headers == (("Location", "/x"),)
    assert Reject(599, headers=[("A", "1"), ("A", "2")]).headers == (("A", "1"), ("A", "2"))
    for status in (200, 101, 299, 600, "404"):
        with pytest.raises(ValueError, match="use a status from 300 to 599"):
            Reject(status)  # type: ignore[arg-type]
    for name in ("a b", "", "x\r\ny", "é"):
        with pytest.raises(ValueError, match="is not a header name"):
            Reject(400, headers={name: "x"})
    for value in ("a\r\nb", "\x00", "\u2603"):
        with pytest.raises(ValueError, match="has a character that is not sent"):
            Reject(400, headers={"X": value})


def test_what_ends_say() -> None:
    assert str(Disconnected()) == "the connection has ended"
    assert str(Disconnected(End("peer", 1000, "bye"))) == "ended: peer (1000 bye)"


def test_a_request_is_read() -> None:
    headers = Headers()
    headers["Cookie"] = "a=1; b=2"
    headers["Sec-WebSocket-Protocol"] = "x, y"
    headers["Sec-WebSocket-Protocol"] = "z"
    request = Request.parse("/a%20b?x=1&x=2&y=&z=%C3%A9", headers, Address("::1", 5))
    assert request.path == "/a%20b"
    assert request.subprotocols == ("x", "y", "z")
    assert dict(request.cookies) == {"a": "1", "b": "2"}
    assert request.query.get_all("x") == ["1", "2"]
    assert dict(request.query) == {"x": "2", "y": "", "z": "é"}
    assert len(request.query) == 3
    assert request.query.get_all("none") == []
    assert repr(Params([("a", "1")])) == "Params({'a': ['1']})"
    assert str(request.client) == "[::1]:5"
    assert str(Address("127.0.0.1", 5)) == "127.0.0.1:5"
    assert Request("/").query == {}
    assert list(Request("/").headers) == []


def test_a_malformed_cookie_is_none() -> None:
    assert Request.parse("/", Headers(Cookie="a,b=1; ok=2")).cookies == {}


def test_queries_that_cannot_be_read() -> None:
    for query in ("&".join(["a=1"] * 1001), "a=%ff"):
        with pytest.raises(ValueError):
            Request.parse(f"/?{query}", Headers())


@given(st.binary(max_size=200), st.booleans())
def test_frames_of_small_messages(payload: bytes, text: bool) -> None:
    wire = Frame(payload, text).wire
    assert wire[0] == (0x81 if text else 0x82)
    assert wire.endswith(payload)


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_frames_are_as_websockets_builds_them(size: int) -> None:
    from websockets.frames import Frame as WireFrame
    from websockets.frames import Opcode

    payload = bytes(size)
    assert Frame(payload, False).wire == WireFrame(Opcode.BINARY, payload).serialize(mask=False)


class Color(Enum):
    RED = "red"


class Point(NamedTuple):
    x: int


class Movie(TypedDict):
    title: str


@dataclass
class Data:
    x: int


class Say(msgspec.Struct, tag="say"):
    text: str
    extra: Any = None

    def __post_init__(self) -> None:
        if self.text == "value":
            raise ValueError("not this one")
        if self.text == "bug":
            raise KeyError("secret")


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        (Any, {object}),
        (None, {type(None)}),
        (bool, {bool}),
        (int | float, {int, float}),
        (Annotated[str, msgspec.Meta(max_length=3)], {str}),
        (bytes, {bytes}),
        (bytearray, {bytearray}),
        (memoryview, {memoryview}),
        (datetime.datetime, {datetime.datetime}),
        (datetime.date, {datetime.date}),
        (datetime.time, {datetime.time}),
        (datetime.timedelta, {datetime.timedelta}),
        (uuid.UUID, {uuid.UUID}),
        (decimal.Decimal, {decimal.Decimal}),
        (msgspec.Raw, {msgspec.Raw}),
        (msgspec.msgpack.Ext, {msgspec.msgpack.Ext}),
        (dict[str, int], {dict}),
        (Movie, {dict}),
        (list[int], {list}),
        (set[int], {set}),
        (frozenset[int], {frozenset}),
        (tuple[int, ...], {tuple}),
        (tuple[int, str], {tuple}),
        (Literal["a", "b"], {str}),
        (Color, {Color}),
        (Point, {Point}),
        (Data, {Data}),
        (Say | None, {Say, type(None)}),
    ],
)
def test_the_classes_of_decoded_values(kind: Any, classes: set[type]) -> None:
    assert set(runtime_classes(kind)) == classes


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "Input data was truncated"),
        (b'{"type":"say","text":"value"}', "not this one"),
        (b'{"type":"say","text":"bug"}', "not a valid message"),
        (b'{"type":"say","text":"\xff"}', "not UTF-8 at byte"),
        (b'{"type":"say","text":"","extra":' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_the_one_boundary(data: bytes, reason: str) -> None:
    decoding = Decoding(JSON, {Say: "taker"}, None, None)
    with pytest.raises(BadMessage) as raised:
        decode_or_refuse(decoding.text[0], data)
    assert raised.value.code == 1007
    assert reason in raised.value.reason
    assert "secret" not in raised.value.reason
    assert (raised.value.__cause__ is not None) == ("valid message" in reason)


@given(st.binary(max_size=60))
def test_whatever_comes_is_a_message_or_a_bad_one(data: bytes) -> None:
    decoding = Decoding(JSON, {Say: "taker"}, None, "raw")
    assert decoding.binary == (bytes, "raw")
    try:
        outcome = decoding.taker(decode_or_refuse(decoding.text[0], data))
    except BadMessage as exc:
        outcome = str(exc.code)
    assert outcome in ("taker", "1007")


def test_raw_text_that_is_no_text() -> None:
    decoding: Decoding[str] = Decoding(JSON, {}, "text", None)
    decode, taker = decoding.text
    assert (decode(b"abc"), taker) == ("abc", "text")
    with pytest.raises(BadMessage, match="not UTF-8 at byte 1"):
        decode_or_refuse(decode, b"a\xff")
    with pytest.raises(BadMessage, match="no consumer takes binary"):
        decode_or_refuse(decoding.binary[0], b"a")


def test_any_and_encoding() -> None:
    decoding = Decoding(JSON, {Any: "any"}, None, None)
    assert decoding.taker(decoding.text[0](b"[1]")) == "any"
    assert JSON.frame(memoryview(b"ab")).payload == b"ab"
    assert repr(JSON) == "<codec json>"
    assert decode_or_refuse(bytes.decode, b"x") == "x"


class Alien: ...


class Node(msgspec.Struct):
    next: Node | None
    value: dict[str, list[Alien]]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Any, None),
        (object, None),
        (Say, None),
        (Node, "Alien"),
        (Alien, "Alien"),
        (list[Alien], "Alien"),
        (tuple[int, Alien], "Alien"),
        (namedtuple("Plain", "x"), None),
        (set[set[int] | frozenset[Alien]], "set[set[int] | frozenset[Alien]]"),
    ],
)
def test_types_that_msgspec_does_not_know(kind: Any, name: str | None) -> None:
    assert unknown_type(kind) == name
