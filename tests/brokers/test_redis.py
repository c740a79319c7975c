"""Redis: what others have left in its keys, its URLs, and the bounds of its streams."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from redis.asyncio import Redis

import wsflow
from tests.brokers.aliens import GOOD, News, app, resumes, running, work
from tests.brokers.keys import Certificates
from tests.brokers.proxy import proxy
from tests.brokers.servers import BrokerServer, Made, SentinelServer
from wsflow import BrokerError
from wsflow.brokers import select, wire
from wsflow.brokers.base import Mark
from wsflow.brokers.engine import Attempt, ConnectionLostError
from wsflow.brokers.redis import QUIET
from wsflow.limits import Limits
from wsflow.messages.events import TopicOptions
from wsflow.testing import serve_in_memory

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
            feed = process._app.directory.channels.broker._feeds["kept"]  # type: ignore[attr-defined]
            feed.recent.clear()  # else nothing is read
            await resumes(process, first, "b")
            assert process.registry.counters()["unreadable"] == len(ENTRIES)
            await work(process, peer)
            # They are as much in the way of who has to catch up.
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
            with anyio.fail_after(5):
                while not re.search("cannot be subscribed to|was lost at the broker", caplog.text):
                    await anyio.sleep(0.005)
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


async def test_a_first_attempt_that_comes_late_is_not_stored_again(server: BrokerServer) -> None:
    connection: Any = await select.engine(server.url).connect(_Deaf(), "p")  # type: ignore[arg-type]
    try:
        async with raw(server) as client:
            kept = TopicOptions(history=10)
            again = await connection.publish("kept", b"x", kept, Attempt("a", again=True, age=3))
            other = await connection.publish("kept", b"y", kept, Attempt("b"))
            assert await connection.publish("kept", b"x", kept, Attempt("a")) == again
            assert await client.xlen(STREAM) == 2
            assert str(await connection.last("kept", kept)) == other
            assert 0 < await client.ttl("wsflow:s:{kept}:a") <= 600
            assert not await client.exists("wsflow:s:{kept}:b")
    finally:
        await connection.close()


async def test_a_stream_has_an_end_in_time_and_in_bytes(server: BrokerServer) -> None:
    connection: Any = await select.engine(server.url).connect(_Deaf(), "p")  # type: ignore[arg-type]
    try:
        async with raw(server) as client:
            brief = TopicOptions(history=10, max_age=30)
            await connection.publish("brief", b"x", brief, Attempt("a"))
            assert 0 < await client.pttl("wsflow:h:{brief}") <= 30_000
            assert 0 < await client.pttl("wsflow:m:{brief}") - QUIET * 1000 <= 30_000
            idle = TopicOptions(history=10, max_age=60, idle=30)
            await connection.publish("brief", b"x", idle, Attempt("b"))
            assert 0 < await client.pttl("wsflow:h:{brief}") <= 30_000
            await connection.publish("brief", b"x", TopicOptions(history=10), Attempt("c"))
            for key in ("wsflow:h:{brief}", "wsflow:m:{brief}"):
                assert await client.pttl(key) == -1  # the limit was taken away
            assert await client.xlen("wsflow:h:{brief}") == 3
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


# -- databases and protocols


async def test_databases_do_not_hear_each_other(
    server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What is published in one reaches no other one: neither events nor notes; and no history is
    read over and over for an event that is not in it."""
    async with (
        running(server.url, caplog) as zero,
        running(f"{server.url}/1", caplog) as one,
        running(f"{server.url}?db=2", caplog) as two,
        raw(server) as client,
    ):
        processes = (zero, one, two)
        async with zero.connect("/") as a, one.connect("/") as b, two.connect("/") as c:
            for number, (process, peer) in enumerate(zip(processes, (a, b, c), strict=True)):
                for topic in ("kept", "plain"):
                    text = f"{number} {topic}"
                    await process.registry.topic(topic).publish(News(text))
                    assert (await peer.receive(News)).text == text
            for process, peer in zip(processes, (a, b, c), strict=True):
                await work(process, peer)
                assert process.registry.counters()["unreadable"] == 0
                assert process._app.directory.channels.broker.processes == []  # type: ignore[attr-defined]
            channels = {each.decode() for each in await client.pubsub_channels()}
            assert {"wsflow:t:kept", "wsflow:db1:t:kept", "wsflow:db2:t:kept"} <= channels
            before = (await client.info())["total_commands_processed"]
            await asyncio.sleep(0.5)
            assert (await client.info())["total_commands_processed"] - before < 100


@pytest.mark.parametrize("protocol", [2, 3])
async def test_protocols(
    protocol: int, server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{server.url}?protocol={protocol}"
    async with running(url, caplog) as process, process.connect("/") as peer:
        await work(process, peer)
        first = await process.registry.topic("kept").publish(News("a"))
        await process.registry.topic("kept").publish(News("b"))
        await resumes(process, first, "b")
        await process._app.directory.channels.broker._connection.ping()  # type: ignore[attr-defined]
        async with wsflow.publisher(url) as publish:
            assert await publish("kept", News("here"))  # it is found to have a history
        async with running(server.url, caplog) as other, other.connect("/") as beside:
            await work(process, beside)
            await work(other, beside)


# -- who connects to what


async def reach(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect, or be refused: not both, and at once."""
    monkeypatch.setattr(select, "PATIENCE", 20.0)
    async with asyncio.timeout(8):
        await select.reach(url)


ODD = "/?#@:,[]%&=+ \\\"'<>{}|^`~!$*();é\n\t\x00%41"


async def test_a_password_of_odd_characters(
    server: BrokerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = quote(ODD, safe="")
    async with raw(server) as client:
        for user in ("default", "other"):
            await client.acl_setuser(
                user,
                enabled=True,
                passwords=[f"+{ODD}"],
                keys="*",
                channels="*",
                commands=["+@all"],
            )
    for protocol in (2, 3):
        for user in ("", "other"):
            url = server.url.replace("//", f"//{user}:{odd}@")
            await reach(f"{url}?protocol={protocol}", monkeypatch)
            with pytest.raises(BrokerError, match="it refuses the user or the password"):
                wrong = server.url.replace("//", f"//{user}:{odd}x@")
                await reach(f"{wrong}?protocol={protocol}", monkeypatch)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_server_that_repeats_the_password(
    protocol: int, server_of: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not know the command, or is told not to."""
    more = ("--rename-command", "AUTH", "", "--rename-command", "HELLO", "")
    server = server_of("valkey", more=more)
    url = server.url.replace("//", "//me:SECRET@")
    with pytest.raises(BrokerError, match=r"the broker refuses: unknown command '.*'$") as raised:
        await reach(f"{url}?protocol={protocol}", monkeypatch)
    assert "SECRET" not in str(raised.value)


async def test_a_database_that_there_is_not(
    server: BrokerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BrokerError, match="DB index is out of range"):
        await reach(f"{server.url}/16", monkeypatch)


async def test_a_cluster_and_a_sentinel_are_refused_at_once(
    server_of: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = server_of("valkey", more=("--cluster-enabled", "yes"))
    for protocol in (2, 3):
        with pytest.raises(BrokerError, match="it is a node of a Redis Cluster, which wsflow does"):
            await reach(f"{cluster.url}?protocol={protocol}", monkeypatch)
    sentinel = SentinelServer(cluster.port, 1)
    sentinel.start()
    try:
        with pytest.raises(BrokerError, match=r"it is a Sentinel: name it as in redis\+sentinel"):
            await reach(sentinel.url, monkeypatch)
    finally:
        sentinel.stop()


async def test_a_master_that_becomes_a_replica(
    server_of: Made, caplog: pytest.LogCaptureFixture
) -> None:
    """It still takes what is published without history, and nobody at the new master hears it."""
    server, other = server_of("valkey"), server_of("valkey")
    limits = Limits(publish_timeout=10)
    async with raw(server) as client:
        async with serve_in_memory(app(), broker=server.url, limits=limits) as process:
            async with process.connect("/") as peer:
                await work(process, peer)
                await client.replicaof("127.0.0.1", other.port)
                async with asyncio.timeout(10):
                    while "it is a replica: name the master, or the Sentinels" not in caplog.text:
                        await asyncio.sleep(0.05)
                publishing = asyncio.create_task(process.registry.topic("plain").publish(News("a")))
                assert not (await asyncio.wait([publishing], timeout=0.3))[0]
                await client.replicaof("NO", "ONE")
                await publishing
                assert (await peer.receive(News)).text == "a"
        await client.replicaof("127.0.0.1", other.port)
    with pytest.raises(ConnectionLostError, match="it is a replica"):
        await select.engine(server.url).connect(_Deaf(), "p")  # type: ignore[arg-type]


async def test_a_server_that_does_not_tell_its_role(
    server_of: Made, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does a proxy that knows no HELLO. It is asked once."""
    server = server_of("valkey", more=("--rename-command", "HELLO", ""))
    async with running(server.url, caplog) as process, process.connect("/") as peer:
        await work(process, peer)
        async with Redis.from_url(server.url, protocol=2) as client:

            async def errors() -> int:
                found = await client.info("errorstats")
                return int(found["errorstat_ERR"]["count"])

            before = await errors()
            for _ in range(3):
                await process._app.directory.channels.broker._connection.ping()  # type: ignore[attr-defined]
            assert await errors() == before


async def test_a_password_that_is_changed_while_the_app_runs(
    server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with raw(server) as client:
        await client.config_set("requirepass", "SECRET")
    url = server.url.replace("//", "//:SECRET@")
    async with Redis.from_url(url) as client, wsflow.publisher(url, timeout=10) as publish:
        await publish("plain", "x")
        await client.config_set("requirepass", "other")
        await client.client_kill_filter(skipme=True)
        async with asyncio.timeout(10):
            while "is still unreachable: it refuses the user or the password" not in caplog.text:
                await asyncio.sleep(0.05)
        await client.config_set("requirepass", "SECRET")
        await publish("plain", "x")
    assert "SECRET" not in caplog.text


# -- TLS


async def test_tls(
    server: BrokerServer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy(server.port, certificates.context()) as between:
        url = f"rediss://127.0.0.1:{between.port}"
        for protocol in (2, 3):
            await reach(f"{url}?{certificates.trusting}&protocol={protocol}", monkeypatch)
        await reach(f"{url}?ssl_cert_reqs=none", monkeypatch)
        with pytest.raises(ConnectionLostError, match="certificate verify failed"):
            await select.engine(url).connect(_Deaf(), "p")  # type: ignore[arg-type]
        other = f"rediss://127.1:{between.port}?{certificates.trusting}"  # another name of it
        with pytest.raises(ConnectionLostError, match="certificate verify failed"):
            await select.engine(other).connect(_Deaf(), "p")  # type: ignore[arg-type]
        await reach(f"{other}&ssl_check_hostname=no", monkeypatch)


async def test_a_certificate_of_the_client(
    server: BrokerServer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy(server.port, certificates.context(demanding=True)) as between:
        url = f"rediss://127.0.0.1:{between.port}"
        await reach(f"{url}?{certificates.presenting}", monkeypatch)
        with pytest.raises(ConnectionLostError):
            await select.engine(f"{url}?{certificates.trusting}").connect(_Deaf(), "p")  # type: ignore[arg-type]
        without = certificates.presenting.partition("&ssl_password")[0]
        with pytest.raises(ValueError, match="ssl_certfile, ssl_keyfile or ssl_password cannot"):
            select.engine(f"{url}?{without}")


async def test_a_private_ca_that_is_changed(
    server: BrokerServer, certificates: Certificates, tmp_path: Path
) -> None:
    """It is read again whenever it connects."""
    file = tmp_path / "ca.pem"
    file.write_bytes(certificates.ca.read_bytes())
    async with proxy(server.port, certificates.context()) as between:
        url = f"rediss://127.0.0.1:{between.port}?ssl_ca_certs={file}"
        engine = select.engine(url)
        file.write_text("nonsense")
        with pytest.raises(ConnectionLostError, match="its option ssl_ca_certs, or ssl_ca_path,"):
            await engine.connect(_Deaf(), "p")  # type: ignore[arg-type]
        file.write_bytes(certificates.ca.read_bytes())
        await (await engine.connect(_Deaf(), "p")).close()  # type: ignore[arg-type]


async def test_a_history_whose_record_was_evicted_begins_anew(
    server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The server has dropped the hash and not the stream: nothing old is replayed to who stayed,
    and who comes back is told."""
    async with running(server.url, caplog) as process, raw(server) as client:
        async with process.connect("/") as peer:
            kept = process.registry.topic("kept")
            ids = [await kept.publish(News(text)) for text in "abc"]
            assert [(await peer.receive(News)).text for _ in range(3)] == ["a", "b", "c"]
            await client.delete(META)
            new = await kept.publish(News("d"))
            assert (await peer.receive(News)).text == "d"
            await peer.receive_nothing(within=0.05)
            assert new.partition("-")[0] != ids[0].partition("-")[0]
            async with process.connect(f"/?after={ids[0]}") as late:
                assert late.rejected.status == 410
            await kept.publish(News("e"))
            assert (await peer.receive(News)).text == "e"
            await resumes(process, new, "e")


async def test_a_topic_on_which_nothing_was_said_for_long(server: BrokerServer) -> None:
    """Its events are too old, and who has the last of them has missed nothing."""
    connection: Any = await select.engine(server.url).connect(_Deaf(), "p")  # type: ignore[arg-type]
    options = TopicOptions(history=10, max_age=0.05)
    try:
        first = Mark.parse(await connection.publish("quiet", b"a", options, Attempt("a")))
        second = Mark.parse(await connection.publish("quiet", b"b", options, Attempt("b")))
        assert first is not None
        async with raw(server) as client:
            while await client.exists("wsflow:h:{quiet}"):
                await asyncio.sleep(0.01)
        assert await connection.last("quiet", options) == second
        read = await connection.read("quiet", options, first, second)
        assert (read.complete, read.entries) == (False, [])
    finally:
        await connection.close()
