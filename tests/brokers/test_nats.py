"""NATS: what others have left in its streams, its URLs, and the bounds of its streams."""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import anyio
import msgspec
import nats
import pytest
from nats.aio.msg import Msg
from nats.errors import Error

import wsflow
from tests.brokers.aliens import GOOD, News, app, resumes, running, work
from tests.brokers.keys import Certificates, Key, Operator
from tests.brokers.servers import BrokerServer, Made
from tests.brokers.test_claims import Ignoring
from wsflow import BrokerError
from wsflow.brokers import nats as engine
from wsflow.brokers import nats_client, nats_keys, remote, select, wire
from wsflow.brokers.base import Mark
from wsflow.brokers.engine import PAGE_BYTES, Attempt, ConnectionLostError, NoAnswerError
from wsflow.brokers.nats import LATE
from wsflow.brokers.nats_client import NatsClient, RefusedError
from wsflow.messages.events import TopicOptions
from wsflow.testing import serve_in_memory


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server(server_of: Made) -> BrokerServer:
    return server_of("nats")


@asynccontextmanager
async def raw(server: BrokerServer) -> AsyncIterator[Any]:
    client = await nats.connect(server.url)
    yield client
    await client.close()


async def api(client: Any, what: str, request: Any = None) -> Any:
    data = json.dumps(request).encode() if request is not None else b""
    return json.loads((await client.request(f"$JS.API.{what}", data)).data)


async def hpub(server: BrokerServer, subject: str, headers: bytes, data: bytes) -> None:
    """Publish with headers that no client would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await reader.readline()
    sizes = f"{len(headers)} {len(headers) + len(data)}"
    writer.write(b'CONNECT {"headers":true,"verbose":false}\r\n')
    writer.write(f"HPUB {subject} {sizes}\r\n".encode() + headers + data + b"\r\nPING\r\n")
    while (await reader.readline()).strip() != b"PONG":
        pass
    writer.close()
    await writer.wait_closed()


HEADERS = [
    b"NATS/1.0\r\nStatus: 503\r\nNats-Sequence: 77\r\nNats-Stream: x\r\n\r\n",
    b"NATS/1.0\r\nNats-Msg-Size: many\r\nNats-Last-Sequence: \r\n\r\n",
    b"NATS/1.0 503 No\r\n\r\n",
    b"NATS/1.0 \xff\xfe\r\n\r\n",
    b"NATS/1.0\r\n\xff\xfe\r\n\r\n",
    b"NATS/1.0\r\n: \r\n::::\r\n\r\n",
    b"garbage",
    b"",
]


async def test_alien_headers_and_messages_in_a_stream_are_left_out(
    server: BrokerServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_SIZE", 10_000)
    async with running(server.url, caplog) as process, raw(server) as client:
        async with process.connect("/") as peer:
            kept = process.registry.topic("kept")
            first = await kept.publish(News("a"))
            for headers in HEADERS:
                for data in (b"", b"garbage", b"x" * 20_000):
                    await hpub(server, "wsflow.s.100_0.kept", headers, data)
            await kept.publish(News("b"))
            for text in "ab":
                assert (await peer.receive(News)).text == text
            told = process.registry.counters()["unreadable"]
            assert told >= 3 * len(HEADERS)
            await resumes(process, first, "b")
            assert process.registry.counters()["unreadable"] == told + 3 * len(HEADERS)
            for headers in HEADERS:
                for subject in ("wsflow.l.100_0.kept", "wsflow.l.0.plain", "wsflow.c"):
                    await hpub(server, subject, headers, b"garbage")
            await work(process, peer)
            async with process.connect("/") as other:
                await work(process, other)
            await client.flush()


@pytest.mark.parametrize(
    ("number", "previous"), [("1", "0"), ("9", "8"), ("99999999999999999999", "77"), ("-5", "-6")]
)
async def test_a_live_event_that_is_in_no_history_is_dropped(
    number: str, previous: str, server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Nats-Stream": "alien", "Nats-Sequence": number, "Nats-Last-Sequence": previous}
    async with running(server.url, caplog) as process, raw(server) as client:
        async with process.connect("/") as peer:
            first = await process.registry.topic("kept").publish(News("a"))
            for _ in range(20):
                await client.publish("wsflow.l.100_0.kept", GOOD, headers=headers)
            await work(process, peer)
            feed = process._app.directory.channels.broker._feeds["kept"]  # type: ignore[attr-defined]
            await asyncio.wait_for(feed.live.wait(), 5)
            assert process.registry.counters()["unreadable"] == 20
            await resumes(process, first, "kept")


@pytest.mark.parametrize("name", ["a b", "*", ">", "a.b", "\r\nPUB x 0\r\n", "", "é", "x" * 65])
async def test_a_process_of_a_strange_name_is_none(
    name: str, server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be told something on a subject with that name."""
    async with running(server.url, caplog) as process, raw(server) as client:
        async with process.connect("/") as peer:
            for kind in ("hello", "beat", "note"):
                await client.publish("wsflow.c", msgspec.msgpack.encode([1, kind, name, 1, b""]))
            await work(process, peer)
            assert process.registry.counters()["unreadable"] == 3
            assert list(process._app.directory.channels.broker.processes) == []


async def test_alien_declarations(server: BrokerServer, caplog: pytest.LogCaptureFixture) -> None:
    async with running(server.url, caplog) as process, raw(server) as client:
        for number, data in enumerate([b"", b"x", b"\xff", b"[1]", b'["a",1,"x"]', b"[" * 5000]):
            await client.request(f"wsflow.d.{number}", data)
        await client.request("wsflow.d.short", b'["short",7,1.5]')  # its answer: it is stored
        async with process.connect("/") as peer, wsflow.publisher(server.url) as publish:
            assert await publish("kept", News("here"))
            assert (await peer.receive(News)).text == "here"
            _, kind = await publish._stored("short", {})
            assert kind.options == TopicOptions(7, 1.5)


async def test_an_alien_claim_is_a_claim(
    server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(server.url, caplog) as process, raw(server) as client:
        assert await process.registry.claim("a", 60)
        await client.request("wsflow.o.b", b"")  # its answer: it is stored
        assert not await process.registry.claim("b", 60)
        connection: Any = process._app.directory.channels.broker._connection  # type: ignore[attr-defined]
        assert not await connection.claim("b", 60, Attempt("x", again=True))


@pytest.mark.parametrize("answer", [b"", b"x", b"\xff", b"[]", b'{"error":1}', b'{"seq":"x"}'])
async def test_an_alien_that_answers_in_place_of_the_broker(
    answer: bytes, server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(server.url, caplog) as process, raw(server) as client:

        async def respond(message: Msg) -> None:
            await message.respond(answer)

        await process.registry.topic("kept").publish(News("a"))
        await api(client, "STREAM.DELETE.wsflow_100_0")
        await client.subscribe("wsflow.s.100_0.kept", cb=respond)
        await client.flush()
        await client.request("wsflow.s.100_0.kept", b"")
        with pytest.raises(BrokerError, match="what the broker answers cannot be read"):
            await process.registry.topic("kept").publish(News("a"))
        async with process.connect("/") as peer:
            await work(process, peer, "other", "plain")


async def test_a_stream_has_an_end_in_bytes(
    server: BrokerServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.random, "random", random.Random(1).random)
    connection: Any = await select.engine(server.url).connect(_Deaf(), "p")  # type: ignore[arg-type]
    try:
        async with raw(server) as client:
            kept = TopicOptions(history=1000, history_bytes=50_000)
            await connection.publish("quiet", b"x" * 1000, kept, Attempt("quiet"))
            most = 0
            for number in range(400):
                await connection.publish("loud", b"x" * 1000, kept, Attempt(str(number)))
                stream = await api(client, "STREAM.INFO.wsflow_1000_0_50000")
                most = max(most, stream["state"]["messages"])
            assert 50 <= most < 150
            assert stream["config"]["max_bytes"] == 128 * 1024 * 1024
            assert (await connection.last("quiet", kept)).order == (1,)
            await connection.publish("loud", b"x" * 60_000, kept, Attempt("large"))
            assert (await connection.last("loud", kept)).order == ()
            await connection.ping()
            stream = await api(client, "STREAM.INFO.wsflow_1000_0_50000")
            assert stream["state"]["consumer_count"] == 0
            unbound = TopicOptions(history=1000, history_bytes=0)
            for number in range(100):
                await connection.publish("loud", b"x" * 1000, unbound, Attempt(f"more {number}"))
            stream = await api(client, "STREAM.INFO.wsflow_1000_0_0")
            assert (stream["state"]["messages"], stream["config"]["max_bytes"]) == (100, -1)

            async def refuse(*_: Any) -> None:
                raise RefusedError(1, "no purge")

            monkeypatch.setattr(connection._client, "consume", refuse)
            assert await connection.publish("loud", b"x" * 60_000, kept, Attempt("refused"))
            assert "a history cannot be held within its bytes: the broker refuses: no purge" in (
                caplog.text
            )
    finally:
        await connection.close()


async def test_idle_topics_are_looked_for_by_one_process_now_and_then(
    server: BrokerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "IDLE_LOOKS", 0.1)  # so that a claim lasts
    one, two = [await select.engine(server.url).connect(_Deaf(), "p") for _ in range(2)]  # type: ignore[arg-type]
    connection: Any = one
    brief, long = TopicOptions(history=10, idle=0.2), TopicOptions(history=10, idle=600)
    declared = {"a": brief, "b.{x}": brief, "c": long, "d": TopicOptions(history=10)}
    try:
        await connection.forget_idle({})
        for name in ("a", "b.1", "b.2"):
            await connection.publish(name, b"x", brief, Attempt(name))
        await connection.publish("c", b"x", long, Attempt("c"))
        await anyio.sleep(0.3)
        await connection.publish("b.2", b"x", brief, Attempt("again"))
        asked: list[str] = []

        async def consume(stream: str, *more: Any) -> None:
            asked.append(stream)
            await real(stream, *more)

        real = connection._client.consume
        monkeypatch.setattr(connection._client, "consume", consume)
        await connection.forget_idle(declared)
        assert asked == ["wsflow_10_0_idle200", "wsflow_10_0_idle600000"]
        async with raw(server) as client:
            stream = await api(client, "STREAM.INFO.wsflow_10_0_idle200")
            assert stream["state"]["messages"] == 2  # of the one that is not idle
            stream = await api(client, "STREAM.INFO.wsflow_10_0_idle600000")
            assert stream["state"]["messages"] == 1
        for each in (connection, two):
            await each.forget_idle(declared)  # type: ignore[union-attr]
        assert len(asked) == 2
        assert (await two.last("c", long)).order == (1,)
        await anyio.sleep(0.3)
        assert (await two.last("b.2", brief)).order == ()  # where nobody has looked yet
    finally:
        for each in (one, two):
            await each.close()


async def test_who_publishes_looks_first_whether_the_topic_is_idle(
    server: BrokerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MOST_KNOWN", 1)
    connection: Any = await select.engine(server.url).connect(_Deaf(), "p")  # type: ignore[arg-type]
    brief = TopicOptions(history=10, idle=0.2)
    try:
        for name in ("a", "b", "c"):
            await connection.publish(name, b"old", brief, Attempt(f"old {name}"))
        await anyio.sleep(0.3)
        for number in range(2):
            await connection.publish("a", b"new", brief, Attempt(f"new {number}"))
        last = await connection.last("a", brief)
        entries = await connection.latest("a", brief, last, 10)
        assert [data for _, data in entries] == [b"new", b"new"]
        assert len(connection._published) <= 2
    finally:
        await connection.close()


class _Deaf:
    def told(self, data: bytes) -> None: ...


async def test_a_stream_of_an_earlier_version_is_given_its_limit(
    server: BrokerServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = TopicOptions(history=100)
    async with raw(server) as client:
        connection: Any = await select.engine(server.url).connect(_Deaf(), "p")  # type: ignore[arg-type]
        try:
            monkeypatch.setattr(engine, "_stream_bytes", lambda options: -1)
            first = await connection.publish("kept", b"x", kept, Attempt("1"))
            monkeypatch.undo()
            stream = await api(client, "STREAM.INFO.wsflow_100_0")
            assert stream["config"]["max_bytes"] == -1
            connection._epochs.clear()
            second = await connection.publish("kept", b"x", kept, Attempt("2"))
            stream = await api(client, "STREAM.INFO.wsflow_100_0")
            assert stream["config"]["max_bytes"] == 16 * 16 * 1024 * 1024
            assert stream["state"]["messages"] == 2
            assert first.split("-")[0] == second.split("-")[0]
            monkeypatch.setattr(engine, "_stream_bytes", lambda options: 2**60)
            connection._epochs.clear()
            assert await connection.publish("kept", b"x", kept, Attempt("3"))
            assert "the stream wsflow_100_0 stays without its limit of" in caplog.text
        finally:
            await connection.close()


async def test_deliveries_of_other_versions_and_of_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What tells the bytes of a topic: numbers and sizes, as servers of several versions write
    them; all else ends the look."""
    purged: list[Any] = []

    class Client:
        def __init__(self, *messages: Any) -> None:
            self.messages = messages

        async def consume(self, stream: str, config: Any, take: Any) -> None:
            for message in self.messages:
                if take(message):
                    break

        async def api(self, what: str, request: Any) -> None:
            purged.append((what, request))

    def delivered(reply: str, size: str) -> Any:
        return SimpleNamespace(reply=reply, headers={"Nats-Msg-Size": size}, data=b"")

    created = SimpleNamespace(reply="", headers=None, data=b'{"num_pending":2}')
    old = [
        delivered("$JS.ACK.s.c.1.5.1.0.1", "60"),
        delivered("$JS.ACK.s.c.1.6.2.0.0", "50"),
        delivered("$JS.ACK.s.c.1.7.3.0.0", "50"),
    ]
    new = [
        delivered("$JS.ACK.domain.hash.s.c.1.5.1.0.1", "60"),
        delivered("$JS.ACK.domain.hash.s.c.1.6.2.0.0.token", "50"),
    ]
    empty = SimpleNamespace(reply="", headers=None, data=b'{"num_pending":0}')
    for messages in ([created, *old], [created, *new], [empty, *old], [*old]):
        client: Any = Client(*messages)
        client.lost = client.close = client.ping = None
        connection = engine.NatsConnection(client, client, "p", 1)
        await connection._trim("s", "p.s.x", 100)
    assert purged == [("STREAM.PURGE.s", {"filter": "p.s.x", "seq": 6})] * 3


async def test_declarations_that_are_not_answered() -> None:
    """They are not none."""

    async def api(*_: Any) -> Any:
        raise NoAnswerError("no leader")

    client: Any = SimpleNamespace(lost=None, close=None, ping=None, api=api)
    with pytest.raises(NoAnswerError):
        await engine.NatsConnection(client, client, "p", 1).declared()


async def test_an_answer_that_is_none(server: BrokerServer) -> None:
    client = NatsClient()
    await client.connect(server.url)
    try:
        for raised in (ValueError, KeyError, IndexError):

            def take(answer: Msg, raised: Any = raised) -> bool:
                raise raised

            with pytest.raises(BrokerError, match="something else may answer in its place"):
                await client.gather("", b"", take)

        def refuse(answer: Msg) -> bool:
            raise BrokerError("as it is")

        with pytest.raises(BrokerError, match="as it is"):
            await client.gather("", b"", refuse)
    finally:
        await client.close()


async def test_the_latest_events_of_another_history_are_none(server: BrokerServer) -> None:
    """Its numbers begin anew, so some of them are not later."""
    connection: Any = await engine.NatsEngine(server.url).connect(Ignoring(), "p")
    options = TopicOptions(history=5)
    await connection.publish("anew", b"x", options, Attempt("a"))
    upto = await connection.last("anew", options)
    assert len(await connection.latest("anew", options, upto, 5)) == 1
    assert await connection.latest("anew", options, upto._replace(epoch="0"), 5) == []
    await connection.close()


# -- users, TLS and keys

ODD = "/?#@:,[]%&=+ \\\"'<>{}|^`~!$*();é%41"


async def reach(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect, or be refused: not both, and at once."""
    monkeypatch.setattr(select, "PATIENCE", 20.0)
    async with asyncio.timeout(8):
        await select.reach(url)


async def test_a_password_of_odd_characters(
    server_of: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "nats.conf"
    users = [{"user": ODD, "password": ODD}]
    config.write_text(json.dumps({"authorization": {"users": users}}, ensure_ascii=False))
    server = server_of("nats", more=("-c", str(config)))
    odd = quote(ODD, safe="")
    await reach(server.url.replace("//", f"//{odd}:{odd}@"), monkeypatch)
    with pytest.raises(BrokerError, match="it refuses the user or the password"):
        await reach(server.url.replace("//", f"//{odd}:{odd}x@"), monkeypatch)


async def test_a_token(server_of: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_of("nats", more=("--auth", "a,b@c"))
    await reach(server.url.replace("//", "//a%2Cb%40c@"), monkeypatch)
    with pytest.raises(BrokerError, match="it refuses the user or the password"):
        await reach(server.url.replace("//", "//a@"), monkeypatch)


async def test_each_server_has_its_own_user(
    server_of: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = server_of("nats", more=("--user", "one", "--pass", "1"))
    two = server_of("nats", more=("--user", "two", "--pass", "2"))
    own = f"nats://one:1@127.0.0.1:{one.port},nats://two:2@127.0.0.1:{two.port}"
    for _ in range(6):
        await reach(own, monkeypatch)
    with pytest.raises(BrokerError, match="cannot be used") as raised:
        await reach(f"nats://two:2@127.0.0.1:{one.port},127.0.0.1:{two.port}", monkeypatch)
    for each in (one, two):
        assert f"127.0.0.1:{each.port}: it refuses the user or the password" in str(raised.value)
    for _ in range(6):  # whichever is first, the other one lets it in
        await reach(f"nats://one:1@127.0.0.1:{one.port},127.0.0.1:{two.port}", monkeypatch)
    one.kill()
    for _ in range(6):
        await reach(own, monkeypatch)
    one.start()
    one.pause()  # it accepts, and says nothing
    for _ in range(3):
        await reach(own, monkeypatch)
    monkeypatch.setattr(engine, "PATIENCE", 0.2)
    two.kill()
    with pytest.raises(ConnectionLostError) as lost:
        await engine.NatsEngine(own).connect(Ignoring(), "p")
    assert f"127.0.0.1:{one.port}: no answer within 0.2 s" in str(lost.value)
    assert "Connect call failed" in str(lost.value)
    one.resume()


def tls_of(certificates: Certificates, *words: str) -> tuple[str, ...]:
    cert, key = certificates.server
    return ("--tls", "--tlscert", str(cert), "--tlskey", str(key), *words)


async def test_tls_to_every_server(
    server_of: Made, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to those without a scheme of their own; none is sent a password in plain text."""
    secure = server_of("nats", more=tls_of(certificates, "--user", "me", "--pass", "secret"))
    trusting = certificates.trusting
    await reach(f"tls://me:secret@127.0.0.1:{secure.port}?{trusting}", monkeypatch)
    with pytest.raises(BrokerError, match="certificate verify failed"):
        monkeypatch.setattr(select, "PATIENCE", 1.0)
        await select.reach(f"tls://me:secret@127.0.0.1:{secure.port}")
    said = bytearray()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","max_payload":1,"headers":true}\r\n')
        said.extend(await reader.read())
        writer.close()

    listener = await asyncio.start_server(plain, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    for url in (
        f"tls://me:secret@127.0.0.1:{port}",
        f"tls://127.0.0.1:{secure.port},127.0.0.1:{port}",
        f"tls://me:x@127.0.0.1:{secure.port},tls://me:secret@127.0.0.1:{port}",
    ):
        with pytest.raises(ConnectionLostError, match="does not speak TLS, which tls:// demands"):
            await engine.NatsEngine(f"{url}?{trusting}").connect(Ignoring(), "p")
    assert not said
    for _ in range(6):  # the one that speaks it is used
        url = f"tls://me:secret@127.0.0.1:{secure.port},127.0.0.1:{port}?{trusting}"
        await reach(url, monkeypatch)
    listener.close()
    await listener.wait_closed()


async def test_tls_that_the_server_demands_or_offers(
    server_of: Made, tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    demanding = server_of("nats", more=tls_of(certificates))
    await reach(f"nats://127.0.0.1:{demanding.port}", monkeypatch)
    cert, key = certificates.server
    tls = f'tls {{cert_file: "{cert}", key_file: "{key}"'
    for more in ("}, allow_non_tls: true", ", handshake_first: true }"):
        config = tmp_path / "nats.conf"
        config.write_text(tls + more)
        server = server_of("nats", more=("-c", str(config)))
        first = "&handshake_first=yes" if "first" in more else ""
        await reach(f"tls://127.0.0.1:{server.port}?{certificates.trusting}{first}", monkeypatch)


async def test_a_certificate_of_the_client(
    server_of: Made, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = tls_of(certificates, "--tlsverify", "--tlscacert", str(certificates.ca))
    server = server_of("nats", more=more)
    url = f"tls://127.0.0.1:{server.port}"
    await reach(f"{url}?{certificates.presenting}", monkeypatch)
    with pytest.raises(ConnectionLostError):
        await engine.NatsEngine(f"{url}?{certificates.trusting}").connect(Ignoring(), "p")


async def test_an_nkey_that_is_changed(
    server_of: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = Key(), Key()
    config = tmp_path / "nats.conf"
    config.write_text(f"authorization {{users: [{{nkey: {key.public}}}]}}")
    server = server_of("nats", more=("-c", str(config)))
    seed = tmp_path / "a seed.nk"
    seed.write_text(f"{other.seed}\n")
    made = engine.NatsEngine(f"{server.url}?nkey={quote(str(seed))}")
    with pytest.raises(BrokerError, match="it refuses the user or the password"):
        await made.connect(Ignoring(), "p")
    seed.write_text(f"{key.seed}\n")
    await (await made.connect(Ignoring(), "p")).close()
    seed.write_text("nonsense")
    with pytest.raises(ConnectionLostError, match="option nkey names a file whose seed is none"):
        await made.connect(Ignoring(), "p")


async def test_credentials_that_are_changed(
    server_of: Made,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the app runs they are read again whenever it connects, and what is wrong is logged."""
    monkeypatch.setattr(remote, "PATIENCE", 1.0)
    operator, stranger = Operator(), Operator()
    config = tmp_path / "nats.conf"
    config.write_text(operator.config(tmp_path))
    server = server_of("nats", more=("-c", str(config)))
    file = tmp_path / "user.creds"
    url = f"{server.url}?credentials={file}"
    file.write_text(stranger.credentials())
    with pytest.raises(BrokerError, match="cannot be used: it refuses the user or the password"):
        await reach(url, monkeypatch)
    file.write_text(operator.credentials().replace("\n", "\r\n"))
    await reach(url, monkeypatch)
    file.write_text(operator.credentials())
    async with wsflow.publisher(url, timeout=10) as publish:
        await publish("plain", "x")
        server.kill()
        for text, says in {
            stranger.credentials(): "is still unreachable: it refuses the user or the password",
            "nonsense": "names a file without a USER JWT and a USER NKEY SEED",
        }.items():
            file.write_text(text)
            if server._process is None or server._process.poll() is not None:
                server.start()
            async with asyncio.timeout(10):
                while says not in caplog.text:
                    await asyncio.sleep(0.05)
        file.write_text(operator.credentials())
        await publish("plain", "x")
    for text in ("SU", "eyJ"):  # what a seed and a JWT begin with
        assert text not in caplog.text


def test_keys_without_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = tmp_path / "seed"
    seed.write_text(Key().seed)
    engine.NatsEngine(f"nats://host?nkey={seed}")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "nkeys", None)
        importlib.reload(nats_keys)
        engine.NatsEngine("nats://me:secret@host")
        with pytest.raises(ValueError, match=r"needs nkeys, which is not installed: pip install"):
            engine.NatsEngine(f"nats://host?nkey={seed}")
    importlib.reload(nats_keys)


def test_a_file_that_is_no_key(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="names a file that cannot be read: it is no text"):
        engine.NatsEngine(f"nats://host?nkey={file}")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        nats_keys.read_keys({"nkey": str(tmp_path / "gone")})


async def test_a_server_of_a_cluster_that_lags_behind(
    server: BrokerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does not have yet is read from the leader; and what nobody has is not waited for."""
    connection: Any = await select.engine(server.url).connect(Ignoring(), "p")  # type: ignore[arg-type]
    options = TopicOptions(history=500)
    try:
        ids = [
            await connection.publish("late", b"%d" % number, options, Attempt(f"late {number}"))
            for number in range(LATE + 30)
        ]
        marks = [Mark.parse(id) for id in ids]
        page = connection._page

        async def lagging(stream: str, subject: str, start: int) -> Any:
            found, _ = await page(stream, subject, start)
            return [each for each in found if each[0] <= marks[9].order[0]], 0

        monkeypatch.setattr(connection, "_page", lagging)
        first = await connection.read("late", options, marks[4], marks[-1])
        assert first.complete
        assert [data for _, data in first.entries] == [b"%d" % n for n in range(5, 10 + LATE)]
        assert first.upto == marks[9 + LATE]
        rest = await connection.read("late", options, first.upto, marks[-1])
        assert [data for _, data in rest.entries] == [b"%d" % n for n in range(10 + LATE, len(ids))]
        assert rest.upto == marks[-1]
        await connection._client.api(
            f"STREAM.MSG.DELETE.{connection._stream(options)}", {"seq": marks[-1].order[0]}
        )
        end = await connection.read("late", options, marks[-2], marks[-1])
        assert (end.complete, end.entries, end.upto) == (True, [], marks[-1])
    finally:
        await connection.close()


async def test_many_declarations(server: BrokerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    connection: Any = await select.engine(server.url).connect(Ignoring(), "p")  # type: ignore[arg-type]
    monkeypatch.setattr(engine, "PAGE", 2)
    topics = {f"many.{number}": TopicOptions(history=number + 1) for number in range(5)}
    try:
        await connection.declare(topics)
        assert topics.items() <= (await connection.declared()).items()
    finally:
        await connection.close()


async def test_an_alien_beside_the_history_of_another_version(
    server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(server.url, caplog) as process, raw(server) as client:
        async with process.connect("/") as peer:
            before = process.registry.counters()["unreadable"]
            await client.publish("wsflow.l.7_0.kept", GOOD)
            await work(process, peer)
            assert process.registry.counters()["unreadable"] == before + 1


async def test_not_all_that_was_denied_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_client, "MOST_DENIED", 2)
    client = nats_client.NatsClient()
    for number in range(3):
        await client._error(Error(f'nats: permissions violation for publish to "x.{number}"'))
    assert list(client._denied) == [("publish", "x.2")]
    with pytest.raises(BrokerError, match="it refuses"):
        client.check("publish", "X.2")
    inbox = client._inbox.lower()
    await client._error(Error(f'nats: permissions violation for subscription to "{inbox}.*"'))
    with pytest.raises(BrokerError, match="it refuses"):
        await client.lost()


@pytest.mark.parametrize("size", [10, PAGE_BYTES - 100, PAGE_BYTES, 900_000])
async def test_events_as_large_as_a_page(size: int, server: BrokerServer) -> None:
    """A page that begins with the last known one has nothing else: it is read on."""
    async with (
        serve_in_memory(app(), broker=server.url) as process,
        serve_in_memory(app(), broker=server.url) as other,
    ):
        async with process.connect("/") as peer:
            kept = process.registry.topic("kept")
            ids = [await kept.publish(News(f"{number}" + "x" * size)) for number in range(5)]
            for number in range(5):
                assert (await peer.receive(News, timeout=5)).text[0] == f"{number}"
            async with other.connect(f"/?after={ids[1]}") as late:
                for number in (2, 3, 4):
                    assert (await late.receive(News, timeout=5)).text[0] == f"{number}"
            broker: Any = process._app.directory.channels.broker
            lost = broker._connection
            broker.give_up(lost)
            await other.registry.topic("kept").publish(News("5" + "x" * size))
            assert (await peer.receive(News, timeout=10)).text[0] == "5"
