"""Paths that are malformed, a Router within itself, a codec that is not there."""

from wsflow import Router


async def say(message: str) -> None: ...


app = Router("/a")
app.consumer(say)
broken = Router("/x{b}")
twice = Router("/{a}/{a}")
query = Router("/x?y=1")
reserved = Router("/{class}")
codec = Router("/codec", codec="xml")  # type: ignore[arg-type]
app.include(twice)
app.include(broken)
app.include(query)
app.include(reserved)
query.consumer(say)
reserved.consumer(say)
broken.consumer(say)
twice.consumer(say)
app.include(codec)
app.include(app)


@codec.consumer
async def shout(message: str) -> None: ...
