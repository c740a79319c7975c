"""Who is there, as told between processes: what a suite over brokers does not see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import anyio
import msgspec
import pytest

from wsflow import Router, Topic
from wsflow.brokers.memory import MemoryBroker
from wsflow.testing import connect
from wsflow.topics.channels import Channels
from wsflow.topics.iterators import MemberIterator
from wsflow.topics.members import MemberLeft
from wsflow.topics.presence import (
    Answer,
    Changes,
    Note,
    Observer,
    Presence,
    Present,
    Unwatch,
    Watch,
)


class Member(msgspec.Struct):
    name: str


class Broker:
    """Remembers what is told."""

    def __init__(self, *processes: str) -> None:
        self.processes = processes
        self.told: list[tuple[str, Any]] = []

    def tell(self, process: str, note: bytes) -> None:
        self.told.append((process, msgspec.msgpack.decode(note, type=Note)))

    async def settled(self, answers: Callable[[], Awaitable[None]]) -> None:
        await answers()


class Local:
    def __init__(self, kind: Any = None) -> None:
        self.kind = kind
        self.refused: list[str] = []

    def present(self, topic: str) -> Any:
        return [("me", "myself")]

    def find(self, topic: str, id: str) -> Any:
        return ("myself",) if id == "me" else None

    def presence_type(self, topic: str) -> Any:
        return self.kind

    def of_user(self, user: str) -> list[str]:
        return [f"{user} here"]

    def unreadable(self, where: str, why: object) -> None:
        self.refused.append(where)


def told(presence: Presence, process: str, note: Any) -> None:
    presence.heard(process, msgspec.msgpack.encode(note))


def of(name: str) -> Any:
    return ("somewhere:Member", msgspec.msgpack.encode(Member(name)))


async def test_members_of_other_processes() -> None:
    broker: Any = Broker("b", "c")
    local = Local(Member)
    presence = Presence(broker, local)
    observer = Observer(presence, "room", None)
    loop = MemberIterator(presence, observer)
    roster = observer.roster
    assert presence.use("room", "user") is roster
    assert broker.told == [("", Watch(["room"]))]
    told(presence, "b", Present("room", {"1": of("ada"), "2": None}))
    told(presence, "c", Present("room", {"3": of("bob"), "4": ("x:Y", b"\xc1")}))
    await presence.complete(roster)
    assert dict(presence.members(roster)) == {
        "me": "myself",
        "1": Member("ada"),
        "2": None,
        "3": Member("bob"),
        "4": None,
    }
    assert local.refused == ["a presence in topic 'room'"]
    first = [await anext(loop) for _ in range(5)]
    assert {each.member.id for each in first} == {"me", "1", "2", "3", "4"}
    told(presence, "b", Present("room", {"1": of("ada"), "5": of("eve")}))  # 2 has gone
    told(presence, "c", Changes("room", {}, ["3", "unknown"]))
    told(presence, "c", Changes("room", {"4": None}, []))  # nothing new
    changes = [await anext(loop) for _ in range(3)]
    assert {each.member.id for each in changes} == {"2", "5", "3"}
    presence.gone("b")
    left = [await anext(loop) for _ in range(2)]
    assert all(isinstance(each, MemberLeft) for each in left)
    presence.release("room", "user")
    presence.release("room", "nobody")
    observer.stop()
    observer.stop()
    assert broker.told[-1] == ("", Unwatch(["room"]))
    told(presence, "c", Changes("room", {}, []))  # it has not heard that yet
    assert broker.told[-1] == ("c", Unwatch(["room"]))
    presence.heard("c", b"nonsense")
    assert local.refused == ["a presence in topic 'room'", "the notes between processes"]


class Odd(msgspec.Struct):
    """A presence whose own code fails on what another version of the app has sent."""

    name: str

    def __post_init__(self) -> None:
        raise KeyError(self.name)


async def test_a_presence_whose_own_code_fails_hurts_nobody_else() -> None:
    broker: Any = Broker("b")
    local = Local(Odd)
    presence = Presence(broker, local)
    roster = presence.use("room", "user")
    told(presence, "b", Present("room", {"1": of("ada"), "2": None}))
    assert dict(presence.members(roster)) == {"me": "myself", "1": None, "2": None}
    assert local.refused == ["a presence in topic 'room'"]


async def test_notes_that_cannot_be_read_are_counted_and_logged_once_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channels = Channels(MemoryBroker)
    for _ in range(500):
        channels.heard("b", b"nonsense")
    assert channels.counters["unreadable"] == 500
    assert caplog.text.count("cannot be read") == 1


def test_who_asks_is_told_until_he_is_gone() -> None:
    broker: Any = Broker()
    presence = Presence(broker, Local())
    presence.joined("room", "x", None)
    told(presence, "b", Watch(["room"]))
    told(presence, "c", Watch(["room", "other"]))
    presence.joined("room", "x", None)
    presence.left("room", "x")
    told(presence, "b", Unwatch(["room", "never"]))
    presence.gone("c")
    presence.left("room", "y")
    me = Present("room", {"me": ("builtins:str", b"\xa6myself")})
    assert broker.told == [
        ("b", me),
        ("c", me),
        ("c", Present("other", me.members)),
        *[(process, Changes("room", {"x": None}, [])) for process in "bc"],
        *[(process, Changes("room", {}, ["x"])) for process in "bc"],
    ]
    presence.appeared("d")  # nothing is asked of it
    assert len(broker.told) == 7
    presence.use("room", "user")
    presence.appeared("d")
    assert broker.told[-1] == ("d", Watch(["room"]))


async def test_two_wait_for_the_same() -> None:
    broker: Any = Broker("b")
    presence = Presence(broker, Local())
    roster = presence.use("room", "user")
    done: list[int] = []

    async def wait(number: int) -> None:
        await presence.complete(roster)
        done.append(number)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, 1)
        tasks.start_soon(wait, 2)
        await anyio.wait_all_tasks_blocked()
        presence.appeared("c")
        roster.answered("b")
        await anyio.wait_all_tasks_blocked()
        assert done == []
        roster.answered("c")
    assert sorted(done) == [1, 2]


async def asked(presence: Presence, of_user: bool, found: list[Any]) -> None:
    if of_user:
        found.append(await presence.of_user("", "ada"))
    else:
        found.append(await presence.count("room"))


@pytest.mark.parametrize("of_user", [False, True])
async def test_a_question_is_answered_once_by_each(of_user: bool) -> None:
    """Also by a process that knows no questions, and takes one for a Watch."""
    broker: Any = Broker("b", "old", "gone")
    presence = Presence(broker, Local())
    found: list[Any] = []
    topic, user = ("", "ada") if of_user else ("room", "")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(asked, presence, of_user, found)
        await anyio.wait_all_tasks_blocked()
        presence.appeared("new")
        question = Watch([topic], 1, user)
        assert broker.told == [("", question), ("new", question)]
        told(presence, "b", Answer(1, 2, ["x", "y"]))
        told(presence, "new", Answer(1, 9, ["outdated"]))
        presence.appeared("new")  # it may not have heard the question, or has other members now
        told(presence, "gone", Answer(1, 7, ["z"]))
        presence.gone("gone")
        told(presence, "old", Present("other", {"1": None}))  # to another question
        await anyio.wait_all_tasks_blocked()
        assert found == []
        told(presence, "old", Present(topic, {} if of_user else {"1": None, "2": None}))
        assert broker.told[-1] == ("old", Unwatch([topic]))
        await anyio.wait_all_tasks_blocked()
        assert found == []
        told(presence, "new", Answer(1, 1, ["n"]))
    assert found == [["ada here", "x", "y", "n"] if of_user else 1 + 2 + 2 + 1]
    told(presence, "new", Answer(1, 5))  # nobody waits for it
    presence.appeared("c")
    presence.gone("c")
    assert broker.told[-1] == ("old", Unwatch([topic]))


def test_a_question_is_not_remembered() -> None:
    broker: Any = Broker()
    presence = Presence(broker, Local())
    told(presence, "b", Watch(["room"], 5))
    told(presence, "b", Watch([""], 6, "ada"))
    presence.joined("room", "x", None)
    presence.left("room", "x")
    assert broker.told == [("b", Answer(5, 1)), ("b", Answer(6, 1, ["ada here"]))]


async def test_whoever_asks_in_vain_asks_no_more() -> None:
    broker: Any = Broker("b")
    presence = Presence(broker, Local())
    with anyio.move_on_after(0):
        await presence.count("room")
    presence.appeared("c")
    assert broker.told == [("", Watch(["room"], 1))]


class OlderWatch(msgspec.Struct, tag="watch", array_like=True):
    """A Watch as the version before questions reads and writes it."""

    topics: list[str]


def test_a_question_is_a_watch_to_an_older_version() -> None:
    encode, decode = msgspec.msgpack.encode, msgspec.msgpack.decode
    assert decode(encode(Watch(["room"], 5, "ada")), type=OlderWatch) == OlderWatch(["room"])
    assert decode(encode(OlderWatch(["room"])), type=Note) == Watch(["room"])


async def test_a_presence_that_cannot_be_encoded() -> None:
    app = Router("/")

    @app.on_connect
    async def enter(room: Annotated[Topic[str], "room"]) -> None:
        await room.join(presence=object())

    @app.consumer
    async def nothing(message: str) -> None: ...

    async with connect(app) as peer:
        assert peer.rejected.status == 500
        assert isinstance(peer.end.error, TypeError)


async def test_a_presence_that_changes_before_the_handshake() -> None:
    app = Router("/")
    Room = Annotated[Topic[str], "room"]

    @app.on_connect
    async def enter(room: Room) -> None:
        await room.join(presence="first")
        assert await room.members() == []
        await room.join(presence="second")

    @app.consumer
    async def who(message: str, room: Room) -> list[Any]:
        return [each.presence for each in await room.members()]

    async with connect(app) as peer:
        await peer.send("who")
        assert await peer.receive() == ["second"]
