from __future__ import annotations

from collections.abc import AsyncIterator

from anyio.abc import TaskGroup

from wsflow import Connection, End, Router

app = Router("/{room}")


class User:
    pass


@app.on_connect
async def sign_in() -> User:
    return User()


@app.get("/connected")
async def connected(connection: Connection) -> str:
    return connection.id


@app.get("/tasks")
async def tasks(group: TaskGroup) -> None: ...


@app.get("/user")
async def user(user: User) -> None: ...


@app.get("/end")
async def end(end: End) -> None: ...


@app.get("/twice")
async def first() -> None: ...


@app.get("twice/")
async def second() -> None: ...


@app.get("/{room}")
async def named_twice(room: str) -> None: ...


@app.get("/items")
async def items() -> AsyncIterator[str]:
    yield "item"


@app.get  # type: ignore[arg-type]
async def without_path() -> None: ...


@app.get("https://example.com/page")
async def elsewhere() -> None: ...


@app.get("/plain")  # type: ignore[type-var]
def plain() -> str:
    return "page"
