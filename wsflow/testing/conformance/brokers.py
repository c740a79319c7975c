"""What every broker promises, over two processes of an app; with ``memory://`` both are one.

The suite needs one fixture, ``broker``: a URL of a broker, another one for each test. It
runs on asyncio and on Trio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from urllib.parse import quote

import anyio
import msgspec
import pytest

from wsflow.brokers import remote
from wsflow.connection import Connection
from wsflow.declare.markers import Query, TopicName
from wsflow.declare.router import Router
from wsflow.end import End
from wsflow.errors import BrokerError
from wsflow.limits import Limits
from wsflow.messages.events import EventId
from wsflow.testing.peer import MemoryPeer
from wsflow.testing.server import MemoryServer, serve_in_memory
from wsflow.topics.members import MemberJoined, MemberLeft
from wsflow.topics.registry import Registry
from wsflow.topics.topic import Topic


class Said(msgspec.Struct, tag="said"):
    text: str


class News(msgspec.Struct, tag="news"):
    text: str
    id: Annotated[str, EventId()] = ""


class Member(msgspec.Struct, frozen=True):
    name: str
    rank: int = 0


class Who(msgspec.Struct, tag="who"):
    names: list[str]


class Back(msgspec.Struct, tag="back"):
    recovered: bool


class Came(msgspec.Struct, tag="came"):
    name: str
    earlier: bool


class Went(msgspec.Struct, tag="went"):
    name: str


Room = Annotated[Topic[Said], TopicName("room.{room}", presence=Member)]
Kept = Annotated[Topic[News], TopicName("kept.{room}", history=5)]
Large = Annotated[Topic[News], TopicName("large.{room}", history=1000, history_bytes=128_000)]
Heavy = Annotated[Topic[News], TopicName("heavy.{room}", history=1000)]
Waning = Annotated[Topic[News], TopicName("waning.{room}", history=9, idle=0.4)]
Fleeting = Annotated[Topic[News], TopicName("fleeting.{room}", history=9, max_age=0.4)]


@pytest.fixture(autouse=True)
def quick_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes find each other sooner."""
    monkeypatch.setattr(remote, "BEAT", 0.1)


LIMITS = Limits(close_timeout=1)


@asynccontextmanager
async def processes(
    app: Router, broker: str, limits: Limits = LIMITS
) -> AsyncIterator[tuple[MemoryServer, MemoryServer]]:
    async with serve_in_memory(app, broker=broker, limits=limits) as one:
        if broker == "memory://":
            yield one, one
            return
        async with serve_in_memory(app, broker=broker, limits=limits) as two:
            yield one, two


def chat() -> Router:
    app = Router("/chat/{room}")

    @app.on_connect
    async def enter(room: Room, name: Annotated[str, Query()]) -> Member:
        await room.join(presence=Member(name, len(name)))
        return Member(name)

    @app.consumer
    async def command(
        message: str, member: Member, room: Room, connection: Connection, registry: Registry
    ) -> Any:
        match message:
            case "who":
                return Who(sorted(each.presence.name for each in await room.members()))
            case "ranks":
                return [
                    [type(each.presence).__name__, each.presence.rank]
                    for each in sorted(await room.members(), key=lambda each: each.presence.name)
                ]
            case "others":
                await room.publish(Said("to others"), exclude=connection)
            case "all":
                await registry.broadcast(Said("to all"))
            case "all others":
                await registry.broadcast(Said("to all others"), exclude=connection)
            case "rename":
                await room.join(presence=Member("renamed"))
            case "leave":
                await room.leave()
            case _:
                await room.publish(Said(message))
        return "done"

    return app


def people(ended: list[tuple[str, End]]) -> Router:
    """Connections of users; ``ended`` takes how they end, with their ids."""
    app = Router("/people", subprotocols=("wsflow.json", "wsflow.msgpack"))
    Lounge = Annotated[Topic[Said], "lounge"]

    @app.on_connect
    async def enter(name: Annotated[str, Query()], connection: Connection, lounge: Lounge) -> None:
        connection.identify(name)
        await lounge.join()

    @app.on_disconnect
    async def leave(connection: Connection, end: End) -> None:
        ended.append((connection.id, end))

    @app.consumer
    async def command(
        message: list[str], connection: Connection, registry: Registry, lounge: Lounge
    ) -> Any:
        match message:
            case ["send", user]:
                await registry.user(user).send(Said(f"to {user}"))
            case ["send others", user]:
                await registry.user(user).send(Said(f"to others of {user}"), exclude=connection)
            case ["log out", user]:
                await registry.user(user).disconnect(4401, "logged out")
            case ["log out others", user]:
                await registry.user(user).disconnect(4401, exclude=connection)
            case ["close", id]:
                await registry.disconnect(id, 4000, "by its id")
            case ["of", user]:
                return sorted(each.id for each in await registry.user(user).connections())
            case ["count"]:
                return await lounge.count()
        return connection.id

    return app


async def asked(peer: MemoryPeer, *command: str) -> Any:
    await peer.send(list(command))
    return await peer.receive(str, list, int, timeout=5)


def news() -> Router:
    app = Router("/news/{room}")

    @app.on_connect
    async def enter(kept: Kept, after: Annotated[str, Query()] = "") -> Back:
        joined = await kept.join(after=after)
        return Back(joined.recovered)

    @app.consumer
    async def publish(message: str, kept: Kept, back: Back) -> Any:
        if message == "back":
            return back
        if message == "plain":
            await kept.publish(News("given", "mine"))
            return "done"
        return await kept.publish(News(message))

    return app


async def read(peer: MemoryPeer, count: int) -> list[str]:
    return [(await peer.receive(News)).text for _ in range(count)]


async def test_a_message_reaches_who_has_joined_in_every_process(broker: str) -> None:
    async with processes(chat(), broker) as (one, two):
        async with (
            one.connect("/chat/a?name=ada") as ada,
            two.connect("/chat/a?name=bob") as bob,
            two.connect("/chat/b?name=eve") as eve,
        ):
            await ada.send("hi")
            for peer in (ada, bob):
                assert await peer.receive(Said) == Said("hi")
            await bob.send("leave")
            assert await bob.receive() == "done"
            await ada.send("again")
            assert await ada.receive(Said) == Said("again")
            await bob.receive_nothing(within=0.05)
            await eve.receive_nothing(within=0.05)


async def test_exclude_and_broadcast(broker: str) -> None:
    async with processes(chat(), broker) as (one, two):
        async with (
            one.connect("/chat/a?name=ada") as ada,
            two.connect("/chat/a?name=bob") as bob,
            two.connect("/chat/b?name=eve") as eve,
        ):
            await ada.send("others")
            await ada.send("all others")
            await ada.send("all")
            assert [(await bob.receive(Said)).text for _ in range(3)] == [
                "to others",
                "to all others",
                "to all",
            ]
            assert [(await eve.receive(Said)).text for _ in range(2)] == ["to all others", "to all"]
            assert await ada.receive(Said) == Said("to all")


async def test_a_user_is_reached_in_every_process(broker: str) -> None:
    packed: Any = "wsflow.msgpack"
    async with processes(people([]), broker) as (one, two):
        async with (
            one.connect("/people?name=ada") as ada,
            two.connect("/people?name=ada", subprotocols=[packed]) as too,
            two.connect("/people?name=bob") as bob,
            one.connect("/people?name=ad") as ad,
        ):
            for sender in (ada, bob):
                await asked(sender, "send", "ada")
                for peer in (ada, too):
                    assert await peer.receive(Said) == Said("to ada")
            await asked(ada, "send others", "ada")
            assert await too.receive(Said) == Said("to others of ada")
            await asked(ada, "send", "nobody")
            await asked(ada, "send", "bob")
            assert await bob.receive(Said) == Said("to bob")
            for peer in (ada, too, bob, ad):
                await peer.receive_nothing(within=0.02)
        counters = [server.registry.counters() for server in (one, two)]
        assert [each["unreadable"] for each in counters] == [0, 0]


async def test_a_user_is_disconnected_in_every_process(broker: str) -> None:
    ended: list[tuple[str, End]] = []
    async with processes(people(ended), broker) as (one, two):
        async with (
            one.connect("/people?name=ada") as ada,
            two.connect("/people?name=ada") as too,
            two.connect("/people?name=bob") as bob,
        ):
            ids = [await asked(peer, "who") for peer in (ada, too)]
            await asked(bob, "log out", "ada")
            for peer in (ada, too):
                end = await peer.wait_closed()
                assert (end.code, end.reason) == (4401, "logged out")
            while len(ended) < 2:
                await anyio.sleep(0.01)
            assert sorted(ended) == sorted((id, End("closed", 4401, "logged out")) for id in ids)
            assert await asked(bob, "of", "ada") == []
            async with two.connect("/people?name=ada") as again:  # who comes back is let in
                assert await asked(again, "of", "ada") == [await asked(again, "who")]


async def test_a_user_ends_its_other_connections(broker: str) -> None:
    async with processes(people([]), broker) as (one, two):
        async with (
            one.connect("/people?name=ada") as ada,
            two.connect("/people?name=ada") as there,
            one.connect("/people?name=ada") as here,
        ):
            await asked(ada, "log out others", "ada")
            for peer in (there, here):
                assert (await peer.wait_closed()).code == 4401
            assert await asked(ada, "who")


async def test_who_logs_out_is_closed_too(broker: str) -> None:
    async with processes(people([]), broker) as (one, two):
        async with one.connect("/people?name=ada") as ada, two.connect("/people?name=ada") as too:
            await ada.send(["log out", "ada"])
            for peer in (ada, too):
                assert (await peer.wait_closed()).code == 4401


async def test_a_connection_is_closed_by_its_id(broker: str) -> None:
    async with processes(people([]), broker) as (one, two):
        async with (
            one.connect("/people?name=ada") as ada,
            two.connect("/people?name=ada") as too,
            two.connect("/people?name=bob") as bob,
        ):
            ids = [await asked(peer, "who") for peer in (ada, too)]
            assert await asked(bob, "of", "ada") == sorted(ids)
            assert await asked(ada, "of", "bob") == [await asked(bob, "who")]
            await asked(ada, "close", "no connection")
            await asked(ada, "close", ids[1])
            end = await too.wait_closed()
            assert (end.code, end.reason) == (4000, "by its id")
            assert await asked(bob, "of", "ada") == [ids[0]]
            assert await asked(bob, "of", "nobody") == []


async def test_members_are_counted_in_every_process(broker: str) -> None:
    async with processes(people([]), broker) as (one, two):
        async with one.connect("/people?name=ada") as ada:
            assert await asked(ada, "count") == 1
            async with two.connect("/people?name=bob") as bob:
                assert [await asked(peer, "count") for peer in (ada, bob)] == [2, 2]
            if one is not two:  # an idle process of the app takes part
                assert await two.registry.topic("lounge").count() == 1
                assert await two.registry.user("bob").connections() == []


async def test_each_codec_has_its_payload(broker: str) -> None:
    app = Router("/{room}", subprotocols=("wsflow.json", "wsflow.msgpack"))
    packed: Any = "wsflow.msgpack"

    @app.on_connect
    async def enter(kept: Kept) -> None:
        await kept.join()

    @app.consumer
    async def say(message: News, kept: Kept) -> str:
        return await kept.publish(message)

    async with processes(app, broker) as (one, two):
        async with (
            one.connect("/a") as ada,
            two.connect("/a", subprotocols=[packed]) as bob,
            one.connect("/a", subprotocols=[packed]) as cleo,
        ):
            await ada.send(News("hi"))
            id = await ada.receive(str)
            for peer in (ada, bob, cleo):
                assert await peer.receive(News) == News("hi", id)


async def test_the_order_of_each_publisher_is_kept(broker: str) -> None:
    async with processes(chat(), broker) as (one, two):
        async with (
            one.connect("/chat/a?name=ada") as ada,
            two.connect("/chat/a?name=bob") as bob,
        ):
            for number in range(100):
                await ada.send(f"ada {number}")
                await bob.send(f"bob {number}")
            for peer in (ada, bob):
                heard = [(await peer.receive(Said, timeout=5)).text for _ in range(200)]
                for name in ("ada", "bob"):
                    mine = [text for text in heard if text.startswith(name)]
                    assert mine == [f"{name} {number}" for number in range(100)]


async def test_a_producer_iterates_what_other_processes_publish(broker: str) -> None:
    app = chat()
    watch = Router("/watch/{room}")

    @watch.producer
    async def loud(room: Room) -> AsyncIterator[Said]:
        yield Said("begun")
        async for message in room:
            if message.text.isupper():
                yield message

    whole = Router("/")
    whole.include(app)
    whole.include(watch)
    async with processes(whole, broker) as (one, two):
        async with two.connect("/watch/a") as watcher, one.connect("/chat/a?name=ada") as ada:
            assert await watcher.receive(Said) == Said("begun")
            # It has begun to listen; that the broker knows it, only a message can tell.
            while True:
                await ada.send("LOUD")
                await ada.send("quiet")
                with anyio.move_on_after(0.2):
                    assert await watcher.receive(Said, timeout=5) == Said("LOUD")
                    break


async def test_history_is_replayed_exactly(broker: str) -> None:
    async with processes(news(), broker) as (one, two):
        async with one.connect("/news/a") as ada:
            ids = []
            for text in "abcdefg":
                await ada.send(text)
                ids.append(await ada.receive(str))
            assert [(await ada.receive(News)).id for _ in ids] == ids
            async with two.connect(f"/news/a?after={ids[3]}") as bob:
                assert await read(bob, 3) == ["e", "f", "g"]
                await bob.send("back")
                assert await bob.receive(Back) == Back(True)
                await ada.send("h")
                assert await read(bob, 1) == ["h"]
                await bob.receive_nothing(within=0.05)
            async with two.connect(f"/news/a?after={ids[2]}") as bob:  # five are kept: d to h
                assert await read(bob, 5) == ["d", "e", "f", "g", "h"]
                await bob.send("back")
                assert await bob.receive(Back) == Back(True)


async def test_large_events_are_replayed_whole_to_a_process_that_has_heard_none(
    broker: str,
) -> None:
    """They are more than is read at a time."""
    app = Router("/{room}")

    @app.on_connect
    async def enter(heavy: Heavy, after: Annotated[str, Query()] = "") -> Back:
        return Back((await heavy.join(after=after)).recovered)

    @app.consumer
    async def publish(message: str, heavy: Heavy, back: Back) -> Any:
        return back if message == "back" else await heavy.publish(News(message + "." * 60_000))

    async with processes(app, broker) as (one, two):
        async with one.connect("/a") as ada:
            ids = []
            for number in range(40):
                await ada.send(f"{number}")
                ids.append(await ada.receive(str, timeout=5))
                assert (await ada.receive(News)).text.startswith(f"{number}.")
            async with two.connect(f"/a?after={ids[9]}") as bob:
                expected = [str(number) for number in range(10, 40)]
                assert [text.rstrip(".") for text in await read(bob, 30)] == expected
                await bob.send("back")
                assert await bob.receive(Back) == Back(recovered=True)
                await ada.send("live")
                assert (await bob.receive(News)).text.startswith("live")


async def test_the_latest_events_are_taken_later(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handshake is accepted when what was read is not kept any more; and an id that is none
    hurts nobody else."""
    app = Router("/{room}")
    accept = anyio.Event()

    @app.on_connect
    async def enter(
        heavy: Heavy,
        last: Annotated[int, Query()] = 0,
        after: Annotated[str, Query()] = "",
    ) -> None:
        await heavy.join(after=after, last=last)
        if last:
            await accept.wait()

    @app.consumer
    async def publish(message: str, heavy: Heavy) -> str:
        return await heavy.publish(News(message))

    async with processes(app, broker) as (one, two):
        async with one.connect("/a") as ada, one.connect("/b") as other:
            ids = []
            for number in range(20):
                await ada.send(f"{number}")
                ids.append(await ada.receive(str))
                await other.send("between")
            for last, count in ((5, 5), (20, 20), (100, 20)):
                accept = anyio.Event()
                late = two.connect(f"/a?last={last}")
                async with anyio.create_task_group() as tasks:

                    async def read_later(late: Any = late, count: int = count) -> None:
                        async with late as bob:
                            expected = [str(number) for number in range(20 - count, 20)]
                            assert await read(bob, count) == expected

                    tasks.start_soon(read_later)
                    while not two._app.sessions:
                        await anyio.sleep(0.001)
                    await anyio.sleep(0.05)
                    forget(two, "heavy.a")
                    accept.set()
            epoch, *places = ids[9].split("-")
            forged = f"{epoch}-{int(places[0]) + 1}" + "-7" * (len(places) - 1)
            async with two.connect(f"/a?after={forged}"), two.connect(f"/a?after={ids[2]}") as bob:
                assert await read(bob, 17) == [str(number) for number in range(3, 20)]


def forget(process: MemoryServer, topic: str) -> None:
    """Have a process keep nothing of a topic's history."""
    feed = getattr(process._app.directory.channels.broker, "_feeds", {}).get(topic)
    if feed is not None:
        feed.recent.clear()


async def test_what_is_published_at_once_after_joining_a_history_that_is_empty(broker: str) -> None:
    app = Router("/{room}")

    @app.on_connect
    async def enter(heavy: Heavy, after: Annotated[str, Query()] = "") -> None:
        await heavy.join(after=after, last=0 if after else 5)
        await heavy.publish(News("in on_connect"))

    @app.producer
    async def publish(heavy: Heavy) -> AsyncIterator[News]:
        await heavy.publish(News("in a producer"))
        yield News("it has begun")
        await anyio.sleep_forever()

    @app.consumer
    async def nothing(message: str) -> None: ...

    async with processes(app, broker) as (one, two):
        for number, target in enumerate(("", "?after=x", "?after=abc-1")):
            async with (one, two)[number % 2].connect(f"/{number}{target}") as ada:
                heard = await read(ada, 3)  # what is published comes by another way than the rest
                assert {*heard} == {"in on_connect", "in a producer", "it has begun"}


async def test_the_latest_events_are_replayed_to_who_has_no_id(broker: str) -> None:
    """After an id they are not, and in one order with what comes meanwhile."""
    app = Router("/{room}")
    Long = Annotated[Topic[News], TopicName("long.{room}", history=600)]

    @app.on_connect
    async def enter(
        long: Long,
        last: Annotated[int, Query()],
        after: Annotated[str | None, Query()] = None,
    ) -> Back:
        return Back((await long.join(after=after, last=last)).recovered)

    @app.consumer
    async def publish(message: str, long: Long, back: Back) -> Any:
        return back if message == "back" else await long.publish(News(message))

    async with processes(app, broker) as (one, two):
        async with one.connect("/a?last=5") as ada, one.connect("/b?last=5") as other:
            await ada.receive_nothing(within=0.02)  # there is none yet
            ids = []
            for number in range(601):
                await ada.send(str(number))
                ids.append(await ada.receive(str, timeout=5))
                assert await ada.receive(News) == News(str(number), ids[-1])
                if number % 60 == 0:
                    await other.send("elsewhere")
                    await other.receive(str)
            for asks, begin, recovered in [
                ("last=1", 600, False),
                ("last=50", 551, False),
                ("last=50&after=", 551, False),
                ("last=0", 601, False),
                ("last=550", 51, False),
                ("last=5000", 1, False),  # 600 are kept
                (f"last=50&after={ids[598]}", 599, True),
                ("last=50&after=nonsense", 601, False),
            ]:
                async with two.connect(f"/a?{asks}") as bob:
                    expected = [News(str(n), ids[n]) for n in range(begin, 601)]
                    assert [await bob.receive(News, timeout=5) for _ in expected] == expected
                    await bob.send("back")
                    assert await bob.receive(Back) == Back(recovered)
                    await bob.receive_nothing(within=0.02)
            async with two.connect("/a?last=2") as bob, one.connect("/a?last=2") as eve:
                await ada.send("live")
                for peer in (bob, eve):
                    assert await read(peer, 3) == ["599", "600", "live"]
                    await peer.receive_nothing(within=0.02)


async def test_the_latest_events_come_before_those_that_others_publish(broker: str) -> None:
    app = Router("/{room}")
    Busy = Annotated[Topic[News], TopicName("busy.{room}", history=50)]
    said = 300

    @app.on_connect
    async def enter(busy: Busy, last: Annotated[int, Query()] = 0) -> None:
        await busy.join(last=last)

    @app.consumer
    async def flood(message: int, busy: Busy) -> None:
        for number in range(message):
            await busy.publish(News(str(number)))

    async with processes(app, broker) as (one, two):
        async with one.connect("/a") as writer:
            await writer.send(said)
            await writer.receive(News, timeout=5)
            for count in (1, 7, 20, 50):
                async with two.connect(f"/a?last={count}") as reader:
                    heard = [int((await reader.receive(News, timeout=5)).text)]
                    while heard[-1] < said - 1 and len(heard) < count + 5:
                        heard.append(int((await reader.receive(News, timeout=5)).text))
                    assert heard == list(range(heard[0], heard[-1] + 1))
            for _ in range(said - 1):
                await writer.receive(News, timeout=5)


async def test_a_topic_is_declared_while_the_app_runs(broker: str) -> None:
    """Its name has any characters, in a template's values."""
    app = Router("/")
    alerts = TopicName("alerts.{kind}", history=5, backlog=10)

    @app.on_connect
    async def enter(registry: Registry, kind: Annotated[str, Query()]) -> None:
        await registry.topic(alerts, News, kind=kind).join(last=2)

    @app.consumer
    async def publish(message: str, registry: Registry) -> str:
        return await registry.topic(alerts, News, kind=message).publish(News(message))

    async with processes(app, broker) as (one, two):
        async with one.connect("/?kind=x") as ada:
            for kind in (
                "fire",
                "a.b",
                "*",
                ">",
                "a b",
                "é",
                "{kind}",
                "/",
                "%20",
                "\n",
                "x" * 7000,
            ):
                await ada.send(kind)
                await ada.send(kind)
                ids = [await ada.receive(str, timeout=5) for _ in range(2)]
                async with two.connect(f"/?kind={quote(kind, safe='')}") as bob:
                    assert [await bob.receive(News, timeout=5) for _ in ids] == [
                        News(kind, id) for id in ids
                    ]
                    await ada.send(kind)
                    ids.append(await ada.receive(str))
                    assert await bob.receive(News) == News(kind, ids[-1])
                    await bob.receive_nothing(within=0.02)


async def test_what_cannot_be_recovered_is_said(broker: str) -> None:
    async with processes(news(), broker) as (one, two):
        async with one.connect("/news/a") as ada, one.connect("/news/b") as other:
            ids = []
            for text in "abcdefg":
                await ada.send(text)
                ids.append(await ada.receive(str))
            await other.send("elsewhere")
            await other.receive(str)
            epoch, _, place = ids[-1].partition("-")
            lost = f"{'0' * len(epoch)}-{place}"
            future = f"{epoch}-9{place}"
            for after in (ids[0], "nonsense", lost, future, "x" * 5000):
                async with two.connect(f"/news/a?after={after}") as bob:
                    await bob.send("back")
                    assert await bob.receive(Back) == Back(False)
                    await bob.receive_nothing(within=0.02)


async def test_a_history_is_bounded_in_bytes(broker: str) -> None:
    """Also where no message is larger than the bound, and many topics share it."""
    app = Router("/{room}")
    told: list[bool] = []

    @app.on_connect
    async def enter(large: Large, after: Annotated[str, Query()] = "") -> None:
        told.append((await large.join(after=after)).recovered)

    @app.consumer
    async def publish(message: str, large: Large) -> str:
        return await large.publish(News(message))

    async with processes(app, broker) as (one, two):
        async with one.connect("/quiet") as quiet, one.connect("/a") as ada:
            await quiet.send("small")
            small = await quiet.receive(str)
            ids = []
            for number in range(20):
                await ada.send(f"{number:016000}")
                ids.append(await ada.receive(str))
                assert (await ada.receive(News)).id == ids[-1]
            for after, recovered, count in ((ids[0], False, 0), (ids[-2], True, 1)):
                async with two.connect(f"/a?after={after}") as bob:
                    assert await read(bob, count) == [f"{19:016000}"] * count
                    await bob.receive_nothing(within=0.02)
                assert told[-1] is recovered
            for size in (140_000, 10):  # one that is larger than the bound
                await ada.send("x" * size)
                last = await ada.receive(str)
                assert (await ada.receive(News)).id == last
                async with two.connect(f"/a?after={ids[-1]}"):
                    pass
                assert not told[-1]
            await ada.send("end")
            assert await read(ada, 1) != []
            async with two.connect(f"/a?after={last}") as bob:
                assert await read(bob, 1) == ["end"]
            assert told[-1]
            await quiet.send("more")
            async with two.connect(f"/quiet?after={small}") as bob:
                assert await read(bob, 1) == ["more"]
            assert told[-1]


async def test_a_history_is_bounded_in_time(broker: str) -> None:
    app = Router("/{room}")
    told: list[bool] = []

    @app.on_connect
    async def enter(fleeting: Fleeting, after: Annotated[str, Query()] = "") -> None:
        told.append((await fleeting.join(after=after)).recovered)

    @app.consumer
    async def publish(message: str, fleeting: Fleeting) -> str:
        return await fleeting.publish(News(message))

    async with processes(app, broker) as (one, two):
        async with one.connect("/a") as ada:
            await ada.send("a")
            first = await ada.receive(str)
            await ada.send("b")
            async with two.connect(f"/a?after={first}") as bob:
                assert await read(bob, 1) == ["b"]
            assert told[-1]
            with anyio.fail_after(5):
                while told[-1]:
                    async with two.connect(f"/a?after={first}"):
                        await anyio.sleep(0.02)


async def test_a_history_that_is_idle_is_forgotten(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "REMIND", 0.1)
    app = Router("/{room}")
    told: list[bool] = []

    @app.on_connect
    async def enter(waning: Waning, after: Annotated[str, Query()] = "") -> None:
        told.append((await waning.join(after=after)).recovered)

    @app.consumer
    async def publish(message: str, waning: Waning) -> str:
        return await waning.publish(News(message))

    async with processes(app, broker) as (one, two):
        async with one.connect("/a") as ada:
            ids: list[str] = []
            while len(ids) < 5:  # as long as somebody writes, all is there, however old
                await ada.send("a")
                ids.append(await ada.receive(str))
                await anyio.sleep(0.15)
            async with two.connect(f"/a?after={ids[0]}") as bob:
                assert await read(bob, 4) == ["a"] * 4
            assert told[-1]
            with anyio.fail_after(10):
                while told[-1]:
                    async with two.connect(f"/a?after={ids[0]}"):
                        await anyio.sleep(0.02)
            page = await two.registry.topic("waning.a", News).history()
            assert page.events == []
            await ada.send("anew")
            await ada.receive(str)
            async with two.connect("/b"):
                page = await two.registry.topic("waning.a", News).history()
                assert [each.message.text for each in page.events] == ["anew"]
        for each in (one, two):
            counters = each.registry.counters()
            assert (counters["lost"], counters["missed"], counters["unreadable"]) == (0, 0, 0)


def archive() -> Router:
    """A topic that is written to, read and cleared; who joins hears it, and tells how."""
    app = Router("/archive/{room}")
    Archive = Annotated[
        Topic[News], TopicName("archive.{room}", history=300, gap=News("events are missing"))
    ]
    Other = Annotated[Topic[News], TopicName("archive.other.{room}", history=300)]

    @app.on_connect
    async def enter(
        archive: Archive,
        other: Other,
        connection: Connection,
        after: Annotated[str | None, Query()] = None,
    ) -> None:
        await other.publish(News("other"))
        if after is not None:
            joined = await archive.join(after=after)
            await connection.send(Back(joined.recovered))

    @app.consumer
    async def command(message: list[Any], archive: Archive) -> Any:
        match message:
            case ["say", text]:
                return await archive.publish(News(text))
            case ["say many", int(count)]:
                return [await archive.publish(News(str(number))) for number in range(count)][-1]
            case ["read", after, int(limit)]:
                page = await archive.history(after, limit=limit)
                assert all(each.id == each.message.id for each in page.events)
                found = [each.message.text for each in page.events]
                return [page.recovered, page.more, found]
            case ["clear"]:
                await archive.clear_history()
        return "done"

    return app


async def told(peer: MemoryPeer, *command: Any) -> Any:
    await peer.send(list(command))
    return await peer.receive(str, list, timeout=10)


async def test_a_history_is_read(broker: str) -> None:
    async with processes(archive(), broker) as (one, two):
        async with one.connect("/archive/a") as ada, two.connect("/archive/a") as bob:
            assert await told(bob, "read", "", 5) == [False, False, []]
            first = await told(ada, "say", "first")
            await told(ada, "say many", 200)
            last = await told(ada, "say", "last")
            numbers = [str(number) for number in range(200)]
            for peer in (ada, bob, ada, bob):
                assert await told(peer, "read", "", 3) == [False, False, ["198", "199", "last"]]
                assert await told(peer, "read", first, 3) == [True, True, ["0", "1", "2"]]
                assert await told(peer, "read", first, 201) == [True, False, [*numbers, "last"]]
                assert await told(peer, "read", first, 200) == [True, True, numbers]
                assert await told(peer, "read", last, 3) == [True, False, []]
                assert await told(peer, "read", "gone", 3) == [False, False, []]
                everything = ["first", *numbers, "last"]
                assert await told(peer, "read", "", 1000) == [False, False, everything]
            assert one.registry.counters()["topics"] == 1  # broadcasts: it is not kept for that


async def test_who_publishes_reads_it_at_once(broker: str) -> None:
    """Also in a process that hears the topic, before it has heard that."""
    async with processes(archive(), broker) as (one, two):
        async with one.connect("/archive/a?after=") as ada, two.connect("/archive/a?after=") as bob:
            for number in range(50):
                for peer in (ada, bob):
                    assert await told(peer, "say", f"{number}")
                    assert (await told(peer, "read", "", 1))[2] == [f"{number}"]


async def test_a_history_is_removed(broker: str) -> None:
    async with processes(archive(), broker) as (one, two):
        async with (
            one.connect("/archive/a?after=") as ada,
            two.connect("/archive/a?after=") as bob,
        ):
            before = await told(ada, "say", "before")
            await told(ada, "say many", 150)
            newest = await told(bob, "say", "newest")
            assert await told(bob, "clear") == "done"
            for peer in (ada, bob):
                assert await told(peer, "read", "", 5) == [False, False, []]
                for id in (before, newest):
                    assert await told(peer, "read", id, 5) == [False, False, []]
            for server in (one, two):
                for id in (before, newest):
                    async with server.connect(f"/archive/a?after={id}") as eve:
                        assert await eve.receive(Back) == Back(recovered=False)
            first = await told(bob, "say", "first")
            await told(ada, "say", "second")
            for peer in (ada, bob):
                assert await told(peer, "read", "", 5) == [False, False, ["first", "second"]]
                assert await told(peer, "read", first, 5) == [True, False, ["second"]]
                assert await told(peer, "read", newest, 5) == [False, False, []]
                texts = [(await peer.receive(News)).text for _ in range(154)]
                assert texts[0] == "before"
                assert texts[-3:] == ["newest", "first", "second"]
            for server in (one, two):
                async with server.connect(f"/archive/a?after={first}") as eve:
                    assert (await eve.receive(News)).text == "second"
                    assert await eve.receive(Back) == Back(recovered=True)
            await told(ada, "clear")
            await told(ada, "clear")
            assert await told(bob, "read", "", 5) == [False, False, []]
            other = await two.registry.topic("archive.other.a", News).history()
            assert len(other.events) == 8
        for server in (one, two):
            counters = server.registry.counters()
            assert (counters["lost"], counters["missed"], counters["unreadable"]) == (0, 0, 0)


async def test_nothing_is_missed_or_twice_while_others_publish(broker: str) -> None:
    """Peers come back with their last id, again and again, while there is no pause."""
    app = Router("/{room}")
    Busy = Annotated[Topic[News], TopicName("busy.{room}", history=1000)]
    said = 400

    @app.on_connect
    async def enter(busy: Busy, after: Annotated[str, Query()] = "") -> None:
        joined = await busy.join(after=after)
        assert joined.recovered or not after

    @app.consumer
    async def flood(message: int, busy: Busy) -> None:
        for number in range(message):
            await busy.publish(News(str(number)))

    async with processes(app, broker) as (one, two):
        async with one.connect("/a") as writer:
            heard: list[str] = []
            last = ""
            begun = False
            while len(heard) < said:
                async with two.connect(f"/a?after={last}") as reader:
                    if not begun:
                        await writer.send(said)
                        begun = True
                    for _ in range(min(37, said - len(heard))):
                        message = await reader.receive(News, timeout=5)
                        heard.append(message.text)
                        last = message.id
            assert heard == [str(number) for number in range(said)]
            for _ in range(said):
                await writer.receive(News, timeout=5)


async def test_a_name_is_claimed_once(broker: str) -> None:
    """An engine may go without."""
    async with processes(chat(), broker) as (one, two):
        try:
            assert await one.registry.claim("first", 60)
        except BrokerError as exc:
            if "its engine has no `claim`" not in str(exc):
                raise
            pytest.skip(str(exc))
        for name in ("a", "ticket.5f", "ä / *.> {x}", "a" * 500):
            claimed: list[bool] = []

            async def claim(server: MemoryServer, name: str = name, to: Any = claimed) -> None:
                to.append(await server.registry.claim(name, 60))

            async with anyio.create_task_group() as tasks:
                for server in (one, two, two, one):
                    tasks.start_soon(claim, server)
            assert sorted(claimed) == [False, False, False, True]
        assert await two.registry.claim("b", 30 * 24 * 3600)
        assert not await one.registry.claim("b", 0.001)


async def test_members_are_listed_in_every_process(broker: str) -> None:
    async with processes(chat(), broker) as (one, two):
        async with one.connect("/chat/a?name=ada") as ada:
            async with two.connect("/chat/a?name=bob") as bob:
                for peer in (ada, bob):
                    await peer.send("who")
                    assert await peer.receive(Who) == Who(["ada", "bob"])
                await bob.send("rename")
                assert await bob.receive() == "done"
                await until(ada, ["ada", "renamed"])
                await ada.send("ranks")
                assert await ada.receive(list) == [["Member", 3], ["Member", 0]]
            await until(ada, ["ada"])
        assert await two.registry.topic("room.a").members() == []
        async with one.connect("/chat/a?name=ada"):
            there = await two.registry.topic("room.a").members()
            assert [each.presence for each in there] == [Member("ada", 3)]


async def until(peer: MemoryPeer, names: list[str]) -> None:
    """Ask until those are there."""
    with anyio.fail_after(5):
        while True:
            await peer.send("who")
            if await peer.receive(Who) == Who(names):
                return


async def test_who_comes_and_goes_is_observed(broker: str) -> None:
    app = chat()
    watch = Router("/watch/{room}")

    @watch.producer
    async def observe(room: Room) -> AsyncIterator[Came | Went]:
        async for change in room.watch_members():
            match change:
                case MemberJoined(member, earlier):
                    yield Came(member.presence.name, earlier)
                case MemberLeft(member):
                    yield Went(member.presence.name)

    whole = Router("/")
    whole.include(app)
    whole.include(watch)
    async with processes(whole, broker) as (one, two):
        async with one.connect("/chat/a?name=ada"), two.connect("/watch/a") as watcher:
            assert await watcher.receive(Came, timeout=5) == Came("ada", True)
            async with one.connect("/chat/a?name=bob") as bob:
                assert await watcher.receive(Came) == Came("bob", False)
                await bob.send("rename")
                assert await watcher.receive(Came) == Came("renamed", False)
            assert await watcher.receive(Went) == Went("renamed")
            async with two.connect("/chat/a?name=eve"):
                assert await watcher.receive(Came) == Came("eve", False)
            assert await watcher.receive(Went) == Went("eve")
        for server in (one, two):
            assert server._app.directory.channels.presence._rosters == {}


async def test_lag_happens_to_one_peer_alone(broker: str) -> None:
    app = Router("/{room}")
    Brief = Annotated[Topic[Said], TopicName("brief.{room}", backlog=10, when_full="drop_oldest")]

    @app.on_connect
    async def enter(brief: Brief) -> None:
        await brief.join()

    @app.consumer
    async def nothing(message: str) -> None: ...

    limits = Limits(write_buffer=4, close_timeout=1)
    async with processes(app, broker, limits=limits) as (one, two):
        brief = one.registry.topic("brief.a")
        async with two.connect("/a") as slow, two.connect("/a") as quick:
            for number in range(100):
                await brief.publish(Said(str(number)))
                assert await quick.receive(Said) == Said(str(number))
            counters = two.registry.topic("brief.a").counters()
            assert (counters.joined, counters.lagging, counters.waiting) == (2, 1, 10)
            sent = 100 - counters.waiting - counters.dropped
            assert two.registry.counters()["dropped"] == counters.dropped > 50
            heard = [(await slow.receive(Said)).text for _ in range(sent + 10)]
            assert heard == [str(number) for number in (*range(sent), *range(90, 100))]


async def test_only_what_somebody_has_joined_is_subscribed_to(broker: str) -> None:
    """A process knows no topic that nobody there uses, however many came and went."""
    async with processes(chat(), broker) as (one, two):
        for number in range(50):
            async with one.connect(f"/chat/{number}?name=ada"), one.connect("/chat/x?name=bob"):
                pass
        for server in (one, two):
            channels = server._app.directory.channels
            assert len(channels) == 0
            assert set(getattr(channels.broker, "_wanted", {""})) == {""}
