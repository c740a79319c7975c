"""Redis: what others have left in its keys, its URLs, and the bounds of its streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

import wsflow
from tests.brokers.aliens import GOOD, News, resumes, running, work
from tests.brokers.servers import BrokerServer, Made
from wsflow import BrokerError
from wsflow.brokers import select, wire
from wsflow.brokers.engine import Attempt
from wsflow.messages.events import TopicOptions

STREAM, META = "wsflow:h:{kept}", "wsflow:m:{kept}"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server(server_of: Made) -> BrokerServer:
    return server_of("valkey")


@asynccontextmanager
async def raw(server: BrokerServer) -> AsyncIterator[Any]:
    client = Redis.from_url(server.url)
    yield client
    await client.aclose()


ENTRIES: list[dict[Any, Any]] = [
    {"x": "y"},
    {"": ""},
    {"k": "a"},
    {"k": "a", "x": "y"},
    {"d": b"d", "k": b"k"},
    {"k": "a", "d": ""},
    {"k": "a", "d": b"\xff\xfe"},
    {"k": "a", "d": GOOD + b"x"},
    {"k": "a", "d": b"\x93" * 5000},
    {"k": "a", "d": b"x" * 20_000},
    {f"field {number}": number for number in range(100)},
    {b"\xff": b"\x00"},
]


async def test_alien_entries_in_a_stream_are_left_out(
    server: BrokerServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_SIZE", 10_000)
    async with running(server.url, caplog) as process, raw(server) as client:
        async with process.connect("/") as peer:
            kept = process.registry.topic("kept")
            first = await kept.publish(News("a"))
            for fields in ENTRIES:
                await client.xadd(STREAM, fields)
            await kept.publish(News("b"))
            for text in "ab":
                assert (await peer.receive(News)).text == text
            await resumes(process, first, "b")
            assert process.registry.counters()["unreadable"] == len(ENTRIES)
            await work(process, peer)
            # They are as much in the way of who has to catch up.
            feed = process._app.directory.channels.broker._feeds["kept"]  # type: ignore[attr-defined]
            await client.xadd(STREAM, ENTRIES[0])
            feed.catch_up()
            await asyncio.wait_for(feed.live.wait(), 5)
            await work(process, peer)
    assert caplog.text.count("cannot be read") < 5  # once a second


@pytest.mark.parametrize("id", ["99999999999999-7", f"{2**64 - 1}-{2**64 - 1}", f"{2**64 - 1}-0"])
async def test_an_alien_entry_of_the_future(
    id: str, server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis gives no later id than the last one: then a new history is begun."""
    async with running(server.url, caplog) as process, raw(server) as client:
        async with process.connect("/") as peer:
            await work(process, peer)
            await client.xadd(STREAM, {"x": "y"}, id=id)
            await work(process, peer)
            first = await process.registry.topic("kept").publish(News("a"))
            await process.registry.topic("kept").publish(News("b"))
            for _ in range(5):
                await client.xadd(STREAM, {"x": "y"})
            await resumes(process, first, "b")
            await work(process, peer)


async def _string(client: Any, key: str) -> None:
    await client.set(key, "x")


async def _list(client: Any, key: str) -> None:
    await client.rpush(key, "x")


async def _set(client: Any, key: str) -> None:
    await client.sadd(key, "x")


@pytest.mark.parametrize("make", [_string, _list, _set])
@pytest.mark.parametrize("key", [STREAM, META])
async def test_a_key_of_another_type_hurts_its_topic_only(
    key: str, make: Any, server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(server.url, caplog) as process, raw(server) as client:
        async with process.connect("/") as peer:
            kept = process.registry.topic("kept")
            first = await kept.publish(News("a"))
            await work(process, peer, "kept")
            await client.delete(STREAM, META)
            await make(client, key)
            with pytest.raises(BrokerError, match="not of its type: delete it, or set another"):
                await kept.publish(News("b"))
            await client.publish("wsflow:t:kept", b"abc 9-9 8-8\n" + GOOD)  # live, after a gap
            await client.publish("wsflow:t:kept", b"abc 9-9 8-8\n" + GOOD)
            async with process.connect(f"/?after={first}") as late:
                assert late.rejected.status in (410, 503)
            await work(process, peer, "other", "plain")
            await client.delete(key)
            await work(process, peer)


@pytest.mark.parametrize(
    "fields",
    [
        {"epoch": "x y", "last": "1-1"},
        {"epoch": "\n", "last": "1-1"},
        {"epoch": "a" * 33, "last": "1-1"},
        {"epoch": "abc", "last": "nonsense"},
        {"epoch": "abc", "last": "1-1-1"},
        {"epoch": "abc"},
        {"last": "1-1"},
        {"bytes": "nan"},
        {"bytes": "nonsense"},
        {"bytes": "1e308"},
        {"alien": "x"},
    ],
)
async def test_alien_fields_beside_a_stream_begin_a_new_history(
    fields: dict[str, str], server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(server.url, caplog) as process, raw(server) as client:
        async with process.connect("/") as peer:
            await work(process, peer)
            if "bytes" not in fields and "alien" not in fields:
                await client.delete(META)
            await client.hset(META, mapping=fields)
            feed = process._app.directory.channels.broker._feeds["kept"]  # type: ignore[attr-defined]
            feed.catch_up()
            await asyncio.wait_for(feed.live.wait(), 5)
            first = await process.registry.topic("kept").publish(News("a"))
            await process.registry.topic("kept").publish(News("b"))
            await resumes(process, first, "b")
            await work(process, peer)


HEADS = [b"abc 1-1 ", b"abc 1-1 0-1", b"abc 9-9 8-8", b"abc 99999999999999-1 99999999999998-1"]


@pytest.mark.parametrize("head", HEADS)
async def test_a_live_event_that_is_in_no_history_is_dropped(
    head: bytes, server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(server.url, caplog) as process, raw(server) as client:
        async with process.connect("/") as peer:
            first = await process.registry.topic("kept").publish(News("a"))
            assert (await peer.receive(News)).text == "a"
            for _ in range(20):
                await client.publish("wsflow:t:kept", head + b"\n" + GOOD)
            await work(process, peer)
            feed = process._app.directory.channels.broker._feeds["kept"]  # type: ignore[attr-defined]
            await asyncio.wait_for(feed.live.wait(), 5)
            assert process.registry.counters()["unreadable"] == 20
            await resumes(process, first, "kept")


async def test_alien_declarations(server: BrokerServer, caplog: pytest.LogCaptureFixture) -> None:
    async with raw(server) as client:
        await client.set("wsflow:declared", "x")
        async with running(server.url, caplog) as process, process.connect("/") as peer:
            assert "publishers find no topic with history: a key at the broker" in caplog.text
            await work(process, peer)
        await client.delete("wsflow:declared")
        async with running(server.url, caplog) as process, process.connect("/") as peer:
            for name, value in [("a", "x"), (b"\xff", "1 2 3"), ("b", "1 2"), ("c", "1 x 3")]:
                await client.hset("wsflow:declared", name, value)
            async with wsflow.publisher(server.url) as publish:
                assert await publish("kept", News("here"))
            assert (await peer.receive(News)).text == "here"


async def test_a_stream_has_an_end_in_time_and_in_bytes(server: BrokerServer) -> None:
    connection: Any = await select.engine(server.url).connect(_Deaf(), "p")  # type: ignore[arg-type]
    try:
        async with raw(server) as client:
            brief = TopicOptions(history=10, max_age=30)
            await connection.publish("brief", b"x", brief, Attempt("a"))
            for kind in "hm":
                assert 0 < await client.pttl(f"wsflow:{kind}:{{brief}}") <= 30_000
            kept = TopicOptions(history=1000, history_bytes=50_000)
            for number in range(200):
                if number == 100:  # what others add is of no account, wherever it is
                    await client.xadd(STREAM, {"x": "y"})
                    await client.xadd(STREAM, {"k": "a", "d": "d", "b": "1e300"})
                await connection.publish("kept", b"x" * 1000, kept, Attempt(str(number)))
            entries = await client.xrange(STREAM)
            assert len(entries) == 50
            await connection.publish("kept", b"x" * 49_500, kept, Attempt("large"))
            assert await client.xlen(STREAM) == 1
            await connection.publish("kept", b"x" * 60_000, kept, Attempt("larger"))
            assert await client.xlen(STREAM) == 0
            again = Attempt("larger", again=True, age=30)
            with pytest.raises(BrokerError, match="too short to tell whether the message arrived"):
                await connection.publish("kept", b"x" * 60_000, kept, again)
            unbound = TopicOptions(history=1000, history_bytes=0)
            for number in range(100):
                await connection.publish("kept", b"x" * 1000, unbound, Attempt(f"more {number}"))
            assert await client.xlen(STREAM) == 100
            await connection.publish("kept", b"x" * 1000, kept, Attempt("less"))
            assert await client.xlen(STREAM) == 50
    finally:
        await connection.close()


class _Deaf:
    def told(self, data: bytes) -> None: ...


def test_urls_that_can_be_used() -> None:
    options = "db=2&client_name=wsflow&socket_connect_timeout=2&socket_keepalive=yes"
    for url, shown in {
        "redis://host": "redis://host",
        "redis://:p%40ss@host:1/3?prefix=a": "redis://…@host:1/3?…",
        f"redis://host/?{options}": "redis://host/?…",
        "rediss://host?ssl_cert_reqs=none&ssl_check_hostname=no": "rediss://host?…",
    }.items():
        assert select.engine(url).address == shown
