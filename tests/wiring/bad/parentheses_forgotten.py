"""A class where an instance belongs, and a factory that is not called."""

from typing import Annotated

from wsflow import Query, Router, Topic, TopicName


def more() -> Router: ...


app = Router("/")
app.include(more)
app.include("more")


@app.on_connect
async def enter(name: Annotated[str, Query], news: Annotated[Topic[str], TopicName]) -> None: ...


@app.consumer
async def say(message: str) -> None: ...
