"""Rate limits: when messages may come, and what processes tell each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from tests.brokers.servers import BrokerServer
from tests.clocks import InFakeTime
from wsflow import Call, CallError, Connection, Limits, Query, Router
from wsflow.addresses import address_of
from wsflow.brokers import remote
from wsflow.brokers.base import BrokerListener
from wsflow.brokers.memory import MemoryBroker
from wsflow.brokers.processes import Told
from wsflow.runtime import rates
from wsflow.runtime.rates import Level, SharedRates, Used, retry_after, spend, until
from wsflow.testing import MemoryServer, connect, serve_in_memory
from wsflow.topics.channels import Channels
from wsflow.wiring.compile import compile_app
from wsflow.wiring.plan import RatePlan


class Go(msgspec.Struct, tag="go"):
    pass


class Other(msgspec.Struct, tag="other"):
    pass


# -- one limit


@pytest.mark.parametrize("start", [0.0, 0.1, 1e6 + 0.1, 1e7 + 1 / 3])
@pytest.mark.parametrize("rate", ["1/s", "3/s", "20/s", "7/min", "1000/s", "1/h"])
@pytest.mark.parametrize("burst", [1, 2, 40])
def test_ten_times_over_as_many_come_as_are_set(start: float, rate: str, burst: int) -> None:
    limit = plan(rate, burst)
    used: dict[str, float] = {}
    came = []
    for step in range(10 * 3 * (burst + 5)):  # ten attempts in each interval
        now = start + step * limit.interval / 10
        if not until(limit, used.get("x", now), now):
            spend(used, "x", limit.interval, now)
            came.append(step)
    assert came[0] == 0
    intervals = (10 * 3 * (burst + 5) - 1) // 10
    assert len(came) == burst + intervals
    gaps = {later - earlier for earlier, later in zip(came[-5:], came[-4:], strict=False)}
    assert gaps == {10}


def plan(rate: str, burst: int) -> RatePlan:
    app = Router("/")

    @app.consumer(rate=rate, burst=burst, per="client")
    async def nothing(message: Go) -> None: ...

    (limit,) = compile_app(app).shared_limits.values()
    return limit


@pytest.mark.parametrize(
    ("rate", "interval", "burst"),
    [("20/s", 0.05, 20), ("20/min", 3, 1), ("600/min", 0.1, 10), ("1/h", 3600, 1)],
)
def test_the_burst_is_a_second_of_the_rate(rate: str, interval: float, burst: int) -> None:
    app = Router("/", rate=rate)

    @app.consumer
    async def nothing(message: Go) -> None: ...

    (route,) = compile_app(app).routes
    (limit,) = route.limits
    assert (limit.interval, limit.burst, limit.name) == (interval, burst, "/")


def test_limits_have_names_of_their_own() -> None:
    outer = Router("/", rate="1/s", per="user")
    for path in ("/a", "/b"):
        inner = Router("/{x}", rate="1/s", per="user")

        @inner.consumer(rate="1/s", per="user")
        async def say(message: Go) -> None: ...

        outer.include(inner, path)

    def add(kind: Any) -> None:
        @outer.consumer(rate="1/s", per="client")
        async def same(message: kind) -> None: ...  # of two consumers of one name

    add(Go)
    add(Other)
    assert list(compile_app(outer).shared_limits) == [
        "/",
        "same at /",
        "same at / (2)",
        "/a/{x}",
        "say at /a/{x}",
        "/b/{x}",
        "say at /b/{x}",
    ]


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_what_a_client_is(host: str, counted: str) -> None:
    assert address_of(host, 1).network == counted


def test_retry_after_is_in_whole_seconds() -> None:
    assert [retry_after(each)[1] for each in (0.001, 1.0, 1.001, 7200)] == ["1", "1", "2", "7200"]
    assert retry_after(1800 + 1e-9)[1] == "1800"


# -- messages that wait


async def times(app: Router, count: int, connections: int = 1) -> list[float]:
    """When messages that all come at once are handled."""
    handled: list[float] = []

    @app.consumer(concurrency=2)
    async def go(message: Go) -> None:
        handled.append(anyio.current_time())

    async with serve_in_memory(app) as server:
        peers = [server._open("/", (), ()) for _ in range(connections)]
        for peer in peers:
            for _ in range(count):
                peer._transport.peer_send(b'{"type":"go"}', True)
        while len(handled) < count * connections:
            await anyio.sleep(0.01)
        for peer in peers:
            await peer.close()
    return [round(each - handled[0], 3) for each in handled]


class TestSlowed(InFakeTime):
    @pytest.mark.parametrize("per", ["connection", "client", "user"])
    async def test_slowed_messages_come_at_the_rate(self, per: Any) -> None:
        app = Router("/", rate="2/s", burst=3, per=per)
        assert await times(app, 6) == [0, 0, 0, 0.5, 1, 1.5]

    async def test_connections_with_one_limit_take_turns(self) -> None:
        app = Router("/", rate="2/s", burst=1, per="client")
        assert await times(app, 3, 2) == [0, 0.5, 1, 1.5, 2, 2.5]

    async def test_the_strictest_of_several_limits_holds(self) -> None:
        outer, inner = Router("/", rate="1/s", burst=2), Router("/", rate="100/s", burst=3)
        outer.include(inner)
        handled: list[float] = []

        @inner.consumer(rate="2/s", burst=4)
        async def go(message: Go) -> None:
            handled.append(anyio.current_time())

        async with connect(outer) as peer:
            for _ in range(4):
                await peer.send(Go())
            while len(handled) < 4:
                await anyio.sleep(0.01)
        assert [round(each - handled[0], 3) for each in handled] == [0, 0, 1, 2]

    async def test_what_waits_behind_it_once_a_renewal_is_overdue(self) -> None:
        """All wait for their turn, in order, within the hard limit."""

        class Ask(Call[int], tag="ask"):
            pass

        app = Router("/", rate="1/s", burst=1)
        handled: list[str] = []

        @app.consumer
        async def go(message: Go) -> None:
            handled.append("go")

        @app.consumer
        async def other(message: Other) -> None:
            handled.append("other")

        @app.consumer(rate="1/h", burst=1, when_over="drop")
        async def ask(message: Ask) -> int:
            handled.append("ask")
            return 1

        async with connect(app, limits=Limits(inbox_messages=2, close_timeout=1)) as peer:
            session: Any = peer._session
            await peer.send(Go())
            await peer.send(Other())
            assert session._inbox.full
            session.expect_renewal(True)
            assert not session._inbox.full
            kinds = ("ask", "unknown", "ask")
            calls = [
                {"type": "$call", "id": number, "message": {"type": kind}}
                for number, kind in enumerate(kinds)
            ]
            for each in (Go(), Go()):
                await peer.send(each)
            for call in calls:
                await peer.send(call)
            await peer.send(Other())
            await peer.send(Go())
            await anyio.sleep(0.5)
            assert handled == ["go"]
            assert session._inbox._waiting == 7
            session.expect_renewal(False)
            assert session._inbox.full
            await anyio.sleep(4)
            assert handled == ["go", "other", "go", "go", "ask"]
            assert session._inbox.full
            await anyio.sleep(5)
            assert handled == ["go", "other", "go", "go", "ask", "other", "go"]
            assert not session._inbox.full
            assert not session._inbox._waiting
            assert not session._inbox._waiting_bytes

    async def test_as_long_as_a_renewal_is_overdue(self) -> None:
        """Reading goes on throughout; what has no limit keeps its place behind what has one."""
        app = Router("/")
        handled: list[str] = []

        @app.consumer(rate="1/s", burst=1)
        async def go(message: Go) -> None:
            handled.append("go")

        @app.consumer
        async def other(message: Other) -> None:
            handled.append("other")

        async with connect(app) as peer:
            session: Any = peer._session
            for each in (Go(), Go()):
                await peer.send(each)
            session.expect_renewal(True)
            for each in (Other(), Go(), Other()):
                await peer.send(each)
            await anyio.sleep(0.5)
            assert handled == ["go"]
            await anyio.sleep(1)
            assert handled == ["go", "go", "other"]
            assert not session._inbox.full
            await anyio.sleep(1)
            assert handled == ["go", "go", "other", "go", "other"]
            session.expect_renewal(False)
            assert not session._inbox.full


async def test_close_goes_before_drop_and_drop_before_slow() -> None:
    app = Router("/", rate="1/h", burst=3, when_over="close")

    @app.consumer(rate="1/h", when_over="drop", burst=2)
    async def go(message: Go) -> Go:
        return message

    @app.consumer(rate="1/h", when_over="slow", burst=1)
    async def other(message: Other) -> Other:
        return message

    async with connect(app) as peer:
        for _ in range(4):
            await peer.send(Go())
        await peer.send(Other())
        await peer.receive(Other)
        await peer.send(Other())
        assert (await peer.wait_closed()).code == 1008
        assert [type(each) for each in await unread(peer)] == [Go, Go]


async def unread(peer: Any) -> list[Any]:
    found = []
    while peer._unread or peer._transport.peer_unread():
        found.append(await peer.receive(Go))
    return found


async def test_a_message_that_waits_has_no_room_behind_it() -> None:
    """It waits, and so much else that reading would pause anyway: both have to end."""
    gate = anyio.Event()
    app = Router("/")
    handled: list[str] = []

    @app.consumer(rate="50/s", burst=1)
    async def go(message: Go) -> None:
        handled.append("go")

    @app.consumer
    async def other(message: Other) -> None:
        await gate.wait()
        handled.append("other")

    limits = Limits(open_timeout=5, close_timeout=1, inbox_messages=2)
    async with connect(app, limits=limits) as peer:
        for each in (Go(), Other(), Other(), Go(), Other(), Go()):
            peer._transport.peer_send(msgspec.json.encode(each), True)
        await anyio.sleep(0.03)  # the time of the first one that waits passes
        assert handled == ["go"]
        gate.set()
        while len(handled) < 6:
            await anyio.lowlevel.checkpoint()
    assert sorted(handled) == ["go"] * 3 + ["other"] * 3


async def test_a_key_that_cannot_be_hashed_after_waiting() -> None:
    class Odd(msgspec.Struct, tag="odd"):
        keys: list[int]

    app = Router("/", rate="100/s", burst=1)

    @app.consumer
    async def go(message: Go) -> None: ...

    @app.consumer(concurrency=2, key="keys")
    async def odd(message: Odd) -> None: ...

    async with connect(app) as peer:
        await peer.send(Go())
        await peer.send(Odd([1]))
        end = await peer.wait_closed()
        assert (end.code, type(end.error)) == (1011, TypeError)


async def test_a_peer_that_leaves_takes_what_waits_with_it() -> None:
    class Ask(Call[int], tag="ask"):
        pass

    app = Router("/")
    asked: list[int] = []

    @app.consumer(rate="1/h", burst=1)
    async def ask(message: Ask) -> int:
        asked.append(1)
        return 1

    async with connect(app) as peer:
        assert await peer.call(Ask()) == 1
        await peer._ask(Ask())
        session: Any = peer._session
        timer = session._throttle._timer
        assert not timer._scope.cancel_called
    assert asked == [1]
    assert timer._scope.cancel_called  # else it would keep the connection in memory for an hour


async def test_a_call_of_the_app_does_not_read_on_before_the_time() -> None:
    class Ask(Call[int], tag="ask"):
        pass

    app = Router("/")
    gate = anyio.Event()

    @app.consumer(rate="1/h", burst=1)
    async def go(message: Go) -> None: ...

    @app.consumer(concurrency=2)
    async def other(message: Other, connection: Connection) -> None:
        await gate.wait()
        await connection.call(Ask())

    async with connect(app) as peer:
        for each in (Other(), Go(), Go(), Go(), Go()):
            await peer.send(each)
        session: Any = peer._session
        assert session._inbox.full
        gate.set()
        while not session._inbox.expecting:
            await anyio.lowlevel.checkpoint()
        assert session._inbox.full
        assert session.received == 3
        await peer.vanish()


@pytest.mark.parametrize("ours", [False, True])
async def test_what_waits_behind_at_the_end(ours: bool) -> None:
    app = Router("/", rate="1/h", burst=1)
    handled: list[str] = []

    @app.consumer
    async def go(message: Go) -> None:
        handled.append("go")

    async with serve_in_memory(app) as server:
        async with server.connect("/") as peer:
            (session,) = server._app.sessions.values()
            for _ in range(2):
                await peer.send(Go())
            session.expect_renewal(True)
            for _ in range(3):
                await peer.send(Go())
            await (server.drain(5) if ours else peer.vanish())
            await session.join()
    assert handled == ["go"] * (5 if ours else 1)
    assert not session._inbox._waiting


async def test_a_dropped_call_is_answered_at_once() -> None:
    class Ask(Call[int], tag="ask"):
        pass

    app = Router("/")

    @app.consumer(rate="1/h", when_over="drop", concurrency=1)
    async def ask(message: Ask) -> int:
        return 1

    async with connect(app) as peer:
        assert await peer.call(Ask()) == 1
        with pytest.raises(CallError, match="rate_limited: more calls than the rate limit"):
            await peer.call(Ask())


# -- many clients


def shared(**options: Any) -> tuple[SharedRates, RatePlan]:
    app = Router("/", per="client", **{"rate": "1/s", **options})

    @app.consumer
    async def nothing(message: Go) -> None: ...

    wired = compile_app(app)
    return SharedRates(wired, Channels(MemoryBroker)), wired.shared_limits["/"]


def test_what_is_full_again_is_forgotten() -> None:
    all_of_them, limit = shared()
    for second in range(10):
        for number in range(500):
            all_of_them.spend(limit, f"client {second}-{number}", second * 10.0, NO_CLOCK)
    assert len(all_of_them.used) <= rates.SWEEP


def test_at_most_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST", 2000)
    all_of_them, limit = shared(rate="1/h", burst=1)
    for _ in range(3):
        all_of_them.spend(limit, "heavy", 0.0, NO_CLOCK)
    most = 0
    for number in range(10_000):
        all_of_them.spend(limit, f"client {number}", 0.0, NO_CLOCK)
        most = max(most, len(all_of_them.used))
    assert most <= 2000
    assert all_of_them.until(limit, "heavy", 0.0) == 3 * 3600


NO_CLOCK: Any = None
"""No other process is told anything, so there is no timer."""


# -- between processes


class Others:
    """A broker that has one other process, and remembers what it is told."""

    def __init__(self, listener: BrokerListener) -> None:
        self.processes = ["other"]
        self.told: list[tuple[str, Any]] = []

    def tell(self, process: str, note: bytes) -> None:
        told = msgspec.msgpack.decode(note, type=Used | Level)
        self.told.append((process, told))


class Clock:
    """A clock whose timers are called by hand."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def now(self) -> float:
        return anyio.current_time()

    def after(self, seconds: float, call: Callable[[], None]) -> Any:
        self.timers.append((seconds, call))
        return self

    def cancel(self) -> None:
        self.timers.clear()


def between(**options: Any) -> tuple[SharedRates, RatePlan, Any]:
    app = Router("/", per="client", **{"rate": "1/h", "burst": 5, **options})

    @app.consumer
    async def nothing(message: Go) -> None: ...

    wired = compile_app(app)
    made: Any = Others
    channels = Channels(made)
    return SharedRates(wired, channels), wired.shared_limits["/"], channels


async def test_one_note_has_all_that_was_used_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "BATCH", 2)
    here, limit, channels = between()
    clock, now = Clock(), anyio.current_time()
    for who in ("a", "b", "a", "c"):
        here.spend(limit, who, now, clock)
    ((seconds, tell),) = clock.timers
    assert seconds == 0.25
    tell()
    assert channels.broker.told == [
        ("", Used([("/", "a", 2), ("/", "b", 1)])),
        ("", Used([("/", "c", 1)])),
    ]
    here.stop()
    assert len(channels.broker.told) == 2
    here.spend(limit, "a", now, clock)
    here.stop()
    assert channels.broker.told[2:] == [("", Used([("/", "a", 1)]))]


async def test_what_others_have_used_counts_here() -> None:
    there, limit, _ = between()
    now = anyio.current_time()
    encode = msgspec.msgpack.encode
    assert there.heard(encode(Used([("/", "a", 3), ("no such limit", "a", 1)])))
    there.spend(limit, "a", now, Clock())
    assert not there.until(limit, "a", now)
    assert there.heard(encode(Level([("/", "a", 4)])))  # these are known already
    assert not there.until(limit, "a", anyio.current_time())
    assert there.heard(encode(Used([("/", "a", 1)])))
    assert there.until(limit, "a", now) == pytest.approx(3600, abs=5)
    assert list(there.used) == [("/", "a")]


async def test_a_process_that_starts_hears_of_all() -> None:
    here, limit, channels = between()
    now = anyio.current_time()
    for _ in range(4):
        here.spend(limit, "a", now, Clock())
    here.spend(limit, "full again", now - 7200, Clock())
    channels.appeared("new")
    assert channels.broker.told == [("new", Level([("/", "a", 4)]))]


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\xc1",
        b"\x93" * 900,
        msgspec.msgpack.encode(["used", [["/", "a", 0]]]),
        msgspec.msgpack.encode(["used", [["/", "a", -5]]]),
        msgspec.msgpack.encode(["used", [["/", "a", 10**9]]]),
        msgspec.msgpack.encode(["used", [["/", 7, 1]]]),
        msgspec.msgpack.encode(["level", {"/": 1}]),
        msgspec.msgpack.encode(["other", []]),
    ],
)
async def test_garbage_is_ignored(note: bytes) -> None:
    there, _, channels = between()
    channels.heard("other", note)
    assert not there.used


async def test_notes_for_many_clients_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST", 1500)
    there, _, _ = between()
    for first in range(0, 10_000, 100):
        entries = [("/", f"client {number}", 1) for number in range(first, first + 100)]
        there.heard(msgspec.msgpack.encode(Used(entries)))
    assert len(there.used) <= 1600


asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture(scope="module", params=["valkey", "nats"])
def broker(request: pytest.FixtureRequest) -> Iterator[BrokerServer]:
    started = BrokerServer(request.param)
    started.start()
    yield started
    started.stop()


def counted(per: Any) -> Router:
    app = Router("/")

    @app.on_connect
    async def enter(connection: Connection, user: Annotated[str, Query()] = "") -> None:
        if user:
            connection.identify(user)

    @app.consumer(rate="1/h", burst=10, when_over="drop", per=per)
    async def go(message: Go) -> Go:
        return message

    return app


@asynccontextmanager
async def running(app: Router, broker: BrokerServer) -> AsyncIterator[MemoryServer]:
    async with serve_in_memory(app, broker=broker.url) as process:
        yield process


def known(process: MemoryServer, who: str) -> int:
    """How many messages a process has counted."""
    shared = process._app.rates
    (limit,) = process._app.plan.shared_limits.values()
    full = shared.used.get((limit.name, who), 0.0)
    return max(0, round((full - anyio.current_time()) / limit.interval))


@pytest.mark.parametrize(("per", "who"), [("client", "client "), ("user", "user ada")])
@asyncio_only
async def test_processes_share_a_limit(
    broker: BrokerServer, monkeypatch: pytest.MonkeyPatch, per: str, who: str
) -> None:
    monkeypatch.setattr(remote, "BEAT", 0.1)
    with anyio.fail_after(20):
        async with running(counted(per), broker) as one, running(counted(per), broker) as two:
            while not (one._app.directory.channels.broker.processes):
                await anyio.sleep(0.01)
            async with one.connect("/?user=ada") as here, two.connect("/?user=ada") as there:
                for _ in range(4):
                    await here.send(Go())
                    await here.receive(Go)
                while known(two, who) < 4:
                    await anyio.sleep(0.01)
                for _ in range(60):
                    await there.send(Go())
                for _ in range(6):
                    await there.receive(Go)
                while known(one, who) < 10:
                    await anyio.sleep(0.01)
                await here.send(Go())
                while not one.registry.counters()["rate_limited"]:
                    await anyio.sleep(0.001)
                await there.receive_nothing(within=0)
                assert two.registry.counters()["rate_limited"] == 54
            async with running(counted(per), broker) as late:
                while known(late, who) < 10:
                    await anyio.sleep(0.01)
                for _ in range(2):  # one that reconnects is told again, and counts nothing twice
                    late._app.rates._broker._listener.appeared("x")
                assert known(late, who) == known(one, who) == 10


@asyncio_only
async def test_garbage_between_processes(broker: BrokerServer) -> None:
    app = counted("user")
    with anyio.fail_after(20):
        async with running(app, broker) as process, process.connect("/?user=ada") as ada:
            engine = process._app.directory.channels.broker
            for note in (b"", b"\xc1", msgspec.msgpack.encode(["used", [["go at /", "user ada"]]])):
                told = msgspec.msgpack.encode(Told(1, "note", "stranger", 1, note))
                engine.told(told)
            for _ in range(10):
                await ada.send(Go())
            for _ in range(10):
                await ada.receive(Go)
