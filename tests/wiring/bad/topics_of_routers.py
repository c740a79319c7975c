"""What a Router cannot declare as a topic."""

from typing import Annotated

from wsflow import Router, Topic, TopicName

app = Router(
    "/",
    topics=[
        str,
        TopicName("room.{room}"),
        Topic[str],
        Annotated[Topic[str], "news.{"],
        Annotated[Topic[str], TopicName("a", backlog=0)],
        Annotated[Topic[complex], "numbers"],
        Annotated[Topic[str], TopicName("b", presence=complex)],
    ],
)


@app.consumer
async def say(message: str) -> None: ...
