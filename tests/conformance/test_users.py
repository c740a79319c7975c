"""A user that is disconnected, on each transport: the peer gets one close frame, in order."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
import pytest

from wsflow import Connection, Query, Router


@pytest.mark.parametrize("place", ["unknown", "identified", "asked", "open", "busy"])
async def test_a_user_is_disconnected(serving: Any, place: str) -> None:
    """While it is not known yet whose the connection is, or its handshake is not answered; while it
    waits for a first message; when it is open; and while it handles a message."""
    app = Router("/")
    there, go = anyio.Event(), anyio.Event()

    async def wait(here: str) -> None:
        if here == place:
            there.set()
            await go.wait()

    @app.on_connect
    async def enter(connection: Connection, name: Annotated[str, Query()]) -> None:
        await wait("unknown")
        connection.identify(name)
        await wait("identified")
        if place == "asked":
            there.set()
            await connection.ask_credential()

    @app.producer
    async def opened(connection: Connection) -> None:
        if place == "open":
            there.set()
        await anyio.sleep_forever()

    @app.consumer
    async def handle(message: str) -> None:
        await wait("busy")

    with anyio.fail_after(20):
        async with serving(app) as wire, anyio.create_task_group() as tasks:
            codes: list[tuple[int, str]] = []

            async def peer() -> None:
                async with wire.connect("/?name=ada") as client:
                    if place == "busy":
                        await client.send('"hi"')
                    codes.append(await client.closed())

            tasks.start_soon(peer)
            await there.wait()
            ada = wire.server.registry.user("ada")
            await ada.disconnect(4401, "logged out")
            await ada.disconnect(4000, "once more")
            if place == "unknown":  # the last word counts
                go.set()
            while not codes:
                await anyio.lowlevel.checkpoint()
            late = place == "unknown"
            assert codes == [(4000, "once more") if late else (4401, "logged out")]
            while wire.server._app.sessions:
                await anyio.lowlevel.checkpoint()
            assert not wire.server._app.directory.channels.users
