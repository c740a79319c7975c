"""In which codecs a message goes to the broker, and how who needs another one gets it."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import uuid
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec
import pytest

from wsflow import EventId, Limits, Router, Topic, TopicName
from wsflow.messages.codec import CODECS, JSON, MSGPACK
from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.events import Envelope, Event, TopicOptions, UnreadableError
from wsflow.testing import serve_in_memory
from wsflow.topics.type import TopicType

BOTH = tuple(CODECS.values())


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Data:
    at: datetime.datetime
    name: str = "x"


class Pair(NamedTuple):
    a: int
    b: bytes


class Typed(TypedDict, total=False):
    price: decimal.Decimal


class Inner(msgspec.Struct, array_like=True):
    id: uuid.UUID
    tags: set[str]


class Wide(msgspec.Struct, tag="wide", rename="camel", omit_defaults=True):
    some_bytes: bytes
    inner: Inner
    data: Data
    pair: Pair
    typed: Typed
    color: Color
    by_number: dict[int, list[float]]
    since: datetime.timedelta
    day: datetime.date
    nothing: str | None = None
    default: int = 3


class Plain(msgspec.Struct, tag="plain", rename="camel", omit_defaults=True):
    some_bytes: bytes
    inner: Inner
    color: Color
    by_number: dict[int, list[bool]]
    nothing: str | None = None
    default: int = 3


class Carries(msgspec.Struct, tag="carries"):
    text: str
    id: Annotated[str, EventId()] = ""


class Loose(msgspec.Struct, tag="loose"):
    value: Any


class Raw(msgspec.Struct, tag="raw"):
    value: msgspec.Raw


WIDE = Wide(
    b"\x00\xff",
    Inner(uuid.UUID(int=7), {"a"}),
    Data(datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=datetime.UTC)),
    Pair(1, b"b"),
    {"price": decimal.Decimal("1.50")},
    Color.RED,
    {-1: [1.0, 2.5]},
    datetime.timedelta(seconds=1.5),
    datetime.date(2026, 1, 2),
)


PLAIN = Plain(b"\x00\xff", Inner(uuid.UUID(int=7), {"a"}), Color.RED, {-1: [True]})


def kind(*types: Any, history: int = 0) -> TopicType:
    return TopicType(types, TopicOptions(history=history), BOTH)


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ((Plain,), PLAIN),
        ((Plain, Carries), PLAIN),
        ((int,), 15),
        ((list[int],), [1, 2]),
        ((str,), "text"),
        ((bytes,), b"\x00\xff"),
        ((int | None,), None),
    ],
)
def test_a_message_is_encoded_anew_as_it_would_have_been(
    types: tuple[Any, ...], message: Any
) -> None:
    topic = kind(*types)
    envelope = topic.envelope(message, frozenset())
    assert list(envelope.payloads) == ["json"]
    assert list(topic.envelope(message, frozenset(), {"msgpack"}).payloads) == ["json", "msgpack"]
    event = Event("", envelope)
    found, wanted = topic.encoded(event, MSGPACK), MSGPACK.encoded(message)
    assert (found.payload, found.text and not found.raw, found.raw) == (
        wanted.payload,
        wanted.text and not wanted.raw,
        wanted.raw,
    )
    assert topic.encoded(event, MSGPACK) is found  # once


class Own(msgspec.Struct, tag="own"):
    number: int

    def __post_init__(self) -> None:
        self.number += 1


class Base(msgspec.Struct, tag="base"):
    number: int


class Sub(Base, tag="base"):
    more: int = 1


class Holds(msgspec.Struct, tag="holds"):
    base: Base


class Bound(msgspec.Struct, tag="bound"):
    number: Annotated[int, msgspec.Meta(ge=1)]


class ShortId(msgspec.Struct, tag="short"):
    id: Annotated[str, msgspec.Meta(max_length=5), EventId()] = ""


INEXACT: list[tuple[Any, Any]] = [
    (object, {"a": 1}),
    (Any, {"a": 1}),
    (Loose, Loose(b"x")),
    (Raw, Raw(msgspec.Raw(b"1"))),
    (dict[str, Any], {"a": b"x"}),
    (float, math.nan),
    (dict[str, float], {"a": math.inf}),
    (Data, WIDE.data),
    (Pair, WIDE.pair),
    (Typed, {"price": 1, "more": 2}),
    (Wide, WIDE),
    (Own, Own(1)),
    (Base, Sub(1)),
    (Base, Base(1)),  # others may be Subs
    (Holds, Holds(Sub(1))),
    (Bound, Bound(-1)),
    (ShortId, ShortId()),
    (datetime.datetime, datetime.datetime(2026, 1, 1)),
]


@pytest.mark.parametrize(("of", "message"), INEXACT)
def test_what_would_not_be_the_same_goes_in_each_codec(of: Any, message: Any) -> None:
    payloads = kind(of, history=1).envelope(message, frozenset()).payloads
    assert list(payloads) == ["json", "msgpack"]


def test_a_class_that_gets_a_subclass() -> None:
    class Late(msgspec.Struct, tag="late"):
        number: int

    topic = kind(Late)
    assert list(topic.envelope(Late(1), frozenset()).payloads) == ["json"]

    class More(Late, tag="late"):
        more: int = 1

    assert list(topic.envelope(More(1), frozenset()).payloads) == ["json", "msgpack"]
    assert list(topic.envelope(Late(1), frozenset()).payloads) == ["json", "msgpack"]


def test_the_id_of_an_event_is_in_each_codec() -> None:
    topic = kind(Carries, history=1)
    event = Event("epoch-7", topic.envelope(Carries("hi"), frozenset()))
    for codec in BOTH:
        message = topic.encoded(event, codec)
        assert codec.decoder(Carries)(message.payload) == Carries("hi", "epoch-7")


def test_what_cannot_be_encoded_anew() -> None:
    topic = kind(int)
    large = Event("", topic.envelope(2**70, frozenset()))
    with pytest.raises(UnreadableError, match="cannot be encoded as msgpack"):
        topic.encoded(large, MSGPACK)
    with pytest.raises(UnreadableError, match="it has no payload"):
        topic.encoded(Event("", Envelope({})), JSON)
    other = Event("", Envelope({"json": EncodedMessage(b'"no number"', True)}))
    with pytest.raises(UnreadableError):
        topic.encoded(other, MSGPACK)


async def test_an_event_that_one_codec_cannot_have_reaches_the_others() -> None:
    app = Router("/")
    Numbers = Annotated[Topic[int], TopicName("numbers")]

    @app.on_connect
    async def enter(numbers: Numbers) -> None:
        await numbers.join()

    @app.consumer
    async def publish(message: int, numbers: Numbers) -> None:
        await numbers.publish(message)

    packed: Any = ["wsflow.msgpack"]
    async with serve_in_memory(app, limits=Limits(close_timeout=1)) as server:
        async with (
            server.connect("/", subprotocols=packed) as bob,
            server.connect("/") as ada,
            server.connect("/", subprotocols=packed) as cleo,
            server.connect("/") as eve,
        ):
            await ada.send(2**70)
            await ada.send(7)
            for peer in (ada, eve):
                assert [await peer.receive(int) for _ in range(2)] == [2**70, 7]
            for peer in (bob, cleo):
                assert await peer.receive(int) == 7
            assert server.registry.counters()["unreadable"] == 1


async def test_only_what_is_spoken_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Router("/")
    News = Annotated[Topic[Carries], TopicName("news", history=9)]

    @app.on_connect
    async def enter(news: News) -> None:
        await news.join(last=9)

    @app.consumer
    async def publish(message: Carries, news: News) -> None:
        await news.publish(message)

    packed: Any = ["wsflow.msgpack"]
    async with serve_in_memory(app) as server:
        broker: Any = server._app.directory.channels.broker
        async with server.connect("/") as ada:
            await ada.send(Carries("1"))
            assert (await ada.receive(Carries)).text == "1"
            async with server.connect("/", subprotocols=packed) as bob:
                assert (await bob.receive(Carries)).text == "1"  # encoded anew
                await ada.send(Carries("2"))
                assert (await bob.receive(Carries)).text == "2"
        events = [event for _, _, event in broker._streams["news"].events]
        assert [sorted(each.envelope.payloads) for each in events] == [["json", "msgpack"]] * 2
        assert server._app.directory.channels.spoken == {"json", "msgpack"}
