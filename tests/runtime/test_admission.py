"""Who is let in."""

from __future__ import annotations

from wsflow import Router
from wsflow.testing import connect


async def echo(message: str) -> str:
    return message


async def test_a_path_that_goes_further_down() -> None:
    app = Router("/a/b")
    app.consumer(echo)
    async with connect(app, "/a") as peer:
        assert peer.rejected.status == 404
