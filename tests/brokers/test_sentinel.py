"""Redis Sentinel: which server is the master, and what a failover under load costs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, NamedTuple

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.brokers.aliens import News, Plain, app, work
from tests.brokers.keys import Certificates
from tests.brokers.proxy import proxy
from tests.brokers.servers import BrokerServer, Made, SentinelServer
from tests.processes import free_port
from wsflow import BrokerError, Router, Topic, TopicName
from wsflow.brokers import select, sentinel
from wsflow.brokers.engine import ConnectionLostError
from wsflow.brokers.sentinel import pairs
from wsflow.limits import Limits
from wsflow.testing import serve_in_memory

Long = Annotated[Topic[News], TopicName("long", history=5000)]


def long() -> Router:
    """An app whose history is not filled in the seconds of a failover."""
    router = Router("/")

    @router.on_connect
    async def enter(topic: Long, plain: Plain) -> None:
        await topic.join()
        await plain.join()

    @router.consumer
    async def nothing(message: str) -> None: ...

    return router


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Group(NamedTuple):
    """A master, its replica, and three Sentinels that know all of them."""

    master: BrokerServer
    replica: BrokerServer
    sentinels: list[SentinelServer]

    @property
    def url(self) -> str:
        return url_of(*self.sentinels)


def url_of(*servers: BrokerServer, user: str = "") -> str:
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in servers)
    return f"redis+sentinel://{user}{hosts}/app"


@pytest.fixture
def sentinels() -> Iterator[list[SentinelServer]]:
    """Those of a test, to be stopped behind it."""
    started: list[SentinelServer] = []
    yield started
    for each in started:
        each.stop()


@asynccontextmanager
async def raw(server: BrokerServer) -> AsyncIterator[Any]:
    client = Redis.from_url(server.url)
    yield client
    await client.aclose()


async def until(condition: Any) -> None:
    """Wait until a coroutine function returns True, of a server that may be about to begin anew."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(RedisError):
                if await condition():
                    return
            await asyncio.sleep(0.05)


@pytest.fixture
async def group(server_of: Made, sentinels: list[SentinelServer]) -> Group:
    quick = ("--repl-diskless-sync-delay", "0")
    master = server_of("valkey", more=quick)
    replica = server_of("valkey", more=(*quick, "--replicaof", "127.0.0.1", str(master.port)))

    async def synced() -> bool:
        async with raw(replica) as client:
            return bool((await client.info("replication"))["master_link_status"] == "up")

    await until(synced)
    for _ in range(3):
        sentinels.append(SentinelServer(master.port, 2))
        sentinels[-1].start()

    async def known() -> bool:
        for each in sentinels:
            async with raw(each) as client:
                said = pairs(await client.execute_command("SENTINEL", "MASTER", "app"))
            if (said[b"num-other-sentinels"], said[b"num-slaves"]) != (b"2", b"1"):
                return False
        return True

    await until(known)
    return Group(master, replica, sentinels)


@pytest.mark.long
@pytest.mark.parametrize("way", ["killed", "paused", "on demand"])
async def test_a_failover_under_load(
    way: str, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    """What was acknowledged comes once and in order, to peers in both processes; what the new
    master does not have is told."""
    limits = Limits(publish_timeout=20)
    acknowledged: list[str] = []
    async with (
        serve_in_memory(long(), broker=group.url, limits=limits) as one,
        serve_in_memory(long(), broker=group.url, limits=limits) as two,
        one.connect("/") as peer,
        two.connect("/") as other,
    ):
        failed = asyncio.Event()

        async def load() -> None:
            left = 300
            while left:
                text = str(len(acknowledged))
                await one.registry.topic("long").publish(News(text))
                acknowledged.append(text)
                left -= failed.is_set()
                if not failed.is_set():
                    await asyncio.sleep(0.001)

        loading = asyncio.create_task(load())
        while len(acknowledged) < 100:
            await asyncio.sleep(0.01)
        if way == "killed":
            group.master.kill()
        elif way == "paused":
            group.master.pause()
        else:
            async with raw(group.sentinels[0]) as client:
                await client.execute_command("SENTINEL", "FAILOVER", "app")

        async def promoted() -> bool:
            async with raw(group.replica) as client:
                return bool((await client.info("replication"))["role"] == "master")

        await until(promoted)
        failed.set()
        await loading
        if way == "killed":
            group.master.start()
        elif way == "paused":
            group.master.resume()

        async def demoted() -> bool:
            async with raw(group.master) as client:
                return bool((await client.info("replication"))["role"] == "slave")

        await until(demoted)
        lost = one.registry.counters()["lost"] + two.registry.counters()["lost"]
        for each in (peer, other):
            got = [(await each.receive(News)).text for _ in acknowledged[:100]]
            while got[-1] != acknowledged[-1]:
                got.append((await each.receive(News)).text)
            assert sorted(set(got), key=int) == got  # once, and in order
            if not lost:
                assert got == acknowledged
        for process, each in ((one, peer), (two, other)):
            await work(process, each, "long", "plain")
            assert process.registry.counters()["reconnected"] >= 1
        if lost:
            assert "lost" in caplog.text


async def test_sentinels_that_are_down_or_hang(group: Group) -> None:
    one, two, _ = group.sentinels
    one.kill()
    two.pause()
    try:
        async with asyncio.timeout(3):
            await select.reach(group.url)
        group.sentinels[2].kill()
        with pytest.raises(ConnectionLostError, match=r"no Sentinel answers: .*no answer within 1"):
            await select.engine(group.url).connect(Any, "p")  # type: ignore[arg-type]
    finally:
        two.resume()


async def test_the_latest_failover_is_believed(
    server_of: Made, sentinels: list[SentinelServer], caplog: pytest.LogCaptureFixture
) -> None:
    """Sentinels that are cut off from each other name two masters. And who is connected follows."""
    old, new = server_of("valkey"), server_of("valkey")
    sentinels += [
        SentinelServer(old.port, 1, ("sentinel config-epoch app 1",)),
        SentinelServer(new.port, 1, ("sentinel config-epoch app 2",)),
        SentinelServer(old.port, 1),
    ]
    for each in sentinels:
        each.start()
    async with serve_in_memory(app(), broker=url_of(*sentinels)) as process:
        async with process.connect("/") as peer, raw(new) as there:
            await work(process, peer)
            assert await there.exists("wsflow:h:{kept}")
            async with raw(sentinels[1]) as client:
                await client.execute_command("SENTINEL", "REMOVE", "app")
            async with asyncio.timeout(10):
                while f"the master is 127.0.0.1:{old.port} now" not in caplog.text:
                    await asyncio.sleep(0.05)
            await process.registry.topic("plain").publish(News("here"))
            while (await peer.receive(News)).text != "here":
                pass
            for each in sentinels:  # nobody to ask any more changes nothing
                each.kill()
            before = process.registry.counters()["reconnected"]
            await asyncio.sleep(2 * sentinel.LOOK)
            await work(process, peer)
            assert process.registry.counters()["reconnected"] == before


async def reach(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect, or be refused: not both, and at once."""
    monkeypatch.setattr(select, "PATIENCE", 20.0)
    async with asyncio.timeout(8):
        await select.reach(url)


async def test_users_of_both(
    server_of: Made, sentinels: list[SentinelServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    master = server_of("valkey", more=("--requirepass", "of the master"))
    lines = ("requirepass ofsentinel", "sentinel auth-pass app ofmaster")
    sentinels.append(SentinelServer(master.port, 1, lines))
    sentinels[0].start()
    url = url_of(sentinels[0], user=":of%20the%20master@")
    for protocol in (2, 3):
        await reach(f"{url}?sentinel_password=ofsentinel&protocol={protocol}", monkeypatch)
    await reach(f"{url}/3?sentinel_username=default&sentinel_password=ofsentinel", monkeypatch)
    for options in ("", "?sentinel_password=other"):
        with pytest.raises(BrokerError, match="Sentinel refuses the user or the password: those"):
            await reach(url + options, monkeypatch)
    wrong = url_of(sentinels[0], user=":other@")
    with pytest.raises(BrokerError, match="cannot be used: it refuses the user or the password"):
        await reach(f"{wrong}?sentinel_password=ofsentinel", monkeypatch)


async def test_tls_to_both(
    server_of: Made,
    sentinels: list[SentinelServer],
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    master = server_of("valkey")
    async with proxy(master.port, certificates.context(demanding=True)) as to_master:
        sentinels.append(SentinelServer(to_master.port, 1))
        sentinels[0].start()
        async with proxy(sentinels[0].port, certificates.context(demanding=True)) as to_sentinel:
            url = f"rediss+sentinel://127.0.0.1:{to_sentinel.port}/app"
            await reach(f"{url}?{certificates.presenting}", monkeypatch)
            with pytest.raises(ConnectionLostError, match="certificate verify failed"):
                await select.engine(url).connect(Any, "p")  # type: ignore[arg-type]


async def test_what_is_no_sentinel_or_knows_no_such_master(
    server_of: Made, sentinels: list[SentinelServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_of("valkey")
    sentinels.append(SentinelServer(server.port, 1))
    sentinels[0].start()
    with pytest.raises(BrokerError, match="Sentinel knows no master with the name 'a b'"):
        await reach(url_of(sentinels[0]).replace("/app", "/a%20b"), monkeypatch)
    with pytest.raises(BrokerError, match=r"Sentinel refuses: unknown command 'SENTINEL'$"):
        await reach(url_of(server), monkeypatch)
    nobody = f"redis+sentinel://127.0.0.1:{free_port()}/app"
    with pytest.raises(ConnectionLostError, match=r"no Sentinel answers: .*Connect call failed"):
        await select.engine(nobody).connect(Any, "p")  # type: ignore[arg-type]

    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(b"*1\r\n$2\r\nip\r\n" * 2)  # to CLIENT SETINFO, twice; and to SENTINEL
        writer.close()
        await writer.wait_closed()
        ended.set()

    alien = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = alien.sockets[0].getsockname()[1]
    with pytest.raises(ConnectionLostError, match="what answers is no Sentinel"):
        await select.engine(f"redis+sentinel://127.0.0.1:{port}/app").connect(Any, "p")  # type: ignore[arg-type]
    await ended.wait()
    alien.close()
    await alien.wait_closed()


class Answering:
    """A connection to a Sentinel that answers with these fields."""

    def __init__(self, **fields: str) -> None:
        self.fields = {"config-epoch": "1", "ip": "192.0.2.1", "port": "6379", **fields}

    async def connect(self) -> None: ...
    async def send_command(self, *words: str) -> None: ...
    async def read_response(self) -> Any:
        return [each.encode() for pair in self.fields.items() for each in pair]


@pytest.mark.parametrize("state", ["wait_promotion", "reconf_slaves"])
async def test_nobody_writes_to_a_master_that_is_being_replaced(state: str) -> None:
    """The one that is named still may be lost with what it is told."""
    known, busy = Answering(), Answering(**{"failover-state": state})
    asked: Any = [known, busy]
    found = sentinel.Sentinels(asked, "app")
    with pytest.raises(ConnectionLostError, match="a failover is going on"):
        await found.place()
    busy.fields.update({"failover-state": "none", "config-epoch": "2", "ip": "192.0.2.2"})
    assert await found.place() == ("192.0.2.2", 6379)
