"""What other frameworks inject."""

from typing import Annotated

import fastapi
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket
from websockets.asyncio.server import ServerConnection

from wsflow import Router


class User: ...


def user() -> User:
    return User()


app = Router("/{where}")


@app.consumer
async def say(
    message: str,
    one: Annotated[User, fastapi.Depends(user)],
    two: Annotated[str, fastapi.Header()],
    body: Annotated[str, fastapi.Body()],
    socket: WebSocket,
    request: HTTPConnection,
    connection: ServerConnection,
    state: fastapi.FastAPI,
    three: User = fastapi.Depends(user),  # noqa: B008
    name: str = fastapi.Query("x"),
    where=fastapi.Path(),  # type: ignore[no-untyped-def]  # noqa: B008
) -> None: ...
