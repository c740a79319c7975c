"""Paths that are malformed, a Router within itself, a codec that is not there."""

from wsflow import Router

app = Router("/a/x{b}")
twice = Router("/{a}/{a}")
codec = Router("/codec", codec="xml")  # type: ignore[arg-type]
app.include(twice)
app.include(codec)
app.include(app)


@app.consumer
async def say(message: str) -> None: ...


@codec.consumer
async def shout(message: str) -> None: ...
