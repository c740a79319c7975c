"""Brokers on a server: what the suite over all of them does not see."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast

import anyio
import msgspec
import nats
import pytest
from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError

import wsflow
from tests.brokers.proxy import proxy
from tests.brokers.servers import BrokerServer, Kind, nats_with
from wsflow import BrokerError, EventId, Query, Router, Topic, TopicMember, TopicName
from wsflow.brokers import nats as nats_engine
from wsflow.brokers import nats_client, processes, redis, remote, select, wire
from wsflow.brokers.base import Mark, Page
from wsflow.brokers.engine import (
    Attempt,
    ConnectionLostError,
    NoAnswerError,
    Stamp,
    Stored,
)
from wsflow.brokers.feed import Feed
from wsflow.brokers.recent import Recent, Total
from wsflow.limits import Limits
from wsflow.messages.codec import JSON
from wsflow.messages.events import Envelope, Event, TopicOptions
from wsflow.testing import MemoryServer, serve_in_memory


class News(msgspec.Struct, tag="news"):
    text: str
    id: Annotated[str, EventId()] = ""


Kept = Annotated[Topic[News], TopicName("kept", history=3)]
Plain = Annotated[Topic[News], "plain"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def what_the_client_of_nats_leaves() -> Iterator[None]:
    """An attempt to connect that is cut off leaves its transport in a reference cycle of nats-py:
    it must not be found in another test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module", params=["valkey", "nats"])
def server(request: pytest.FixtureRequest) -> Iterator[BrokerServer]:
    started = BrokerServer(request.param)
    started.start()
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BEAT", 0.1)
    monkeypatch.setattr(remote, "PATIENCE", 0.5)


def app(**subprotocols: Any) -> Router:
    router = Router("/", **subprotocols)

    @router.on_connect
    async def enter(kept: Kept, plain: Plain, after: Annotated[str, Query()] = "") -> None:
        await kept.join(after=after)
        await plain.join()

    @router.consumer
    async def nothing(message: str) -> None: ...

    return router


@asynccontextmanager
async def running(url: str, **options: Any) -> AsyncIterator[MemoryServer]:
    async with serve_in_memory(app(**options), broker=url) as process:
        yield process


Publish = Callable[[str, bytes], Any]


@asynccontextmanager
async def raw(server: BrokerServer) -> AsyncIterator[tuple[Publish, Any]]:
    """Say anything at all at the broker."""
    if server.kind == "nats":
        client = await nats.connect(server.url)

        async def publish(topic: str, data: bytes) -> None:
            await client.publish(f"wsflow.{'c' if topic == 'control' else 'l.0.' + topic}", data)

        yield publish, client
        await client.close()
    else:
        redis_client = Redis.from_url(server.url)

        async def publish(topic: str, data: bytes) -> None:
            channel = "wsflow:c:" if topic == "control" else f"wsflow:t:{topic}"
            head = b"" if topic == "control" or data.startswith(b"!") else b"\n"
            await redis_client.publish(channel, head + data)

        yield publish, redis_client
        await redis_client.aclose()


async def test_garbage_is_logged_and_counted(
    server: BrokerServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_SIZE", 1000)
    envelope = Envelope({"json": JSON.encoded(News("hi"))})
    good = wire.pack(envelope, "somebody", 1, False)
    garbage = [
        b"!nonsense",
        b"\xc1",
        b"",
        msgspec.msgpack.encode([2, "newer", 1, False, [], "", {}]),
        msgspec.msgpack.encode([1, "x", 1, False, [], "", {"json": [1, b"x" * 1000]}]),
        b"\x93" * 900,
    ]
    async with running(server.url) as process, raw(server) as (publish, _):
        async with process.connect("/") as peer:
            for each in garbage:
                await publish("plain", each)
            await publish("control", b"nonsense")
            await publish("plain", good)
            assert await peer.receive(News) == News("hi")
            assert process.registry.counters()["unreadable"] == len(garbage) + 1
    assert caplog.text.count("cannot be read") == 1  # once a second
    assert "topic 'plain': a message cannot be read: " in caplog.text


async def test_a_payload_in_another_codec_is_encoded_anew(server: BrokerServer) -> None:
    """A publisher that knows fewer codecs than the app: its messages reach all."""
    packed: Any = "wsflow.msgpack"
    envelope = Envelope({"json": JSON.encoded(News("hi"))})
    protocols = {"subprotocols": ("wsflow.json", "wsflow.msgpack")}
    async with running(server.url, **protocols) as process, raw(server) as (publish, _):
        async with process.connect("/") as one, process.connect("/", subprotocols=[packed]) as two:
            await publish("plain", wire.pack(envelope, "somebody", 1, False))
            for peer in (one, two):
                assert await peer.receive(News) == News("hi")
            assert process.registry.counters()["unreadable"] == 0


async def test_a_loop_skips_what_it_cannot_decode(server: BrokerServer) -> None:
    router = Router("/")

    @router.producer
    async def listen(plain: Plain) -> AsyncIterator[str]:
        yield "begun"
        async for message in plain:
            yield message.text

    bad = Envelope({"json": JSON.encoded({"no": "news"})})
    good = Envelope({"json": JSON.encoded(News("hi"))})
    other = Envelope({"msgpack": JSON.encoded(News("hi"))})
    async with serve_in_memory(router, broker=server.url) as process, raw(server) as (publish, _):
        async with process.connect("/") as peer:
            assert await peer.receive() == "begun"
            await process._app.directory.channels.broker.subscribed("plain")
            for number, envelope in enumerate([bad, other, good]):
                await publish("plain", wire.pack(envelope, "somebody", number, False))
            assert await peer.receive() == "hi"
            assert process.registry.counters()["unreadable"] == 2


async def test_what_was_sent_again_is_heard_once(server: BrokerServer) -> None:
    envelope = Envelope({"json": JSON.encoded(News("hi"))})
    async with running(server.url) as process, raw(server) as (publish, _):
        async with process.connect("/") as peer:
            for number, again in [(1, False), (1, True), (2, True), (2, True)]:
                await publish("plain", wire.pack(envelope, "somebody", number, again))
            for _ in range(2):
                assert await peer.receive(News) == News("hi")
            await peer.receive_nothing(within=0.05)


async def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "REMEMBERED", 2)
    broker = remote.RemoteBroker(None, select.engine("redis://nowhere"), 1, {})
    assert [broker._is_known("a", number) for number in (1, 2, 1, 3, 1)] == [
        *(False, False, True, False, False)
    ]


async def test_publishing_from_outside(server: BrokerServer) -> None:
    async with running(server.url) as process, process.connect("/") as peer:
        async with wsflow.publisher(server.url) as publish:
            assert await publish("plain", News("one")) == ""
            id = await publish("kept", News("two"))
            assert await peer.receive(News) == News("one")
            assert await peer.receive(News) == News("two", id)
            await publish("elsewhere", News("nobody"))
            with pytest.raises(ValueError, match="a topic needs a name"):
                await publish("", "x")
        async with process.connect(f"/?after={id}") as back:
            await back.receive_nothing(within=0.02)
        assert await process.registry.topic("kept").members() != []


async def test_publishing_from_outside_before_the_app_ran(
    server_of: Callable[..., BrokerServer], server: BrokerServer
) -> None:
    alone = server_of(server.kind)
    async with wsflow.publisher(alone.url) as publish:
        assert await publish("kept", News("one")) == ""


async def test_a_broker_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(select, "PATIENCE", 0.5)
    with pytest.raises(BrokerError, match=r"the broker redis://…@127.0.0.1:1 cannot be reached: "):
        async with wsflow.publisher("redis://:secret@127.0.0.1:1", timeout=0.1):
            raise AssertionError
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "connecting to the broker redis://…@127.0.0.1:1, for at most 0.5 s"
    assert said[1].startswith("the broker redis://…@127.0.0.1:1 is unreachable: ")
    assert len(said) == 2  # however often it has tried
    with pytest.raises(BrokerError, match=r"nats://…@127.0.0.1:1 cannot be reached: "):
        await select.reach("nats://me:secret@127.0.0.1:1")
    broker = remote.RemoteBroker(None, select.engine("redis://127.0.0.1:1"), 10, {})
    with anyio.move_on_after(0.05):
        await broker.start()
    assert broker._task is None
    await broker.stop()


async def test_old_events_go_by_age(server: BrokerServer) -> None:
    Brief = Annotated[Topic[News], TopicName("brief", history=9, max_age=0.4)]
    router = Router("/")
    told: list[bool] = []

    @router.on_connect
    async def enter(brief: Brief, after: Annotated[str, Query()] = "") -> None:
        told.append((await brief.join(after=after)).recovered)

    @router.consumer
    async def nothing(message: str) -> None: ...

    async with serve_in_memory(router, broker=server.url) as process:
        brief = process.registry.topic("brief")
        async with process.connect("/") as peer:
            first = await brief.publish(News("a"))
            await brief.publish(News("b"))
            async with process.connect(f"/?after={first}") as back:
                assert (await back.receive(News)).text == "b"
            assert told.pop()
            with anyio.fail_after(5):
                while not told or told[-1]:
                    async with process.connect(f"/?after={first}") as late:
                        await late.receive_nothing(within=0.05)
            third = await brief.publish(News("c"))
            assert [(await peer.receive(News)).text for _ in range(3)] == ["a", "b", "c"]
            async with process.connect(f"/?after={third}"):
                pass
            assert told[-1]
            assert process.registry.counters()["lost"] == 0


async def test_a_long_history_is_read_in_pages(
    server: BrokerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (redis, nats_engine):
        monkeypatch.setattr(module, "PAGE", 7)
    Long = Annotated[Topic[News], TopicName("long", history=100)]
    router = Router("/")

    @router.on_connect
    async def enter(long: Long, after: Annotated[str, Query()] = "") -> None:
        assert (await long.join(after=after)).recovered or not after

    @router.consumer
    async def nothing(message: str) -> None: ...

    async with serve_in_memory(router, broker=server.url) as process, process.connect("/"):
        long = process.registry.topic("long")
        ids = [await long.publish(News(str(number))) for number in range(40)]
        for start in (0, 5, 6, 25, 38):
            async with process.connect(f"/?after={ids[start]}") as back:
                texts = [(await back.receive(News)).text for _ in range(39 - start)]
                assert texts == [str(number) for number in range(start + 1, 40)]


async def test_a_history_with_garbage_in_it(server: BrokerServer) -> None:
    async with running(server.url) as process, process.connect("/") as peer:
        kept = process.registry.topic("kept")
        first = await kept.publish(News("a"))
        broker: Any = process._app.directory.channels.broker
        await broker._connection.publish("kept", b"garbage", kept._type.options, Attempt("x"))
        await kept.publish(News("b"))
        assert [(await peer.receive(News)).text for _ in range(2)] == ["a", "b"]
        async with process.connect(f"/?after={first}") as back:
            assert (await back.receive(News)).text == "b"
        assert process.registry.counters()["unreadable"] == 2


async def test_scripts_that_the_server_forgot(server_of: Callable[..., BrokerServer]) -> None:
    server = server_of("valkey")
    async with running(server.url) as process, raw(server) as (_, client):
        kept = process.registry.topic("kept")
        await kept.publish(News("a"))
        await client.script_flush()
        assert await kept.publish(News("b"))


@pytest.mark.parametrize(
    ("configure", "says"),
    [
        ({"maxmemory": "1"}, "the broker refuses: "),
        ({"min-replicas-to-write": "1"}, "the broker refuses: "),
    ],
)
async def test_redis_refuses(
    server_of: Callable[..., BrokerServer], configure: dict[str, str], says: str
) -> None:
    server = server_of("valkey")
    async with running(server.url) as process, raw(server) as (_, client):
        for name, value in configure.items():
            await client.config_set(name, value)
        with pytest.raises(BrokerError, match=says):
            await process.registry.topic("kept").publish(News("a"))
        with pytest.raises(BrokerError, match=says):
            await process._app.directory.channels.broker._connection.declare(  # type: ignore[attr-defined]
                {"kept": TopicOptions(history=1)}
            )


async def test_a_password(
    server_of: Callable[..., BrokerServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "PATIENCE", 1.0)
    server = server_of("valkey")
    async with raw(server) as (_, client):
        await client.config_set("requirepass", "secret")
    with pytest.raises(BrokerError, match="it refuses the user or the password"):
        await select.reach(server.url)
    await select.reach(server.url.replace("//", "//:secret@"))


# -- NATS


async def test_nats_without_jetstream(tmp_path: Any) -> None:
    plain = Router("/")

    @plain.on_connect
    async def enter(topic: Plain) -> None:
        await topic.join()

    @plain.consumer
    async def nothing(message: str) -> None: ...

    async with nats_with(tmp_path, "") as server:
        async with serve_in_memory(plain, broker=server.url) as process:
            async with process.connect("/") as peer, wsflow.publisher(server.url) as publish:
                await publish("plain", News("hi"))
                assert await peer.receive(News) == News("hi")
        with pytest.raises(
            BrokerError, match="topics with history, and claims, need JetStream, which is not"
        ):
            async with serve_in_memory(app(), broker=server.url, limits=Limits(publish_timeout=1)):
                raise AssertionError


async def test_nats_refuses(
    tmp_path: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "PATIENCE", 1.0)
    config = """
        max_payload: 1000
        jetstream {store_dir: "%s"}
        authorization {users: [
            {user: a, password: b, permissions: {publish: {deny: "wsflow.l.0.no"}}}
        ]}
    """
    async with nats_with(tmp_path, config % tmp_path) as server:
        with pytest.raises(BrokerError, match="it refuses the user or the password"):
            await select.reach(server.url)
        url = server.url.replace("//", "//a:b@")
        async with wsflow.publisher(f"{url},{url}", timeout=1) as publish:
            with pytest.raises(BrokerError, match="bytes is larger than the broker accepts"):
                await publish("plain", "x" * 2000)
            await publish("plain", "x")
            with pytest.raises(BrokerError, match=r'violation for publish to "wsflow\.l\.0\.no"'):
                await publish("no", "x")
            await publish("plain", "x")
        assert "the broker refuses: nats: permissions violation" in caplog.text.lower()
        assert "unreachable" not in caplog.text


async def test_nats_limits_on_streams(tmp_path: Any) -> None:
    """A history that the server has no room for: who wants to join learns why."""
    async with nats_with(tmp_path, f'jetstream {{store_dir: "{tmp_path}"}}') as server:
        url = f"{server.url}?replicas=3"
        with pytest.raises(BrokerError, match="the broker refuses: replicas > 1 not supported"):
            async with serve_in_memory(app(), broker=url, limits=Limits(publish_timeout=1)):
                raise AssertionError
        other = Router("/")
        refused: list[str] = []

        @other.on_connect
        async def enter(kept: Kept) -> None:
            try:
                await kept.join()
            except BrokerError as exc:
                refused.append(str(exc))
                raise

        @other.consumer
        async def nothing(message: str) -> None: ...

        async with serve_in_memory(other, broker=server.url) as process:
            link: Any = process._app.directory.channels.broker._connection  # type: ignore[attr-defined]
            link._replicas = 3
            async with process.connect("/") as peer:
                assert peer.rejected.status == 500
                assert isinstance(peer.end.error, BrokerError)
            assert refused[0].startswith("the broker refuses: replicas > 1 not supported")
            with pytest.raises(BrokerError, match="replicas"):
                await process.registry.topic("kept").publish(News("a"))


async def test_a_stream_that_vanishes_while_connected(
    server_of: Callable[..., BrokerServer],
) -> None:
    server = server_of("nats")
    async with running(server.url) as process, raw(server) as (_, client):
        async with process.connect("/") as peer:
            kept = process.registry.topic("kept")
            old = await kept.publish(News("a"))
            await kept.publish(News("b"))
            await client.jetstream().delete_stream("wsflow_3_0")
            new = await kept.publish(News("c"))
            assert old.partition("-")[0] != new.partition("-")[0]
            await client.publish("wsflow.l.3_0.kept", b"not from the stream")
            assert [(await peer.receive(News)).text for _ in range(3)] == ["a", "b", "c"]
            assert process.registry.counters()["lost"] == 1
            assert process.registry.counters()["unreadable"] == 1


def test_urls() -> None:
    for url, says in [
        ("nowhere", "is no broker: it begins with one of memory://, redis://"),
        ("kafka://me:secret@host", "'kafka://…@host' is no broker"),
        ("valkey://me:secret@host", "Valkey is reached as Redis: use redis://"),
        ("VALKEYS://host", "Valkey is reached as Redis: use rediss://"),
        ("valkey+sentinel://host", "use redis+sentinel://"),
        ("memory://", "is a process's own: no other one hears what is said there"),
        ("redis://host:port", "'redis://host:…' cannot be used: its host or port is invalid"),
        ("nats://", "it names no host"),
        ("nats://host?prefix=a.b", "prefix is 'a.b': use letters, digits, _ and -"),
        ("nats://host?replicas=many", "cannot be used"),
    ]:
        with pytest.raises(ValueError, match=r"broker|own|used") as raised:
            select.engine(url)
        assert says in str(raised.value)
    assert select.engine("nats://u:p@a:1,b").address == "nats://…@a:1,b"
    assert select.engine("rediss://u:p@a:1/3?prefix=x").address == "rediss://…@a:1/3?…"


def test_a_client_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'nats'", name="nats")

    monkeypatch.setattr(select.importlib, "import_module", missing)
    with pytest.raises(ValueError, match=r"tls:// needs nats, which is not installed: pip install"):
        select.engine("tls://host")


# -- in parts


class Nobody:
    """A receiver that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, ...]] = []

    def appeared(self, process: str) -> None:
        self.seen.append(("appeared", process))

    def gone(self, process: str) -> None:
        self.seen.append(("gone", process))

    def heard(self, process: str, note: bytes) -> None:
        self.seen.append((process, note.decode()))


async def test_a_process_that_is_silent_is_gone() -> None:
    receiver: Any = Nobody()
    sent: list[str] = []

    def tell(kind: Any, generation: int = 1, note: bytes = b"") -> None:
        mine.told(msgspec.msgpack.encode(processes.Told(1, kind, "b", generation, note)))

    mine = processes.Processes(receiver, 0.02, lambda to, data: sent.append(to))
    tell("note", 1, b"hi")
    tell("beat", 2)  # it was away
    tell("hello", 2)
    tell("bye")
    tell("bye")
    assert receiver.seen == [
        ("appeared", "b"),
        ("b", "hi"),
        ("appeared", "b"),
        ("gone", "b"),
    ]
    assert sent == ["b"]
    tell("beat", 3)
    living = asyncio.create_task(mine.live())
    await asyncio.sleep(0)
    # It is held up for long, and takes nobody for dead because of that.
    time.sleep(0.1)  # noqa: ASYNC251
    await asyncio.sleep(0.001)
    await asyncio.sleep(0.001)
    assert mine.others == ["b"]
    with anyio.fail_after(5):
        await mine.settled.wait()
        while mine.others:
            await asyncio.sleep(0.005)
    assert receiver.seen[4:] == [("appeared", "b"), ("appeared", "b"), ("gone", "b")]
    living.cancel()
    await asyncio.wait([living])
    assert not mine.settled.is_set()


class FakeLink:
    """A history, to be read as the test says."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.reads: list[tuple[Mark, Mark]] = []

    async def last(self, topic: str, options: TopicOptions) -> Mark:
        await asyncio.sleep(0)
        found: Mark = self.answers.pop(0)
        return found

    async def read(self, topic: str, options: TopicOptions, after: Mark, upto: Mark) -> Stored:
        await asyncio.sleep(0)
        self.reads.append((after, upto))
        complete, entries, *end = self.answers.pop(0)
        return Stored(complete, entries, *(end or [upto]))


def at(number: int, epoch: str = "a") -> Mark:
    return Mark(epoch, (number,) if number else ())


def stamp(number: int, previous: int, epoch: str = "a") -> Stamp:
    return Stamp(at(number, epoch), at(previous).order)


class Taken:
    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.lost: list[str] = []
        self.recovers = 0
        self.alien = 0

    def feed(self) -> Feed:
        def passes(topic: str, mark: Mark, data: bytes) -> Event:
            self.numbers.append(mark.order[0])
            return Event(str(mark), Envelope({}))

        def recovers(topic: str) -> None:
            self.recovers += 1

        def alien(where: str, why: object) -> None:
            self.alien += 1

        options = TopicOptions(history=9)
        recent = Recent(options, Total())

        def lost(topic: str, what: str) -> None:
            self.lost.append(what)

        return Feed("t", options, recent, passes, recovers, lost, alien)


async def test_a_feed_takes_each_event_once_and_in_order() -> None:
    taken = Taken()
    feed = taken.feed()
    feed.take(stamp(4, 3), b"")  # before it is known where to begin
    feed.take(stamp(6, 5), b"")
    link: Any = FakeLink(at(5))
    await feed.recover(link)
    assert feed.live.is_set()
    feed.take(stamp(6, 5), b"")
    feed.take(stamp(7, 6), b"")
    assert taken.numbers == [6, 7]
    feed.take(stamp(10, 9), b"")  # something is missing
    assert taken.recovers == 1
    feed.take(stamp(11, 10), b"")
    link = FakeLink(at(9), (True, [(at(8), b""), (at(9), b"")]))
    both = await asyncio.gather(feed.recover(link), feed.recover(link))
    assert both == [None, None]
    assert link.reads == [(at(7), at(9))]
    assert taken.numbers == [6, 7, 8, 9, 10, 11]
    feed.take(stamp(13, 0), b"")  # those before it were too old to be kept
    assert taken.numbers[-1] == 13
    assert taken.lost == []


async def test_a_feed_looks_again_if_something_is_missing_still() -> None:
    taken = Taken()
    feed = taken.feed()
    await feed.recover(FakeLink(at(1)))  # type: ignore[arg-type]
    feed.take(stamp(4, 3), b"")
    link: Any = FakeLink(at(2), (True, [(at(2), b"")]), at(4), (True, [(at(3), b""), (at(4), b"")]))
    await feed.recover(link)
    assert taken.numbers == [2, 3, 4]


async def test_what_has_waited_behind_an_event_that_does_not_follow() -> None:
    """That one is dropped, and what follows from the history is taken."""
    taken = Taken()
    feed = taken.feed()
    await feed.recover(FakeLink(at(1)))  # type: ignore[arg-type]
    feed.take(stamp(9, 8), b"")
    feed.take(stamp(2, 1), b"")
    await feed.recover(FakeLink(at(1), at(1)))  # type: ignore[arg-type]
    assert feed.live.is_set()
    assert (taken.alien, taken.numbers) == (1, [2])


async def test_a_feed_says_what_is_lost() -> None:
    taken = Taken()
    feed = taken.feed()
    await feed.recover(FakeLink(at(1)))  # type: ignore[arg-type]
    feed.take(stamp(9, 8), b"")
    await feed.recover(FakeLink(at(9), (False, [(at(8), b""), (at(9), b"")])))  # type: ignore[arg-type]
    assert taken.numbers == [8, 9]
    assert "its history does not reach back" in taken.lost[0]
    feed.take(stamp(1, 0, "b"), b"")  # begun anew
    await feed.recover(FakeLink(at(1, "b"), (True, [(at(1, "b"), b"")])))  # type: ignore[arg-type]
    assert taken.numbers == [8, 9, 1]
    assert "was lost at the broker" in taken.lost[1]
    feed.catch_up()
    await feed.recover(FakeLink(at(1, "b")))  # type: ignore[arg-type]
    feed.stop()
    feed.take(stamp(2, 1, "b"), b"")
    assert taken.numbers == [8, 9, 1]


async def test_a_history_that_is_not_read_on() -> None:
    taken = Taken()
    feed = taken.feed()
    await feed.recover(FakeLink(at(1)))  # type: ignore[arg-type]
    feed.catch_up()
    with pytest.raises(BrokerError, match="cannot be read to its end"):
        await feed.recover(FakeLink(at(9), (True, [], at(1))))  # type: ignore[arg-type]


async def test_a_feed_whose_link_is_lost_recovers_on_the_next() -> None:
    class Lost(FakeLink):
        async def last(self, topic: str, options: TopicOptions) -> Mark:
            raise ConnectionLostError("gone")

    taken = Taken()
    feed = taken.feed()
    with pytest.raises(ConnectionLostError):
        await feed.recover(Lost())  # type: ignore[arg-type]
    await feed.recover(FakeLink(at(0)))  # type: ignore[arg-type]
    feed.take(stamp(1, 0), b"")
    assert taken.numbers == [1]


async def test_a_message_whose_fate_is_unknown_is_sent_again(
    server_of: Callable[..., BrokerServer],
) -> None:
    """The connection is cut between the message and its acknowledgement, again and again."""
    kind: Kind
    for kind in ("valkey", "nats"):
        server = server_of(kind)
        async with proxy(server.port) as between, running(server.url) as listener:
            url = server.url.replace(str(server.port), str(between.port))
            async with listener.connect("/") as peer, running(url) as writer:
                kept, plain = writer.registry.topic("kept"), writer.registry.topic("plain")
                for number in range(4):
                    topic = (kept, plain)[number % 2]
                    await kept.publish(News("begin"))  # all that a new connection needs is there
                    assert (await peer.receive(News)).text == "begin"
                    between.deaf = True  # what comes back vanishes
                    said = asyncio.create_task(topic.publish(News(str(number))))
                    assert (await peer.receive(News, timeout=5)).text == str(number)
                    between.deaf = False
                    between.reset()
                    await said
                await peer.receive_nothing(within=0.05)


async def test_a_fate_that_cannot_be_known(server_of: Callable[..., BrokerServer]) -> None:
    """The history is too short to tell: that is an error, and no message comes twice."""
    server = server_of("valkey")
    async with running(server.url) as process:
        link: Any = process._app.directory.channels.broker._connection  # type: ignore[attr-defined]
        options = TopicOptions(history=1)
        for number in range(4):
            await link.publish("kept", b"x", options, Attempt(str(number)))
        with pytest.raises(BrokerError, match="too short to tell whether the message arrived"):
            await link.publish("kept", b"x", options, Attempt("0", again=True, age=30))
        assert await link.publish("kept", b"x", options, Attempt("3", again=True, age=30))


async def test_cancelling_who_publishes_leaves_the_connection_alone(server: BrokerServer) -> None:
    async with running(server.url) as process, process.connect("/") as peer:
        for name in ("kept", "plain"):
            topic = process.registry.topic(name)
            for number in range(20):
                with anyio.CancelScope() as scope:
                    if number % 2:
                        scope.cancel()
                    await topic.publish(News(str(number)))
                task = asyncio.create_task(topic.publish(News("cancelled")))
                await asyncio.sleep(0)
                task.cancel()
            assert await topic.publish(News("last")) == "" or name == "kept"
            while (await peer.receive(News)).text != "last":
                pass
        assert process.registry.counters()["reconnected"] == 0


async def test_members_are_connections(server: BrokerServer) -> None:
    async with running(server.url) as process, process.connect("/") as peer:
        there = await process.registry.topic("plain").members()
        assert there == [TopicMember(peer_id(process), None)]
        await peer.close()


def peer_id(process: MemoryServer) -> str:
    (connection,) = process.registry
    return connection.id


@pytest.mark.parametrize("kind", ["valkey", "nats"])
async def test_what_is_removed_is_gone_at_the_server(
    kind: Kind, server_of: Callable[[Kind], BrokerServer]
) -> None:
    async with serve_in_memory(app(), broker=server_of(kind).url) as process:
        kept = TopicName("removed", history=10)
        topic = process.registry.topic(kept, News)
        for text in "abc":
            await topic.publish(News(text))
        await topic.clear_history()
        broker: Any = process.registry._directory.channels.broker
        last = await broker._connection.last("removed", kept._options)
        entries = await broker._connection.latest("removed", kept._options, last, 10)
        (entry,) = entries
        assert entry[0] == last
        assert wire.unpack(entry[1]).envelope == Envelope({}, clears=True)


# -- over an engine that fails as the test says


class Line:
    """A link whose calls are counted, and fail when told to."""

    def __init__(self) -> None:
        self.heard = 0
        self.failing: dict[str, Exception] = {}
        self.cut = asyncio.Event()
        self.calls: list[str] = []
        self.waits = asyncio.Event()
        self.hangs: set[str] = set()
        self.last_mark = Mark()

    def tell(self, process: str, note: bytes) -> None: ...

    async def lost(self) -> None:
        await self.cut.wait()
        raise ConnectionLostError("cut")

    def __getattr__(self, name: str) -> Any:
        async def call(*_: Any) -> Any:
            self.calls.append(name)
            if name in self.failing:
                raise self.failing.pop(name)
            if (name == "publish" and self.waits.is_set()) or name in self.hangs:
                await asyncio.sleep(60)
            stored = Stored(False, [], Mark("a", (3,)))
            answers: dict[str, Any] = {"publish": "a-1", "last": self.last_mark, "read": stored}
            return {**answers, "latest": []}.get(name, {})

        return call


class Lines:
    address = "test://"

    def __init__(self, kind: type[Line] = Line) -> None:
        self.kind = kind
        self.made: list[Line] = []
        self.prepare: Callable[[Line], None] = lambda line: None

    async def connect(self, sink: Any, process: str) -> Line:
        line = self.kind()
        self.prepare(line)
        self.made.append(line)
        return line


class Choosy(Line):
    """A link that refuses every subscription in which there is the topic "bad"."""

    async def subscribe(self, topics: Any) -> None:
        self.calls.append(f"subscribe {' '.join(topics)}")
        if "bad" in topics:
            raise BrokerError("no room")


class Lesser(Line):
    """A link of an engine that was written before these were asked for."""

    def __getattr__(self, name: str) -> Any:
        if name in ("remove", "forget_idle"):
            raise AttributeError(name)
        return super().__getattr__(name)


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_why_it_does_not_connect_is_said_whatever_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the start a refusal is raised at once. While the app runs, each new reason is logged, and
    it goes on trying: also after what no engine should raise."""
    lines: Any = Lines()
    broker = remote.RemoteBroker(None, lines, 60, {})
    reasons: list[Exception] = [BrokerError("a wrong password")]

    def prepare(line: Line) -> None:
        if reasons:
            raise reasons.pop(0)

    lines.prepare = prepare
    with anyio.fail_after(5), pytest.raises(BrokerError, match="test:// cannot be used: a wrong"):
        await broker.start()
    assert not caplog.records
    broker = remote.RemoteBroker(None, lines, 60, {})
    await broker.start()
    reasons += [
        BrokerError("a wrong password"),
        BrokerError("a wrong password"),
        TypeError("of the client"),
        ConnectionLostError("nobody there"),
    ]
    lines.made[-1].cut.set()
    await until(lambda: not reasons and broker._connection is not None)
    await broker.stop()
    logged = [each.getMessage().partition("test:// ")[2] for each in caplog.records]
    assert logged == [
        "is unreachable: cut",
        "is still unreachable: a wrong password",
        "is still unreachable: an error in wsflow, or in the client",
        "",
        "is still unreachable: nobody there",
    ]
    assert caplog.records[3].exc_info is not None


async def test_a_refused_topic_takes_no_other_with_it() -> None:
    lines: Any = Lines()
    broker = remote.RemoteBroker(None, lines, 5, {})
    for name in ("one", "bad", "two"):
        broker.subscribe(name, TopicOptions())
    link: Any = Choosy()
    await broker._subscribe(link, dict.fromkeys(("one", "bad", "two"), TopicOptions()))
    assert link.calls == [
        "subscribe one bad two",
        *(f"subscribe {n}" for n in ("one", "bad", "two")),
    ]
    await broker.subscribed("one")
    await broker.subscribed("two")
    with pytest.raises(BrokerError, match="no room"):
        await broker.subscribed("bad")


async def test_a_farewell_that_nobody_takes(caplog: pytest.LogCaptureFixture) -> None:
    lines: Any = Lines()
    receiver: Any = remote._Nobody()
    broker = remote.RemoteBroker(receiver, lines, 5, {})
    with caplog.at_level("DEBUG"):
        await broker.start()
        await until(lambda: "ping" in lines.made[0].calls)
        lines.made[0].failing["ping"] = ConnectionLostError("gone")
        await broker.stop()
    assert "did not acknowledge the goodbye" in caplog.text


@pytest.fixture
async def far(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Any, Line]]:
    """A broker over a link that fails as told, with a topic that is subscribed to."""
    monkeypatch.setattr(remote, "RETRY", 0.01)
    monkeypatch.setattr(remote, "REMIND", 0.01)
    lines: Any = Lines()
    broker = remote.RemoteBroker(None, lines, 5, {"kept": TopicOptions(history=1)})
    await broker.start()
    broker.subscribe("kept", TopicOptions(history=1))
    await broker.subscribed("kept")
    yield broker, lines.made[0]
    await broker.stop()


async def test_what_an_engine_of_others_may_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "REMIND", 0.01)
    kept = TopicOptions(history=1, idle=1)
    lines: Any = Lines(Lesser)
    broker = remote.RemoteBroker(None, lines, 1, {"kept": kept})
    await broker.start()
    try:
        await until(lambda: lines.made[0].calls.count("declare") > 2)
        with pytest.raises(BrokerError, match="its engine has no `remove`"):
            await broker.clear("kept", kept)
        assert broker.counters["reconnected"] == 0
    finally:
        await broker.stop()


async def test_idle_histories_that_cannot_be_forgotten_now(
    far: tuple[Any, Line], caplog: pytest.LogCaptureFixture
) -> None:
    broker, link = far
    link.failing["forget_idle"] = BrokerError("no room")
    await until(lambda: "forget_idle" not in link.failing)
    calls = link.calls.count("forget_idle")
    await until(lambda: link.calls.count("forget_idle") > calls)
    assert "idle histories are not forgotten: no room" in caplog.text
    assert broker.counters["reconnected"] == 0


async def test_a_history_that_cannot_be_read_now(
    far: tuple[Any, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, link = far
    monkeypatch.setattr(remote, "RETRY", 1)  # a refusal that is over at once may not be seen
    assert await broker.read("kept", "", 5) == Page([], recovered=False, more=False)
    link.failing["last"] = BrokerError("you may not")
    with pytest.raises(BrokerError, match="you may not"):
        await broker.read("kept", "", 5)
    link.last_mark = Mark("a", (3,))
    link.failing["read"] = BrokerError("it is broken")
    with pytest.raises(BrokerError, match="it is broken"):
        await broker.read("kept", "", 5)
    await until(lambda: not broker._refused)
    link.failing["latest"] = ConnectionLostError("cut")
    assert (await broker.read("kept", "", 5)).events == []  # over another connection
    assert broker.counters["reconnected"] == 1


async def test_a_topic_that_is_refused_later_and_allowed_again(
    far: tuple[Any, Line], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker, link = far
    heard: list[str] = []
    monkeypatch.setattr(broker._listener, "missed", heard.append, raising=False)
    monkeypatch.setattr(remote, "RETRY", 0.01)
    broker.subscribe("plain", TopicOptions())
    await broker.subscribed("plain")
    link.failing["subscribe"] = BrokerError("no longer")
    broker.refused("plain", BrokerError("no longer"))
    broker.refused("nobody joins it", BrokerError("no longer"))
    with pytest.raises(BrokerError, match="no longer"):
        await broker.subscribed("plain")
    await until(lambda: heard)  # by then it is subscribed to again
    await broker.subscribed("plain")
    assert heard == ["plain"]
    assert "topic 'plain' cannot be subscribed to: no longer" in caplog.text
    assert "nobody" not in caplog.text


async def test_a_message_that_comes_late_once_more() -> None:
    """It was sent again, without and with a history, and the first attempt comes at last."""
    heard: list[str] = []

    class Listener(remote._Nobody):
        def deliver(self, topic: str, event: Event) -> None:
            heard.append(topic)

    receiver: Any = Listener()
    broker = remote.RemoteBroker(receiver, cast(Any, Lines()), 1, {})
    for topic, options in (("plain", TopicOptions()), ("kept", TopicOptions(history=9))):
        broker.subscribe(topic, options)
    feed = broker._feeds["kept"]
    feed.position = Mark("a", (1,))
    feed.live.set()
    for again in (True, False):
        broker.arrived("plain", None, wire.pack(Envelope({}), "p", 1, again))
    for again, order in ((True, 2), (False, 3)):
        stamp = Stamp(Mark("a", (order,)), (order - 1,))
        broker.arrived("kept", stamp, wire.pack(Envelope({}), "p", 2, again))
    assert heard == ["plain", "kept"]
    assert feed.position == Mark("a", (3,))


async def test_what_is_declared_is_asked_for_again(
    far: tuple[Any, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, link = far
    monkeypatch.setattr(remote, "RETRY", 0.01)
    link.failing["declared"] = NoAnswerError("no leader")
    assert await broker.declared() == {}
    assert link.calls.count("declared") == 2
    monkeypatch.setattr(remote, "RETRY", 60)
    broker._asked = float("-inf")
    link.failing["declared"] = NoAnswerError("no leader")
    with pytest.raises(NoAnswerError):
        await broker.declared()


async def test_what_was_declared_at_a_broker_that_was_emptied(far: tuple[Any, Line]) -> None:
    """It stays known to who publishes, until something else is declared."""
    broker, link = far
    one, two = TopicOptions(history=1), TopicOptions(history=2)
    for answer, known in (
        ({"kept": one, "other": one}, {"kept": one, "other": one}),
        ({}, {"kept": one, "other": one}),
        ({"kept": two}, {"kept": two, "other": one}),
    ):

        async def declared(answer: Any = answer) -> Any:
            return answer

        link.declared = declared  # type: ignore[attr-defined]
        broker._asked = float("-inf")
        assert await broker.declared() == known


async def test_a_history_that_nobody_reads_in_time(
    far: tuple[Any, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, link = far
    monkeypatch.setattr(remote, "PATIENCE", 0.1)
    broker._timeout = 0.1
    link.hangs.add("last")
    with pytest.raises(BrokerError, match=r"reading the history of topic 'kept' at .* did not"):
        await broker.read("kept", "", 5)


async def test_a_history_that_is_lost_while_it_is_cleared(far: tuple[Any, Line]) -> None:
    broker, link = far

    async def publish(*_: Any) -> str:
        return ""  # at that moment the topic had none

    link.publish = publish  # type: ignore[attr-defined]
    with pytest.raises(BrokerError, match="was lost meanwhile: clear it again"):
        await broker.clear("kept", TopicOptions(history=1))


async def test_a_history_whose_end_does_not_come(far: tuple[Any, Line]) -> None:
    """It is waited for, and then read; unless that is refused."""
    broker, link = far
    feed = broker._feeds["kept"]
    here, later = Mark("a", (3,)), Mark("a", (5,))

    def comes(*marks: Mark) -> None:
        left = iter(marks)

        async def last(*_: Any) -> Mark:
            return next(left, here)

        link.last = last  # type: ignore[attr-defined]

    feed.position = here
    for place in (here, Mark("a", (2,))):  # an earlier one changes nothing
        feed.clear(place)
        assert feed.cleared == here
    comes(*[later] * len(remote.LATER))
    assert (await broker.read("kept", "", 5)).events == []
    assert feed.live.is_set()
    comes()

    async def ping() -> None:
        broker._refused["kept"] = BrokerError("not now")

    link.ping = ping  # type: ignore[attr-defined]
    with pytest.raises(BrokerError, match="not now"):
        await broker.read("kept", "", 5)


async def test_a_history_that_is_refused_when_its_end_does_not_come() -> None:
    broker = remote.RemoteBroker(None, cast(Any, Lines()), 5, {})
    broker.subscribe("kept", TopicOptions(history=1))
    feed, link = broker._feeds["kept"], Line()
    feed.position, link.last_mark = Mark("a", (3,)), Mark("a", (5,))
    feed.live.set()
    feed._recovers = lambda topic: broker._refused.update({topic: BrokerError("no longer")})
    with pytest.raises(BrokerError, match="no longer"):
        await broker._catch_up("kept", cast(Any, link))


async def test_a_history_that_is_lost_while_its_latest_events_are_read(
    far: tuple[Any, Line],
) -> None:
    broker, link = far
    feed = broker._feeds["kept"]
    feed.position = Mark("a", (3,))

    async def latest(*_: Any) -> list[Any]:
        feed.position = Mark("b", (1,))
        return []

    link.latest = latest  # type: ignore[attr-defined]
    place, portion = await broker._replays.latest(link, feed, 5)
    assert (place, list(portion.events)) == (Mark("a", (3,)), [])


async def test_a_topic_that_was_left_while_it_was_recovered() -> None:
    lines: Any = Lines()
    link: Any = Line()
    broker = remote.RemoteBroker(None, lines, 5, {})
    broker.subscribe("kept", TopicOptions(history=1))
    left = broker._feeds["kept"]
    broker.unsubscribe("kept")
    broker.subscribe("kept", TopicOptions(history=1))
    await broker._recover_one(left, link)
    assert not broker._ready["kept"].is_set()


async def test_what_comes_for_a_topic_that_was_left() -> None:
    lines: Any = Lines()
    broker = remote.RemoteBroker(None, lines, 5, {})
    heard: list[str] = []
    receiver: Any = broker._listener
    receiver.unreadable = lambda where, why: heard.append(where)
    broker.arrived("left", None, b"it would be no packet")
    broker.subscribe("wanted", TopicOptions())
    broker.arrived("wanted", None, b"nor is this")
    assert heard == ["topic 'wanted'"]


async def test_what_a_link_may_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote, "STABLE", 0.0)
    lines: Any = Lines()
    broker = remote.RemoteBroker(None, lines, 5, {})
    kept, plain = TopicOptions(history=1), TopicOptions()
    await broker.start()
    try:
        lines.made[0].failing["ping"] = ZeroDivisionError("a bug")
        await until(lambda: len(lines.made) == 2 and broker._connection)
        assert "the broker's connection failed" in caplog.text
        lines.made[-1].failing["declared"] = ConnectionLostError("gone")
        assert await broker.declared() == {}
        lines.made[-1].waits.set()
        broker._timeout = 0.1
        with pytest.raises(BrokerError, match=r"did not answer; .*; the message may still arrive"):
            await broker.publish("t", Envelope({}), plain)
        broker._timeout = 5
        lines.made[-1].failing["last"] = BrokerError("no room")
        broker.subscribe("kept", kept)
        with pytest.raises(BrokerError, match="no room"):
            await broker.subscribed("kept")
        broker.unsubscribe("kept")
        broker.subscribe("kept", kept)
        broker.unsubscribe("kept")  # before anything was done
        broker.subscribe("again", kept)
        broker.unsubscribe("again")
        broker.subscribe("again", kept)
        await broker.subscribed("again")
        broker._must_recover("nobody")
        broker._refuse("nobody", BrokerError("x"))
        await broker._subscribe(lines.made[-1], {"nobody": plain})
        line = lines.made[-1]
        line.failing["read"] = ConnectionLostError("gone")
        broker._feeds["again"].position = Mark("a", (3,))
        replay = await broker.replay("again", "a-1")
        assert not replay.recovered  # the new link knows no history
        broker._feeds["again"].position = Mark("a", (3,))
        lines.made[-1].failing["latest"] = ConnectionLostError("gone")
        replay = await broker.replay("again", "", 2)
        assert replay.take(lambda: None) == ()  # there is nothing any more
        lines.prepare = lambda line: line.cut.set()
        broker.give_up(broker._connection)
        await until(lambda: len(lines.made) > 4)
    finally:
        await broker.stop()
    waiting = remote.RemoteBroker(None, lines, 5, {})
    lines.prepare = lambda line: line.failing.update(declare=BrokerError("no"))
    starting = asyncio.create_task(waiting.start())
    await asyncio.sleep(0.05)
    starting.cancel()
    await asyncio.wait([starting])
    assert waiting._task is None


async def test_a_topic_that_is_left_and_joined_in_one_moment(server: BrokerServer) -> None:
    async with running(server.url) as process, process.connect("/") as peer:
        broker: Any = process._app.directory.channels.broker
        for _ in range(3):
            broker.unsubscribe("plain")
            broker.subscribe("plain", TopicOptions())
        await broker.subscribed("plain")
        await process.registry.topic("plain").publish(News("once"))
        assert (await peer.receive(News)).text == "once"
        await peer.receive_nothing(within=0.05)


async def test_jetstream_that_an_account_may_not_use(tmp_path: Any) -> None:
    config = f"""
        jetstream {{store_dir: "{tmp_path}"}}
        accounts {{ JS: {{jetstream: enabled}}, A: {{users: [{{user: a, password: b}}]}} }}
    """
    async with nats_with(tmp_path, config) as server:
        url = server.url.replace("//", "//a:b@")
        with pytest.raises(BrokerError, match=r"JetStream not enabled|need JetStream"):
            async with serve_in_memory(app(), broker=url, limits=Limits(publish_timeout=1)):
                raise AssertionError


async def test_tasks_that_swallow_their_cancellation() -> None:
    async def stubborn() -> None:
        while not done.is_set():
            try:
                await done.wait()
            except asyncio.CancelledError:
                continue

    done = asyncio.Event()
    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await nats_client.cancel_all({task})
    assert not task.done()
    done.set()
    await task


async def test_nobody_hears_of_what_an_abandoned_task_raised() -> None:
    async def fails(at: asyncio.Event) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await at.wait()
        raise OSError("no server")

    heard: list[object] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: heard.append(context))
    try:
        now, never = asyncio.Event(), asyncio.Event()
        now.set()
        tasks = {asyncio.create_task(fails(now)), asyncio.create_task(fails(never))}
        await asyncio.sleep(0)
        await nats_client.cancel_all(tasks)
        tasks.clear()
        gc.collect()
        assert heard == []
    finally:
        loop.set_exception_handler(before)


async def test_nothing_is_left_of_a_connection_that_fails_while_it_writes(
    server_of: Callable[..., BrokerServer], caplog: pytest.LogCaptureFixture
) -> None:
    """nats-py fails again while it closes then, and leaves tasks, an error and a socket."""
    url = server_of("nats").url

    async def fail() -> None:
        connection = nats_client.NatsClient()
        await connection.connect(url)
        client: Any = connection._client

        async def drain() -> None:
            client._pending.append(b"")
            client._pending_data_size = 1
            raise ConnectionResetError("reset")

        client._transport.drain = drain
        await connection.send("a", b"b")
        tasks = connection._left_behind()
        with pytest.raises(ConnectionLostError):
            await connection.ping()
        await connection.close()
        assert tasks
        assert all(task.done() for task in tasks)

    await fail()
    gc.collect()
    assert caplog.text == ""


async def test_a_note_on_a_lost_connection() -> None:
    connection = nats_client.NatsClient()
    await connection.close()
    connection.note("subject", b"")
    with pytest.raises(ConnectionLostError):
        await connection.lost()
    while connection._telling is not None:
        await asyncio.sleep(0)


async def test_what_a_handler_of_nats_messages_raises(
    server_of: Callable[..., BrokerServer],
) -> None:
    """The connection is lost at once, as one to Redis is, and does not go deaf."""
    connection = nats_client.NatsClient()
    await connection.connect(server_of("nats").url)

    def fail(message: object) -> None:
        raise ZeroDivisionError("a bug")

    await connection.subscribe("a", fail)
    await connection.send("a", b"")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        await asyncio.wait_for(connection.lost(), 5)
    with pytest.raises(ConnectionLostError):
        await connection.ping()
    await connection.close()


async def test_messages_of_nats_are_handled_as_they_are_read(
    server_of: Callable[..., BrokerServer],
) -> None:
    """No task stands between, in which they would wait, and some be dropped."""
    server = server_of("nats")
    connection = nats_client.NatsClient()
    await connection.connect(server.url)
    tasks, came = asyncio.all_tasks(), list[bytes]()
    subscription = await connection.subscribe("a.*", lambda message: came.append(message.data))
    assert asyncio.all_tasks() == tasks
    for index in range(3):
        await connection.send(f"a.{index}", b"%d" % index)
    await connection.ping()
    assert came == [b"0", b"1", b"2"]
    await connection.unsubscribe(subscription)
    await connection.send("a.3", b"3")
    await connection.ping()
    assert came == [b"0", b"1", b"2"]
    await connection.close()


def test_a_fail_over_is_a_lost_link() -> None:
    assert isinstance(redis._refusal(ReadOnlyError("x")), ConnectionLostError)


async def test_a_plain_topic_that_is_refused_no_more() -> None:
    lines: Any = Lines()
    broker = remote.RemoteBroker(None, lines, 5, {})
    broker.subscribe("bad", TopicOptions())
    await broker._subscribe(cast(Any, Choosy()), {"bad": TopicOptions()})
    with pytest.raises(BrokerError, match="no room"):
        await broker.subscribed("bad")
    await broker._subscribe(cast(Any, Line()), {"bad": TopicOptions()})
    await broker.subscribed("bad")


@pytest.mark.parametrize("id", [f"abc-{2**64}", f"abc-1-{2**64}", "abc-99999999999999999999"])
def test_numbers_that_no_place_has(id: str) -> None:
    assert Mark.parse(id) is None


def test_marks() -> None:
    assert str(Mark.parse("ab-1-2")) == "ab-1-2"
    for nonsense in ("", "ab", "x-1", "ab-1-2-3", "ab-" + "9" * 5000, "ab--1"):
        assert Mark.parse(nonsense) is None
