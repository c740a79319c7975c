"""on_error functions without an error, and two for one."""

from wsflow import Router

app = Router("/")


@app.on_error
async def nothing() -> None: ...


@app.on_error
async def text(error: str) -> None: ...


@app.on_error
async def one(error: ValueError) -> None: ...


@app.on_error
async def other(error: ValueError | TypeError) -> None: ...


@app.consumer
async def say(message: str) -> None: ...
