"""Every example, as its users meet it."""

from __future__ import annotations

import base64
import random
import re
import sys
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

import wsflow
from examples import (
    bot,
    calls,
    chat,
    counter,
    cursors,
    devices,
    direct,
    echo,
    jobs,
    login,
    members,
    prices,
    tutorial,
    workers,
)
from tests.clocks import InFakeTime
from tests.server.test_serve import quick
from wsflow.server import serve
from wsflow.server.loading import wired
from wsflow.testing import FakeBroker, FakeClock, FakeTopic, connect, serve_in_memory

EXAMPLES = sorted(Path("examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_says_how_to_run_it(path: Path) -> None:
    if path.stem in ("__init__", "mounted"):  # that is run by uvicorn: test_mounted.py
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


def basic(name: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


async def test_login_refuses() -> None:
    for sent, status in [
        ("", 401),
        (basic("ada", "wrong"), 401),
        (basic("eve", ""), 401),
        ("Basic a", 400),
    ]:
        with pytest.raises(wsflow.Reject) as refused:
            await login.log_in(sent)
        assert refused.value.status == status
    async with connect(login.app, "/me") as nobody:
        await nobody.send("who am I?")
        assert (await nobody.wait_closed()).code == 4401


class TestLogin(InFakeTime):
    async def test_a_token_is_renewed(self, clock: FakeClock) -> None:
        given = []

        async def token() -> str:
            page = await login.log_in(basic("ada", "lovelace"))
            assert ("Cache-Control", "no-store") in page.headers
            given.append(str(page.body))
            return given[-1]

        async with connect(login.app, "/me", client=login.client, credential=token) as linked:
            await linked.connected()
            await clock.advance(login.LASTS - 5)
            assert len(given) == 2
            await clock.advance(login.LASTS * 2)
            assert len(given) > 3
            assert linked.end is None
            linked.link.cut()

    async def test_a_token_that_is_not_renewed_ends(self, clock: FakeClock) -> None:
        page = await login.log_in(basic("ada", "lovelace"))
        headers = {"Authorization": f"Bearer {page.body!s}"}
        async with connect(login.app, "/me", headers=headers) as ada:
            assert (await ada.call(login.WhoAmI())).sub == "ada"
            await clock.advance(login.LASTS + 20)
            assert ada.end is None
            await clock.advance(10)
            assert (await ada.wait_closed()).code == 4401


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_login_as_a_command(anyio_backend: str) -> None:
    async with serve(login.app, quick()) as server:
        command = [sys.executable, "-m", "examples.login", "ada"]
        at = f"127.0.0.1:{server.port}"
        refused = await anyio.run_process([*command, "wrong", at], check=False)
        assert refused.returncode == 1
        assert refused.stderr == b"cannot log in: HTTP Error 401: Unauthorized\n"
        async with await anyio.open_process([*command, "lovelace", at]) as process:
            assert process.stdout is not None
            with anyio.fail_after(30):
                assert (await process.stdout.receive()).startswith(b"ada until ")
            process.terminate()


class TestDirect(InFakeTime):
    async def test_all_pages_of_a_user(self) -> None:
        broker = FakeBroker()
        async with (
            serve_in_memory(direct.app, broker=broker) as here,
            serve_in_memory(direct.app, broker=broker) as there,
            here.connect("/direct?name=ada") as ada,
            there.connect("/direct?name=ada") as also_ada,
            here.connect("/direct?name=bob") as bob,
            there.connect("/direct?name=bob") as also_bob,
        ):
            assert await ada.call(direct.Tell("bob", "hi"), timeout=5) == 2
            for each in (bob, also_bob):
                assert await each.receive() == direct.Told("ada", "hi")
            assert await also_ada.receive() == direct.Wrote("bob", "hi")
            await ada.receive_nothing()
            with pytest.raises(wsflow.CallError, match="eve is not here"):
                await ada.call(direct.Tell("eve", "hi"))
            await bob.send(direct.SignOut())
            assert (await also_bob.wait_closed()).code == 4401
            assert await ada.call(direct.Tell("bob", "hi")) == 1
        async with connect(direct.app, "/direct") as nobody:
            assert nobody.rejected.status == 401


class TestJobs(InFakeTime):
    async def test_processes_share_them(self) -> None:
        broker = FakeBroker()
        async with (
            serve_in_memory(jobs.app, broker=broker) as here,
            serve_in_memory(jobs.app, broker=broker) as there,
            here.connect("/jobs") as ada,
            there.connect("/jobs") as bob,
        ):
            for _ in range(3):
                await ada.send(jobs.Start(steps=5))
            await bob.send(jobs.Start(steps=5))
            names = [(await ada.receive(jobs.Queued, timeout=5)).job for _ in range(3)]
            seen = [await ada.receive(jobs.Progress, timeout=60) for _ in range(15)]
            for name in names:
                assert [each.done for each in seen if each.job == name] == [1, 2, 3, 4, 5]
            order = [names.index(each.job) for each in seen]
            assert order != sorted(order)  # two are done side by side
            assert (await bob.receive(jobs.Progress, timeout=60)).done == 1
            await here.idle()
            await ada.receive_nothing()  # each was done once

    async def test_one_that_nobody_watches_is_cancelled(
        self, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "jobs")
        async with serve_in_memory(jobs.app) as server, server.connect("/jobs") as ada:
            async with server.connect("/jobs") as bob:
                await bob.send(jobs.Start(steps=1000))
                assert (await bob.receive(jobs.Progress)).done == 1
                await bob.send(jobs.Start(steps=1000))  # is never begun
                await bob.receive(jobs.Queued)
                await bob.receive(jobs.Queued)
            await ada.send(jobs.Start(steps=1000))
            job = (await ada.receive(jobs.Queued)).job
            assert (await ada.receive(jobs.Progress)).done == 1
            await ada.send(jobs.Leave(job))
            await clock.advance(1)
        said = [each.partition(": ")[2] for each in caplog.messages]
        assert said == ["cancelled after 2 steps"] * 2


class TestJobsWithoutABroker(InFakeTime):
    async def test_a_job_that_cannot_go_on_does_not_end_the_process(
        self, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        broker = FakeBroker()
        async with (
            serve_in_memory(jobs.app, broker=broker) as server,
            server.connect("/jobs") as ada,
        ):
            await ada.send(jobs.Start(steps=1000))
            job = (await ada.receive(jobs.Progress, timeout=5)).job
            broker.down = True
            broker.cut()
            await clock.advance(60)
            assert [each.partition(":")[0] for each in caplog.messages].count(f"job {job}") == 1
            broker.down = False
            await clock.advance(60)
            await ada.send(jobs.Start(steps=1))
            again = await ada.receive(jobs.Queued, timeout=5)
            again = await ada.receive(jobs.Queued, timeout=5)
            while (await ada.receive(jobs.Progress, timeout=5)).job != again.job:
                pass


async def test_cursors() -> None:
    broker = FakeBroker()
    async with (
        serve_in_memory(cursors.app, broker=broker) as here,
        serve_in_memory(cursors.app, broker=broker) as there,
        here.connect("/boards/plan?name=ada") as ada,
        here.connect("/boards/other?name=eve") as eve,
    ):
        await ada.send(cursors.Move((0.5, 0.25)))
        async with there.connect("/boards/plan?name=bob") as bob:
            found = await bob.receive(cursors.Cursor, timeout=5)
            while found.at is None:  # from before she moved
                found = await bob.receive(cursors.Cursor, timeout=5)
            assert (found.name, found.at) == ("ada", (0.5, 0.25))
            came = await ada.receive(timeout=5)
            assert came == cursors.Cursor(came.id, "bob", None)
            await ada.send(cursors.Click((1, 0)))
            assert await bob.receive(timeout=5) == cursors.Clicked(found.id, (1, 0))
            await bob.send(cursors.Move((0, 1)))
            assert await ada.receive(timeout=5) == cursors.Cursor(came.id, "bob", (0, 1))
        assert await ada.receive(timeout=5) == cursors.Gone(came.id)
        await eve.receive_nothing()


async def test_a_slow_page_is_sent_the_latest_of_each_cursor() -> None:
    """Each is sent as it is when its turn comes, and not as often as it has moved."""
    async with connect(cursors.app, "/boards/plan?name=ada") as ada:
        async with connect(cursors.app, "/boards/plan?name=bob") as bob:
            for number in range(25):
                await bob.send(cursors.Move((0, number / 100)))
            while (await ada.receive(cursors.Cursor)).at != (0, 0.24):
                pass
            await ada.receive_nothing()


class TestDevices(InFakeTime):
    async def test_each_calls_the_other(self, clock: FakeClock) -> None:
        random.seed(1)
        async with serve_in_memory(devices.app) as server:
            kept = devices.Kept()
            with pytest.raises(wsflow.Reject, match="nothing is known of attic"):
                await devices.temperature("attic", server.registry, kept)
            async with server.link(devices.device, "/devices/attic", reconnect=True) as linked:
                await linked.connected()
                await clock.advance(11)
                now = await devices.temperature("attic", server.registry, kept)
                assert now["now"]
                assert 10 < now["celsius"] < 30
                linked.link.cut()
                await linked.connected(2)  # it comes back by itself
                await linked.idle()
                assert (await devices.temperature("attic", server.registry, kept))["now"]
                async with server.connect("/devices/attic") as twin:
                    with anyio.fail_after(5):  # and not when another one has come in its place
                        await linked.ended()
                    assert linked.end is not None
                    assert linked.end.code == 4409
                    kept.celsius["attic"] = 20
                    last = await devices.temperature("attic", server.registry, kept)
                    assert last == {"celsius": 20, "now": False}  # the twin does not answer
                    await twin.receive()

    async def test_reports_are_kept(self, clock: FakeClock) -> None:
        kept = devices.Kept()
        async with (
            serve_in_memory(devices.app, override={devices.Kept: kept}) as server,
            server.link(devices.device, "/devices/attic") as linked,
        ):
            await linked.connected()
            await linked.idle()
            first = kept.celsius.pop("attic")
            assert 10 < first < 30
            await clock.advance(11)
            assert "attic" in kept.celsius
            linked.link.cut()
