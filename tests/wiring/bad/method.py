"""A method without its object, and a router that is included twice."""

from wsflow import Router


class Chat:
    app = Router("/")

    @app.consumer
    async def say(self, message: str) -> None: ...

    @app.producer
    async def tick(self) -> None: ...

    @app.lifespan
    async def set_up(self) -> None: ...

    @app.on_connect
    async def enter(self) -> None: ...

    @app.on_message
    async def count(self) -> None: ...

    @app.on_disconnect
    async def leave(self) -> None: ...

    @app.on_error
    async def fail(self, error: ValueError) -> None: ...


app = Chat.app
part = Router("/part")
app.include(part)
app.include(part)


@part.consumer
async def echo(message: str) -> None: ...
