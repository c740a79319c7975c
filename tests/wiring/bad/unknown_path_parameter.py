"""Path parameters that no template names."""

from typing import Annotated

from wsflow import Router, Topic

app = Router("/chat/{room}")


@app.on_connect
async def enter(rom: str, news: Annotated[Topic[str], "news.{rom}"]) -> None: ...


@app.consumer
async def say(message: str, count) -> None: ...


bare = Router("/bare")
app.include(bare)


@bare.consumer
async def shout(message: str, level: int) -> None: ...
