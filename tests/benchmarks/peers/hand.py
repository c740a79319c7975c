"""``websockets``, by hand: the plain handler, and the documented consumer-and-producer pattern."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from tests.benchmarks.model import PUSH, answer


async def echo(connection: Any) -> None:
    async for message in connection:
        await connection.send(message)


async def typed(connection: Any) -> None:
    async for message in connection:
        await connection.send(answer(message), text=True)


async def push(connection: Any) -> None:
    await connection.recv()
    while True:
        await connection.send(PUSH)


async def both(connection: Any, reply: Any) -> None:
    """The pattern: two tasks, and the first to finish ends the other."""
    outgoing: asyncio.Queue[Any] = asyncio.Queue()

    async def consumer() -> None:
        async for message in connection:
            await outgoing.put(reply(message))

    async def producer() -> None:
        while True:
            await connection.send(await outgoing.get(), text=True)

    tasks = [asyncio.create_task(consumer()), asyncio.create_task(producer())]
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()


async def main(name: str, port: int) -> None:
    library: Any
    if name == "picows-websockets":
        import picows.websockets.asyncio.server as library
    else:
        import websockets.asyncio.server as library
    connections: set[Any] = set()

    async def everybody(connection: Any) -> None:
        connections.add(connection)
        try:
            async for message in connection:
                library.broadcast(connections, message)
        finally:
            connections.discard(connection)

    async def full(connection: Any) -> None:
        await both(connection, lambda message: message)

    plain = {"/echo": echo, "/json": typed, "/bcast": everybody, "/push": push, "/full": full}
    pattern = {**plain, "/echo": full, "/json": lambda connection: both(connection, answer)}
    handlers = pattern if name == "pattern" else plain

    async def handler(connection: Any) -> None:
        path = connection.request.path
        await handlers[path.decode() if isinstance(path, bytes) else path](connection)

    async with library.serve(handler, "127.0.0.1", port):
        await asyncio.Future()


if __name__ == "__main__":
    logging.getLogger("websockets.server").setLevel(logging.ERROR)
    if sys.argv[1].endswith("+uvloop"):
        import uvloop

        uvloop.run(main(sys.argv[1].removesuffix("+uvloop"), int(sys.argv[2])))
    else:
        asyncio.run(main(sys.argv[1], int(sys.argv[2])))
