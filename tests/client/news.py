"""A server that is killed, in a process of its own: ``wsflow run tests.client.news:app``."""

from __future__ import annotations

from typing import Annotated

import msgspec

from wsflow import EventId, Query, Router, Topic, TopicName


class News(msgspec.Struct, tag="news"):
    number: int
    id: Annotated[str, EventId()] = ""


app = Router("/news")


@app.on_connect
async def join(
    topic: Annotated[Topic[News], TopicName("news", history=100_000)],
    after: Annotated[str, Query()] = "",
) -> None:
    joined = await topic.join(after=after)
    assert joined.recovered or not after


@app.consumer
async def nothing(message: News) -> None: ...
