"""A bot in the chat: it greets newcomers, answers ``!time``, and reconnects.

Run the chat: ``wsflow run examples.chat:app``. Run the bot:
``wsflow client examples.bot:bot "ws://127.0.0.1:8000/chat/lobby?name=bot"``
"""

import datetime
from typing import Annotated

from examples.chat import Came, Said, Say, Tick, Went
from wsflow import Connection, End, Query, Router

bot = Router("/chat/{room}")


@bot.on_connect
async def hello(room: str) -> None:
    print(f"going to {room}")


@bot.consumer
async def greet(message: Came, name: Annotated[str, Query()]) -> Say | None:
    return Say(f"hello, {message.who}") if message.who != name else None


@bot.consumer
async def answer(message: Said, connection: Connection) -> None:
    if message.text == "!time":
        await connection.send(Say(f"it is {datetime.datetime.now():%H:%M}"))


@bot.consumer
async def ignore(message: Went | Tick) -> None: ...


@bot.on_disconnect
async def bye(end: End) -> None:
    print(f"the connection ended: {end}")
