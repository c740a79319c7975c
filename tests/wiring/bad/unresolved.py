"""Annotations that name what is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsflow import Router

if TYPE_CHECKING:
    from somewhere import Database

app = Router("/")


@app.consumer
async def say(message: str, db: Database) -> None: ...


@app.lifespan
async def database() -> Database: ...
