"""The invariants of a connection, with a fault at its n-th await, for every n."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any
from unittest import mock

import anyio
import msgspec
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from tests.runtime.faults import BACKENDS, Faults
from wsflow import Connection, Credential, Disconnected, End, Reject, Router, Topic
from wsflow.end import End as EndOf
from wsflow.limits import Limits
from wsflow.runtime import handlers
from wsflow.tasks.detached import begin
from wsflow.testing import serve_in_memory


class Ask(msgspec.Struct, tag="ask"):
    key: int


class Slow(msgspec.Struct, tag="slow"):
    key: int


class Answer(msgspec.Struct, tag="answer"):
    key: int


class Session:
    """What on_connect provides."""


class Who:
    """So is this, after a first message."""


News = Annotated[Topic[Answer], "news"]


Part = Callable[[Router, "Seen"], None]


@dataclass
class Seen:
    """What the app's functions saw: scopes by task, and farewells."""

    entered: list[tuple[str, Any]] = field(default_factory=list)
    left: list[tuple[str, Any]] = field(default_factory=list)
    ready: int = 0
    farewells: int = 0
    torn_down: int = 0
    at_work: list[str] = field(default_factory=list)
    overlaps: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def work(self, name: str) -> Iterator[None]:
        """A consumer or producer is at work as long as the block runs."""
        self.at_work.append(name)
        try:
            yield
        finally:
            self.at_work.remove(name)

    def quiet(self, who: str) -> None:
        """Whoever tears down, or says farewell, does it when the others have stopped."""
        self.overlaps += [f"{name} during {who}" for name in self.at_work]


def outer_app(seen: Seen) -> Router:
    app = Router("/")

    @app.on_connect
    async def outer(news: News) -> AsyncIterator[None]:
        seen.entered.append(("outer", anyio.get_current_task().id))
        try:
            await checkpoint()
            await news.join()
            # scopes of the user's own, open as long as the connection
            async with anyio.create_task_group() as tasks:
                with anyio.CancelScope():
                    yield
                tasks.cancel_scope.cancel()
            seen.quiet("outer")
            await checkpoint()
            seen.torn_down += 1
        finally:
            seen.left.append(("outer", anyio.get_current_task().id))

    @app.on_connect
    async def inner(connection: Connection) -> AsyncIterator[Session]:
        seen.entered.append(("inner", anyio.get_current_task().id))
        try:
            await checkpoint()
            seen.ready += 1
            yield Session()
            seen.quiet("inner")
            assert connection.end is not None
            await checkpoint()
            seen.torn_down += 1
        finally:
            seen.left.append(("inner", anyio.get_current_task().id))

    @app.on_disconnect
    async def farewell(end: End) -> None:
        seen.quiet("farewell")
        seen.farewells += 1
        await checkpoint()

    return app


def consumers(router: Router, seen: Seen) -> None:
    @router.on_message
    async def around() -> AsyncIterator[None]:
        await checkpoint()
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()

    @router.consumer
    async def ask(message: Ask, news: News, session: Session) -> Answer:
        with seen.work("ask"):
            await checkpoint()
            await news.publish(Answer(-1))
            await anyio.sleep(0.1)
        return Answer(message.key)


def producers(router: Router, seen: Seen) -> None:
    @router.producer(on_end="keep")
    async def tick() -> AsyncIterator[Answer]:
        with seen.work("tick"):
            try:
                for number in range(3):
                    yield Answer(100 + number)
                    await anyio.sleep(0.1)
            finally:
                with anyio.CancelScope(shield=True):
                    await checkpoint()

    @router.producer(on_end="keep")
    async def once(connection: Connection) -> None:
        await connection.send(Answer(200))


def lanes(router: Router, seen: Seen) -> None:
    @router.consumer(concurrency=2, key="key")
    async def slow(message: Slow) -> AsyncIterator[Answer]:
        with seen.work("slow"):
            await anyio.sleep(0.1)
            yield Answer(message.key)

    @router.consumer
    async def stream(messages: AsyncIterator[Answer], tasks: TaskGroup) -> None:
        with seen.work("stream"):
            async for message in messages:
                tasks.start_soon(anyio.sleep, message.key)


def credentials(router: Router, seen: Seen) -> None:
    async def renew(token: str) -> Credential:
        await checkpoint()
        return Credential(identity=token, expires_in=0.2, renew=renew, user=Session())

    @router.on_connect
    async def who(connection: Connection) -> Who:
        seen.ready -= 1  # this one has to set up, too
        credential = await renew(await connection.ask_credential())
        connection.set_credential(credential)
        await checkpoint()
        seen.ready += 1
        return Who()


def build(seen: Seen, *parts: Part) -> Router:
    app = outer_app(seen)
    path = Router("/path")
    for part in parts:
        part(path, seen)
    app.include(path)
    return app


SHAPES: dict[str, tuple[Part, ...]] = {
    "consumer": (consumers,),
    "producer": (producers,),
    "both": (consumers, producers),
    "lanes": (consumers, lanes),
    "credentials": (consumers, credentials),
}


def auth(token: str) -> dict[str, str]:
    return {"type": "$auth", "token": token}


MESSAGES: dict[str, list[object]] = {
    "consumer": [Ask(1), Ask(2)],
    "producer": [],
    "both": [Ask(1), Ask(2)],
    "lanes": [Ask(1), Slow(1), Slow(1), Slow(2), Answer(1)],
    "credentials": [auth("ada"), Ask(1), auth("ada"), Ask(2)],
}
LIMITS = Limits(open_timeout=50, close_timeout=10)
OURS = (
    "wsflow /",
    "consumer ",
    "producer ",
    "on_disconnect ",
    "a task of the injected",
    "the renewal",
)


def is_host(name: str) -> bool:
    return name.startswith("wsflow /")


@dataclass
class Run:
    """One run of the scenario, and the oracles to ask after it."""

    shape: str
    fault: str
    in_place: bool = False
    seen: Seen = field(default_factory=Seen)
    sessions: list[Any] = field(default_factory=list)
    server: Any = None
    peer: Any = None
    gaps: int = 0
    patches: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    async def __call__(self, faults: Faults) -> None:
        app = build(self.seen, *SHAPES[self.shape])
        async with serve_in_memory(app, limits=LIMITS) as self.server:
            # the block of ``connect`` would raise what the fault caused
            self.peer = self.server._open("/path", (), ())
            self.sessions = list(self.server._app.sessions.values())
            if self.in_place:
                self.report_from_the_loop(faults)
            with contextlib.suppress(Disconnected, AssertionError, Reject):
                await self.peer._opened()
                for message in MESSAGES[self.shape]:
                    await self.peer.send(message)
                await self.peer.receive(Answer, timeout=5)
                await self.peer.receive(Answer, timeout=5)
                await anyio.sleep(0.15)
                await self.peer.close()
            await self.sessions[0].join()
            for _ in range(5):  # what was told to end has had its turn
                await checkpoint()
            self.ask(faults)

    def report_from_the_loop(self, faults: Faults) -> None:
        """As a socket does: messages come where no task is current, and are handled there."""
        loop = asyncio.get_running_loop()
        transport, (session,) = self.peer._transport, self.sessions
        report = transport._received
        transport.from_loop = True
        transport.now, transport.after = loop.time, loop.call_later
        transport._received = lambda data, text: loop.call_soon(report, data, text)

        def counted(coroutine: Any) -> Any:
            begun = begin(coroutine)
            if begun is not None and session._dispatcher.ready:
                self.gaps += 1
                # Before the host has its turn to go on with it.
                faults.suspended("wsflow /path, in its place", session._host._task, loop.call_soon)
            return begun

        self.patches.enter_context(mock.patch.object(handlers, "begin", counted))

    def inject(self, task: Any) -> None:
        """The fault."""
        session = self.sessions[0]
        if self.fault == "scope":
            if session._scope is not None:
                session._scope.cancel()
        elif self.fault == "finish":
            session.finish(EndOf("shutdown", 1001))
        elif self.fault == "vanish":
            self.peer._transport.peer_vanish()
        else:
            task.cancel()
            if self.fault == "native twice":
                asyncio.get_running_loop().call_later(0.005, task.cancel)

    def ask(self, faults: Faults) -> None:
        """The oracles."""
        (session,) = self.sessions
        seen = self.seen
        assert session.end is not None
        assert not self.server._app.sessions
        assert len(self.server.registry) == 0
        assert len(self.server._app.directory.channels) == 0
        assert session.memberships == {}
        assert session.running == []
        assert session.ending.left_behind == []
        transport = self.peer._transport
        assert transport.closing is not None
        assert seen.entered == seen.left[::-1], "scopes are left by who entered them, inside out"
        assert seen.farewells == min(seen.ready, 1)
        if faults.victim.endswith("in its place") and self.fault.startswith("native"):
            assert session.end.cause == "error", "nobody's cancellation is lost"
        pierced = self.fault.startswith("native") and is_host(faults.victim)
        if not pierced and not faults.victim.startswith("on_"):
            assert seen.torn_down >= 2 * seen.ready
        assert seen.at_work == []
        assert seen.overlaps == []
        assert faults.unhandled == []


def faults_of(backend: str) -> list[str]:
    native = ["native", "native twice"] if backend == "asyncio" else []
    return ["scope", "finish", "vanish", *native]


CASES = [
    (backend, shape, fault)
    for backend in BACKENDS
    for shape in SHAPES
    for fault in faults_of(backend)
]


@pytest.mark.parametrize(("backend", "shape", "fault"), CASES)
def test_invariants_hold_at_every_await(backend: str, shape: str, fault: str) -> None:
    def counts(name: str) -> bool:
        return name.startswith(OURS)

    with warnings.catch_warnings():
        # A native cancellation may hit a task of the user before its first step.
        warnings.filterwarnings("ignore", "coroutine 'sleep' was never awaited")
        inject_everywhere(backend, shape, fault, counts)
        gc.collect()


IN_PLACE = [(shape, fault) for shape in ("consumer", "both") for fault in faults_of("asyncio")]


@pytest.mark.parametrize(("shape", "fault"), IN_PLACE)
def test_invariants_hold_where_messages_are_handled_in_the_place_of_the_host(
    shape: str, fault: str
) -> None:
    """Also in the moment in which a handler has suspended and the host has not taken it over."""
    inject_everywhere("asyncio", shape, fault, lambda name: name.startswith(OURS), in_place=True)


def inject_everywhere(
    backend: str,
    shape: str,
    fault: str,
    counts: Callable[[str], bool],
    *,
    in_place: bool = False,
) -> None:
    at = 0
    while True:
        at += 1
        run = Run(shape, fault, in_place)
        faults = Faults(counts, at, run.inject)
        try:
            with run.patches:
                BACKENDS[backend](run, faults)
        except BaseException as exc:
            exc.add_note(f"with the fault at await {at}, of {faults.victim!r}")
            raise
        if not faults.victim:
            break
    assert at > 10, "the scenario waits too rarely to say anything"
    assert (run.gaps > 0) == in_place


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_harness_finds_a_planted_bug(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that does not wait for its children is found out."""
    from wsflow.tasks.children import Children

    async def hasty(self: Children) -> None:
        """Wait for nobody."""

    monkeypatch.setattr(Children, "reap", hasty)
    with pytest.raises(BaseException):  # noqa: B017
        test_invariants_hold_at_every_await(backend, "both", "finish")
