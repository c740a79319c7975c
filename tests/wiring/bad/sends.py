"""What is said to be sent, and cannot be."""

from typing import Annotated

from wsflow import Connection, Router, Sends

app = Router("/")


@app.on_connect
async def enter(
    one: Annotated[Connection, Sends()],
    two: Annotated[Connection, Sends],
    three: Annotated[Connection, Sends(Router)],
    four: Annotated[str, Sends(str)],
) -> None: ...


@app.consumer
async def say(message: str) -> None: ...
