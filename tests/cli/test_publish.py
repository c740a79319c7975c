"""``wsflow publish``, as a person meets it."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import redis

from tests.brokers.servers import BrokerServer
from wsflow.brokers import remote
from wsflow.cli.main import main


@pytest.fixture(scope="module")
def server() -> Iterator[BrokerServer]:
    started = BrokerServer("valkey")
    started.start()
    with redis.Redis.from_url(started.url) as client:
        client.hset("wsflow:declared", "kept.{room}", "5 0")
        client.hset("wsflow:declared", "ids.{room}", "5 0 1000 all")
    yield started
    started.stop()


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["publish", *arguments])
    output = capsys.readouterr()
    return int(left.value.code or 0), output.out, output.err


def heard(server: BrokerServer, topic: str) -> redis.client.PubSub:
    listening = redis.Redis.from_url(server.url).pubsub()
    listening.subscribe(f"wsflow:t:{topic}")
    assert listening.get_message(timeout=5)
    return listening


def test_one_message(server: BrokerServer, capsys: pytest.CaptureFixture[str]) -> None:
    with heard(server, "room.a") as listening:
        said = '{"type": "said", "who": "bot", "text": "hi"}'
        options = ("--broker", server.url, "--app", "examples.chat:app")
        assert call(capsys, "room.a", said, *options) == (0, "", "")
        message = listening.get_message(timeout=5)
        assert b'{"type":"said","who":"bot","text":"hi"}' in message["data"]
        listening.connection_pool.disconnect()


def test_a_template_and_its_values(
    server: BrokerServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with heard(server, "room.my%20room%3D1") as listening:
        said = '{"type": "said", "who": "bot", "text": "hi"}'
        for app in ((), ("--app", "examples.chat:app")):
            options = ("--param", "room=my room=1", "--broker", server.url, *app)
            assert call(capsys, "room.{room}", said, *options) == (0, "", "")
            message = listening.get_message(timeout=5)
            assert b"hi" in message["data"]
        listening.connection_pool.disconnect()


def test_each_line_of_the_input(
    server: BrokerServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"a": 1}\n\n{"a": 2}\n'))
    monkeypatch.setenv("WSFLOW_BROKER", server.url)
    code, out, err = call(capsys, "kept.lobby")
    assert (code, err) == (0, "")
    assert len(set(out.split())) == 2  # event ids


def test_mistakes(
    server: BrokerServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PATIENCE", 0.2)
    chat = ("--app", "examples.chat:app", "--broker", server.url)
    for arguments, code, says in [
        (("room.a", "{}"), 2, "name the app's broker: --broker redis://"),
        (("room.a", "{}", "--broker", "kafka://x"), 2, "'kafka://x' is no broker"),
        (("room.a", "{}", "--broker", "redis://x?y=1"), 2, "it has an unknown option 'y'"),
        (("room.a", "{", "--broker", server.url), 2, "'{' was not published: Input data was trunc"),
        (("room.a", "{", "--broker", server.url), 2, "Input data was truncated\n"),
        (
            ("room.a", "it's", "--broker", server.url),
            2,
            "A message is JSON, so that a text needs quotes: '\"it'\"'\"'s\"'\n",
        ),
        (("room.a", '{"type": "said"}', *chat), 2, "was not published: Object missing required"),
        (("rom.a", "{}", *chat), 2, "the app declares no topic 'rom.a'; it has: room.{room}"),
        (("room.a b", "{}", *chat), 2, "wsflow publish 'room.{room}' --param room='a b'"),
        (("room.{room}", "{}", *chat), 2, "the topic 'room.{room}' needs a value for room"),
        (
            ("room.{room}", "{}", "--param", "x=1", *chat),
            2,
            "needs a value for room, and was given x",
        ),
        (("room.{room}", "{}", "--param", "x", *chat), 2, "--param 'x': write NAME=VALUE"),
        (("room.{room}", "{}", "--param", "=x", *chat), 2, "--param '=x': write NAME=VALUE"),
        (
            ("room.{room}", "{}", "--param", "x=1", "--param", "x=2", *chat),
            2,
            "--param x= is there twice",
        ),
        (("ids.a", "{}", "--broker", server.url), 2, "carry their event id"),
        (("room.a", "{}", "--app", "nowhere:app", *chat[2:]), 3, "there is no module 'nowhere'"),
        (
            ("room.a", "{}", "--broker", "redis://127.0.0.1:1", "--timeout", "0.1"),
            5,
            "the broker redis://127.0.0.1:1 cannot be reached",
        ),
    ]:
        got, out, err = call(capsys, *arguments)
        assert (got, out) == (code, ""), err
        assert err.startswith("wsflow: ")
        assert says in err
        assert err.count("\n") == 1


def test_control_c(
    server: BrokerServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(coroutine: object) -> None:
        coroutine.close()  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr("asyncio.run", interrupted)
    assert call(capsys, "room.a", "{}", "--broker", server.url)[0] == 1
