"""One topic name with two types, and with two sets of options."""

from typing import Annotated

from wsflow import Router, Topic, TopicName

app = Router("/")


@app.on_connect
async def enter(
    one: Annotated[Topic[str], "news"],
    other: Annotated[Topic[int], "news"],
    short: Annotated[Topic[str], TopicName("log", history=1)],
    long: Annotated[Topic[str], TopicName("log", history=9)],
) -> None: ...


@app.consumer
async def say(message: str) -> None: ...
