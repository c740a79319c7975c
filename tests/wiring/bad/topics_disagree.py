"""One topic name with two types, and with two sets of options."""

from typing import Annotated

from wsflow import Router, Topic, TopicName

app = Router("/{a}/{b}", topics=[Annotated[Topic[float], "news"]])


@app.on_connect
async def enter(
    one: Annotated[Topic[str], "news"],
    other: Annotated[Topic[int], "news"],
    short: Annotated[Topic[str], TopicName("log", history=1)],
    long: Annotated[Topic[str], TopicName("log", history=9)],
    any_room: Annotated[Topic[str], TopicName("room.{a}", history=1)],
    same_room: Annotated[Topic[str], "room.{b}"],
    one_room: Annotated[Topic[int], TopicName("room.lobby", history=1)],
) -> None: ...


@app.consumer
async def say(message: str) -> None: ...
