"""A client that takes whatever comes, for the scoreboard's ``wsflow client``."""

from __future__ import annotations

from wsflow import Router

app = Router("/")


@app.consumer
async def take(message: str) -> None:
    """Take it, and that is all."""
