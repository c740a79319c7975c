"""Cursors on a board: each page sees where the others point, and who comes and goes.

Run it: ``wsflow run examples.cursors:app``. Connect twice, to the same board:
``wsflow connect "ws://127.0.0.1:8000/boards/plan?name=ada" --app examples.cursors:app``, and type
``move to=[0.5,0.2]``, or ``click at=[0.5,0.2]``.

Where a cursor is belongs to the presence of its page. So newcomers see all cursors, who has gone
has none, and a page that is slow is sent fewer positions, but the latest of each cursor. A click is
a message: nobody misses one.
"""

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec

from wsflow import Connection, MemberJoined, MemberLeft, Query, Router, Topic, TopicName

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=24)]
Part = Annotated[float, msgspec.Meta(ge=0, le=1)]  # of the width or the height of the board
Place = tuple[Part, Part]


class Move(msgspec.Struct, tag="move"):
    to: Place


class Click(msgspec.Struct, tag="click"):
    at: Place


class Cursor(msgspec.Struct, tag="cursor"):
    """Somebody has come, or has moved."""

    id: str
    name: str
    at: Place | None  # None until he moves for the first time


class Clicked(msgspec.Struct, tag="clicked"):
    id: str
    at: Place


class Gone(msgspec.Struct, tag="gone"):
    id: str


class Page(msgspec.Struct):
    name: str
    at: Place | None = None


Board = Annotated[Topic[Clicked], TopicName("board.{board}", presence=Page)]

app = Router("/boards/{board}")


@app.on_connect
async def enter(board: Board, name: Annotated[Name, Query()]) -> Page:
    page = Page(name)
    await board.join(page)
    return page


@app.consumer(rate="30/s")  # a mouse says more than that: its page sends the latest
async def move(message: Move, page: Page, board: Board) -> None:
    await board.join(Page(page.name, message.to))  # in place of the presence so far


@app.consumer
async def click(message: Click, board: Board, connection: Connection) -> None:
    await board.publish(Clicked(connection.id, message.at), exclude=connection)


@app.producer
async def watch(board: Board, connection: Connection) -> AsyncIterator[Cursor | Gone]:
    async for change in board.watch_members():
        match change:
            case MemberJoined(member) if member.id != connection.id:
                yield Cursor(member.id, member.presence.name, member.presence.at)
            case MemberLeft(member):
                yield Gone(member.id)
