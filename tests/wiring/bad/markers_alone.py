"""Markers in the place of a type, as text too, and on a consumer's message."""

from __future__ import annotations

from wsflow import Cookie, Header, Message, Query, Requires, Router, Sends, TopicName

app = Router("/")


@app.on_connect
async def enter(
    name: Query,
    token: Header(),
    session: Cookie("s") = None,
    topic: TopicName("news") = None,
) -> None: ...


@app.on_message
async def around(message: Message, user: Requires("admin"), sent: Sends(int)) -> None: ...


@app.consumer
async def say(message: Query()) -> None: ...
