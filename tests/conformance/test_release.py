"""Whatever a user's value, a transport or a handler of the log does: a connection is forgotten."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from wsflow import Close, Connection, Reject, Router
from wsflow.errors import CallError
from wsflow.output import stderr
from wsflow.runtime.app import App
from wsflow.runtime.session import Session
from wsflow.testing.conformance.transports import Refused


class Bare(Reject):
    def __init__(self) -> None:  # does not call that of its base
        pass


class BareClose(Close):
    def __init__(self) -> None:
        pass


class Broken(Reject):
    @property
    def status(self) -> int:  # type: ignore[override]
        raise KeyError("status")

    @status.setter
    def status(self, value: int) -> None: ...


class Mute(Exception):
    def __str__(self) -> str:
        raise KeyError("str")

    __repr__ = __str__


def changed(exc: Exception, **attributes: object) -> Exception:
    for name, value in attributes.items():
        setattr(exc, name, value)
    return exc


def untyped(kind: Any, *args: object) -> Exception:
    made: Exception = kind(*args)
    return made


VALUES: dict[str, Callable[[], Exception]] = {
    "body of bytes": lambda: untyped(Reject, 403, b"no"),
    "body of None": lambda: untyped(Reject, 403, None),
    "headers of bytes": lambda: untyped(Reject, 403, "", {b"a": b"b"}),
    "a header's value of int": lambda: untyped(Reject, 403, "", {"a": 1}),
    "headers that are no pairs": lambda: untyped(Reject, 403, "", ["a"]),
    "headers of None": lambda: untyped(Reject, 403, "", None),
    "a status of str": lambda: untyped(Reject, "403"),
    "a status of 101": lambda: Reject(101),
    "reason of bytes": lambda: untyped(Close, 4000, b"no"),
    "a code of str": lambda: untyped(Close, "4000"),
    "a code of 1005": lambda: Close(1005),
    "a subclass without attributes": Bare,
    "a Close without attributes": BareClose,
    "a property that raises": lambda: Broken(403),
    "a status changed": lambda: changed(Reject(403), status=99),
    "a body changed": lambda: changed(Reject(403), body=b"no"),
    "headers changed": lambda: changed(Reject(403), headers=[("a", "b\r\nc: d")]),
    "headers changed to None": lambda: changed(Reject(403), headers=None),
    "a code changed": lambda: changed(Close(), code=1006),
    "a reason changed": lambda: changed(Close(), reason=b"\xff"),
    "a group": lambda: ExceptionGroup("", [ValueError(), changed(Close(), code=5)]),
    "no text": Mute,
    "a call's code": lambda: untyped(CallError, 5),
}

PLACES = ["on_connect", "tear down", "consumer", "producer", "on_disconnect", "on_error"]


def app_raising(place: str, make: Callable[[], Exception]) -> Router:
    app = Router("/")

    @app.on_connect
    async def scope() -> AsyncIterator[None]:
        if place == "on_connect":
            raise make()
        yield
        if place == "tear down":
            raise make()

    @app.consumer
    async def consume(message: str) -> None:
        if place == "consumer":
            raise make()
        if place == "on_error":
            raise ValueError
        raise Close

    if place == "producer":

        @app.producer
        async def produce() -> None:
            raise make()

    @app.on_disconnect
    async def after() -> None:
        if place == "on_disconnect":
            raise make()

    @app.on_error
    async def handle(error: ValueError) -> None:
        raise make()

    return app


@asynccontextmanager
async def nothing_left(wire: Any) -> AsyncIterator[App]:
    app: App = wire.server._app
    with anyio.fail_after(5):
        yield app
        while app.sessions:
            await anyio.lowlevel.checkpoint()
        assert not app.directory.connections
        assert (app._admission._count, dict(app._admission._clients)) == (0, {})
        await wire.stop()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", VALUES)
async def test_a_value_that_cannot_be_sent(serving: Any, value: str, place: str) -> None:
    async with (
        serving(app_raising(place, VALUES[value]), max_connections_per_client=5) as wire,
        nothing_left(wire),
    ):
        seen: tuple[int, str]
        try:
            async with wire.connect("/") as client:
                await client.send("x")
                seen = await client.closed()
        except Refused as refused:
            seen = refused.status, refused.body.strip()
        assert seen in ((1011, ""), (500, "Internal Server Error"))


class RaisingHandler(logging.Handler):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def emit(self, record: logging.LogRecord) -> None:
        raise self.error


@pytest.fixture
def raising_log() -> Iterator[None]:
    handler = RaisingHandler(OSError("no space left"))
    log = logging.getLogger("wsflow")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield
    log.removeHandler(handler)
    log.setLevel(level)


@pytest.mark.usefixtures("raising_log")
@pytest.mark.parametrize("place", PLACES)
async def test_a_log_handler_that_raises(
    serving: Any, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Exception:
        return RuntimeError("of the app")

    async with serving(app_raising(place, fail)) as wire, nothing_left(wire):
        with contextlib.suppress(Refused):
            async with wire.connect("/") as client:
                await client.send("x")
                assert (await client.closed())[0] == 1011
    stderr.drain()
    assert "a line could not be logged: OSError: no space left" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["accept", "reject", "close"])
async def test_a_transport_that_raises(
    serving: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None should: this is for the ones that do, and the peer is told nothing."""
    decided = anyio.Event()
    app = Router("/")

    @app.on_connect
    async def decide(connection: Connection) -> AsyncIterator[None]:
        session = connection._driver
        assert isinstance(session, Session)

        def fail(*_: object) -> None:
            raise OSError(method)

        monkeypatch.setattr(type(session.transport), method, fail)
        decided.set()
        if method == "reject":
            raise Reject(403)
        yield

    @app.consumer
    async def consume(message: str) -> None:
        raise Close

    async with serving(app, close_timeout=0.1) as wire, anyio.create_task_group() as tasks:

        async def peer() -> None:
            with contextlib.suppress(Exception):  # in memory, it learns of the error
                async with wire.connect("/") as client:
                    await client.send("x")
                    await client.closed()

        async with nothing_left(wire):
            tasks.start_soon(peer)
            await decided.wait()
        monkeypatch.undo()
        tasks.cancel_scope.cancel()
