"""One path served by two Routers."""

from wsflow import Router

app = Router("/chat")
one = Router("/{room}")
other = Router("/{name}")


@one.consumer
async def say(message: str) -> None: ...


@other.consumer
async def shout(message: str) -> None: ...


app.include(one)
app.include(other)
