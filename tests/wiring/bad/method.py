"""A method without its object, and a router that is included twice."""

from wsflow import Router


class Chat:
    app = Router("/")

    @app.consumer
    async def say(self, message: str) -> None: ...


app = Chat.app
part = Router("/part")
app.include(part)
app.include(part)


@part.consumer
async def echo(message: str) -> None: ...
