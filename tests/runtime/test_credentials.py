"""A connection's credential: when it ends, and how it is renewed. On a mock clock."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

import wsflow
from tests.auth.users import KEY, OTHER, Ban, Said, Say, User, bearer, bearer_app, token
from tests.clocks import InFakeTime
from tests.loops import LOOPS
from wsflow import (
    Close,
    Connection,
    Credential,
    Query,
    Reconnect,
    Reject,
    Requires,
    Router,
    run_client,
)
from wsflow.auth import Bearer
from wsflow.limits import Limits
from wsflow.runtime import credentials
from wsflow.server import Settings, serve
from wsflow.testing import MemoryPeer, connect, serve_in_memory

Renew = Callable[[str], Awaitable[Credential]]
DAY = credentials.LONGEST
DAYS = 10 * DAY
SPEAKS: dict[str, Any] = {"subprotocols": ["wsflow.json"]}


class Slow(msgspec.Struct, tag="slow"):
    pass


async def renew(value: str) -> Credential:
    """The token says whose it is, and for how long: ``"ada 100"``."""
    name, _, seconds = value.partition(" ")
    if name == "refused":
        raise Reject(401, "no such token\n")
    if name == "silent":
        raise Reject(401)
    if name == "broken":
        raise RuntimeError("broken")
    if name == "over":
        raise Close(4007, "over")
    if name == "slow":
        await anyio.sleep(float(seconds))
        name, seconds = "ada", "100"
    if name == "never":
        await anyio.sleep_forever()
    if name == "shielded":
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1)
        name = "ada"
    if name == "last":
        await anyio.sleep(1)
        return Credential(identity="ada", expires_in=float(seconds), user=User("ada"))
    roles = ["admin"] if name == "ada" else []
    return Credential(
        identity=name,
        expires_in=float(seconds) if seconds else None,
        renew=renew,
        user=User(name, roles),
    )


def app_of(**options: Any) -> Router:
    """Its credential ends after 100 seconds."""
    app = Router("/")

    @app.on_connect
    async def enter(connection: Connection) -> User:
        user = User("ada")
        given = {"expires_in": 100, "renew": renew, "user": user, "identity": "ada", **options}
        connection.set_credential(Credential(**given))
        return user

    @app.consumer
    async def say(message: Say, user: User) -> Said:
        return Said(f"{user.sub} {','.join(user.roles)}: {message.text}")

    @app.consumer
    async def ban(message: Ban, user: Annotated[User, Requires("admin")]) -> Said:
        return Said(f"{user.sub} bans {message.name}")

    return app


APP = app_of()


async def closed(peer: MemoryPeer) -> tuple[int, str, float]:
    end = await peer.wait_closed(timeout=1e15)
    return end.code, end.reason, anyio.current_time()


class TestItEnds(InFakeTime):
    @pytest.mark.parametrize(
        ("options", "after"),
        [
            ({}, 125),
            ({"grace": 5}, 105),
            ({"grace": 0}, 100),
            ({"renew": None}, 100),
            ({"expires_in": 0}, 25),
            ({"expires_in": 0, "grace": 0}, 0),
            ({"expires_in": 3 * credentials.LONGEST + 5}, 3 * credentials.LONGEST + 30),
            ({"expires_in": 100, "grace": 2 * credentials.LONGEST}, 100 + 2 * credentials.LONGEST),
        ],
    )
    async def test_with_4401_after_its_grace(self, options: dict[str, Any], after: float) -> None:
        began = anyio.current_time()
        async with connect(app_of(**options)) as peer:
            code, reason, ended = await closed(peer)
            assert (code, reason) == (4401, "the credential has expired")
            assert ended - began == pytest.approx(after, abs=0.01)
            assert peer.end is not None
            assert peer.end.cause == "policy"

    async def test_no_timer_outlives_its_connection(self) -> None:
        for ours, expires_in in [(ours, at) for ours in (True, False) for at in (0, 50, 1e9)]:
            async with serve_in_memory(app_of(expires_in=expires_in)) as server:
                async with server.connect("/") as peer:
                    (session,) = server._app.sessions.values()
                    keeper: Any = session._credential
                    assert keeper._timer is not None
                    await (session.connection.close() if ours else peer.close())
                    await session.join()
                    assert keeper._timer is None
                    assert not session._inbox.expecting

    async def test_one_that_does_not_end(self) -> None:
        async with connect(app_of(expires_in=None)) as peer:
            await anyio.sleep(DAY)
            assert peer.end is None

    @pytest.mark.parametrize("far", [1e12, 1e300, float("inf")])
    async def test_one_that_ends_far_away(self, far: float) -> None:
        async with connect(app_of(expires_in=far)) as peer:
            await anyio.sleep(10 * credentials.LONGEST)
            await peer.send(Say("hi"))
            assert await peer.receive(Said) == Said("ada : hi")

    async def test_of_a_token(self) -> None:
        began = anyio.current_time()
        async with connect(bearer_app(grace=10), headers=bearer(token(seconds=100))) as peer:
            code, _, ended = await closed(peer)
            assert code == 4401
            assert ended - began == pytest.approx(110, abs=2)

    async def test_not_while_consumers_finish_what_was_received(self) -> None:
        app = app_of(expires_in=1, grace=0)

        @app.consumer
        async def slow(message: int) -> None:
            await anyio.sleep(5)
            done.append(message)

        done: list[int] = []
        async with serve_in_memory(app, limits=Limits(close_timeout=10)) as server:
            async with server.connect("/") as peer:
                await peer.send(1)
                await server.drain(100)
                assert (await peer.wait_closed()).code == 1001
        async with serve_in_memory(app, limits=Limits(close_timeout=10)) as server:
            async with server.connect("/") as peer:
                await peer.send(2)
                await peer.close()
        assert done == [1, 2]

    async def test_a_consumer_may_set_a_new_one(self) -> None:
        app = app_of()

        @app.consumer
        async def log_in(message: int, connection: Connection) -> None:
            connection.set_credential(Credential(identity="ada", expires_in=message))

        began = anyio.current_time()
        async with connect(app, **SPEAKS) as peer:
            await peer.send(500)
            assert (await peer.receive(dict))["expires_in"] == 100
            assert (await peer.receive(dict))["expires_in"] == 500
            assert (await closed(peer))[2] - began == pytest.approx(500, abs=0.01)

    async def test_one_that_is_set_at_the_end_does_not_matter(self) -> None:
        app = Router("/")

        @app.on_connect
        async def enter(connection: Connection) -> AsyncIterator[User]:
            yield User("ada")
            connection.set_credential(Credential(identity="ada", expires_in=0, renew=renew))

        @app.consumer
        async def hear(message: Say, user: User) -> None: ...

        async with connect(app) as peer:
            await peer.close()
            await anyio.sleep(1)


class TestItIsRenewed(InFakeTime):
    @pytest.mark.parametrize("codec", ["wsflow.json", "wsflow.msgpack"])
    async def test_by_a_message(self, codec: str) -> None:
        began = anyio.current_time()
        async with connect(APP, subprotocols=[codec]) as peer:
            told = await peer.receive()
            assert told == {"type": "$auth", "expires_in": pytest.approx(100.0)}
            await anyio.sleep(90)
            await peer.send({"type": "$auth", "token": "ada 200"})
            assert await peer.receive() == {"type": "$auth", "expires_in": pytest.approx(200.0)}
            await anyio.sleep(150)
            await peer.send({"type": "$auth", "token": "ada 50"})
            await peer.receive()
            code, _, ended = await closed(peer)
            assert code == 4401
            assert ended - began == pytest.approx(90 + 150 + 50 + 25, abs=0.01)

    @pytest.mark.parametrize("gives", [False, True])
    async def test_a_new_user_takes_no_place_of_the_app(self, gives: bool) -> None:
        """Although both were None."""
        app = Router("/")

        @app.lifespan
        async def cache() -> AsyncIterator[Said | None]:
            yield None

        if gives:

            @app.on_connect
            async def user() -> User | None:
                return None

        @app.on_connect
        async def enter(connection: Connection) -> None:
            connection.set_credential(Credential(identity="ada", expires_in=100, renew=renew))

        @app.consumer
        async def say(message: Say, cache: Said | None) -> Said:
            return Said(repr(cache))

        async with serve_in_memory(app) as server:
            async with server.connect("/", **SPEAKS) as peer:
                await peer.receive()
                await peer.send({"type": "$auth", "token": "ada 200"})
                await peer.receive()
                await peer.send(Say("hi"))
                assert await peer.receive(Said) == Said("None")
            async with server.connect("/") as peer:
                await peer.send(Say("hi"))
                assert await peer.receive(Said) == Said("None")

    async def test_within_the_grace(self) -> None:
        async with connect(APP) as peer:
            await anyio.sleep(124)
            await peer.send({"type": "$auth", "token": "ada"})
            assert await peer.receive() == {"type": "$auth"}  # it does not end any more
            session: Any = peer._session
            assert not session._inbox.expecting  # nor does it hold reading open
            await anyio.sleep(DAY)
            await peer.send(Say("hi"))
            assert await peer.receive(Said) == Said("ada admin: hi")

    @pytest.mark.parametrize("grace", [0, 25])
    @pytest.mark.parametrize("limit", ["connection", "client", "inbox", "memory"])
    async def test_in_time_but_not_read(self, limit: str, grace: float) -> None:
        """Reading pauses until after the credential has ended."""
        app = app_of(grace=grace)
        limits: dict[str, Any] = {"rate": "1/h", "per": limit}
        if limit in ("inbox", "memory"):
            limits = {}
        heavy = {"filling": [[]] * 4000} if limit == "memory" else {}

        @app.consumer(**limits)
        async def slow(message: Slow) -> None:
            if limit == "inbox":
                await anyio.sleep(1000)

        most = Limits(inbox_messages=1, inbox_total_bytes=100_000)
        async with connect(app, limits=most) as peer:
            session: Any = peer._session
            if limit == "memory":  # another connection has it, for longer than that
                session._inbox._memory.take_more(100_000)
            for _ in range(4):
                await peer.send({"type": "slow", **heavy})
            await anyio.sleep(90)
            await peer.send({"type": "$auth", "token": "ada"})
            assert session._inbox.full
            assert (session._inbox.held is not None) is (limit == "memory")
            assert await peer.receive(timeout=100) == {"type": "$auth"}
            await anyio.lowlevel.checkpoint()
            assert session._inbox.full is (limit != "memory")  # it waits again
            await peer.vanish()

    async def test_who_has_not_said_that_it_understands_is_not_told(self) -> None:
        async with connect(APP) as peer:
            await peer.receive_nothing(within=50)
            await peer.send({"type": "$auth", "token": "ada 100"})
            assert await peer.receive() == {"type": "$auth", "expires_in": pytest.approx(100.0)}

    async def test_handlers_get_the_new_user(self) -> None:
        async with connect(APP) as peer:
            await peer.send(Say("hi"))
            assert await peer.receive(Said) == Said("ada : hi")
            await peer.send({"type": "$auth", "token": "ada 100"})
            await peer.receive(dict)
            await peer.send(Say("hi"))
            assert await peer.receive(Said) == Said("ada admin: hi")
            await peer.send(Ban("eve"))
            assert await peer.receive(Said) == Said("ada bans eve")

    @pytest.mark.parametrize(
        ("value", "code", "reason"),
        [
            ("refused", 4401, "no such token"),
            ("silent", 4401, "the credential is not accepted"),
            ("bob 100", 4403, "the credential is that of another user"),
            ("over", 4007, "over"),
        ],
    )
    async def test_a_renewal_that_is_not_accepted(self, value: str, code: int, reason: str) -> None:
        async with connect(APP) as peer:
            await peer.send({"type": "$auth", "token": value})
            assert (await closed(peer))[:2] == (code, reason)

    async def test_a_renewal_that_fails(self) -> None:
        for value in ("broken", "never"):
            async with connect(APP, limits=Limits(open_timeout=7)) as peer:
                await peer.send({"type": "$auth", "token": value})
                assert (await closed(peer))[0] == 1011
                assert peer.end is not None
                assert isinstance(peer.end.error, RuntimeError | TimeoutError)

    async def test_one_that_came_in_time_decides_later(self) -> None:
        async with connect(APP) as peer:
            await anyio.sleep(124)
            await peer.send({"type": "$auth", "token": "slow 4"})
            assert await peer.receive(timeout=60) == {
                "type": "$auth",
                "expires_in": pytest.approx(100.0),
            }

    async def test_one_after_the_other(self) -> None:
        """The last one counts; those between are skipped."""
        async with connect(APP) as peer:
            await peer.send({"type": "$auth", "token": "slow 3"})
            await anyio.sleep(1)
            for value in ("refused", "ada 7"):
                await peer.send({"type": "$auth", "token": value})
            expiries = [(await peer.receive(timeout=60))["expires_in"] for _ in range(2)]
            assert expiries == [100.0, 7.0]

    async def test_the_last_one(self) -> None:
        began = anyio.current_time()
        async with connect(APP) as peer:
            await peer.send({"type": "$auth", "token": "slow 3"})
            await anyio.sleep(1)
            await peer.send({"type": "$auth", "token": "last 50"})
            await anyio.sleep(2.5)
            await peer.send({"type": "$auth", "token": "ada 400"})  # ignored
            for _ in range(2):
                await peer.receive(timeout=60)
            await peer.send({"type": "$auth", "token": "ada 500"})  # ignored
            assert (await closed(peer))[2] - began == pytest.approx(54, abs=0.1)

    async def test_a_full_inbox_does_not_hold_it_up(self) -> None:
        app = app_of()

        @app.consumer
        async def slow(message: int) -> None:
            await anyio.sleep(1000)

        async with connect(app, limits=Limits(inbox_messages=2, close_timeout=1)) as peer:
            for number in range(4):
                await peer.send(number)
            await peer.send({"type": "$auth", "token": "ada 5000"})
            await peer.receive_nothing(within=99)
            assert await peer.receive(timeout=10) == {
                "type": "$auth",
                "expires_in": pytest.approx(5000.0),
            }

    async def test_while_nothing_runs_on_it(self) -> None:
        """A connection at rest has no task that could be cancelled."""
        app = Router("/")

        @app.consumer
        async def hear(message: Say) -> None: ...

        async with serve_in_memory(app) as server, server.connect("/") as peer:
            (connection,) = server.registry
            connection.set_credential(
                Credential(identity="ada", expires_in=10, renew=renew, user=User("ada"))
            )
            await peer.send({"type": "$auth", "token": "slow 3"})
            assert await peer.receive(timeout=60) == {
                "type": "$auth",
                "expires_in": pytest.approx(100.0),
            }
            await peer.send({"type": "$auth", "token": "slow 3"})

    async def test_nothing_is_left_of_one_that_is_under_way(self) -> None:
        async with connect(APP) as peer:
            await peer.send({"type": "$auth", "token": "never"})
            await anyio.sleep(1)
            await peer.close()
        async with serve_in_memory(APP) as server, server.connect("/") as peer:
            await peer.send({"type": "$auth", "token": "never"})
            await anyio.sleep(1)
            await server.drain(5)
            assert (await peer.wait_closed()).code == 1001

    async def test_one_that_ends_after_its_connection(self) -> None:
        async with connect(APP) as peer:
            await peer.send({"type": "$auth", "token": "shielded 500"})
            await anyio.sleep(0.5)
            await peer.close()

    async def test_where_there_is_none_it_is_ignored(self) -> None:
        plain = Router("/")

        @plain.consumer
        async def hear(message: Say) -> Said:
            return Said(message.text)

        for app in (plain, app_of(renew=None)):
            async with connect(app) as peer:
                await peer.send({"type": "$auth", "token": "ada"})
                await peer.send({"type": "$auth", "expires_in": 5})
                await peer.send(Say("a"))
                assert (await peer.receive(Said)).text.endswith("a")

    async def test_of_a_bearer_token(self) -> None:
        async with connect(bearer_app(), headers=bearer(token(seconds=100))) as peer:
            await peer.send({"type": "$auth", "token": token(seconds=500, roles=["admin"])})
            told = await peer.receive()
            assert 490 < told["expires_in"] <= 500
            await peer.send(Ban("eve"))
            assert await peer.receive(Said) == Said("ada bans eve")
            await peer.send({"type": "$auth", "token": token("bob")})
            assert (await closed(peer))[0] == 4403
        async with connect(bearer_app(), headers=bearer(token(seconds=100))) as peer:
            await peer.send({"type": "$auth", "token": token(key=OTHER)})
            code, reason, _ = await closed(peer)
            assert (code, reason) == (4401, "the signature of the token is not valid")

    async def test_of_a_bearer_token_without_a_sub(self) -> None:
        class Named(msgspec.Struct):
            name: str

        app = Router("/")
        app.on_connect(Bearer(Named, key=KEY))

        @app.consumer
        async def hear(message: Say) -> None: ...

        async with connect(app, headers=bearer(token(None, name="ada"))) as peer:
            await peer.send({"type": "$auth", "token": token(None, name="ada", seconds=5)})
            assert (await peer.receive())["type"] == "$auth"
            await peer.send({"type": "$auth", "token": token(None, name="bob")})
            assert (await closed(peer))[0] == 4403

    async def test_another_issuers_user_is_another(self) -> None:
        async with connect(bearer_app(), headers=bearer(token(iss="a"))) as peer:
            await peer.send({"type": "$auth", "token": token(iss="b")})
            assert (await closed(peer))[0] == 4403


def test_what_is_no_credential() -> None:
    for options in ({"expires_in": -1}, {"grace": -1}, {"expires_in": float("nan")}):
        with pytest.raises(ValueError, match="use seconds"):
            Credential(identity="ada", **options)
    with pytest.raises(TypeError, match="identity is a int"):
        Credential(identity=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expires_in is '600': use seconds"):
        Credential(identity="ada", expires_in="600")  # type: ignore[arg-type]


@pytest.mark.parametrize("anyio_backend", LOOPS.values(), ids=LOOPS)
async def test_far_away_on_sockets(anyio_backend: object) -> None:
    app = Router("/")

    @app.on_connect
    async def enter(connection: Connection, seconds: Annotated[float, Query()]) -> None:
        connection.set_credential(
            Credential(identity="a", expires_in=seconds, renew=renew, grace=seconds / 10)
        )

    @app.consumer
    async def hear(message: Say) -> Said:
        return Said(message.text)

    async with serve(app, Settings(port=0)) as server:
        for seconds in ("1e300", "inf", "0.1"):
            url = f"ws://127.0.0.1:{server.port}/?seconds={seconds}"
            async with wsflow.connect(url, receives=Said, proxy=None) as peer:
                await peer.send(Say("hi"))
                assert await peer.receive(timeout=5) == Said("hi")
                if seconds == "0.1":
                    with pytest.raises(wsflow.Disconnected) as ended:
                        await peer.receive(timeout=5)
                    assert ended.value.end is not None
                    assert ended.value.end.code == 4401


# -- a client with a callback


def listener() -> Router:
    client = Router("/")

    @client.consumer
    async def hear(message: Said) -> None: ...

    return client


class TestAClient(InFakeTime):
    async def test_renews_in_band(self) -> None:
        asked: list[float] = []
        began = anyio.current_time()

        async def fresh() -> str:
            asked.append(anyio.current_time() - began)
            return token(seconds=100)

        app = bearer_app()
        async with connect(app, client=listener(), credential=fresh) as linked:
            await anyio.sleep(300)
            assert linked.end is None
            assert asked == pytest.approx([0, 80, 160, 240], abs=3)

    async def test_a_plain_callback_at_each_connection(self) -> None:
        tokens = [token(), token("bob")]
        names: list[str] = []
        app = bearer_app()

        @app.on_connect
        async def note(user: User) -> None:
            names.append(user.sub)

        soon = Reconnect(initial_delay=0.01)
        asking: Any = {"client": listener(), "credential": lambda: tokens.pop(0), "reconnect": soon}
        async with connect(app, **asking) as linked:
            linked.link.cut()
            await linked.connected(2)
        assert names == ["ada", "bob"]

    async def test_a_short_one_is_renewed_within_its_grace(self) -> None:
        asked: list[float] = []

        def fresh() -> str:
            asked.append(anyio.current_time())
            return "ada 0.1"

        app = app_of(expires_in=0.1)
        async with connect(app, client=listener(), credential=fresh) as linked:
            await anyio.sleep(10)
            assert linked.end is None
        assert 9 <= len(asked) <= 12  # once a second, and not more often

    async def test_one_that_is_far_away(self) -> None:
        asked: list[float] = []

        def fresh() -> str:
            asked.append(anyio.current_time())
            return "ada 864000"

        app = app_of(expires_in=864_000)
        async with connect(app, client=listener(), credential=fresh) as linked:
            await anyio.sleep(DAYS)
            assert linked.end is None
        assert len(asked) == 2
        assert asked[1] - asked[0] == pytest.approx(0.8 * 864_000, rel=1e-3)

    async def test_one_that_does_not_end_any_more(self) -> None:
        asked: list[float] = []

        def fresh() -> str:
            asked.append(anyio.current_time())
            return "ada"

        async with connect(app_of(), client=listener(), credential=fresh):
            await anyio.sleep(1000)
        assert len(asked) == 2

    async def test_a_callback_that_fails_is_asked_again(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        answers: list[Any] = ["ada 100", OSError("down"), 5, "ada 100"]
        asked: list[float] = []

        async def fresh() -> str:
            asked.append(anyio.current_time())
            answer = answers.pop(0)
            if isinstance(answer, OSError):
                raise answer
            return answer  # type: ignore[no-any-return]

        async with connect(app_of(), client=listener(), credential=fresh) as linked:
            await anyio.sleep(110)
            assert linked.end is None
        waits = [later - earlier for earlier, later in pairwise(asked)]
        assert waits == pytest.approx([80, 5, 5], abs=0.1)
        assert "the credential could not be renewed" in caplog.text
        assert "returned a int, and not a str" in caplog.text

    async def test_a_callback_that_does_not_return(self) -> None:
        answers = ["ada 100"]

        async def fresh() -> str:
            if not answers:
                await anyio.sleep_forever()
            return answers.pop()

        limits = Limits(open_timeout=7)
        app = app_of(grace=50)
        async with serve_in_memory(app, limits=limits) as server:
            async with server.link(listener(), "/", credential=fresh) as linked:
                await anyio.sleep(140)  # given up, and asked again, and again
                assert linked.end is None
            with pytest.raises(TimeoutError):
                async with server.link(listener(), "/", credential=fresh):
                    raise AssertionError

    async def test_a_callback_that_fails_when_it_is_cancelled(self) -> None:
        answers = ["ada 100"]

        async def fresh() -> str:
            if answers:
                return answers.pop()
            try:
                await anyio.sleep_forever()
            except BaseException:
                raise RuntimeError("interrupted") from None
            raise AssertionError

        async with serve_in_memory(app_of()) as server:
            async with server.link(listener(), "/", credential=fresh) as linked:
                await anyio.sleep(81)
                linked.link.cut()
                await linked.ended()
                (session,) = linked._clients
                keeper: Any = session._credential
                assert keeper._timer is None

    async def test_it_is_told_again_while_the_callback_is_awaited(self) -> None:
        asked: list[float] = []

        async def fresh() -> str:
            asked.append(anyio.current_time())
            if len(asked) == 2:
                await anyio.sleep(4)
            return "ada 100"

        async with connect(app_of(), client=listener(), credential=fresh) as linked:
            await anyio.sleep(81)
            linked.server.set_credential(
                Credential(identity="ada", expires_in=1, renew=renew, user=User("ada"))
            )
            await anyio.sleep(4.5)
            assert len(asked) == 2
            await anyio.sleep(80)
            assert len(asked) == 3

    async def test_it_renews_while_nothing_else_runs(self) -> None:
        """Its path needs no task of its own, until a renewal is under way; then it ends."""
        answers = ["ada 100"]

        async def fresh() -> str:
            if not answers:
                await anyio.sleep_forever()
            return answers.pop()

        async with connect(app_of(), client=listener(), credential=fresh) as linked:
            await anyio.sleep(80.5)
            linked.link.cut()
            await linked.ended()

    async def test_comes_back_once(self, caplog: pytest.LogCaptureFixture) -> None:
        asked: list[float] = []

        def fresh() -> str:
            asked.append(anyio.current_time())
            return "stale"

        app = app_of(expires_in=0, renew=None)  # closed with 4401 at once
        asking: Any = {"client": listener(), "credential": fresh, "reconnect": True}
        async with connect(app, **asking) as linked:
            await linked.ended()
            assert linked.end is not None
            assert linked.end.code == 4401
        assert len(asked) == 2

    async def test_comes_back_again_after_a_while(self) -> None:
        app = app_of(expires_in=60, renew=None)
        came: list[float] = []

        @app.on_connect
        async def count(user: User) -> None:
            came.append(anyio.current_time())

        asking: Any = {"client": listener(), "credential": lambda: "stale", "reconnect": True}
        async with connect(app, **asking) as linked:
            await anyio.sleep(250)
            assert linked.end is None
        assert len(came) == 5

    async def test_what_is_refused_it_does_not_try_again(self) -> None:
        tokens = [token(seconds=100), token(key=OTHER), token(key=OTHER)]
        asking: Any = {"client": listener(), "credential": lambda: tokens.pop(0)}
        async with connect(bearer_app(), reconnect=True, **asking) as linked:
            await linked.ended()
            assert linked.end is not None
            assert linked.end.code == 401
        assert tokens == []

    async def test_without_a_callback_it_stays_away(self) -> None:
        app = app_of(expires_in=1, renew=None)
        async with connect(app, client=listener(), reconnect=True) as linked:
            await linked.ended()
            assert linked.end is not None
            assert linked.end.code == 4401

    async def test_an_answer_of_ones_own_decides_alone(self) -> None:
        app = app_of(expires_in=1, renew=None)
        never = Reconnect(when=lambda end: False)
        asking: Any = {"client": listener(), "credential": lambda: "x", "reconnect": never}
        async with connect(app, **asking) as linked:
            await linked.ended()

    async def test_a_callback_that_fails_at_first(self, caplog: pytest.LogCaptureFixture) -> None:
        answers: list[Any] = [5, "ada"]
        asking: Any = {"client": listener(), "credential": lambda: answers.pop(0)}
        async with connect(app_of(), reconnect=True, **asking) as linked:
            await linked.connected()
            assert linked.end is None
        assert "there is no credential: the callback failed" in caplog.text
        answers = [5]
        with pytest.raises(TypeError, match="returned a int"):
            async with connect(app_of(), **asking):
                pass


def test_a_callback_is_a_function() -> None:
    with pytest.raises(TypeError, match="credential is no function"):
        anyio.run(run_with_a_str)


async def run_with_a_str() -> None:
    await run_client(listener(), "ws://127.0.0.1:1/", credential="token")  # type: ignore[arg-type]


async def test_stopping_while_the_callback_is_awaited() -> None:
    asked = anyio.Event()

    async def never() -> str:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            async with connect(app_of(), client=listener(), credential=never):
                raise AssertionError

        tasks.start_soon(run)
        await asked.wait()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_client_on_sockets(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(credentials, "SOONEST", 0.02)
    tokens: list[str] = []

    async def fresh() -> str:
        tokens.append(f"ada {len(tokens) + 1}.12345")
        return tokens[-1]

    async with serve(app_of(expires_in=0.02), Settings(port=0, open_timeout=5)) as server:
        url = f"ws://127.0.0.1:{server.port}/"
        options: Any = {"credential": fresh, "proxy": None}
        async with wsflow.connect(url, receives=Said, **options) as peer:
            assert peer.subprotocol == "wsflow.json"
            with anyio.fail_after(5):
                while len(tokens) < 2:
                    await anyio.sleep(0.01)
            said = Said("")
            while said != Said("ada admin: hi"):  # the renewal takes effect when it is verified
                await peer.send(Say("hi"))
                said = await peer.receive(timeout=5)
        async with wsflow.connect(url, **options) as peer:
            assert peer.subprotocol is None  # raw messages have no frames
    assert caplog.records
    assert "12345" not in caplog.text


async def test_it_is_servers_that_hold_one() -> None:
    client = Router("/")

    @client.on_connect
    async def enter(connection: Connection) -> None:
        with pytest.raises(RuntimeError, match="set_credential: it is a server"):
            connection.set_credential(Credential(identity="ada"))
        with pytest.raises(RuntimeError, match="ask_credential"):
            await connection.ask_credential()

    @client.consumer
    async def hear(message: Said) -> None: ...

    async with connect(app_of(), client=client) as linked:
        assert linked.end is None
