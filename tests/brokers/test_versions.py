"""Two versions of an app at one broker, and a broker that has forgotten what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
import pytest

import wsflow
from tests.brokers.servers import BrokerServer, Kind
from tests.brokers.test_claims import Ignoring
from wsflow import Limits, Query, Router, Topic, TopicMember, TopicName
from wsflow.brokers import remote, select, wire
from wsflow.brokers.wire import pack, unpack
from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.events import Envelope, Target, TopicOptions, UnreadableError
from wsflow.testing import serve_in_memory

ENGINES: list[Kind] = ["valkey", "nats"]


class News(msgspec.Struct, tag="news"):
    text: str


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BEAT", 0.1)


LIMITS = Limits(publish_timeout=3, close_timeout=1)


def version(**options: Any) -> Router:
    """An app whose topic has this history."""
    app = Router("/")
    name = TopicName("t", **options)

    async def enter(topic: Any, after: Annotated[str, Query()] = "") -> None:
        await topic.join(after=after)

    enter.__annotations__["topic"] = Annotated[Topic[News], name]
    app.on_connect(enter)

    async def publish(message: str, topic: Any) -> str:
        return "id " + await topic.publish(News(message))

    publish.__annotations__["topic"] = Annotated[Topic[News], name]
    app.consumer(publish)
    return app


VERSIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "short": {"history": 5},
    "long": {"history": 50},
    "old": {"history": 5, "max_age": 60},
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("one", VERSIONS)
@pytest.mark.parametrize("other", VERSIONS)
async def test_versions_with_other_histories_hear_each_other(
    engine: Kind, one: str, other: str, server_of: Callable[[Kind], BrokerServer]
) -> None:
    url = server_of(engine).url
    async with (
        serve_in_memory(version(**VERSIONS[one]), broker=url, limits=LIMITS) as first,
        serve_in_memory(version(**VERSIONS[other]), broker=url, limits=LIMITS) as second,
        first.connect("/") as ada,
        second.connect("/") as bob,
    ):
        for number, peer in enumerate((ada, bob, ada, bob, bob, ada)):
            await peer.send(f"{number}")
            assert (await peer.receive(str, timeout=5)).startswith("id ")
            for each in (ada, bob):
                assert await each.receive(News, timeout=5) == News(f"{number}")
        for each in (ada, bob):
            await each.receive_nothing(within=0.02)
        assert first.registry.counters()["reconnected"] == 0


@pytest.mark.parametrize("engine", ENGINES)
async def test_what_is_published_without_its_history_is_told(
    engine: Kind, server_of: Callable[[Kind], BrokerServer], caplog: pytest.LogCaptureFixture
) -> None:
    url = server_of(engine).url
    async with (
        serve_in_memory(version(history=5), broker=url, limits=LIMITS) as first,
        serve_in_memory(version(), broker=url, limits=LIMITS) as second,
        first.connect("/") as ada,
        second.connect("/") as bob,
    ):
        await bob.send("hi")
        assert await ada.receive(News, timeout=5) == News("hi")
    assert "a message has come that is not in its history" in caplog.text


async def emptied(server: BrokerServer) -> None:
    """Lose all that is stored."""
    if server.kind == "nats":
        import nats

        client = await nats.connect(server.url)
        stream = client.jetstream()
        for each in await stream.streams_info():
            await stream.delete_stream(str(each.config.name))
        await client.close()
    else:
        from redis.asyncio import Redis

        redis = Redis.from_url(server.url)
        await redis.flushall()
        await redis.aclose()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("noticed", ["later", "by a message"])
async def test_a_broker_that_was_emptied_is_told_again(
    engine: Kind,
    noticed: str,
    server_of: Callable[[Kind], BrokerServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else what is published from outside is not kept any more."""
    if noticed == "later":
        monkeypatch.setattr(remote, "REMIND", 0.05)
    server = server_of(engine)
    async with (
        serve_in_memory(version(history=5), broker=server.url, limits=LIMITS) as process,
        process.connect("/") as ada,
        wsflow.publisher(server.url) as publish,
    ):
        assert await publish("t", News("first"))
        assert await ada.receive(News, timeout=5) == News("first")
        await emptied(server)
        async with wsflow.publisher(server.url) as stranger:
            if noticed == "by a message":
                assert await stranger("t", News("lost")) == ""
                assert await ada.receive(News, timeout=5) == News("lost")
            id = ""
            while not id:
                stranger._broker._asked = float("-inf")  # type: ignore[attr-defined]
                id = await stranger("t", News("kept"))
                assert await ada.receive(News, timeout=5) == News("kept")
                await asyncio.sleep(0.01)
        publish._broker._asked = float("-inf")  # type: ignore[attr-defined]
        after = await publish("t", News("later"))
        assert await ada.receive(News, timeout=5) == News("later")
        assert after
        async with process.connect(f"/?after={id}") as back:
            assert await back.receive(News, timeout=5) == News("later")


@pytest.mark.parametrize("engine", ["valkey", "nats"])
async def test_a_broker_that_was_emptied_while_no_process_is_there(
    engine: Kind, server_of: Callable[[Kind], BrokerServer]
) -> None:
    """A publisher outside that knows the history goes on to fill it."""
    server = server_of(engine)
    async with wsflow.publisher(server.url) as publish:
        async with serve_in_memory(version(history=5), broker=server.url, limits=LIMITS):
            assert await publish("t", News("first"))
        await emptied(server)
        publish._broker._asked = float("-inf")  # type: ignore[attr-defined]
        first = await publish("t", News("second"))
        assert await publish("t", News("third"))
        async with (
            serve_in_memory(version(history=5), broker=server.url, limits=LIMITS) as process,
            process.connect(f"/?after={first}") as back,
        ):
            assert await back.receive(News, timeout=5) == News("third")


# -- newer and older


class Member(msgspec.Struct):
    name: str


class NewMember(msgspec.Struct):
    name: str
    rank: int = 0


class NewestMember(msgspec.Struct):
    name: str
    rank: int


def crowd(kind: Any) -> Router:
    app = Router("/")

    async def enter(crowd: Any, name: Annotated[str, Query()]) -> None:
        await crowd.join(presence=kind(name=name, **({"rank": 1} if kind is not Member else {})))

    async def who(message: str, crowd: Any) -> list[Any]:
        members: list[TopicMember] = await crowd.members()
        return sorted([type(each.presence).__name__ for each in members])

    for each in (enter, who):
        each.__annotations__["crowd"] = Annotated[Topic[str], TopicName("crowd", presence=kind)]
    app.on_connect(enter)
    app.consumer(who)
    return app


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("newer", "found"),
    [
        (NewMember, ["NewMember", "NewMember"]),  # it has a default: the older one can be read
        (NewestMember, ["NewestMember", "NoneType"]),  # it cannot, and that is counted
    ],
)
async def test_a_presence_that_gains_a_field(
    engine: Kind, newer: Any, found: list[str], server_of: Callable[[Kind], BrokerServer]
) -> None:
    url = server_of(engine).url
    async with (
        serve_in_memory(crowd(Member), broker=url, limits=LIMITS) as old,
        serve_in_memory(crowd(newer), broker=url, limits=LIMITS) as new,
        old.connect("/?name=ada") as ada,
        new.connect("/?name=bob") as bob,
    ):
        await ada.send("who?")
        assert await ada.receive(list, timeout=5) == ["Member", "Member"]
        await bob.send("who?")
        assert await bob.receive(list, timeout=5) == found
        assert bool(new.registry.counters()["unreadable"]) is ("NoneType" in found)


def test_what_a_newer_version_adds_is_ignored_and_what_it_changes_is_told() -> None:
    envelope = Envelope({"json": EncodedMessage(b"1", True)})
    decode, encode = msgspec.msgpack.decode, msgspec.msgpack.encode
    fields = decode(pack(envelope, "p", 1, again=False))
    assert unpack(encode([*fields, "more", {"and": "more"}])).envelope.payloads["json"].text
    with pytest.raises(UnreadableError):
        unpack(encode([wire.CLEARS + 1, *fields[1:]]))


class Older(msgspec.Struct, array_like=True):
    """What is published, as the version before users reads it."""

    version: Literal[1]
    sender: str
    number: int
    again: bool
    exclude: list[str]
    token: str
    payloads: dict[str, tuple[int, bytes]]


def test_what_is_for_one_user_is_not_given_to_all_by_an_older_version() -> None:
    payloads = {"json": EncodedMessage(b"1", True)}
    read = msgspec.msgpack.Decoder(Older).decode
    packed = pack(Envelope(payloads, frozenset("x")), "p", 7, again=True)
    older = Older(1, "p", 7, True, ["x"], "", {"json": (1, b"1")})
    assert read(packed) == older
    assert unpack(msgspec.msgpack.encode(older)) == unpack(packed)
    for target in (Target("ada"), Target("ada", "", 4401, "out"), Target("", "id", 4000)):
        packed = pack(Envelope(payloads, target=target), "p", 7, again=False)
        assert unpack(packed).envelope.target == target
        with pytest.raises(msgspec.ValidationError):
            read(packed)
    packed = pack(Envelope({}, clears=True), "p", 7, again=True)
    assert unpack(packed).envelope == Envelope({}, clears=True)
    with pytest.raises(msgspec.ValidationError):  # it is no message
        read(packed)


@pytest.mark.parametrize(
    ("version", "target"),
    [
        (2, None),
        (1, ["ada", "", 0, ""]),
        (2, ["ada", "", 1006, ""]),
        (2, ["ada", "", -1, ""]),
        (2, ["ada", "", "4000", ""]),
        (2, ["ada", "", 4000, 5]),
        (2, "ada"),
        (3, None),
        (3, ["ada", "", 0, ""]),
    ],
)
def test_a_target_that_no_wsflow_has_written(version: int, target: Any) -> None:
    fields = [version, "p", 1, False, [], "", {"json": (1, b"1")}, target]
    with pytest.raises(UnreadableError):
        unpack(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize("engine", ENGINES)
async def test_what_is_declared_is_found(
    engine: Kind, server_of: Callable[[Kind], BrokerServer]
) -> None:
    """Also what a version has declared that did not know all of it."""
    server = server_of(engine)
    declared = {
        "a": TopicOptions(history=5),
        "b": TopicOptions(history=5, max_age=1.5, history_bytes=9, event_id="all", idle=60),
        "c": TopicOptions(history=5, idle=0.25),
    }
    connection = await select.engine(server.url).connect(Ignoring(), "p")  # type: ignore[arg-type]
    try:
        await connection.declare(declared)
        assert await connection.declared() == declared
        if engine == "nats":
            older = msgspec.json.encode(["d", 5, 0, 9, "some"])
            await connection._client.ask("wsflow.d.d", older)  # type: ignore[attr-defined]
        else:
            await connection._call("HSET", "wsflow:declared", "d", "5 0 9 some")  # type: ignore[attr-defined]
        found = await connection.declared()
        assert found["d"] == TopicOptions(history=5, history_bytes=9, event_id="some")
    finally:
        await connection.close()
