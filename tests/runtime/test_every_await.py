"""The invariants of a connection, with a fault at its n-th await, for every n: also those that a
sweep cannot ask of every app."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import anyio
import msgspec
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from wsflow import Connection, Credential, End, Router, Topic
from wsflow.limits import Limits
from wsflow.testing import MemoryPeer, sweep_cancellation


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
        finally:
            seen.left.append(("outer", anyio.get_current_task().id))

    @app.on_connect
    async def inner(connection: Connection) -> AsyncIterator[Session]:
        seen.entered.append(("inner", anyio.get_current_task().id))
        try:
            await checkpoint()
            yield Session()
            seen.quiet("inner")
            assert connection.end is not None
            await checkpoint()
        finally:
            seen.left.append(("inner", anyio.get_current_task().id))

    @app.on_disconnect
    async def farewell(end: End) -> None:
        seen.quiet("farewell")
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
        credential = await renew(await connection.ask_credential())
        connection.set_credential(credential)
        await checkpoint()
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


@pytest.mark.no_cover  # its lines are covered by others, and it is four times as slow
@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES)
def test_invariants_hold_at_every_await(shape: str) -> None:
    seen = Seen()

    async def scenario(peer: MemoryPeer) -> None:
        for message in MESSAGES[shape]:
            await peer.send(message)
        await peer.receive(Answer, timeout=5)
        await peer.receive(Answer, timeout=5)
        await anyio.sleep(0.15)
        await peer.close()

    def check() -> None:
        """Scopes are left by who entered them, inside out; and who tears down does it alone."""
        entered, left, overlaps = seen.entered, seen.left, seen.overlaps
        seen.entered, seen.left, seen.overlaps = [], [], []
        assert entered == left[::-1]
        assert seen.at_work == []
        assert overlaps == []

    report = sweep_cancellation(
        build(seen, *SHAPES[shape]), scenario, target="/path", limits=LIMITS, check=check
    )
    assert report.points > 100, "the scenario waits too rarely to say anything"
