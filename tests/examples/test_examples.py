"""Every example, as its users meet it."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from examples import bot, calls, chat, counter, echo, members, prices, tutorial, workers
from tests.clocks import InFakeTime
from wsflow.server.loading import wired
from wsflow.testing import FakeTopic, connect

EXAMPLES = sorted(Path("examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_says_how_to_run_it(path: Path) -> None:
    if path.stem == "__init__":
        return
    kind, name = ("client", "bot") if path.stem == "bot" else ("run", "app")
    line = re.search(rf"``wsflow {kind} (\S+?)(``| )", path.read_text())
    assert line
    assert line[1] == f"examples.{path.stem}:{name}"
    wired(line[1])


async def test_echo() -> None:
    async with connect(echo.app) as peer:
        await peer.send("hello")
        assert await peer.receive() == "hello"
        await peer.send(b"\x00\xff")
        assert await peer.receive() == b"\x00\xff"


async def test_bot() -> None:
    async with connect(chat.app, "/chat/lobby?name=bot", client=bot.bot) as linked:
        async with connect(chat.app, "/chat/lobby?name=ada") as ada:
            said = await ada.receive(chat.Said)
            assert said == chat.Said("bot", "hello, ada")
            await ada.send(chat.Say("!time"))
            texts = [(await ada.receive(chat.Said)).text for _ in range(2)]
            assert texts[0] == "!time"
            assert re.fullmatch(r"it is \d\d:\d\d", texts[1])
        linked.link.cut()


async def test_calls(capsys: pytest.CaptureFixture[str]) -> None:
    async with connect(calls.app, client=calls.client) as linked:
        await linked.ended()
        assert linked.end is not None
        assert linked.end.cause == "finished"
    out = capsys.readouterr().out
    assert out.startswith("1 / 3 = 0.333\n1 / 0: nothing can be divided by 0\n2 is a prime\n")
    assert out.endswith("19 is a prime\n")
    async with connect(calls.app) as peer:  # a peer that answers no calls
        with pytest.raises(AssertionError, match="no answer"):
            await peer.call(calls.Divide(1, 3), timeout=0.01)
        asked = await peer.receive()
        error = {"type": "$error", "id": asked["id"], "code": "unknown"}
        await peer.send(msgspec.Raw(msgspec.json.encode(error)))


async def test_chat() -> None:
    async with (
        connect(chat.app, "/chat/lobby?name=ada") as ada,
        connect(chat.app, "/chat/lobby?name=bob") as bob,
        connect(chat.app, "/chat/attic?name=eve") as eve,
    ):
        await ada.send(chat.Say("hi"))
        assert await bob.receive(chat.Said) == chat.Said("ada", "hi")
        assert await ada.receive(chat.Said) == chat.Said("ada", "hi")
        assert await eve.receive(chat.Tick) == chat.Tick(0)
        assert await eve.receive(chat.Came) == chat.Came("eve")
        await eve.receive_nothing()


async def test_chat_shows_who_is_there() -> None:
    async with connect(chat.app, "/chat/lobby?name=ada") as ada:
        assert await ada.receive(chat.Came) == chat.Came("ada")
        async with connect(chat.app, "/chat/lobby?name=bob") as bob:
            assert await ada.receive(chat.Came) == chat.Came("bob")
            there = {(await bob.receive(chat.Came)).who for _ in range(2)}
            assert there == {"ada", "bob"}
        assert await ada.receive(chat.Went) == chat.Went("bob")


async def test_chat_wants_a_name() -> None:
    async with connect(chat.app, "/chat/lobby") as nobody:
        assert nobody.rejected.status == 401
        assert nobody.rejected.body == "a name is needed"


async def test_chat_handlers_are_functions() -> None:
    room: FakeTopic[chat.Said] = FakeTopic()
    member = await chat.enter(room, "ada")
    assert room.joined
    await chat.say(chat.Say("hi"), member, room)
    assert room.published == [chat.Said("ada", "hi")]


async def test_members() -> None:
    async with connect(members.app, "/members") as nobody:
        await nobody.send(members.Say("hi"))
        assert (await nobody.wait_closed()).code == 4401
    ada = {"headers": {"Authorization": f"Bearer {members.token('ada', 'admin')}"}}
    bob = {"subprotocols": ["wsflow.json", f"bearer.{members.token('bob')}"]}
    async with (
        connect(members.app, "/members", **ada) as admin,  # type: ignore[arg-type]
        connect(members.app, "/members", **bob) as member,  # type: ignore[arg-type]
    ):
        await member.send(members.Say("hi"))
        assert await admin.receive(members.Said) == members.Said("bob", "hi")
        await member.send(members.Mute("ada"))
        assert await member.receive(members.Refused) == members.Refused("forbidden")
        await admin.send(members.Mute("bob"))
        await admin.send(members.Say("quiet"))
        assert await member.receive(members.Said) == members.Said("bob", "hi")
        assert await member.receive(members.Said) == members.Said("ada", "quiet")
        await member.send(members.Say("but"))
        assert await member.receive(members.Refused) == members.Refused("you are muted")


class TestChatClock(InFakeTime):
    async def test_an_hour_passes_at_once(self) -> None:
        async with connect(chat.app, "/chat/lobby?name=ada") as ada:
            for seconds in range(3600):
                assert await ada.receive(chat.Tick, timeout=2) == chat.Tick(seconds)
            assert (await ada.wait_closed(timeout=2)).code == 1000


class TestPrices(InFakeTime):
    async def test_a_snapshot_then_changes(self) -> None:
        random.seed(1)
        async with (
            connect(prices.app, "/prices") as all_prices,
            connect(prices.app, "/prices?symbol=ADA") as ada_only,
        ):
            snapshot = await all_prices.receive(prices.Snapshot)
            assert {price.symbol for price in snapshot.prices} == {"ADA", "BOB", "EVE"}
            assert isinstance(await all_prices.receive(prices.Price), prices.Price)
            for _ in range(3):
                price = await ada_only.receive(prices.Price, timeout=60)
                assert price.symbol == "ADA"
            assert all_prices.end is None  # the snapshot's end did not close


class TestWorkers(InFakeTime):
    async def test_jobs_run_side_by_side_and_customers_keep_their_order(self) -> None:
        async with connect(workers.app, "/jobs") as peer:
            await peer.send(workers.Job(1, "ada", seconds=3))
            await peer.send(workers.Job(2, "ada", seconds=1))
            await peer.send(workers.Job(3, "bob", seconds=1))
            await peer.send(workers.Status())
            assert await peer.receive() == workers.Finished(0)
            done = [await peer.receive(workers.Done, timeout=10) for _ in range(3)]
            assert [each.id for each in done] == [3, 1, 2]
            await peer.send(workers.Status())
            assert await peer.receive() == workers.Finished(3)


async def test_counter() -> None:
    async with connect(counter.app, "/counter") as ada:
        assert await ada.receive() == counter.Value(0)
        assert await ada.receive() == counter.Users(1)
        async with connect(counter.app, "/counter") as bob:
            assert await ada.receive() == counter.Users(2)
            await bob.send(counter.Change(1))
            assert await ada.receive() == counter.Value(1)
            assert await bob.receive(counter.Value) == counter.Value(0)
            assert await bob.receive(counter.Value) == counter.Value(1)
        assert await ada.receive() == counter.Users(1)


async def play(peer: Any, *columns: int) -> None:
    for column in columns:
        await peer.send(tutorial.Play(column))


async def test_a_game_is_won() -> None:
    async with connect(tutorial.app, "/play") as red:
        key = (await red.receive(tutorial.Invite)).join
        await red.send(tutorial.Play(3))
        assert await red.receive(tutorial.Played) == tutorial.Played("red", 3, 0)
        async with connect(tutorial.app, f"/play?join={key}") as yellow:
            assert await yellow.receive(tutorial.Played) == tutorial.Played("red", 3, 0)
            for row in range(3):
                await yellow.send(tutorial.Play(0))
                assert (await red.receive(tutorial.Played)).column == 0
                await red.send(tutorial.Play(3))
                assert (await red.receive(tutorial.Played)).row == row + 1
            assert await yellow.receive(tutorial.Won) == tutorial.Won("red")
            await yellow.send(tutorial.Play(0))
            assert await yellow.receive(tutorial.Refused) == tutorial.Refused("the game is over")


async def test_illegal_moves_are_answered() -> None:
    async with connect(tutorial.app, "/play") as red:
        key = (await red.receive(tutorial.Invite)).join
        await red.send(tutorial.Play(9))
        assert await red.receive(tutorial.Refused) == tutorial.Refused("there is no such column")
        async with connect(tutorial.app, f"/play?join={key}") as yellow:
            await yellow.send(tutorial.Play(1))
            assert (await yellow.receive(tutorial.Refused)).why == "it is not your turn"
            for turn in range(tutorial.ROWS):
                player = (red, yellow)[turn % 2]
                await player.send(tutorial.Play(5))
                await red.receive(tutorial.Played)
                await yellow.receive(tutorial.Played)
            await red.send(tutorial.Play(5))
            assert (await red.receive(tutorial.Refused)).why == "this column is full"
        async with connect(tutorial.app, f"/play?join={key}") as third:
            assert third.rejected.status == 409
    async with connect(tutorial.app, "/play?join=nonsense") as nobody:
        assert nobody.rejected.status == 404
