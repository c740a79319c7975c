"""What a broker refuses hurts what was asked for, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from redis.asyncio import Redis

import wsflow
from tests.brokers.servers import BrokerServer, Kind, nats_with
from wsflow import BrokerError, Limits, Query, Reject, Router, Topic, TopicName
from wsflow.brokers import nats_client, remote
from wsflow.brokers.engine import NoAnswerError, NoRoomError
from wsflow.brokers.nats_client import NatsClient
from wsflow.messages.events import TopicOptions
from wsflow.testing import MemoryPeer, MemoryServer, serve_in_memory


class News(msgspec.Struct, tag="news"):
    text: str


Plain = Annotated[Topic[News], "plain.{name}"]
Kept = Annotated[Topic[News], TopicName("kept.{name}", history=5)]

LIMITS = Limits(publish_timeout=3, close_timeout=1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BEAT", 0.1)
    monkeypatch.setattr(remote, "RETRY", 0.05)


def app() -> Router:
    router = Router("/{name}")

    @router.on_connect
    async def enter(
        kept: Kept, plain: Plain, kind: Annotated[str, Query()], after: Annotated[str, Query()] = ""
    ) -> None:
        try:
            await (plain.join() if kind == "plain" else kept.join(after=after))
        except BrokerError as exc:
            raise Reject(503, str(exc)) from exc

    @router.consumer
    async def publish(message: str, kept: Kept, plain: Plain) -> str:
        kind, _, text = message.partition(" ")
        topic: Any = plain if kind == "plain" else kept
        try:
            return f"id {await topic.publish(News(text))}"
        except BrokerError as exc:
            return f"error {exc}"

    return router


@asynccontextmanager
async def running(url: str) -> AsyncIterator[MemoryServer]:
    async with serve_in_memory(app(), broker=url, limits=LIMITS) as process:
        yield process


async def says(peer: MemoryPeer, text: str) -> str:
    await peer.send(text)
    answer: str = await peer.receive(str, timeout=8)
    return answer


async def works(process: MemoryServer, *kinds: str) -> None:
    """Topics that nothing was refused of go on, on the same connection to the broker."""
    for kind in kinds or ("plain", "kept"):
        async with process.connect(f"/yes?kind={kind}") as peer:
            assert (await says(peer, f"{kind} hi")).startswith("id ")
            assert await peer.receive(News, timeout=8) == News("hi")
    assert process.registry.counters()["reconnected"] == 0


# -- what may not be used

ACL = {
    "channel": ["~*", "+@all", "resetchannels", "&wsflow:c:*", "&wsflow:t:", "&*yes*"],
    "key": ["resetkeys", "~*declared*", "~*yes*", "+@all", "allchannels"],
}
RULES = {
    "subscribe": 'subscribe: {deny: ["wsflow.*.no", "wsflow.*.*.*.no"]}',
    "publish": 'publish: {deny: ["wsflow.*.*.no", "wsflow.*.*.*.no"]}',
}


@asynccontextmanager
async def restricted(
    what: str, server_of: Callable[[Kind], BrokerServer], folder: Path
) -> AsyncIterator[str]:
    """A server that refuses topics whose names end with "no"."""
    if what in ACL:
        server = server_of("valkey")
        client = Redis.from_url(server.url)
        await client.execute_command("ACL", "SETUSER", "app", "on", ">pw", *ACL[what])
        await client.aclose()
        yield server.url.replace("//", "//app:pw@")
        return
    deny = {
        "subscribe": '["wsflow.l.*.*.no"]',
        "publish": '["wsflow.l.0.*.no", "wsflow.s.*.*.no"]',
    }[what]
    config = """
        jetstream {store_dir: "%s"}
        authorization {users: [{user: app, password: pw, permissions: {%s: {deny: %s}}}]}
    """
    async with nats_with(folder, config % (folder, what, deny)) as server:
        yield server.url.replace("//", "//app:pw@")


REFUSED = {
    # what is restricted: for each kind of topic, whether joining and publishing are refused
    "channel": {"plain": (True, True), "kept": (True, True)},
    "key": {"plain": (False, False), "kept": (True, True)},
    "subscribe": {"plain": (True, False), "kept": (True, False)},
    "publish": {"plain": (False, True), "kept": (False, True)},
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("kind", ["plain", "kept"])
async def test_a_topic_that_may_not_be_used(
    what: str,
    kind: str,
    server_of: Callable[[Kind], BrokerServer],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    no_join, no_publish = REFUSED[what][kind]
    async with restricted(what, server_of, tmp_path) as url, running(url) as process:
        await works(process)
        async with process.connect(f"/yes?kind={kind}") as yes:
            for _ in range(3):
                async with process.connect(f"/no?kind={kind}") as no:
                    if no_join:
                        assert no.rejected.status == 503
                        assert no.rejected.body.startswith(("it refuses", "the broker refuses"))
                    else:
                        answer = await says(no, f"{kind} hi")
                        refuses = answer.startswith(
                            ("error it refuses", "error the broker refuses")
                        )
                        assert refuses is no_publish, answer
            if no_join:
                topic = process.registry.topic(f"{kind}.no")
                if no_publish:
                    with pytest.raises(BrokerError, match="refuses"):
                        await topic.publish(News("x"))
                else:
                    await topic.publish(News("x"))
            assert (await says(yes, f"{kind} hi")).startswith("id ")
            assert await yes.receive(News, timeout=8) == News("hi")
        await works(process)
    assert ("refuses" in caplog.text) is (no_join or no_publish)


# -- what is too large


@pytest.mark.parametrize("size", [9_600, 9_990, 10_000, 50_000])
@pytest.mark.parametrize("kind", ["plain", "kept"])
async def test_a_message_that_is_too_large_for_nats(kind: str, size: int, tmp_path: Path) -> None:
    """Also where only its headers are too much: the server would end the connection."""
    config = f'max_payload: 20000\njetstream {{store_dir: "{tmp_path}"}}'
    async with nats_with(tmp_path, config) as server, running(server.url) as process:
        async with process.connect(f"/yes?kind={kind}") as peer:
            for more in range(0, 400, 20):  # in both codecs
                answer = await says(peer, f"{kind} " + "x" * (size + more))
                assert answer.startswith(("id ", "error a message of"))
                if answer.startswith("id "):
                    await peer.receive(News)
            if size == 50_000:
                assert answer.endswith("larger than the broker accepts: raise its max_payload")
        await works(process)


async def test_a_note_that_is_too_large_for_nats(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = f'max_payload: 20000\njetstream {{store_dir: "{tmp_path}"}}'
    async with nats_with(tmp_path, config) as server, running(server.url) as process:
        process._app.directory.channels.broker.tell("", b"x" * 30_000)
        await works(process)
    assert "other processes are not told something: a message of 30" in caplog.text


# -- a server that is full


@pytest.mark.parametrize("engine", ["valkey", "nats"])
async def test_a_full_broker(
    engine: Kind,
    server_of: Callable[[Kind], BrokerServer],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What needs no room goes on, also after the connection was lost, and in a new process."""
    if engine == "valkey":
        server = server_of("valkey")
        async with running(server.url) as process:
            await works(process)
            client = Redis.from_url(server.url)
            await client.config_set("maxmemory", "1")
            await full(process, server.url)
            assert "publishers do not find the history of kept.{name}" in caplog.text
            await client.config_set("maxmemory", "0")
            async with process.connect("/yes?kind=kept") as peer:
                assert (await says(peer, "kept hi")).startswith("id ")
            await client.aclose()
        return
    config = f'jetstream {{store_dir: "{tmp_path}", max_file_store: 1MB}}'
    async with nats_with(tmp_path, config) as server, running(server.url) as process:
        await full(process, server.url)


async def full(process: MemoryServer, url: str) -> None:
    for restarted in (False, True):
        async with process.connect("/yes?kind=plain") as peer:
            assert (await says(peer, "kept hi")).startswith("error the broker refuses")
            assert (await says(peer, "plain hi")).startswith("id ")
            assert await peer.receive(News) == News("hi")
            if not restarted:
                broker: Any = process._app.directory.channels.broker
                broker.give_up(broker._connection)
                while broker._connection is None:
                    await asyncio.sleep(0.01)
        async with running(url) as new, new.connect("/yes?kind=plain") as late:
            assert (await says(late, "plain hi")).startswith("id ")


# -- requests that are not answered


async def test_a_request_that_nobody_answers(
    server_of: Callable[[Kind], BrokerServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_client, "ANSWER", 0.1)
    server = server_of("nats")
    client, silent = NatsClient(), NatsClient()
    for each in (client, silent):
        await each.connect(server.url)
    try:

        def hear(message: Any) -> None: ...

        await silent.subscribe("nobody", hear)
        await silent.ping()
        with pytest.raises(NoAnswerError, match=r"does not answer within 0\.1 s .* for nobody"):
            await client.ask("nobody", b"?")
        with pytest.raises(NoAnswerError):
            await client.consume("x", {"filter_subject": "nobody"}, lambda answer: False)
        assert not client._answers
        assert not client._asked
        await client.ping()
    finally:
        for each in (client, silent):
            await each.close()


class Part:
    """A part of a server that does not answer for a while, or has no room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, server: MemoryServer, *names: str) -> None:
        broker: Any = server._app.directory.channels.broker
        kind = type(broker._connection)
        self.failing = self.asked = 0
        for name in names:
            monkeypatch.setattr(kind, name, self._instead_of(getattr(kind, name)))

    def _instead_of(self, call: Any) -> Any:
        async def attempt(*arguments: Any) -> Any:
            self.asked += 1
            if self.failing:
                self.failing -= 1
                raise NoAnswerError("the broker does not answer")
            return await call(*arguments)

        return attempt


async def test_a_history_whose_leader_is_away(
    server_of: Callable[[Kind], BrokerServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever joins or publishes waits for it, within the limits; nobody else does."""
    server = server_of("nats")
    async with running(server.url) as process:
        part = Part(monkeypatch, process, "last", "publish")
        part.failing = 2
        async with process.connect("/yes?kind=kept") as peer:
            part.failing = 2
            answer = await says(peer, "kept hi")
            assert answer.startswith("id ")
            assert await peer.receive(News) == News("hi")
            part.failing = 10**9
            assert (await says(peer, "kept hi")).endswith("the message may still arrive")
            part.failing = 0
        async with wsflow.publisher(server.url, timeout=0) as publish:
            part.failing = 1
            with pytest.raises(BrokerError, match="the message may still arrive"):
                await publish("kept.yes", News("x"))
        await works(process)


async def test_declarations_that_are_not_answered_at_once(
    server_of: Callable[[Kind], BrokerServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = server_of("nats")
    async with running(server.url) as process:
        with pytest.MonkeyPatch.context() as patch:
            part = Part(patch, process, "declare")
            part.failing = 3
            async with running(server.url) as second:
                await works(second)
                while part.failing:
                    await asyncio.sleep(0.01)
    assert "publishers do not find the history of kept.{name}: the broker does not answer" in (
        caplog.text
    )


def test_an_engine_may_say_so() -> None:
    assert issubclass(NoRoomError, BrokerError)
    assert issubclass(NoAnswerError, BrokerError)
    assert TopicOptions().history == 0
