"""Fields that cannot carry an event id, and types with one tag."""

from dataclasses import dataclass
from typing import Annotated

import msgspec

from wsflow import EventId, Router, Topic


class Number(msgspec.Struct, tag="number"):
    id: Annotated[int, EventId()] = 0


class Forgot(msgspec.Struct, tag="forgot"):
    id: Annotated[str, EventId] = ""


@dataclass
class Twice:
    id: Annotated[str, EventId()] = ""
    other: Annotated[str | None, EventId()] = None


class Note(msgspec.Struct, tag="note"):
    text: str


class Remark(msgspec.Struct, tag="note"):
    text: str


app = Router("/", topics=[Annotated[Topic[Twice], "twice"], Annotated[Topic[Note | Remark], "n"]])


@app.consumer
async def number(message: Number) -> None: ...


@app.consumer
async def note(message: Note, topic: Annotated[Topic[Forgot], "forgot"]) -> None: ...


@app.consumer
async def remark(message: Remark) -> None: ...
