"""Topics without a name, or with one that cannot be."""

from typing import Annotated

from wsflow import Router, Topic, TopicName

app = Router("/chat/{room}")


@app.on_connect
async def enter(
    nameless: Topic[str],
    empty: Annotated[Topic[str], ""],
    broken: Annotated[Topic[str], "news.{room"],
    bare: Annotated[Topic[str], "news.{}"],
    formatted: Annotated[Topic[str], "news.{room:d}"],
    touching: Annotated[Topic[str], "news.{room}-{room}"],
    doubled: Annotated[Topic[str], "news.{{room}}"],
    halved: Annotated[Topic[str], TopicName("g", history=1.5)],  # type: ignore[arg-type]
    endless: Annotated[Topic[str], TopicName("h", history=1, max_age=float("inf"))],
    negative: Annotated[Topic[str], TopicName("a", history=-1)],
    ageless: Annotated[Topic[str], TopicName("c", max_age=60)],
    boundless: Annotated[Topic[str], TopicName("e", history_bytes=1000)],
    owing: Annotated[Topic[str], TopicName("f", history=1, history_bytes=-1)],
    unknown: Annotated[Topic[str], TopicName("d", presence=complex)],
    policy: Annotated[Topic[str], TopicName("b", when_full="wait")],  # type: ignore[arg-type]
    alien: Annotated[Topic[complex], "numbers"],
) -> None: ...


@app.consumer
async def say(message: str) -> None: ...
