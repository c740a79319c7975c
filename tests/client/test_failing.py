"""A client never hangs without a word: whatever leaves an attempt reaches its caller."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from websockets.exceptions import InvalidHeaderValue

import wsflow
from wsflow import ConnectError, Opening, Reconnect, Router, run_client
from wsflow.server import Settings
from wsflow.server.serve import serve
from wsflow.tasks.loops import event_loop
from wsflow.testing import connect as connect_in_memory

NOWHERE = "ws://127.0.0.1:1/"
LIMIT = 5.0


class Gone(BaseException):
    """Is no Exception, as those that stop a program are."""


def server() -> Router:
    router = Router("/")

    @router.consumer
    async def echo(message: str) -> str:
        return message

    return router


def client(change: Callable[[Opening], object]) -> Router:
    router = Router("/")

    @router.on_connect
    async def enter(opening: Opening) -> None:
        change(opening)

    @router.consumer
    async def heard(message: str) -> None: ...

    return router


def raises(exc: BaseException) -> Callable[[Opening], object]:
    def change(opening: Opening) -> object:
        raise exc

    return change


class Held(dict[str, str]):
    """Headers that are not checked when they are set."""

    def raw_items(self) -> Any:
        return self.items()


class Text:
    """Cannot be written."""

    def __str__(self) -> str:
        raise Gone("no text")


CHANGES: dict[str, tuple[Callable[[Opening], object], type[BaseException], str]] = {
    "a query that is no text": (
        lambda opening: opening.query.update(q="\ud800"),
        ConnectError,
        "surrogates not allowed",
    ),
    "a query that is no query": (
        lambda opening: setattr(opening, "query", 7),
        ConnectError,
        "not a valid non-string sequence",
    ),
    "a query that raises": (lambda opening: opening.query.update(q=Text()), Gone, "no text"),  # type: ignore[call-overload]
    "a header with a line break": (
        lambda opening: opening.headers.update({"X-A": "a\nb"}),
        InvalidHeaderValue,
        "invalid X-A header",
    ),
    "a header that is no text": (
        lambda opening: setattr(opening, "headers", Held({"X-A": "\ud800"})),
        ConnectError,
        "a character that is not allowed",
    ),
    "headers that are none": (
        lambda opening: setattr(opening, "headers", None),
        ConnectError,
        "has no attribute 'raw_items'",
    ),
    "an exception": (raises(RuntimeError("no")), RuntimeError, "no"),
    "what is no Exception": (raises(Gone("gone")), Gone, "gone"),
}


@pytest.mark.parametrize("reconnect", [False, True])
@pytest.mark.parametrize("case", CHANGES)
async def test_what_on_connect_does(case: str, reconnect: bool) -> None:
    change, kind, text = CHANGES[case]
    stops = Reconnect(when=lambda end: False) if reconnect else False
    with anyio.fail_after(LIMIT), pytest.raises(kind, match=text):
        async with serve(server(), Settings(port=0)) as serving:
            await run_client(client(change), f"ws://127.0.0.1:{serving.port}/", reconnect=stops)


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_what_on_connect_does_in_memory(case: str, anyio_backend: str) -> None:
    change, kind, text = CHANGES[case]
    with anyio.fail_after(LIMIT):
        async with connect_in_memory(server(), "/", client=client(change)) as linked:
            await linked.ended()
            assert linked.end is not None
            error = linked.end.error
    assert isinstance(error, kind)
    assert text in str(error)


def answers(exc: BaseException) -> Callable[[], str]:
    def credential() -> str:
        raise exc

    return credential


async def cancels() -> str:
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class() as exc:
            cancelled = exc
    raise cancelled


CREDENTIALS: dict[str, tuple[Callable[[], Any], type[BaseException], str]] = {
    "an exception": (answers(RuntimeError("no token")), RuntimeError, "no token"),
    "what is no Exception": (answers(Gone("gone")), Gone, "gone"),
    "a group": (answers(ExceptionGroup("two", [OSError("no file")])), ExceptionGroup, "two"),
    "a token with a line break": (lambda: "a\nb", ValueError, "not allowed"),
    "a token that is no text": (lambda: "\ud800", ValueError, "not allowed"),
    "no str": (lambda: b"token", TypeError, "a bytes, and not a str"),
    "a cancellation of its own": (cancels, RuntimeError, "was cancelled from outside"),
}


@pytest.mark.parametrize("case", CREDENTIALS)
@pytest.mark.parametrize("held", [False, True])
async def test_what_a_credential_callback_does(case: str, held: bool) -> None:
    credential, kind, text = CREDENTIALS[case]
    with anyio.fail_after(LIMIT), pytest.raises(kind, match=text):
        async with serve(server(), Settings(port=0)) as serving:
            uri = f"ws://127.0.0.1:{serving.port}/"
            if held:
                async with wsflow.connect(uri, credential=credential):
                    pass
            else:
                await run_client(
                    client(lambda opening: None), uri, reconnect=False, credential=credential
                )


URIS = {
    "ws://127.0.0.1:99999/": ValueError,
    "ws://127.0.0.1:0/": (ValueError, ConnectError),
    "ws://a..b/": (ValueError, ConnectError),
    f"ws://{'a' * 64}.test/": (ValueError, ConnectError),
    "ws://\ud800/": (ValueError, ConnectError),
    "ws://x\x00y/": (ValueError, ConnectError),
    "ws://127.0.0.1:1/?q=\ud800": (ValueError, ConnectError),
    "ws://127.0.0.1:1/\ud800": (ValueError, ConnectError),
    "ws://127.0.0.1:1/a b\r\nX: y": (ValueError, ConnectError),
    "ws://[::1/": ValueError,
}


@pytest.mark.parametrize("uri", URIS, ids=ascii)
@pytest.mark.parametrize("resume", ["", "after"])
async def test_addresses(uri: str, resume: str) -> None:
    with anyio.fail_after(LIMIT), pytest.raises(URIS[uri]):
        async with wsflow.connect(uri, resume=resume):
            pass
    with anyio.fail_after(LIMIT), pytest.raises(URIS[uri]):
        await run_client(server(), uri, reconnect=False)


OPTIONS: dict[str, dict[str, Any]] = {
    "ssl": {"ssl": "yes"},
    "proxy": {"proxy": "no proxy"},
    "proxy_headers": {"proxy": "http://127.0.0.1:1", "proxy_headers": 3},
    "socks": {"proxy": "socks5://127.0.0.1:1"},
    "sock": {"sock": object()},
    "origin": {"origin": "a\nb"},
    "user agent": {"user_agent_header": "a\nb"},
    "subprotocols": {"subprotocols": ["a b"]},
    "subprotocols that are none": {"subprotocols": [3]},
}


@pytest.mark.parametrize("case", OPTIONS)
async def test_options(case: str) -> None:
    uri = ("wss" if case == "ssl" else "ws") + "://127.0.0.1:1/"
    with anyio.fail_after(LIMIT), pytest.raises((ConnectError, ValueError, TypeError)):
        async with wsflow.connect(uri, **OPTIONS[case]):
            pass


@pytest.mark.parametrize("steps", [0, 1, 2, 10])
async def test_the_task_that_connects_is_cancelled_from_outside(steps: int) -> None:
    """As a library may do, or ``asyncio.run`` at its end."""
    listening = socket.create_server(("127.0.0.1", 0))  # which answers nothing
    port = listening.getsockname()[1]

    async def interrupt() -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            for task in asyncio.all_tasks(event_loop()):
                if task.get_name() == "wsflow connecting":
                    for _ in range(steps):
                        await anyio.lowlevel.checkpoint()
                    task.cancel()
                    return

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(interrupt)
        with anyio.fail_after(LIMIT), pytest.raises(RuntimeError, match="cancelled from outside"):
            async with wsflow.connect(f"ws://127.0.0.1:{port}/"):
                pass
    listening.close()


async def test_a_when_that_is_no_exception() -> None:
    def when(end: object) -> bool:
        raise Gone("when")

    with anyio.fail_after(LIMIT), pytest.raises(Gone, match="when"):
        await run_client(server(), NOWHERE, reconnect=Reconnect(when=when))


async def test_a_lifespan_that_raises_no_exception() -> None:
    router = server()

    @router.lifespan
    async def life() -> AsyncIterator[None]:
        raise Gone("life")
        yield

    with anyio.fail_after(LIMIT), pytest.raises(Gone, match="life"):
        await run_client(router, NOWHERE, reconnect=False)
