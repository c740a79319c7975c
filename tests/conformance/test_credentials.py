"""Credentials over each transport, with the clients that the suite of transports has."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.auth.users import KEY, OTHER, User, app_of, bearer, token
from wsflow import Connection, Credential, Router
from wsflow.auth import Bearer, Ticket
from wsflow.testing.conformance.transports import Refused

SAY = json.dumps({"type": "say", "text": "hi"})
APP = app_of(Bearer(User, key=KEY))


def auth(value: str) -> str:
    return json.dumps({"type": "$auth", "token": value})


def briefly(**options: Any) -> Router:
    async def renew(value: str) -> Credential:
        raise AssertionError

    app = Router("/")

    @app.on_connect
    async def enter(connection: Connection) -> None:
        connection.set_credential(Credential(identity="ada", renew=renew, **options))

    @app.consumer
    async def hear(message: str) -> None: ...

    return app


async def test_ways_in(serving: Any) -> None:
    async with serving(APP) as wire:
        async with wire.connect("/", bearer(token())) as client:
            await client.send(SAY)
            assert json.loads(await client.receive())["text"] == "ada: hi"
        async with wire.connect("/", None, ["wsflow.json", f"bearer.{token()}"]) as client:
            await client.send(SAY)
            assert json.loads(await client.receive()) == {"type": "$auth"}
            assert json.loads(await client.receive())["text"] == "ada: hi"
        async with wire.connect("/") as client:
            for message in (auth(token()), SAY, SAY):  # before anything is answered
                await client.send(message)
            assert json.loads(await client.receive()) == {"type": "$auth"}
            for _ in range(2):
                assert json.loads(await client.receive())["text"] == "ada: hi"


async def test_ways_out(serving: Any) -> None:
    async with serving(APP, open_timeout=0.2) as wire:
        with pytest.raises(Refused) as refused:
            async with wire.connect("/", bearer(token(key=OTHER))):
                raise AssertionError
        assert refused.value.status == 401
        assert refused.value.headers["WWW-Authenticate"].startswith("Bearer error=")
        for message in (SAY, auth("x"), b"\x00"):
            async with wire.connect("/") as client:
                await client.send(message)
                assert (await client.closed())[0] == 4401
        async with wire.connect("/") as client:
            assert await client.closed() == (4401, "no credential has come in time")
        async with wire.connect("/") as client:
            await client.vanish()
        async with wire.connect("/", bearer(token())) as client:
            await client.send('{"type": "ban", "name": "eve"}')
            assert await client.closed() == (4403, "forbidden")


async def test_a_ticket(serving: Any) -> None:
    ticket = Ticket(User, key=KEY)
    target = f"/?ticket={ticket.issue(User('ada'))}"
    async with serving(app_of(ticket)) as wire:
        async with wire.connect(target) as client:
            await client.send(SAY)
            assert json.loads(await client.receive())["text"] == "ada: hi"
        with pytest.raises(Refused):
            async with wire.connect(target):
                raise AssertionError


@pytest.mark.parametrize("options", [{"expires_in": 0.05, "grace": 0.05}, {"expires_in": 0}])
async def test_its_end(serving: Any, options: dict[str, Any]) -> None:
    async with serving(briefly(**{"grace": 0, **options})) as wire, wire.connect("/") as client:
        assert await client.closed() == (4401, "the credential has expired")


async def test_its_renewal(serving: Any) -> None:
    async with serving(APP) as wire:
        async with wire.connect("/", bearer(token(seconds=100))) as client:
            await client.send(auth(token(seconds=1000)))
            assert 990 < json.loads(await client.receive())["expires_in"] <= 1000
            await client.send(auth(token("bob")))
            assert (await client.closed())[0] == 4403
        async with wire.connect("/", bearer(token(seconds=100))) as client:
            await client.send(auth(token(key=OTHER)))
            assert (await client.closed())[0] == 4401
