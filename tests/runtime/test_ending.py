"""How an end comes about, and how it is told."""

from __future__ import annotations

from wsflow import Reject, Router
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
