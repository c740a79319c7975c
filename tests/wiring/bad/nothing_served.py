"""An app that serves no path."""

from wsflow import Router

app = Router("/")


@app.on_connect
async def enter() -> None: ...
