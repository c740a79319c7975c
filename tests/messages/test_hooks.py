"""Hooks for types of one's own, everywhere such a type may be; and codecs of one's own."""

import logging
from typing import Annotated, Any

import httpx2
import msgspec
import pytest

import wsflow
from tests.messages.kinds import CBOR, CODECS
from wsflow import (
    Call,
    CallError,
    Connection,
    EventId,
    InvalidMessage,
    Query,
    Registry,
    Router,
    Topic,
    TopicName,
)
from wsflow.auth.users import Users
from wsflow.messages.codec import CODECS as NATIVE
from wsflow.messages.codec import JSON
from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.events import Envelope, TopicOptions, UnreadableError
from wsflow.messages.events import Event as TopicEvent
from wsflow.server import Settings, serve
from wsflow.testing import (
    FakeBroker,
    FakeConnection,
    FakeRegistry,
    FakeTopic,
    connect,
    serve_in_memory,
)
from wsflow.topics.type import TopicType

ANY_CODEC = pytest.mark.parametrize("codec", CODECS, ids=lambda c: getattr(c, "name", c))


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    __hash__ = None  # type: ignore[assignment]


class Weight:
    def __init__(self, grams: int) -> None:
        self.grams = grams


class Pay(msgspec.Struct, tag="pay"):
    amount: Money


class Paid(msgspec.Struct, tag="paid"):
    amount: Money


class Weigh(msgspec.Struct, tag="weigh"):
    weights: list[Weight]


class Double(Call[Money], tag="double"):
    amount: Money


def dec_hook(kind: Any, value: Any) -> Any:
    if kind is Money:
        if value == "broken":
            raise RuntimeError("the hook is broken")
        if not isinstance(value, str):
            raise TypeError("an amount is a text")
        return Money(round(float(value.removesuffix(" €")) * 100))
    raise NotImplementedError


def enc_hook(value: Any) -> Any:
    if isinstance(value, Money):
        return f"{value.cents / 100:.2f} €"
    raise NotImplementedError


Till = Annotated[Topic[Paid], TopicName("till.{name}", history=5, presence=Money)]


def shop(codec: Any = "json") -> Router:
    app = Router("/{name}", codec=codec, dec_hook=dec_hook, enc_hook=enc_hook)

    @app.on_connect
    async def enter(
        till: Till, connection: Connection, budget: Annotated[Money | None, Query()] = None
    ) -> None:
        await till.join(presence=budget or Money(0))

    @app.consumer
    async def pay(message: Pay, till: Till, registry: Registry) -> Money:
        await till.publish(Paid(message.amount))
        await registry.broadcast([message.amount])
        return message.amount

    @app.consumer
    async def members(message: int, till: Till, registry: Registry) -> list[Any]:
        kept = [each.message.amount for each in (await till.history()).events]
        there = [each.presence for each in await till.members()]
        assert await registry.topic("till.{name}", name="x").count() == 0
        return [*kept, *there]

    @app.consumer
    async def double(message: Double) -> Money:
        return Money(message.amount.cents * 2)

    @app.get("/prices/{price}")
    async def prices(price: Money, more: Annotated[list[Money], Query()]) -> list[Money]:
        return [price, *more]

    return app


@ANY_CODEC
async def test_everywhere(codec: Any) -> None:
    async with connect(shop(codec), "/a?budget=7") as peer:
        await peer.send(Pay(Money(150)))
        assert [await peer.receive() for _ in range(3)] == [
            {"type": "paid", "amount": "1.50 €"},
            ["1.50 €"],
            "1.50 €",
        ]
        await peer.send(1)
        assert await peer.receive(list) == ["1.50 €", "7.00 €"]
        assert await peer.call(Double(Money(5))) == Money(10)


async def test_what_a_hook_refuses() -> None:
    app = shop()
    told: list[InvalidMessage] = []

    @app.on_error
    async def bad(error: InvalidMessage) -> None:
        told.append(error)

    async with connect(app, "/a") as peer:
        await peer.send({"type": "pay", "amount": "much"})
        await peer.send({"type": "pay", "amount": 5})
        await peer.send({"type": "$call", "id": 1, "message": {"type": "double", "amount": "x"}})
        failed = await peer.receive()
    assert [(each.where, each.tag) for each in told] == [("$.amount", "pay")] * 2
    assert told[0].reason == "could not convert string to float: 'much'"
    assert (failed["code"], failed["message"].rpartition(" - ")[2]) == ("invalid", "at `$.amount`")


async def test_a_hook_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    app = shop()

    @app.on_error
    async def bad(error: Exception) -> None: ...

    with caplog.at_level(logging.ERROR):
        async with connect(app, "/a") as peer:
            await peer.send(
                {"type": "$call", "id": 1, "message": {"type": "double", "amount": "broken"}}
            )
            assert await peer.receive() == {"type": "$error", "id": 1, "code": "internal"}
            await peer.send({"type": "pay", "amount": "broken"})
            end = await peer.wait_closed()
            assert (end.cause, end.code, end.reason) == ("error", 1011, "")
            assert isinstance(end.error, RuntimeError)
    assert caplog.text.count("RuntimeError: the hook is broken") == 2


async def test_an_answer_that_a_hook_refuses() -> None:
    app = Router(dec_hook=dec_hook)

    class Echo(Call[Money], tag="echo"):
        text: str

    class Report(msgspec.Struct, tag="report"):
        error: str

    @app.consumer
    async def ask(text: str, connection: Connection) -> None: ...

    client = Router("/", dec_hook=dec_hook)

    @client.consumer
    async def start(message: Pay, connection: Connection) -> str:
        with pytest.raises((CallError, RuntimeError)) as raised:
            await connection.call(Echo("x"))
        return repr(raised.value)

    for value, error in (("x", "CallError"), ("broken", "RuntimeError('the hook is broken')")):
        async with connect(client, "/") as peer:
            await peer.send({"type": "pay", "amount": "1"})
            asked = await peer.receive()
            await peer.send({"type": "$answer", "id": asked["id"], "value": value})
            assert (await peer.receive(str)).startswith(error)


async def test_in_requests_and_pages(caplog: pytest.LogCaptureFixture) -> None:
    async with serve_in_memory(shop()) as server:
        async with server.connect("/a?budget=seven") as peer:
            assert peer.rejected.status == 400
            assert peer.rejected.body.startswith("query 'budget' is not valid: could not convert")
        async with server.connect("/a?budget=broken") as peer:
            assert (peer.rejected.status, peer.rejected.body) == (500, "Internal Server Error\n")
    assert "RuntimeError: the hook is broken" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_over_sockets() -> None:
    async with serve(shop(), Settings(port=0)) as server, httpx2.AsyncClient() as http:
        base = f"http://127.0.0.1:{server.port}/a/prices"
        assert (await http.get(f"{base}/5?more=1&more=2")).json() == ["5.00 €", "1.00 €", "2.00 €"]
        assert (await http.get(f"{base}/x?more=1")).status_code == 404
        uri = f"ws://127.0.0.1:{server.port}/a?budget=7"
        async with wsflow.connect(
            uri, receives=(Paid, Any), dec_hook=dec_hook, enc_hook=enc_hook
        ) as peer:
            await peer.send(Pay(Money(150)))
            came = [await peer.receive() for _ in range(3)]
            assert came == [Paid(Money(150)), ["1.50 €"], "1.50 €"]
            assert await peer.call(Double(Money(5))) == Money(10)


def test_a_client_says_what_it_lacks() -> None:
    with pytest.raises(TypeError, match="receives: msgspec does not know the type Money"):
        wsflow.connect("ws://x", receives=Paid)
    with pytest.raises(TypeError, match=r"^codec is the class CBOR\. Fix: make one: codec=CBOR"):
        wsflow.connect("ws://x", receives=Pay, codec=CBOR)  # type: ignore[call-overload]


def said(what: str) -> Any:
    return lambda _value: what


def made(what: type) -> Any:
    def hook(kind: Any, value: Any) -> Any:
        if kind is what:
            return what(value)
        raise NotImplementedError

    return hook


async def test_the_nearest_hook_is_asked_first() -> None:
    app = Router(dec_hook=made(Money), enc_hook=said("outer"))
    inner = Router("/inner", dec_hook=made(Weight), enc_hook=said("inner"))
    other = Router("/other")
    plain = Router("/plain", dec_hook=made(Weight))
    app.include(inner)
    app.include(other)
    app.include(plain)
    for router in (inner, other, plain):
        Tills = Annotated[Topic[Any], TopicName(f"till{router.path.replace('/', '.')}")]

        @router.consumer
        async def pay(message: Pay, till: Tills, registry: Registry) -> Any:
            await till.join()
            await till.publish([message.amount])
            await registry.broadcast({"all": message.amount})
            return {"one": message.amount}

    @inner.consumer
    async def weigh(message: Weigh) -> list[int]:
        return [each.grams for each in message.weights]

    for path, name in (("/inner", "inner"), ("/other", "outer"), ("/plain", "outer")):
        async with connect(app, path) as peer:
            await peer.send({"type": "pay", "amount": 5})
            found = [await peer.receive() for _ in range(3)]
            assert found == [[name], {"all": "outer"}, {"one": name}]
    async with connect(app, "/inner") as peer:
        await peer.send({"type": "weigh", "weights": [1, 2]})
        assert await peer.receive() == [1, 2]


async def test_a_type_that_no_hook_knows() -> None:
    app = Router(dec_hook=dec_hook, enc_hook=enc_hook)

    @app.consumer
    async def weigh(message: Weigh) -> None: ...

    @app.consumer
    async def send(message: int, connection: Connection) -> None:
        await connection.send(object())

    async with connect(app, "/") as peer:
        await peer.send({"type": "weigh", "weights": [5]})
        assert (await peer.wait_closed()).code == 1011
        assert "no dec_hook knows the type Weight" in str((await peer.wait_closed()).error)
    async with connect(app, "/") as peer:
        await peer.send(5)
        error = (await peer.wait_closed()).error
        assert str(error) == "Encoding objects of type object is unsupported"
        assert isinstance(error, TypeError)


async def test_doubles_have_hooks() -> None:
    hooks: Any = {"dec_hook": dec_hook, "enc_hook": enc_hook}
    connection = FakeConnection(enc_hook=enc_hook)
    await connection.send(Money(5))
    assert connection.sent == [Money(5)]
    topic = FakeTopic[Any](types=[Paid], **hooks)
    await topic.join(presence=Money(1))
    await topic.publish({"type": "paid", "amount": "1.00 €"})
    registry = FakeRegistry(**hooks)
    await registry.broadcast(Money(5))
    await registry.topic("till", Paid).publish(Paid(Money(5)))
    for refuses in (FakeConnection().send, FakeRegistry().broadcast, FakeTopic[Any]().publish):
        with pytest.raises(TypeError, match="Encoding objects of type Money is unsupported"):
            await refuses(Money(5))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_publishing_from_outside() -> None:
    broker = FakeBroker()
    app = shop(CBOR())
    async with (
        serve_in_memory(app, broker=broker) as server,
        server.connect("/a") as peer,
        wsflow.publisher(broker.url, app=app) as publish,
        wsflow.publisher(broker.url) as bare,
    ):
        await publish("till.{name}", Paid(Money(5)), name="a")
        assert await peer.receive(Paid) == Paid(Money(5))
        await bare("till.{name}", {"type": "paid", "amount": "0.07 €"}, name="a")
        assert await peer.receive(Paid) == Paid(Money(7))


# -- codecs


class Sized(CBOR):
    """A codec that writes before a message how long it is."""

    name = "sized"

    def encode(self, value: Any) -> bytes:
        data = super().encode(value)
        return len(data).to_bytes(4, "big") + data

    def decode(self, data: bytes) -> Any:
        assert int.from_bytes(data[:4], "big") == len(data) - 4
        return super().decode(data[4:])


class Event(msgspec.Struct, tag="event"):
    data: bytes
    id: Annotated[str, EventId()] = ""


async def test_a_codec_that_says_how_long_a_message_is() -> None:
    app = Router(codec=Sized())
    News = Annotated[Topic[Event], TopicName("news", history=5)]

    @app.on_connect
    async def enter(news: News) -> None:
        await news.join()

    @app.consumer
    async def tell(message: bytes, news: News) -> None: ...

    @app.consumer
    async def raw(message: msgspec.Raw, news: News) -> Event:
        id = await news.publish(Event(b"\xff"))
        return Event(bytes(message), id)

    text = Router("/", codec=Sized())
    text.consumer(raw)
    text.on_connect(enter)
    async with connect(text, "/") as peer, connect(text, "/", subprotocols=["wsflow.json"]) as old:
        await peer.send([1])
        event, reply = await peer.receive(Event), await peer.receive(Event)
        assert (event.data, reply.data) == (b"\xff", Sized().encode([1]))
        assert event.id == reply.id != ""
        assert await old.receive(Event) == event


async def test_what_a_codec_cannot_read(caplog: pytest.LogCaptureFixture) -> None:
    app = Router(codec=CBOR())

    @app.consumer
    async def take(message: Pay2) -> None: ...

    async with connect(app, "/") as peer:
        await peer.send(b"\x82\x01")
        end = await peer.wait_closed()
    assert (end.code, end.reason) == (1007, "not valid cbor")
    assert "CBORDecodeEOF" in caplog.text


class Pay2(msgspec.Struct, tag="pay2"):
    cents: int


class Odd(CBOR):
    name = "odd"

    def encode(self, value: Any) -> Any:
        return repr(value)


async def test_a_codec_that_encodes_to_something_else() -> None:
    app = Router(codec=Odd())

    @app.consumer
    async def take(message: Any) -> None: ...

    async with connect(app, "/") as peer:
        with pytest.raises(TypeError, match="'odd' has encoded a message to str, and not to bytes"):
            await peer.send(5)


@pytest.mark.parametrize("codec", CODECS[2:], ids=lambda c: c.name)
async def test_what_is_not_decoded(codec: Any) -> None:
    app = Router(codec=codec)

    @app.consumer
    async def pay(message: Pay2) -> msgspec.Raw:
        return msgspec.Raw(codec.encode({"cents": message.cents}))

    @app.consumer
    async def rest(message: msgspec.Raw) -> bytes:
        return bytes(message)

    async with connect(app, "/") as peer:
        await peer.send(Pay2(5))
        assert bytes(await peer.receive(msgspec.Raw)) == codec.encode({"cents": 5})
        await peer.send([1, 2])
        assert await peer.receive() == codec.encode([1, 2])


async def test_a_client_chooses_the_codec() -> None:
    app = Router(codec=CBOR())

    @app.consumer
    async def take(message: Pay2) -> Pay2:
        return Pay2(message.cents + 1)

    for name in ("", "wsflow.cbor", "wsflow.json", "wsflow.msgpack"):
        async with connect(app, "/", subprotocols=[name] if name else []) as peer:
            assert peer.subprotocol == (name or None)
            await peer.send(Pay2(1))
            assert await peer.receive(Pay2) == Pay2(2)


def test_an_event_in_a_codec_that_is_not_known_here() -> None:
    topic = TopicType((Paid,), TopicOptions(), tuple(NATIVE.values()))
    event = TopicEvent("", Envelope({"cbor": EncodedMessage(b"\xa0", False)}))
    with pytest.raises(UnreadableError, match="no path of this process has the codec cbor"):
        topic.encoded(event, JSON)


def test_a_user_whose_type_is_not_known() -> None:
    with pytest.raises(msgspec.ValidationError, match="no dec_hook knows the type Money"):
        Users("Ticket", Money).convert({"cents": 5})


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_gap_and_only_pages() -> None:
    app = Router(enc_hook=enc_hook, dec_hook=dec_hook)
    Gaps = Annotated[Topic[Paid], TopicName("gaps", gap=Paid(Money(0)))]

    @app.get("/")
    async def page(gaps: Gaps, registry: Registry) -> Money:
        await gaps.publish(Paid(Money(5)))
        named = TopicName("more.{name}", gap=Paid(Money(0)))
        await registry.topic(named, Paid, name="a").publish(Paid(Money(5)))
        return Money(5)

    async with serve(app, Settings(port=0)) as server, httpx2.AsyncClient() as http:
        assert (await http.get(f"http://127.0.0.1:{server.port}/")).json() == "0.05 €"
