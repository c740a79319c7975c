"""A Router among others that serves no path."""

from wsflow import Router

app = Router("/")
rooms = Router("/rooms/{room}")
app.include(rooms)


@app.consumer
async def take(message: str) -> None: ...


@rooms.on_connect
async def enter(room: str) -> None: ...
