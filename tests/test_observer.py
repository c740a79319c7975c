"""Observers: what they are told, in which order, and that none of them harms anybody."""

from __future__ import annotations

import asyncio
import http.client
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, cast

import anyio
import anyio.to_thread
import msgspec
import pytest
from msgspec import Raw

import wsflow.log
from wsflow import (
    Address,
    Call,
    Close,
    Connection,
    ConnectionSummary,
    DeclarationError,
    Observer,
    Reject,
    Request,
    Router,
    Topic,
)
from wsflow.metrics import Histogram
from wsflow.observer import Around, Carrier, Observers
from wsflow.server import Settings, serve
from wsflow.testing import serve_in_memory
from wsflow.wiring.compile import compile_app

pytestmark = pytest.mark.anyio

where: ContextVar[str] = ContextVar("where", default="nowhere")


class Say(msgspec.Struct, tag="say"):
    text: str


class Ask(Call[int], tag="ask"):
    number: int


class Notes(Observer):
    """Notes all that it is told."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.told: list[Any] = []
        self.took = Histogram()

    def connection_begun(self, connection: Connection, route: str, dialled: bool) -> None:
        where.set(connection.id)
        self.told.append(("begun", route, dialled))

    def connection_opened(self, connection: Connection, route: str) -> None:
        self.told.append(("opened", route))

    def connection_ended(self, connection: Connection, summary: ConnectionSummary) -> None:
        self.told.append(("ended", summary))

    def request_refused(self, path: str, client: Address | None, status: int) -> None:
        self.told.append(("refused", path, status))

    def page_answered(
        self, method: str, path: str, client: Address | None, status: int, seconds: float
    ) -> None:
        self.told.append(("page", method, path, status))

    def message_timer(self, route: str, handler: str) -> Histogram:
        self.told.append(("timer", handler))
        return self.took

    @contextmanager
    def message_handling(
        self,
        connection: Connection,
        route: str,
        handler: str,
        message: object,
        carried: Mapping[str, str],
    ) -> Iterator[None]:
        self.told.append(("handles", route, handler, message, dict(carried)))
        try:
            yield
        except BaseException as exc:
            self.told.append(("raised", type(exc)))
            raise
        else:
            self.told.append(("handled", handler))

    @contextmanager
    def topic_delivering(
        self, topic: str, members: int, carried: Mapping[str, str]
    ) -> Iterator[None]:
        self.told.append(("delivers", topic, members, dict(carried)))
        yield

    def topic_received(self, topic: str, carried: Mapping[str, str]) -> None:
        self.told.append(("received", topic, dict(carried)))

    def carry(self, carrier: Carrier) -> None:
        carrier["where"] = where.get()

    def kinds(self) -> list[str]:
        return [each[0] for each in self.told]


def app_of(*observers: Observer) -> Router:
    app = Router("/{room}")
    for each in observers:
        app.observe(each)

    @app.on_connect
    async def enter(room: str, topic: Annotated[Topic[Say], "room.{room}"]) -> None:
        if room == "closed":
            raise Reject(403)
        await topic.join()

    @app.consumer
    async def say(message: Say, topic: Annotated[Topic[Say], "room.{room}"]) -> None:
        if message.text == "bye":
            raise Close(4000)
        await topic.publish(message)

    @app.consumer
    async def ask(message: Ask) -> int:
        if message.number < 0:
            raise ValueError("negative")
        return message.number + 1

    return app


def ask_frame(number: int, **more: object) -> Raw:
    frame = {"type": "$call", "id": 1, "message": {"type": "ask", "number": number}, **more}
    return Raw(msgspec.json.encode(frame))


async def test_the_life_of_a_connection() -> None:
    notes = Notes()
    async with serve_in_memory(app_of(notes)) as server, server.connect("/a") as peer:
        (connection,) = server.registry
        await peer.send(Say("hi"))
        assert await peer.receive() == Say("hi")
        await peer.send(ask_frame(1, context={"from": "here"}))
        assert await peer.receive() == {"type": "$answer", "id": 1, "value": 2}
        await peer.send(Say("bye"))
        assert (await peer.wait_closed()).code == 4000
    say = "consumer say"
    *told, (_, summary) = notes.told
    assert told == [
        ("begun", "/{room}", False),
        ("opened", "/{room}"),
        ("timer", say),
        ("handles", "/{room}", say, Say("hi"), {}),
        ("delivers", "room.a", 1, {"where": connection.id}),
        ("handled", say),
        ("timer", "consumer ask"),
        ("handles", "/{room}", "consumer ask", Ask(1), {"from": "here"}),
        ("handled", "consumer ask"),
        ("handles", "/{room}", say, Say("bye"), {}),
        ("raised", Close),
    ]
    assert (summary.route, summary.refused, summary.dialled) == ("/{room}", None, False)
    assert (summary.end.cause, summary.end.code) == ("closed", 4000)
    assert (summary.received, summary.sent, summary.dropped) == (3, 2, 0)
    assert summary.received_bytes > 60
    assert summary.sent_bytes > 40
    assert summary.seconds >= 0
    assert sum(notes.took.counts) == 1  # the first of sixteen
    assert notes.took.total > 0


async def test_what_is_refused() -> None:
    """Before there is a connection, and by one of its functions."""
    notes = Notes()
    async with serve_in_memory(app_of(notes)) as server:
        for path, status in (("/a/b", 404), ("/closed", 403)):
            async with server.connect(path) as peer:
                assert peer.rejected.status == status
    assert notes.kinds() == ["refused", "begun", "ended"]
    assert notes.told[0] == ("refused", "/a/b", 404)
    summary = notes.told[-1][1]
    assert (summary.refused, summary.end.cause) == (403, "rejected")


async def test_errors_of_calls_pass_through() -> None:
    notes = Notes()
    async with serve_in_memory(app_of(notes)) as server, server.connect("/a") as peer:
        await peer.send(ask_frame(-1))
        assert (await peer.receive())["type"] == "$error"
        assert notes.told[-1] == ("raised", ValueError)
        await peer.close()
        assert peer.end is not None
        assert peer.end.error is None  # and it is seen


async def test_a_handler_that_waits_is_timed_to_its_end() -> None:
    notes, app, go = Notes(), Router("/"), anyio.Event()
    app.observe(notes)

    @app.consumer
    async def slow(message: str) -> str:
        await go.wait()
        return message

    async with serve_in_memory(app) as server, server.connect("/") as peer:
        await peer.send("x")
        await server.idle()
        assert notes.kinds()[-1] == "handles"
        assert not notes.took.total
        go.set()
        assert await peer.receive() == "x"
        assert sum(notes.took.counts) == 1


async def test_one_of_sixteen_messages_is_timed() -> None:
    """By each who wants to know, and not if it raises."""
    one, two, app = Notes(), Notes(), Router("/")
    app.observe(one)
    app.observe(two)

    @app.consumer
    async def say(message: int) -> None:
        if message < 0:
            raise ValueError("negative")

    @app.on_error
    async def failed(error: ValueError) -> str:
        return "failed"

    async with serve_in_memory(app) as server, server.connect("/") as peer:
        for number in range(33):
            await peer.send(number if number != 16 else -1)
        assert await peer.receive() == "failed"
        await server.idle()
        assert sum(one.took.counts) == sum(two.took.counts) == 2


async def test_context_variables_and_loops_over_topics() -> None:
    """What an observer sets as a connection begins is seen by its functions, and by no others."""
    notes, app = Notes(), Router("/{name}")
    app.observe(notes)
    seen: dict[str, str] = {}

    @app.on_connect
    async def enter(name: str, connection: Connection) -> None:
        seen[connection.id] = where.get()

    @app.consumer
    async def say(message: Say, news: Annotated[Topic[Say], "news"]) -> None:
        await news.publish(message)

    @app.producer
    async def hear(
        connection: Connection, news: Annotated[Topic[Say], "news"]
    ) -> AsyncIterator[Say]:
        async for message in news:
            assert where.get() == connection.id
            yield message

    @app.on_disconnect
    async def leave(connection: Connection) -> None:
        assert where.get() == connection.id

    async with (
        serve_in_memory(app) as server,
        server.connect("/a") as one,
        server.connect("/b") as two,
    ):
        first, second = (each.id for each in server.registry)
        await server.registry.broadcast("to all")
        for peer in (one, two):
            assert await peer.receive() == "to all"
        await two.send(Say("hi"))
        for peer in (one, two):
            assert await peer.receive() == Say("hi")
    assert seen == {first: first, second: second}
    assert ("delivers", "", 2, {"where": "nowhere"}) in notes.told
    assert notes.told.count(("received", "news", {"where": second})) == 2
    assert where.get() == "nowhere"


async def test_clients_are_observed_too() -> None:
    """The client's context goes along with its opening request, and with its calls."""
    ours, theirs = Notes("ours"), Notes("theirs")
    client, server_app, headers = Router("/"), app_of(theirs), []
    client.observe(ours)

    @server_app.on_connect
    async def look(request: Request) -> None:
        headers.append(request.headers.get("where"))

    @client.producer(on_end="keep")
    async def call(connection: Connection) -> None:
        assert await connection.call(Ask(1)) == 2
        done.set()
        await anyio.sleep_forever()

    done = anyio.Event()
    async with (
        serve_in_memory(server_app) as server,
        server.link(client, "/a", reconnect=False) as linked,
    ):
        await done.wait()
        id = linked.client.id
    assert headers == [id]
    assert ("handles", "/{room}", "consumer ask", Ask(1), {"where": id}) in theirs.told
    assert ours.told[:2] == [("begun", "/", True), ("opened", "/")]
    summary = ours.told[-1][1]
    assert (summary.dialled, summary.sent, summary.received) == (True, 1, 1)
    assert summary.sent_bytes == theirs.told[-1][1].received_bytes > 0


class Broken(Observer):
    """Everything that it has raises."""

    def __init__(self, what: BaseException) -> None:
        self.what = what

    def _fail(self, *_: object) -> Any:
        raise self.what

    connection_begun = connection_opened = connection_ended = _fail
    request_refused = page_answered = message_timer = message_handling = _fail
    topic_delivering = topic_received = carry = _fail


class BrokenAround(Observer):
    """What it has entered raises: on the way in, on the way out, or hides what passes through."""

    def __init__(self, how: str) -> None:
        self.how = how

    def message_handling(self, *_: object) -> Any:
        return self

    def __enter__(self) -> None:
        if self.how == "in":
            raise RuntimeError("of the observer")

    def __exit__(self, *_: object) -> bool:
        if self.how == "out":
            raise RuntimeError("of the observer")
        return True


@pytest.mark.parametrize(
    "observer",
    [
        Broken(RuntimeError("of the observer")),
        Broken(asyncio.CancelledError()),  # of a future that it has asked for its result
        BrokenAround("in"),
        BrokenAround("out"),
        BrokenAround("hide"),
    ],
    ids=["all", "cancelled", "in", "out", "hide"],
)
async def test_one_that_fails_harms_nobody(
    observer: Observer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsflow.log, "_often", {})
    notes = Notes()
    async with serve_in_memory(app_of(observer, notes)) as server:
        async with server.connect("/a") as peer:
            await peer.send(Say("hi"))
            assert await peer.receive() == Say("hi")
            await peer.send(ask_frame(1))
            assert (await peer.receive())["value"] == 2
            await peer.send(Say("bye"))
            assert (await peer.wait_closed()).code == 4000  # which passes through all
        async with server.connect("/a/b") as peer:
            assert peer.rejected.status == 404
    assert notes.kinds()[-2:] == ["ended", "refused"]
    assert ("raised", Close) in notes.told
    failed = "an observer failed" in caplog.text
    assert failed is (getattr(observer, "how", "") != "hide")


async def test_what_is_not_written_is_not_asked_for() -> None:
    class Silent(Observer):
        def request_refused(self, path: str, client: Address | None, status: int) -> None: ...

    silent = Silent()
    async with serve_in_memory(app_of(silent)) as server, server.connect("/a") as peer:
        await peer.send(Say("hi"))
        assert await peer.receive() == Say("hi")
    observers = Observers([silent])
    assert not any((observers.begins, observers.around_messages, observers.around_topics))
    observers.timer("/", "x")(1)  # nobody is told
    assert observers.carry() == {}


async def echo(message: str) -> str:
    return message


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_pages_are_observed(anyio_backend: str) -> None:
    notes, app = Notes(), Router("/a")
    app.observe(notes)
    app.consumer(echo)

    @app.get("/page")
    async def page() -> str:
        return "x"

    async with serve(app, Settings(port=0)) as server:
        answers = [await get(server.port, path) for path in ("/a/page", "/none", "/healthz")]
    assert answers == [200, 404, 200]
    assert notes.told == [("page", "GET", "/a/page", 200), ("refused", "/none", 404)]


async def get(port: int, path: str) -> int:
    def ask() -> int:
        asking = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        asking.request("GET", path)
        return asking.getresponse().status

    return await anyio.to_thread.run_sync(ask)


def test_where_one_is_declared() -> None:
    """Once, however often it is named, and by whichever Router; and not while it is served."""
    notes, outer, inner = Notes(), app_of(), Router("/")
    inner.consumer(echo)
    outer.observe(notes)
    inner.observe(notes)
    inner.observe(other := Notes())
    outer.include(inner, "/in")
    assert compile_app(outer).observers == (notes, other)


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        (Notes, r"observe.the class Notes.*make an object of it: observe\(Notes\(\)\)"),
        ("x", "derive its class from wsflow.Observer"),
        (None, "derive its class from wsflow.Observer"),
    ],
)
def test_what_is_no_observer(given: Any, cure: str) -> None:
    app = app_of()
    app.observe(given)
    with pytest.raises(DeclarationError) as raised:
        compile_app(app)
    assert re.search(cure, str(raised.value), re.DOTALL), str(raised.value)


async def test_not_while_it_is_served() -> None:
    app = app_of()
    async with serve_in_memory(app):
        with pytest.raises(RuntimeError, match="observe has no effect on a Router that is being"):
            app.observe(Notes())


def test_what_an_observer_does_that_has_nothing() -> None:
    class Nothing(Observer): ...

    nothing, some = Nothing(), cast(Any, None)
    nothing.connection_begun(some, "/", False)
    nothing.connection_opened(some, "/")
    nothing.connection_ended(some, some)
    nothing.request_refused("/", None, 404)
    nothing.page_answered("GET", "/", None, 200, 0.1)
    nothing.topic_received("x", {})
    nothing.carry({})
    asked = [
        nothing.message_timer("/", "x"),
        nothing.message_handling(some, "/", "x", 1, {}),
        nothing.topic_delivering("x", 1, {}),
    ]
    assert asked == [None] * 3


def test_what_passes_through_is_no_failure_of_who_lets_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Passes:
        def __enter__(self) -> None: ...

        def __exit__(self, kind: Any, exc: Any, trace: Any) -> None:
            raise exc

    with pytest.raises(KeyError), Around([cast(Any, Passes())]):
        raise KeyError("x")
    assert not caplog.records
