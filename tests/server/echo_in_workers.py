"""An app for several processes."""

from __future__ import annotations

from wsflow import Router

app = Router("/")


@app.consumer
async def echo(message: str) -> str:
    return message
