"""Topics: joining, publishing, lag, history, iterating."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from wsflow import (
    Connection,
    Disconnected,
    EventId,
    History,
    Query,
    Registry,
    Router,
    Topic,
    TopicMember,
    TopicName,
)
from wsflow.limits import Limits
from wsflow.messages.codec import MSGPACK
from wsflow.messages.encoded import EncodedMessage
from wsflow.messages.events import TopicOptions
from wsflow.testing import FakeRegistry, FakeTopic, connect, serve_in_memory
from wsflow.topics.type import TopicType


class Said(msgspec.Struct, tag="said"):
    text: str
    id: Annotated[str, EventId()] = ""


@dataclass
class Note:
    text: str
    id: Annotated[str, EventId()] = ""


Room = Annotated[Topic[Said], "room.{room}"]


def chat() -> Router:
    app = Router("/{room}")

    @app.on_connect
    async def enter(room: Room, who: Annotated[str | None, Query()] = None) -> None:
        await room.join(presence=who)

    @app.consumer
    async def say(message: str, room: Room, connection: Connection, registry: Registry) -> Any:
        match message:
            case "leave":
                await room.leave()
                await room.leave()
            case "others":
                await room.publish(Said("to others"), exclude=connection)
            case "nobody":
                await room.publish(Said("to nobody"), exclude=list(registry))
            case "wrong":
                await room.publish("not a Said")  # type: ignore[arg-type]
            case "who":
                return [[each.presence for each in await room.members()], repr(room)]
            case _:
                await room.publish(Said(message))
        return "done"

    return app


async def test_who_joined_hears_and_who_left_does_not() -> None:
    app = chat()
    async with serve_in_memory(app) as server:
        async with (
            server.connect("/lobby?who=ada") as ada,
            server.connect("/lobby?who=bob") as bob,
            server.connect("/attic") as eve,
        ):
            await ada.send("hi")
            for peer in (ada, bob):
                assert await peer.receive(Said) == Said("hi")
            await ada.send("who")
            names, shown = await ada.receive(list)
            assert (sorted(names), shown) == (["ada", "bob"], "<Topic room.lobby>")
            await bob.send("leave")
            await bob.receive("".__class__)
            await ada.send("again")
            assert await ada.receive(Said) == Said("again")
            await bob.receive_nothing(within=0.01)
            await ada.send("others")
            await ada.send("nobody")
            await eve.receive_nothing(within=0.01)
        assert len(server._app.directory.channels) == 0


async def test_exclude() -> None:
    app = chat()
    async with serve_in_memory(app) as server:
        async with server.connect("/a") as ada, server.connect("/a") as bob:
            await ada.send("others")
            assert await bob.receive(Said) == Said("to others")
            await ada.send("nobody")
            assert await ada.receive() == "done"
            assert await ada.receive() == "done"
            await bob.receive_nothing(within=0.01)
            await ada.receive_nothing(within=0.01)


@pytest.mark.parametrize(
    ("excluded", "said"),
    [
        ("0123456789abcdef", "the str of an id"),
        (["0123456789abcdef"], "the str of an id"),
        (5, "int"),
    ],
)
async def test_exclude_takes_connections(excluded: Any, said: str) -> None:
    why = f"^exclude takes a Connection, or several, and not {said}: exclude=connection$"
    fakes, topic = FakeRegistry(), FakeTopic[Said]()
    async with serve_in_memory(chat()) as server:
        for registry in (server.registry, fakes):
            for excluding in (
                registry.broadcast,
                registry.user("ada").send,
                registry.topic("room.{room}", Said, room="a").publish,
                topic.publish,
            ):
                with pytest.raises(TypeError, match=why):
                    await excluding(Said("hi"), exclude=excluded)
            with pytest.raises(TypeError, match=why):
                await registry.user("ada").disconnect(exclude=excluded)


async def test_the_wrong_type_is_refused() -> None:
    async with connect(chat(), "/a") as ada:
        await ada.send("wrong")
        end = await ada.wait_closed()
        assert str(end.error) == "topic 'room.a' carries Said, not str"


async def test_encoded_once_for_all_who_have_joined() -> None:
    handed: list[EncodedMessage] = []
    app = chat()
    async with serve_in_memory(app) as server:
        peers = [server._open("/a", (), ()) for _ in range(10)]
        for peer in peers:
            await peer._opened()
        await peers[0].send("hi")
        assert await peers[0].receive(str) == "done"
        for peer in peers:
            while (message := peer._transport.peer_take()) is not None:
                handed.append(message)
            handed += peer._unread.values()
    said = [message for message in handed if b"said" in message.payload]
    assert len(said) == 10
    assert len({id(message) for message in said}) == 1


async def test_paths_make_no_other_name() -> None:
    app = chat()
    async with serve_in_memory(app) as server:
        async with server.connect("/a.b") as ada, server.connect("/a%2Eb") as same:
            await ada.send("hi")
            assert await same.receive(Said) == Said("hi")
            assert server._app.directory.channels.get("room.a%2Eb") is not None


# -- lag


def flooding(when_full: Any, backlog: int = 2) -> Router:
    Flood = Annotated[Topic[int], TopicName("flood", backlog=backlog, when_full=when_full)]
    app = Router("/")

    @app.on_connect
    async def enter(flood: Flood) -> None:
        await flood.join()

    @app.consumer
    async def publish(message: dict[str, int], flood: Flood) -> None:
        for number in range(message["from"], message["to"]):
            await flood.publish(number)

    return app


LIMITS = Limits(write_buffer=4, close_timeout=1)


async def drain(peer: Any) -> list[Any]:
    return [await peer.receive() for _ in range(len(peer._transport.peer_unread()))]


@pytest.mark.parametrize(
    ("when_full", "got"),
    [
        ("drop_newest", [0, 1, 2, 3, 4, 5, 6]),
        ("drop_oldest", [0, 1, 2, 3, 4, 8, 9]),
        ("latest", [0, 1, 2, 3, 4, 9]),
    ],
)
async def test_a_lagging_peer_loses_what_the_topic_says(when_full: str, got: list[int]) -> None:
    async with serve_in_memory(flooding(when_full), limits=LIMITS) as server:
        async with server.connect("/") as slow, server.connect("/") as quick:
            await quick.send({"from": 0, "to": 10})
            await server.idle()
            sessions = dict(server._app.sessions)
            heard: list[int] = []
            while len(heard) < len(got):
                heard.append(await slow.receive(int))
            assert heard == got
            await slow.receive_nothing(within=0.01)
            assert sum(session.outbox.dropped for session in sessions.values()) > 0
            await drain(quick)


async def test_a_lagging_peer_is_closed_and_the_others_are_not() -> None:
    async with serve_in_memory(flooding("close"), limits=LIMITS) as server:
        slow = server._open("/", (), ())
        await slow._opened()
        async with server.connect("/") as quick:
            for number in range(0, 20, 2):
                await quick.send({"from": number, "to": number + 2})
                assert [await quick.receive(int), await quick.receive(int)] == [number, number + 1]
        end = await slow.wait_closed()
        assert (end.cause, end.code) == ("slow", 1013)


@pytest.mark.parametrize("when_full", ["drop_oldest", "latest"])
async def test_bytes_count_too(when_full: str) -> None:
    """One message is larger than all that may wait: it is dropped, and nothing else is."""
    limits = Limits(write_buffer=4, backlog_bytes=1, close_timeout=1)
    async with serve_in_memory(flooding(when_full, backlog=100), limits=limits) as server:
        async with server.connect("/") as peer:
            await peer.send({"from": 100, "to": 104})
            assert [await peer.receive(int) for _ in range(2)] == [100, 101]
            await peer.receive_nothing(within=0.01)


async def test_what_waits_is_dropped_when_the_peer_leaves() -> None:
    async with serve_in_memory(flooding("drop_newest", 100), limits=LIMITS) as server:
        async with server.connect("/") as peer:
            (session,) = server._app.sessions.values()
            await peer.send({"from": 0, "to": 10})
            await server.idle()
            assert session.outbox.sent == 5
            await peer.close()
            await peer.wait_closed()
            assert session.outbox.dropped == 5


# -- before the handshake


async def test_messages_wait_for_the_handshake() -> None:
    joined, go = anyio.Event(), anyio.Event()
    app = Router("/")
    quiet = Annotated[Topic[str], "quiet"]

    @app.on_connect
    async def enter(topic: quiet, connection: Connection, slow: Annotated[bool, Query()]) -> None:
        if slow:
            await topic.join(presence="slow")
            joined.set()
            await go.wait()

    @app.consumer
    async def publish(message: str, topic: quiet) -> list[TopicMember]:
        await topic.publish(message)
        return await topic.members()

    async with serve_in_memory(app) as server, server.connect("/?slow=false") as quick:
        slow = server._open("/?slow=true", (), ())
        await joined.wait()
        await quick.send("early")
        assert await quick.receive() == []  # presence is announced at accept
        go.set()
        assert await slow.receive(str) == "early"
        await quick.send("late")
        assert [each.presence for each in await quick.receive()] == ["slow"]
        assert await slow.receive(str) == "late"


# -- history


def newspaper(kind: Any, codec: Any = "json") -> Router:
    News = Annotated[Topic[kind], TopicName("news", history=3)]
    app = Router("/", codec=codec)

    @app.on_connect
    async def enter(
        news: News, connection: Connection, after: Annotated[str | None, Query()] = None
    ) -> None:
        joined = await news.join(after=after)
        await connection.send({"recovered": joined.recovered})

    @app.consumer
    async def publish(message: list[str], news: News) -> list[str]:
        message_of_kind = [kind(text) for text in message]
        ids = [await news.publish(each) for each in message_of_kind]
        assert all(each.id == "" for each in message_of_kind)  # the object is not changed
        return ids

    return app


@pytest.mark.parametrize("kind", [Said, Note])
@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_history_replays_what_was_missed(kind: Any, codec: str) -> None:
    app = newspaper(kind, codec)
    async with serve_in_memory(app) as server, server.connect("/") as writer:
        assert await writer.receive(dict) == {"recovered": False}
        await writer.send(["a", "b"])
        heard = [await writer.receive(kind) for _ in range(2)]
        ids = await writer.receive(list)
        assert [each.text for each in heard] == ["a", "b"]
        assert [each.id for each in heard] == ids
        async with server.connect(f"/?after={ids[0]}") as back:
            assert await back.receive(kind) == kind("b", ids[1])
            assert await back.receive(dict) == {"recovered": True}
            await writer.send(["c"])
            assert (await back.receive(kind)).text == "c"
        async with server.connect(f"/?after={ids[0]}") as again:
            assert [(await again.receive(kind)).text for _ in range(2)] == ["b", "c"]
        assert len(await writer.receive(list)) == 1
        await writer.send(["d", "e"])
        assert len(await writer.receive(list)) == 2
        async with server.connect(f"/?after={ids[0]}") as late:  # "b" is forgotten by now
            assert await late.receive(dict) == {"recovered": False}
            await late.receive_nothing(within=0.01)
        for nonsense in ("nonsense", "00000000-1", ids[0].partition("-")[0] + "-99"):
            async with server.connect(f"/?after={nonsense}") as lost:
                assert await lost.receive(dict) == {"recovered": False}


async def test_a_replay_that_others_publish_into() -> None:
    """Live events wait until the replay is through, and none comes twice."""
    app = newspaper(Said)
    async with serve_in_memory(app) as server, server.connect("/") as writer:
        broker = server._app.directory.channels.broker
        replay = broker.replay
        await writer.send(["a", "b"])
        ids = await writer.receive(list)

        async def slow_replay(topic: str, after: str, last: int) -> Any:
            await writer.send(["c"])
            await writer.receive(list)
            answer = await replay(topic, after, last)
            await writer.send(["d"])
            await writer.receive(list)
            return answer

        broker.replay = slow_replay  # type: ignore[method-assign]
        async with server.connect(f"/?after={ids[0]}") as back:
            assert await back.receive(dict) == {"recovered": True}
            assert [(await back.receive(Said)).text for _ in range(3)] == ["b", "c", "d"]
            await back.receive_nothing(within=0.01)


async def test_joining_again_changes_the_presence() -> None:
    app = Router("/")
    Crowd = Annotated[Topic[str], "crowd"]

    @app.consumer
    async def join(message: str, crowd: Crowd) -> list[TopicMember]:
        before = await crowd.members()
        await crowd.join(presence=message or None)
        return [*before, *(await crowd.members())]

    async with connect(app) as peer:
        for message, seen in [("a", ["a"]), ("b", ["a", "b"]), ("", ["b", "b"])]:
            await peer.send(message)
            assert [each.presence for each in await peer.receive(list)] == seen


async def test_joining_after_the_end() -> None:
    raised: list[BaseException] = []
    app = Router("/")
    Crowd = Annotated[Topic[str], "crowd"]

    @app.consumer
    async def late(message: str, crowd: Crowd, connection: Connection) -> None:
        await connection.close(4000)
        try:
            await crowd.join()
        except Disconnected as exc:
            raised.append(exc)

    async with connect(app) as peer:
        await peer.send("x")
        await peer.wait_closed()
    assert raised


# -- without a connection


async def test_a_topic_in_a_lifespan_publishes_and_cannot_be_joined() -> None:
    errors: list[str] = []
    News = Annotated[Topic[str], "news"]
    app = Router("/")

    class Press:
        def __init__(self, news: Topic[str]) -> None:
            self.news = news

    @app.lifespan
    async def press(news: News, registry: Registry) -> Press:
        for topic in (news, registry.topic("news", str)):
            for verb in (topic.join, topic.leave):
                try:
                    await verb()
                except RuntimeError as exc:
                    errors.append(str(exc))
        return Press(news)

    @app.on_connect
    async def enter(news: News) -> None:
        await news.join()

    @app.consumer
    async def publish(message: str, press: Press) -> None:
        await press.news.publish(message)

    async with connect(app) as peer:
        await peer.send("extra")
        assert await peer.receive() == "extra"
    assert len(errors) == 4
    assert errors[0].startswith("join needs a connection, and topic 'news' was injected where")


# -- iterating


async def test_a_topic_costs_nothing_until_a_producer_iterates_it() -> None:
    app = Router("/")

    @app.producer
    async def quiet(numbers: Annotated[Topic[int], "numbers"]) -> None:
        await anyio.sleep_forever()

    async with serve_in_memory(app) as server, server.connect("/"):
        assert server.registry.counters()["topics"] == 1  # that of broadcasts


async def test_a_producer_hears_all_from_its_first_loop_on() -> None:
    """What comes between two loops is there for the next, as far as the backlog goes."""
    left, gate = anyio.Event(), anyio.Event()
    app = Router("/")
    Numbers = Annotated[Topic[int | str], TopicName("numbers", backlog=4)]

    @app.producer
    async def even(numbers: Numbers) -> AsyncIterator[dict[str, Any]]:
        yield {"got": "ready"}
        async for number in numbers:
            yield {"got": number}
            break
        left.set()
        await gate.wait()
        async for number in numbers:
            if isinstance(number, str) or number % 2 == 0:
                yield {"got": number}

    @app.consumer
    async def publish(message: list[int], numbers: Numbers, connection: Connection) -> str:
        for number in message:
            await numbers.publish(number)
        await numbers.publish("me", exclude=connection)
        await numbers.publish("text")
        return "done"

    async with serve_in_memory(app) as server:
        async with server.connect("/") as peer:
            assert await peer.receive(dict) == {"got": "ready"}
            await server.idle()
            await server.registry.topic("numbers").publish(0)
            assert await peer.receive(dict) == {"got": 0}
            await left.wait()
            await peer.send([1, 2, 3, 4, 5])
            assert await peer.receive(str) == "done"
            gate.set()
            # the backlog is 4: until the second loop began, the oldest gave way
            assert [(await peer.receive(dict))["got"] for _ in range(2)] == [4, "text"]
            await peer.receive_nothing(within=0.01)
        assert len(server._app.directory.channels) == 0


async def test_a_loop_that_is_closed_hears_no_more() -> None:
    app = Router("/")
    closed, gate = anyio.Event(), anyio.Event()

    @app.producer
    async def hear(numbers: Annotated[Topic[int], "numbers"]) -> AsyncIterator[int]:
        async with aclosing(aiter(numbers)) as first:
            async for number in first:
                yield number
                break
            await first.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(first)
        closed.set()
        await gate.wait()
        async for number in numbers:  # a new loop, which begins now
            yield number

    async with serve_in_memory(app) as server, server.connect("/") as peer:
        numbers = server.registry.topic("numbers")
        await server.idle()
        await numbers.publish(1)
        assert await peer.receive() == 1
        await closed.wait()
        await numbers.publish(2)
        gate.set()
        await server.idle()
        await numbers.publish(3)
        assert await peer.receive() == 3
        await peer.receive_nothing(within=0.01)


async def test_a_loop_ends_with_its_connection_whoever_iterates_it() -> None:
    app = Router("/")
    loops: list[Any] = []

    @app.consumer
    async def lend(message: str, registry: Registry) -> str:
        loops.append(aiter(registry.topic("numbers")))
        loops.append(registry.topic("numbers").watch_members())
        return "lent"

    async with serve_in_memory(app) as server:
        ended: list[int] = []

        async def iterate(loop: Any) -> None:
            async for _ in loop:
                raise AssertionError("nothing comes")
            ended.append(1)

        async with anyio.create_task_group() as tasks:
            async with server.connect("/") as peer:
                await peer.send("x")
                assert await peer.receive() == "lent"
                for loop in loops:
                    tasks.start_soon(iterate, loop)
                await server.idle()
                assert ended == []
        assert ended == [1, 1]
        assert len(server._app.directory.channels) == 0


async def test_a_loop_that_nobody_holds_is_gone_with_the_next_message() -> None:
    async with serve_in_memory(chat()) as server:
        channels = server._app.directory.channels
        numbers = server.registry.topic("numbers", int)
        async with aclosing(numbers.watch_members()) as changes:
            await changes.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(changes)
        loop = aiter(numbers)
        await numbers.publish(1)
        assert await anext(loop) == 1
        assert len(channels) == 1
        members = numbers.watch_members()
        del loop, members
        await numbers.publish(2)
        assert len(channels) == 0


def listening(when_full: Any) -> Router:
    Numbers = Annotated[Topic[int], TopicName("numbers", backlog=2, when_full=when_full)]
    app = Router("/")

    @app.producer
    async def hear(numbers: Numbers, registry: Registry) -> AsyncIterator[int]:
        async for number in numbers:
            yield number
            if number == 0:
                for more in range(1, 6):
                    await numbers.publish(more)

    @app.consumer
    async def publish(message: int, numbers: Numbers) -> None:
        await numbers.publish(message)

    return app


@pytest.mark.parametrize(
    ("when_full", "heard"),
    [("drop_oldest", [0, 4, 5]), ("drop_newest", [0, 1, 2]), ("latest", [0, 5]), ("close", None)],
)
async def test_a_loop_that_lags(when_full: str, heard: list[int] | None) -> None:
    async with connect(listening(when_full)) as peer:
        await peer.send(0)
        if heard is None:
            assert (await peer.wait_closed()).code == 1013
        else:
            assert [await peer.receive(int) for _ in heard] == heard
            await peer.receive_nothing(within=0.01)


async def test_a_loop_that_lags_without_a_connection() -> None:
    app = Router("/")
    seen: list[Any] = []

    class Heard:
        pass

    @app.lifespan
    async def listen(registry: Registry) -> AsyncIterator[Heard]:
        topic = registry.topic("any")
        for number in range(3):
            await topic.publish(number)  # nobody listens yet
        kind = registry.topic("any")._type
        small = registry.topic("any")
        small._type = type(kind)(kind.types, msgspec_options(), kind.codecs)
        loop = aiter(small)
        first: list[Any] = []
        async with anyio.create_task_group() as tasks:

            async def hear() -> None:
                first.append(await anext(loop))

            tasks.start_soon(hear)
            while not registry._directory.channels.get("any"):
                await anyio.lowlevel.checkpoint()
            await small.publish({"n": 1})
        seen.extend(first)
        for number in range(3):
            await small.publish(number)
        try:
            while True:
                seen.append(await anext(loop))
        except RuntimeError as exc:
            seen.append(str(exc))
        yield Heard()

    @app.consumer
    async def use(message: str, heard: Heard) -> None: ...

    async with connect(app):
        pass
    assert seen[:3] == [{"n": 1}, 0, 1]
    assert "lags more than 2 messages behind: raise backlog" in seen[3]


def msgspec_options() -> Any:
    from wsflow.declare.markers import TopicOptions

    return TopicOptions(backlog=2)


async def test_a_loop_that_begins_after_the_end_is_over() -> None:
    """Code that outlives its connection adds nothing to a topic that nobody would remove."""
    kept: list[Topic[str]] = []
    app = Router("/")

    @app.on_connect
    async def keep(news: Annotated[Topic[str], TopicName("news")]) -> None:
        kept.append(news)

    @app.producer
    async def tell(news: Annotated[Topic[str], TopicName("news")]) -> None:
        kept.append(news)

    async with serve_in_memory(app) as server:
        async with server.connect("/") as peer:
            await peer.wait_closed()
        assert len(kept) == 2
        for topic in kept:
            assert [each async for each in topic] == []
            assert [each async for each in topic.watch_members()] == []
            with pytest.raises(Disconnected):
                await topic.join()
        assert server.registry.counters()["topics"] == 0


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**300])
async def test_an_integer_that_only_one_codec_has(number: int) -> None:
    """Peers of the other one do not get it, which is counted; nobody's connection ends."""
    app = Router("/", subprotocols=("wsflow.json", "wsflow.msgpack"))
    Numbers = Annotated[Topic[int], "numbers"]

    @app.consumer
    async def publish(message: int, numbers: Numbers) -> None:
        await numbers.join()
        await numbers.publish(message if message < 5 else number)

    async with serve_in_memory(app) as server, server.connect("/") as one:
        async with server.connect("/", subprotocols=["wsflow.msgpack"]) as two:
            for peer in (one, two):
                await peer.send(1)
                assert await peer.receive() == 1
            assert await one.receive() == 1
            await two.send(5)
            assert await one.receive() == number
            await two.send(2)
            assert await two.receive() == 2
        assert server.registry.counters()["unreadable"] == 1


def test_an_integer_that_no_codec_has() -> None:
    kind = TopicType((int,), TopicOptions(), (MSGPACK,))
    with pytest.raises(TypeError, match="cannot be encoded as msgpack"):
        kind.envelope(2**64, frozenset())


# -- histories


async def test_what_is_no_history() -> None:
    async with serve_in_memory(chat()) as server:
        plain = server.registry.topic("plain")
        kept = server.registry.topic(TopicName("kept", history=5))
        for call, name in ((plain.history, "history"), (plain.clear_history, "clear_history")):
            with pytest.raises(ValueError, match=rf"{name}\(\) needs a history, and topic 'plain'"):
                await call()
        for limit in (0, -1, True, "5", 1.5):
            wrong: Any = limit
            with pytest.raises(ValueError, match=r"limit is .*: use a number of events"):
                await kept.history(limit=wrong)
        assert await kept.history() == History([], recovered=False, more=False)
        await kept.clear_history()


async def test_what_cannot_be_read_in_a_history_is_left_out() -> None:
    async with serve_in_memory(chat()) as server:
        name = TopicName("kept", history=500)
        anything = server.registry.topic(name, int, str)
        for number in range(200):
            await anything.publish(f"{number}" if number % 2 else number)
        page = await server.registry.topic("kept", str).history(limit=500)
        assert [each.message for each in page.events] == [f"{n}" for n in range(1, 200, 2)]
        assert server.registry.counters()["unreadable"] == 100
        first = page.events[0].id
        page = await server.registry.topic("kept", str).history(first, limit=20)
        assert [each.message for each in page.events] == [f"{n}" for n in range(3, 43, 2)]
        assert page.more is True
