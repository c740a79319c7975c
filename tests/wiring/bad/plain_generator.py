"""A scope function that is a plain generator."""

from wsflow import Router

app = Router("/")


@app.on_connect
def enter():
    yield


@app.consumer
async def say(message: str) -> None: ...
