"""Connect Four for two: the first player gets a key, the second joins with it.

Run it: ``wsflow run examples.tutorial:app``, connect to ``/play``, and give the key that comes to a
friend, who connects to ``/play?join=KEY``.
"""

import secrets
from collections.abc import AsyncIterator
from typing import Annotated, Literal

import msgspec

from wsflow import Connection, Query, Registry, Reject, Router, Sends

Color = Literal["red", "yellow"]
COLUMNS, ROWS = 7, 6


class Play(msgspec.Struct, tag="play"):
    column: int


class Invite(msgspec.Struct, tag="invite"):
    join: str


class Played(msgspec.Struct, tag="played"):
    player: Color
    column: int
    row: int


class Won(msgspec.Struct, tag="won"):
    player: Color


class Refused(msgspec.Struct, tag="refused"):
    why: str


class IllegalMove(Exception):
    pass


class Game:
    """The board and whose turn it is."""

    def __init__(self) -> None:
        self.key = secrets.token_urlsafe(9)
        self.discs: dict[tuple[int, int], Color] = {}
        self.turn: Color = "red"
        self.winner: Color | None = None
        self.full = False

    def play(self, player: Color, column: int) -> int:
        """Drop a disc; the row in which it lands."""
        if self.winner is not None:
            raise IllegalMove("the game is over")
        if player != self.turn:
            raise IllegalMove("it is not your turn")
        if not 0 <= column < COLUMNS:
            raise IllegalMove("there is no such column")
        row = sum(1 for x, _ in self.discs if x == column)
        if row == ROWS:
            raise IllegalMove("this column is full")
        self.discs[column, row] = player
        self.turn = "yellow" if player == "red" else "red"
        if any(self.line(column, row, *step) >= 4 for step in ((1, 0), (0, 1), (1, 1), (1, -1))):
            self.winner = player
        return row

    def line(self, column: int, row: int, dx: int, dy: int) -> int:
        """How many discs of one color stand in line with this one."""
        color, count = self.discs[column, row], 1
        for sign in (1, -1):
            x, y = column + sign * dx, row + sign * dy
            while self.discs.get((x, y)) == color:
                count, x, y = count + 1, x + sign * dx, y + sign * dy
        return count


class Games(dict[str, Game]):
    """The games that are being played, by key."""


class Seat(msgspec.Struct):
    game: Game
    color: Color


app = Router("/play")


@app.lifespan
async def games() -> Games:
    return Games()


@app.on_connect
async def sit(
    games: Games,
    registry: Registry,
    connection: Annotated[Connection, Sends(Invite, Played, Won)],
    join: Annotated[str, Query()] = "",
) -> AsyncIterator[Seat]:
    if join:
        seat = Seat(second_seat(games, join), "yellow")
    else:
        seat = Seat(Game(), "red")
        games[seat.game.key] = seat.game
    await registry.topic(f"game.{seat.game.key}", Played, Won).join()
    if seat.color == "red":
        await connection.send(Invite(seat.game.key))
    for (column, row), color in seat.game.discs.items():
        await connection.send(Played(color, column, row))
    yield seat
    if seat.color == "red":
        del games[seat.game.key]


def second_seat(games: Games, key: str) -> Game:
    if key not in games:
        raise Reject(404, "there is no such game")
    if games[key].full:
        raise Reject(409, "this game has two players already")
    games[key].full = True
    return games[key]


@app.consumer
async def play(message: Play, seat: Seat, registry: Registry) -> None:
    row = seat.game.play(seat.color, message.column)
    topic = registry.topic(f"game.{seat.game.key}", Played, Won)
    await topic.publish(Played(seat.color, message.column, row))
    if seat.game.winner is not None:
        await topic.publish(Won(seat.game.winner))


@app.on_error
async def refuse(error: IllegalMove) -> Refused:
    return Refused(str(error))  # the player is told, and the game goes on
