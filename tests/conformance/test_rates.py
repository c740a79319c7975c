"""Rate limits, ten times over: as set, and another connection is unaffected; for each kind of
consumer, each policy, and each thing that is counted together."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from wsflow import Call, Connection, Disconnected, Header, Reject, Router, Stream
from wsflow.testing.conformance.transports import Refused

BURST = 5
KINDS = ["plain", "parallel", "keyed", "iterated", "asked", "streamed"]
OVER = ["close", "slow", "drop"]
PER = ["connection", "client", "user"]


class Plain(msgspec.Struct, tag="plain"):
    pass


class Parallel(msgspec.Struct, tag="parallel"):
    pass


class Keyed(msgspec.Struct, tag="keyed"):
    key: int = 1


class Iterated(msgspec.Struct, tag="iterated"):
    pass


class Asked(Call[int], tag="asked"):
    pass


class Streamed(Stream[int], tag="streamed"):
    pass


class Free(msgspec.Struct, tag="free"):
    """A message of a consumer without a limit."""


class App:
    """An app whose consumers of one kind are limited; it counts what they handle, by user."""

    def __init__(self, limit: dict[str, Any], around: dict[str, Any] | None = None) -> None:
        self.router = router = Router("/", **(around or {}))
        self.handled: Counter[str] = Counter()

        @router.on_connect
        async def identify(
            connection: Connection, user: Annotated[str, Header("X-User")] = ""
        ) -> None:
            if user:
                connection.identify(user)

        def count(connection: Connection) -> None:
            self.handled[connection.user or ""] += 1

        @router.consumer(**limit)
        async def plain(message: Plain, connection: Connection) -> None:
            await anyio.lowlevel.checkpoint()
            count(connection)

        @router.consumer(concurrency=3, **limit)
        async def parallel(message: Parallel, connection: Connection) -> None:
            await anyio.lowlevel.checkpoint()
            count(connection)

        @router.consumer(concurrency=3, key="key", **limit)
        async def keyed(message: Keyed, connection: Connection) -> None:
            await anyio.lowlevel.checkpoint()
            count(connection)

        @router.consumer(**limit)
        async def iterated(messages: AsyncIterator[Iterated], connection: Connection) -> None:
            async for _ in messages:
                count(connection)

        @router.consumer(**limit)
        async def asked(message: Asked, connection: Connection) -> int:
            count(connection)
            return 1

        @router.consumer(**limit)
        async def streamed(message: Streamed, connection: Connection) -> AsyncIterator[int]:
            count(connection)
            yield 1

        @router.consumer
        async def free(message: Free) -> Free:
            return message

    async def handles(self, user: str, count: int) -> None:
        """Wait until it has handled that many messages of a user, and find no more."""
        while self.handled[user] < count:
            await anyio.lowlevel.checkpoint()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert self.handled[user] == count


def encoded(kind: str, number: int = 1) -> str:
    message: dict[str, Any] = {"type": kind}
    if kind in ("asked", "streamed"):
        message = {"type": "$call", "id": number, "message": message}
    return json.dumps(message)


async def send(client: Any, kind: str, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        await client.send(encoded(kind, number))


async def until_free(client: Any) -> list[dict[str, Any]]:
    """Everything that comes until a message without a limit is answered."""
    await client.send(encoded("free"))
    came = []
    while True:
        message = json.loads(await client.receive())
        if message["type"] == "free":
            return came
        came.append(message)


def limited(wire: Any) -> int:
    counters = wire.server._app.directory.channels.counters
    assert wire.server.registry.counters()["rate_limited"] == counters["rate_limited"]
    return int(counters["rate_limited"])


def headers(user: str, client: str) -> dict[str, str]:
    return {"X-User": user, "X-Forwarded-For": client}


ADA, BOB = headers("ada", "192.0.2.1"), headers("bob", "192.0.2.2")
LIMITS: dict[str, Any] = {"trusted_proxy": ("127.0.0.1",), "close_timeout": 0.2}


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("when_over", OVER)
@pytest.mark.parametrize("kind", KINDS)
async def test_ten_times_over(
    serving: Any, transport: str, kind: str, when_over: str, per: str
) -> None:
    app = App({"rate": "1/h", "burst": BURST, "when_over": when_over, "per": per})
    with anyio.fail_after(20):
        async with serving(app.router, **LIMITS) as wire:
            async with wire.connect("/", BOB) as bob, wire.connect("/", ADA) as ada:
                await send(ada, kind, BURST)
                await app.handles("ada", BURST)
                assert limited(wire) == 0
                with contextlib.suppress(Exception if when_over == "close" else ()):
                    await send(ada, kind, 9 * BURST, BURST + 1)
                if when_over == "close":
                    assert await ada.closed() == (1008, "rate limit")
                    assert limited(wire) == 1
                elif when_over == "drop":
                    came = await until_free(ada)
                    assert limited(wire) == 9 * BURST
                    errors = [each for each in came if each["type"] == "$error"]
                    if kind in ("asked", "streamed"):
                        assert [each["id"] for each in errors] == [*range(BURST + 1, 51)]
                        assert {each["code"] for each in errors} == {"rate_limited"}
                    else:
                        assert came == []
                else:
                    while not limited(wire):
                        await anyio.lowlevel.checkpoint()
                    assert limited(wire) == 1  # no more is taken
                if transport.startswith("sockets") or per != "client":  # in memory all are one
                    await send(bob, kind, BURST)
                    await app.handles("bob", BURST)
                await app.handles("ada", BURST)
                assert limited(wire) == {"close": 1, "drop": 45, "slow": 1}[when_over]
                await ada.vanish()
                await bob.vanish()  # it does not read its answers


@pytest.mark.parametrize("per", PER)
async def test_what_connections_share(serving: Any, per: str) -> None:
    app = App({"rate": "1/h", "burst": BURST, "when_over": "drop", "per": per})
    with anyio.fail_after(20):
        async with serving(app.router, **LIMITS) as wire:
            for _ in range(3):
                async with wire.connect("/", ADA) as one, wire.connect("/", ADA) as other:
                    for client in (one, other):
                        await send(client, "plain", BURST)
                        await until_free(client)
            await app.handles("ada", 6 * BURST if per == "connection" else BURST)


async def test_a_user_without_a_name_counts_as_a_client(serving: Any) -> None:
    app = App({"rate": "1/h", "burst": BURST, "when_over": "drop", "per": "user"})
    with anyio.fail_after(20):
        async with serving(app.router, **LIMITS) as wire:
            nobody = headers("", "2001:db8::1")
            for each in (nobody, headers("", "2001:db8::2"), ADA, BOB):
                async with wire.connect("/", each) as client:
                    await send(client, "plain", BURST)
                    await until_free(client)
        assert app.handled == {"": BURST, "ada": BURST, "bob": BURST}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per", ["client", "user"])
async def test_a_new_handshake_is_refused(serving: Any, per: str, kind: str) -> None:
    app = App({"rate": "2/h", "burst": BURST, "when_over": "close", "per": per})
    with anyio.fail_after(20):
        async with serving(app.router, **LIMITS) as wire:
            async with wire.connect("/", ADA) as ada:
                await send(ada, kind, BURST)
                await app.handles("ada", BURST)
                with pytest.raises(Refused) as refused:
                    async with wire.connect("/", ADA):
                        pass
                assert refused.value.status == 429
                assert refused.value.headers["Retry-After"] == "1800"
                await send(ada, kind, 1, BURST + 1)
                assert await ada.closed() == (1008, "rate limit")
                await ada.vanish()
        assert app.handled["ada"] == BURST


async def test_a_refused_user_to_whom_the_app_sends_first(serving: Any) -> None:
    """Sending before the end of ``on_connect`` accepts the handshake, unless that is refused."""
    app = Router("/")
    ended: list[str] = []

    @app.on_connect
    async def enter(connection: Connection) -> AsyncIterator[None]:
        connection.identify("ada")
        try:
            await connection.send("welcome")
        except Disconnected:
            ended.append("refused")
            raise
        yield

    @app.consumer(rate="1/h", when_over="close", per="user")
    async def say(message: str) -> str:
        return message

    with anyio.fail_after(20):
        async with serving(app) as wire, wire.connect("/") as client:
            assert await client.receive() == "welcome"
            await client.send("hi")
            assert await client.receive() == "hi"
            with pytest.raises(Refused) as refused:
                async with wire.connect("/"):
                    pass
            assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "3600")
            assert ended == ["refused"]


async def test_a_router_counts_all_messages_to_it(serving: Any) -> None:
    around = {"rate": "1/h", "burst": BURST, "when_over": "drop"}
    app = App({"rate": "1/h", "burst": 2, "when_over": "drop"}, around)
    outer = Router("/", rate="1/h", burst=4, when_over="drop")
    outer.include(app.router)
    with anyio.fail_after(20):
        async with serving(app.router) as wire, wire.connect("/", ADA) as ada:
            await until_free(ada)
            await send(ada, "plain", 2)
            await send(ada, "free", 1)
            await until_free(ada)
            assert limited(wire) == 0
            await send(ada, "free", 8)
            await send(ada, "plain", 1)
            while limited(wire) < 8:
                await anyio.lowlevel.checkpoint()
            await ada.vanish()
        async with serving(outer) as wire, wire.connect("/", BOB) as bob:
            await send(bob, "plain", 10)  # its own limit comes first
            await send(bob, "parallel", 10)
            await app.handles("bob", 4)
            while limited(wire) < 16:
                await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("when_over", OVER)
async def test_calls_that_no_consumer_takes_count_for_the_router(
    serving: Any, when_over: str
) -> None:
    app = App({}, {"rate": "1/h", "burst": BURST, "when_over": when_over})
    with anyio.fail_after(20):
        async with serving(app.router, **LIMITS) as wire, wire.connect("/", ADA) as ada:
            for number in range(BURST + 1):
                unknown = {"type": "$call", "id": number, "message": {"type": "nonsense"}}
                await ada.send(json.dumps(unknown))
            if when_over == "close":
                while not limited(wire):
                    await anyio.lowlevel.checkpoint()
                for _ in range(BURST + 1):
                    assert json.loads(await ada.receive())["code"] == "unknown"
                assert await ada.closed() == (1008, "rate limit")
            while not limited(wire):
                await anyio.lowlevel.checkpoint()
            await ada.vanish()


async def test_what_waits_when_the_server_stops_is_handled(serving: Any) -> None:
    app = App({"rate": "1/h", "burst": 1})
    with anyio.fail_after(20):
        async with serving(app.router) as wire, wire.connect("/", ADA) as ada:
            await send(ada, "asked", 2)
            while not limited(wire):
                await anyio.lowlevel.checkpoint()
            await wire.stop()
            assert {json.loads(await ada.receive())["id"] for _ in range(2)} == {1, 2}
            assert (await ada.closed())[0] == 1001


async def test_a_call_of_the_app_is_answered_after_what_waits(serving: Any) -> None:
    router = Router("/")
    heard: list[str] = []

    @router.consumer(rate="10/s", burst=1)
    async def limited(message: Plain) -> None:
        heard.append("limited")

    @router.consumer(concurrency=2)
    async def ask(message: Free, connection: Connection) -> None:
        await connection.call(Asked())
        heard.append("answered")

    with anyio.fail_after(20):
        async with serving(router) as wire, wire.connect("/") as client:
            await client.send(encoded("free"))
            call = json.loads(await client.receive())
            await send(client, "plain", 4)
            await client.send(json.dumps({"type": "$answer", "id": call["id"], "value": 1}))
            while len(heard) < 5:
                await anyio.lowlevel.checkpoint()
            assert heard[:3] == ["limited"] * 3  # the last one and the answer are read together


@pytest.mark.parametrize("most", [0, 2])
async def test_connections_of_a_user(serving: Any, most: int) -> None:
    app = App({})
    with anyio.fail_after(20):
        async with serving(app.router, max_connections_per_user=most) as wire:
            for _ in range(2):
                async with wire.connect("/", ADA), wire.connect("/", ADA):
                    if most:
                        with pytest.raises(Refused) as refused:
                            async with wire.connect("/", ADA):
                                pass
                        assert refused.value.status == 429
                        assert refused.value.headers["Retry-After"] == "5"
                    async with wire.connect("/", BOB):
                        registry = wire.server.registry
                        assert [each.user for each in registry.of_user("ada")] == ["ada"] * 2
                        assert [each.user for each in registry.of_user("bob")] == ["bob"]
                while wire.server._app.sessions:
                    await anyio.lowlevel.checkpoint()
                assert registry.of_user("ada") == []
                assert not wire.server._app._admission._users
                assert not wire.server._app.directory.channels.users


async def test_identify_is_for_on_connect(serving: Any) -> None:
    app = Router("/")
    raised: list[Exception] = []

    def attempt(connection: Connection, name: Any) -> None:
        try:
            connection.identify(name)
        except (RuntimeError, TypeError, ValueError) as exc:
            raised.append(exc)

    @app.on_connect
    async def enter(connection: Connection) -> None:
        attempt(connection, "")
        attempt(connection, 5)
        attempt(connection, "ada")
        attempt(connection, "ada")
        attempt(connection, "bob")

    @app.consumer
    async def late(message: str, connection: Connection) -> str:
        attempt(connection, "ada")
        return f"{connection.user} {len(raised)}"

    async with serving(app) as wire, wire.connect("/") as client:
        await client.send("now")
        assert await client.receive() == "ada 4"
    assert [type(each) for each in raised] == [ValueError, TypeError, RuntimeError, RuntimeError]


async def test_identify_after_the_end(serving: Any) -> None:
    app = Router("/")
    ended = anyio.Event()

    @app.on_connect
    async def enter(connection: Connection) -> AsyncIterator[None]:
        await connection.close()
        try:
            connection.identify("ada")
        except Disconnected:
            ended.set()
        raise Reject(403)
        yield

    @app.consumer
    async def nothing(message: str) -> None: ...

    with anyio.fail_after(5):
        async with serving(app) as wire:
            with contextlib.suppress(Refused):
                async with wire.connect("/"):
                    pass
            await ended.wait()
            assert not wire.server._app._admission._users
