"""Messages to payloads and back."""

from __future__ import annotations

import datetime
import decimal
import uuid
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsflow.messages.codec import (
    JSON,
    MSGPACK,
    BadMessage,
    Decoding,
    decode_or_refuse,
)
from wsflow.messages.shapes import runtime_classes


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
    assert JSON.encoded(memoryview(b"ab")).payload == b"ab"
    assert repr(JSON) == "<codec json>"
    assert decode_or_refuse(bytes.decode, b"x") == "x"


def test_integers_that_a_codec_has_not() -> None:
    for number in (2**64, -(2**63) - 1, [2**70]):
        assert JSON.pack(number)[0] == msgspec.json.encode(number)
        for _ in range(2):  # a class that is new, and one that is known
            with pytest.raises(TypeError, match="cannot be encoded as msgpack: can't serialize"):
                MSGPACK.pack(number)
