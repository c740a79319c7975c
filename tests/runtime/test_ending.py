"""How an end comes about, and how it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import msgspec
import pytest

from wsflow import (
    Call,
    CallError,
    Close,
    Connection,
    Credential,
    Disconnected,
    Forbidden,
    Reject,
    Router,
)
from wsflow.testing import connect


async def echo(message: str) -> str:
    return message


async def test_a_status_without_a_phrase() -> None:
    app = Router("/")
    app.consumer(echo)

    @app.on_connect
    async def reject() -> None:
        raise Reject(499)

    async with connect(app) as peer:
        assert (peer.rejected.status, peer.rejected.body) == (499, "")


class Ask(Call[int], tag=True):
    """Fails."""


class Say(msgspec.Struct, tag=True):
    """Fails, too."""


async def renewed(token: str) -> Credential:
    raise AGAIN["renewal"]


AGAIN: dict[str, Exception] = {
    "on_connect": Reject(403),
    "forbidden": Forbidden(),
    "close before": Close(4000),
    "on_message": Close(4001),
    "consumer": Close(4002),
    "group": Close(4003),
    "producer": Close(4004),
    "tear-down": Close(4005),
    "call": CallError("no"),
    "forbidden call": Forbidden(),
    "close in a call": Close(4006),
    "renewal": Reject(401),
}


@pytest.mark.parametrize("kind", AGAIN)
async def test_what_is_raised_again_and_again(kind: str) -> None:
    """It collects no frames."""
    app, raised = Router("/"), AGAIN[kind]

    @app.on_connect
    async def enter(connection: Connection) -> AsyncIterator[None]:
        if kind in ("on_connect", "forbidden", "close before"):
            raise raised
        if kind == "renewal":
            credential = Credential(identity="ada", expires_in=100, renew=renewed)
            connection.set_credential(credential)
        yield
        if kind == "tear-down":
            raise raised

    @app.on_message
    async def around() -> AsyncIterator[None]:
        if kind == "on_message":
            raise raised
        yield

    @app.consumer
    async def say(message: Say) -> None:
        if kind == "group":
            async with anyio.create_task_group():
                raise raised
        if kind == "consumer":
            raise raised
        raise Close(4007)

    @app.consumer
    async def ask(message: Ask) -> int:
        await anyio.lowlevel.checkpoint()
        raise raised

    @app.producer
    async def push() -> int:
        if kind == "producer":
            raise raised
        return await anyio.sleep_forever()

    for _ in range(2):
        async with connect(app) as peer:
            if kind == "renewal":
                await peer.send({"type": "$auth", "token": "x"})
            elif "call" in kind:
                with pytest.raises((CallError, Disconnected)):
                    await peer.call(Ask())
            elif kind not in ("on_connect", "forbidden", "close before", "producer"):
                await peer.send(Say())
            if kind not in ("call", "forbidden call"):
                await peer.wait_closed()
        assert raised.__traceback__ is None
