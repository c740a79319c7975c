from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import aiohttp
import anyio
import pydantic
import pytest
import websockets.asyncio.client
from itsdangerous import URLSafeSerializer
from websockets.exceptions import InvalidStatus

from tests.auth.users import KEY, OTHER, Person, Said, Say, User, app_of
from tests.brokers.servers import BrokerServer, Kind
from tests.processes import running
from wsflow import BrokerError, Credential, Router
from wsflow.auth import RedeemedStore, Ticket, ticket
from wsflow.brokers import Engine, redis, register_engine
from wsflow.limits import Limits
from wsflow.server import Settings, serve
from wsflow.testing import FakeConnection, connect, serve_in_memory

TICKET = Ticket(User, key=KEY)
APP = app_of(TICKET)


async def refused(app: Router = APP, **options: Any) -> tuple[int, str]:
    async with connect(app, **options) as peer:
        headers = dict(peer.rejected.headers)
        assert "WWW-Authenticate" in headers or peer.rejected.status == 503
        return peer.rejected.status, peer.rejected.body.strip()


async def test_it_opens_one_connection() -> None:
    async with serve_in_memory(APP) as server:
        issued = TICKET.issue(User("ada"))
        assert re.fullmatch(r"[\w.-]+", issued, re.ASCII)
        async with server.connect(f"/?ticket={issued}") as peer:
            await peer.send(Say("hi"))
            assert await peer.receive(Said) == Said("ada: hi")
        for options in ({"target": f"/?ticket={issued}"}, {"subprotocols": [f"ticket.{issued}"]}):
            async with server.connect(**{"target": "/", **options}) as peer:  # type: ignore[arg-type]
                assert peer.rejected.status == 401
                assert peer.rejected.body == "the ticket is redeemed already\n"


async def test_as_a_subprotocol() -> None:
    issued = TICKET.issue(User("ada", ["admin"]))
    async with connect(APP, subprotocols=["wsflow.json", f"ticket.{issued}"]) as peer:
        assert peer.subprotocol == "wsflow.json"
    alone = f"ticket.{TICKET.issue(User('ada'))}"
    async with connect(APP, subprotocols=[alone]) as peer:
        assert peer.subprotocol == alone
        await peer.send(Say("hi"))
        assert await peer.receive(Said) == Said("ada: hi")


async def test_none_or_two() -> None:
    one, two = TICKET.issue(User("a")), TICKET.issue(User("b"))
    assert await refused() == (401, "a credential is needed")
    for options in (
        {"target": f"/?ticket={one}&ticket={two}"},
        {"target": f"/?ticket={one}", "subprotocols": [f"ticket.{two}"]},
    ):
        assert await refused(**options) == (400, "send one ticket, in one way")


def at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Tickets that are issued now are issued ``seconds`` ago."""
    now = ticket.time.time
    monkeypatch.setattr(ticket.time, "time", lambda: now() - seconds)


@pytest.mark.parametrize(("age", "accepted"), [(29, True), (31, False), (-4, True), (-7, False)])
async def test_its_time(monkeypatch: pytest.MonkeyPatch, age: float, accepted: bool) -> None:
    with monkeypatch.context() as then:
        at(then, age)
        issued = TICKET.issue(User("ada"))
    if accepted:
        async with connect(APP, f"/?ticket={issued}") as peer:
            assert peer.end is None
    else:
        assert await refused(target=f"/?ticket={issued}") == (401, "the ticket has expired")


async def test_what_is_not_accepted() -> None:
    issued = TICKET.issue(User("ada"))
    stranger = Ticket(User, key=OTHER).issue(User("ada"))
    unsalted = URLSafeSerializer(KEY).dumps(["id", 1e12, {"sub": "ada"}])
    tampered = issued[:-2] + ("AA" if issued[-2:] != "AA" else "BB")
    for value in (stranger, unsalted, tampered, "", ".", "é", "a.b.c", "." * 5000):
        assert await refused(target=f"/?ticket={value}") == (401, "the ticket is not valid")
    other = Ticket(Person, key=KEY).issue(Person("ada"))
    app = app_of(Ticket(User, key=KEY))
    async with connect(app, f"/?ticket={other}") as peer:
        assert peer.end is None  # a User too
    strange = Ticket(Credential, key=KEY).issue(Credential(identity="ada"))
    assert await refused(target=f"/?ticket={strange}") == (
        401,
        "the ticket is for another type of user",
    )


async def test_keys_that_rotate() -> None:
    app = app_of(Ticket(User, key=[KEY, OTHER]))
    for key in (KEY, OTHER):
        async with connect(app, f"/?ticket={Ticket(User, key=key).issue(User('ada'))}") as peer:
            assert peer.end is None
    newest = Ticket(User, key=[KEY, OTHER]).issue(User("ada"))
    async with connect(app_of(Ticket(User, key=OTHER)), f"/?ticket={newest}") as peer:
        assert peer.end is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"key": "short"}, "the key has 5 bytes, and less than 32"),
        ({"key": []}, "there is no key"),
        ({"key": [KEY, b""]}, "the key has 0 bytes"),
        ({"max_age": 0}, "max_age is 0"),
        ({"max_age": float("inf")}, "max_age is inf"),
        ({"max_age": float("nan")}, "max_age is nan"),
    ],
)
def test_what_cannot_be_constructed(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        Ticket(User, **{"key": KEY, **options})
    assert "short" not in str(raised.value)


def test_types() -> None:
    with pytest.raises(TypeError, match="a key is a int"):
        Ticket(User, key=[5])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="the key is a int: use str or bytes"):
        Ticket(User, key=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a ticket is for a User, not for a Person"):
        TICKET.issue(Person("ada"))  # type: ignore[arg-type]


class Store:
    """Of a database, say."""

    def __init__(self) -> None:
        self.redeemed: dict[str, float] = {}
        self.down = False

    async def redeem(self, id: str, seconds: float) -> bool:
        if self.down:
            raise BrokerError("down")
        return self.redeemed.setdefault(id, seconds) is seconds


async def test_a_store_of_ones_own() -> None:
    store = Store()
    kept: RedeemedStore = store
    own = Ticket(User, key=KEY, max_age=7.25, store=kept)
    app = app_of(own)
    issued = own.issue(User("ada"))
    async with connect(app, f"/?ticket={issued}") as peer:
        assert peer.end is None
    ((id, seconds),) = store.redeemed.items()
    assert len(id) == 32
    assert seconds == 67.25
    store.redeemed[id] = 0.0
    assert await refused(app, target=f"/?ticket={issued}") == (
        401,
        "the ticket is redeemed already",
    )
    store.down = True
    assert await refused(app, target=f"/?ticket={own.issue(User('ada'))}") == (
        503,
        "tickets cannot be redeemed at the moment",
    )


async def test_it_is_a_function() -> None:
    connection = FakeConnection(f"/?ticket={TICKET.issue(User('ada'))}")
    async with serve_in_memory(APP) as server:
        assert await TICKET(connection, server.registry) == User("ada")
    assert connection.credential == Credential(
        identity=connection.credential.identity if connection.credential else "", user=User("ada")
    )


# -- once, also across processes


ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
KINDS: list[Kind] = ["valkey", "nats"]


@ON_ASYNCIO
@pytest.mark.parametrize("kind", KINDS)
async def test_once_in_two_apps(server_of: Callable[..., BrokerServer], kind: Kind) -> None:
    url = server_of(kind).url
    async with serve_in_memory(APP, broker=url) as one, serve_in_memory(APP, broker=url) as two:
        for _ in range(20):
            issued = TICKET.issue(User("ada"))
            opened: list[bool] = []

            async def attempt(server: Any, issued: str = issued, opened: Any = opened) -> None:
                async with server.connect(f"/?ticket={issued}") as peer:
                    opened.append(peer.end is None)

            async with anyio.create_task_group() as tasks:
                for server in (one, two, one, two):
                    tasks.start_soon(attempt, server)
            assert sorted(opened) == [False, False, False, True]


@ON_ASYNCIO
@pytest.mark.parametrize("kind", KINDS)
async def test_once_in_two_processes(server_of: Callable[..., BrokerServer], kind: Kind) -> None:
    """Two servers that share nothing but the broker; each client is another's."""
    url = server_of(kind).url
    env = {**os.environ, "WSFLOW_BROKER": url}
    target = "tests.auth.ticket_app:app"
    async with (
        running(target, "--port", "0", env=env) as one,
        running(target, "--port", "0", env=env) as two,
    ):
        ports = []
        for server in (one, two):
            line = await server.until("ws://127.0.0.1:")
            ports.append(line.partition("ws://127.0.0.1:")[2].split("/")[0].split("'")[0])
        for first, second in (ports, reversed(ports)):
            issued = TICKET.issue(User("ada"))
            address = f"ws://127.0.0.1:{first}/?ticket={issued}"
            async with websockets.asyncio.client.connect(address, proxy=None) as ws:
                await ws.send('{"type": "say", "text": "hi"}')
                assert await ws.recv() == '{"type":"said","text":"ada: hi"}'
            with pytest.raises(InvalidStatus) as again:
                await websockets.asyncio.client.connect(address, proxy=None)
            assert again.value.response.status_code == 401
            async with aiohttp.ClientSession() as http:
                with pytest.raises(aiohttp.WSServerHandshakeError) as elsewhere:
                    await http.ws_connect(f"http://127.0.0.1:{second}/?ticket={issued}")
                assert elsewhere.value.status == 401
        for server in (one, two):
            server.process.terminate()
            assert await server.ended() == 0
            assert issued not in server.log


@ON_ASYNCIO
async def test_a_broker_that_is_gone(server_of: Callable[..., BrokerServer]) -> None:
    server = server_of("valkey")
    limits = Limits(publish_timeout=0.1, close_timeout=1)
    async with serve_in_memory(APP, broker=server.url, limits=limits) as app:
        server.kill()
        async with app.connect(f"/?ticket={TICKET.issue(User('ada'))}") as peer:
            assert peer.rejected.status == 503


@ON_ASYNCIO
async def test_nats_without_jetstream(
    server_of: Callable[..., BrokerServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = BrokerServer.command.fget  # type: ignore[attr-defined]
    plain = property(lambda self: full(self)[:-3])
    monkeypatch.setattr(BrokerServer, "command", plain)
    url = server_of("nats").url
    with pytest.raises(BrokerError, match="claims, need JetStream"):
        async with serve_in_memory(APP, broker=url):
            raise AssertionError
    plain_app = Router("/")

    @plain_app.consumer
    async def hear(message: Say) -> None: ...

    async with serve_in_memory(plain_app, broker=url):
        pass


class Unclaiming:
    """An engine of others that cannot claim."""

    def __init__(self, url: str) -> None:
        self._engine = redis.RedisEngine(url.replace("unclaiming", "redis"))
        self.address = url

    async def connect(self, listener: Any, process: str) -> Any:
        connection = await self._engine.connect(listener, process)
        names = [name for name in dir(connection) if not name.startswith("_") and name != "claim"]

        class Less:
            def __getattr__(self, name: str) -> Any:
                if name not in names:
                    raise AttributeError(name)
                return getattr(connection, name)

        return Less()


@ON_ASYNCIO
async def test_an_engine_that_cannot(
    server_of: Callable[..., BrokerServer], capfd: pytest.CaptureFixture[str]
) -> None:
    engine: Callable[[str], Engine] = Unclaiming
    register_engine("unclaiming", engine)
    url = server_of("valkey").url.replace("redis", "unclaiming")
    with pytest.raises(BrokerError, match="its engine has no `claim`") as raised:
        async with serve_in_memory(APP, broker=url):
            raise AssertionError
    assert "store of your own" in str(raised.value)
    own = app_of(Ticket(User, key=KEY, store=Store()))
    async with serve_in_memory(own, broker=url):
        pass


@ON_ASYNCIO
async def test_a_server_that_cannot_does_not_start() -> None:
    with pytest.raises(BrokerError, match="cannot be reached"):
        async with serve(APP, Settings(port=0, broker="redis://127.0.0.1:1", publish_timeout=0.1)):
            raise AssertionError


class Member(pydantic.BaseModel):
    name: str = pydantic.Field(alias="sub")
    roles: set[str] = set()


async def test_a_user_may_be_a_model() -> None:
    tickets = Ticket(Member, key=KEY)
    app = Router()
    app.on_connect(tickets)

    @app.consumer
    async def who(message: str, member: Member) -> str:
        return f"{member.name} {member.roles}"

    issued = tickets.issue(Member(sub="ada", roles={"admin"}))
    async with connect(app, f"/?ticket={issued}") as peer:
        await peer.send("?")
        assert await peer.receive() == "ada {'admin'}"
    other = Ticket(User, key=KEY).issue(User("ada", roles=[5]))  # type: ignore[list-item]
    why = "the ticket is for another type of user"
    assert await refused(app, target=f"/?ticket={other}") == (401, why)
