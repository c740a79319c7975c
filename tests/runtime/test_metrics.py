"""What is counted, and what is told apart."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
import msgspec
import pytest

from wsflow import Call, Close, Limits, Reject, Router, Topic, TopicName
from wsflow.metrics import Family
from wsflow.runtime import metrics
from wsflow.testing import MemoryServer, serve_in_memory

pytestmark = pytest.mark.anyio


class Say(msgspec.Struct, tag="say"):
    text: str


class Ask(Call[int], tag="ask"): ...


Options = TopicName("news.{room}", backlog=2, when_full="drop_oldest", history=9)
News = Annotated[Topic[Say], Options]


def app_of() -> Router:
    app = Router("/{room}")

    @app.on_connect
    async def enter(room: str, news: News) -> None:
        if room == "closed":
            raise Reject(403)
        await news.join(last=1 if room == "replay" else 0)

    @app.consumer
    async def say(message: Say, news: News) -> None:
        if message.text.isdecimal():
            raise Close(int(message.text))
        await news.publish(message)

    @app.consumer
    async def ask(message: Ask) -> int:
        return 1

    return app


def values(server: MemoryServer, name: str) -> dict[Any, Any]:
    """The values of a family; of a histogram how many there are."""
    found: list[Family] = server.registry._directory.measure()
    (one,) = [each for each in found if each.name == f"wsflow_{name}"]
    take = -2 if one.kind == "histogram" else 0
    return {labels: numbers[take] for labels, numbers in one.values.items()}


async def test_connections_and_messages() -> None:
    async with serve_in_memory(app_of()) as server:
        assert values(server, "connections") == {}
        async with server.connect("/a") as one, server.connect("/b"):
            assert values(server, "connections") == {("/{room}",): 2}
            await one.send(Say("hi"))
            assert await one.receive() == Say("hi")
            assert values(server, "messages_received") == {("/{room}",): 1}
            assert values(server, "messages_sent") == {("/{room}",): 1}
            sent, received = values(server, "sent_bytes"), values(server, "received_bytes")
            assert sent == received == {("/{room}",): len(b'{"type":"say","text":"hi"}')}
            await one.send(Say("4321"))
            assert (await one.wait_closed()).code == 4321
        for path in ("/closed", "/none/x"):
            async with server.connect(path) as peer:
                assert peer.rejected.status in (403, 404)
        assert values(server, "connections") == {("/{room}",): 0}
        assert values(server, "connections_opened") == {("/{room}",): 2}
        assert values(server, "connections_ended") == {
            ("/{room}", "closed", "4321"): 1,
            ("/{room}", "peer", "1000"): 1,
        }
        assert values(server, "requests_refused") == {("403",): 1, ("404",): 1}
        assert values(server, "messages_received") == {("/{room}",): 2}
        assert values(server, "message_duration_seconds") == {("/{room}", "consumer say"): 1}
        assert values(server, "topic_messages_published") == {(): 1}
        assert values(server, "broker_connected") == {(): 1}


async def test_codes_that_peers_choose_are_bounded() -> None:
    async with serve_in_memory(app_of()) as server:
        for code in (1001, 3000, 3999, 4000, 4999, 4001):
            async with server.connect("/a") as peer:
                await peer.close(code)
        assert values(server, "connections_ended") == {
            ("/{room}", "peer", "1001"): 1,
            ("/{room}", "peer", "3000-3999"): 2,
            ("/{room}", "peer", "4000-4999"): 3,
        }


async def test_handshakes_that_come_to_nothing() -> None:
    app, there = Router("/"), anyio.Event()

    @app.on_connect
    async def wait() -> None:
        there.set()
        await anyio.sleep_forever()

    @app.consumer
    async def echo(message: str) -> str:
        return message

    async with serve_in_memory(app) as server:
        peer = server._open("/", (), ())
        await there.wait()
        await peer.vanish()
        await peer.wait_closed()
        assert values(server, "connections") == {("/",): 0}
        assert values(server, "connections_opened") == {("/",): 0}
        assert values(server, "handshakes_abandoned") == {("/",): 1}
        assert values(server, "connections_ended") == {}


async def test_topics_that_wait_drop_and_replay() -> None:
    """They are told apart by their templates, whose number does not grow."""
    async with serve_in_memory(app_of(), limits=Limits(write_buffer=1)) as server:
        async with server.connect("/a") as peer:
            topic = server.registry.topic("news.{room}", room="a")
            for number in range(5):
                await topic.publish(Say(f"x{number}"))
            assert values(server, "topics") == {(): 2}
            assert values(server, "topic_messages_waiting") == {("news.{room}",): 2}
            assert values(server, "topic_messages_dropped") == {("news.{room}",): 2}
            for _ in range(3):
                await peer.receive()
            assert values(server, "topic_messages_waiting") == {("news.{room}",): 0}
        async with server.connect("/replay"):
            pass
        await server.registry.topic("news.replay").publish(Say("x"))
        async with server.connect("/replay") as peer:
            assert await peer.receive() == Say("x")
            assert values(server, "topic_messages_replayed") == {(): 1}


async def test_what_is_declared_by_nobody() -> None:
    async with serve_in_memory(app_of()) as server:
        channels = server.registry._directory.channels
        labels = [channels.label(name) for name in ("", "odd", "news.a", "news.{room}")]
        assert labels == ["*", "-", "news.{room}", "news.{room}"]


async def test_the_names_are_those_of_the_counters() -> None:
    async with serve_in_memory(app_of()) as server:
        known = set(server.registry.counters())
    elsewhere = {"connections", "topics", "waiting", "dropped", "refused"}
    assert set(metrics.COUNTERS) == known - elsewhere


async def test_the_loop_is_not_watched_once_that_has_ended() -> None:
    """Whether it had begun or not."""
    async with serve_in_memory(app_of()) as server:
        watched = metrics.Metrics(server._app)
        watched.close()
        with anyio.fail_after(5):
            await watched.watch_loop()
    assert sum(watched.lag.counts) == 0
