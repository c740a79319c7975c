"""What comes in one read with the end of the connection: nothing of it starts after the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from tests.loops import anyio_backend as anyio_backend
from tests.raw import frame, raw, request
from wsflow import Call, Connection, Router, Stream
from wsflow.server import Server, Settings, serve


class Plain(msgspec.Struct, tag="plain"):
    pass


class Parallel(msgspec.Struct, tag="parallel"):
    pass


class Keyed(msgspec.Struct, tag="keyed"):
    key: int = 1


class Iterated(msgspec.Struct, tag="iterated"):
    pass


class Asked(Call[int], tag="asked"):
    pass


class Streamed(Stream[int], tag="streamed"):
    pass


class Quit(msgspec.Struct, tag="quit"):
    pass


class App:
    """Handlers that never end by themselves; it knows those that began, and those that run."""

    def __init__(self) -> None:
        self.router = Router("/")
        self.running: list[str] = []
        self.begun: list[str] = []
        self.late: list[str] = []

        async def stay(name: str, connection: Connection) -> None:
            self.begun.append(name)
            self.running.append(name)
            if connection.end is not None and connection.end.cause not in ("peer", "vanished"):
                self.late.append(name)
            try:
                await anyio.sleep_forever()
            finally:
                self.running.remove(name)

        @self.router.consumer
        async def plain(message: Plain, connection: Connection) -> None:
            await stay("plain", connection)

        @self.router.consumer(concurrency=50)
        async def parallel(message: Parallel, connection: Connection) -> None:
            await stay("parallel", connection)

        @self.router.consumer(concurrency=50, key="key")
        async def keyed(message: Keyed, connection: Connection) -> None:
            await stay("keyed", connection)

        @self.router.consumer
        async def iterated(messages: AsyncIterator[Iterated], connection: Connection) -> None:
            async for _ in messages:
                await stay("iterated", connection)

        @self.router.consumer
        async def asked(message: Asked, connection: Connection) -> int:
            await stay("asked", connection)
            return 1

        @self.router.consumer(concurrency=50)
        async def streamed(message: Streamed, connection: Connection) -> AsyncIterator[int]:
            await stay("streamed", connection)
            yield 1

        @self.router.consumer(concurrency=2)
        async def leave(message: Quit, connection: Connection) -> None:
            await connection.close()


def encoded(message: Any) -> bytes:
    return frame(msgspec.json.encode(message))


MESSAGES = {
    "plain": encoded(Plain()),
    "parallel": encoded(Parallel()),
    "keyed": encoded(Keyed()),
    "iterated": encoded(Iterated()),
    "asked": frame(b'{"type":"$call","id":1,"message":{"type":"asked"}}'),
    "streamed": frame(b'{"type":"$call","id":1,"items":9,"message":{"type":"streamed"}}'),
}

ENDS = {
    "malformed": frame(b"", 3),
    "no text": frame(b"\xff"),
    "no message": frame(b'{"type":"nothing"}'),
    "no JSON": frame(b"{"),
    "too large": frame(b"x" * 1001),
    "close frame": frame(b"\x03\xe8", 8),
    "a bad close frame": frame(b"\x00\x00", 8),
    "closed by a handler": encoded(Quit()),
}


def tasks() -> Sequence[object]:
    """The tasks that run, but those of the event loop."""
    every = anyio.get_running_tasks()
    return [each for each in every if each.name != "wsflow event loop"]


def quick(**values: Any) -> Settings:
    return Settings(port=0, **{"close_timeout": 0.2, "max_message_size": 1000, **values})


async def gone(server: Server) -> None:
    while server._transports._open or server._app.sessions:
        await anyio.sleep(0.001)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("warm", [False, True], ids=["first", "later"])
async def test_nothing_starts_after_the_end(kind: str, end: str, warm: bool) -> None:
    app = App()
    base = len(tasks())
    async with serve(app.router, quick()) as server:
        alone = len(tasks())
        async with raw(server) as client:
            await client.opened()
            if warm:  # a host that waits for messages, and one message at work
                client.send(MESSAGES["parallel"])
                while not app.running:
                    await anyio.sleep(0.001)
            client.send(MESSAGES[kind] * (1 if kind in ("asked", "streamed") else 4) + ENDS[end])
            await client.read()
            client.writer.close()
            await gone(server)
        await anyio.lowlevel.checkpoint()
        assert app.late == []
        assert app.running == []
        assert server.left_behind == []
        assert not server.overran or end == "close frame"  # whose messages are handled, for 0.2 s
        while len(tasks()) > alone:  # those that end in this turn of the loop
            await anyio.sleep(0.001)
    while len(tasks()) > base:
        await anyio.sleep(0.001)


@pytest.mark.parametrize("ending", ["fin", "reset"])
@pytest.mark.parametrize("kind", MESSAGES)
async def test_a_burst_and_the_end_of_the_wire(kind: str, ending: str) -> None:
    app = App()
    async with serve(app.router, quick()) as server:
        async with raw(server) as client:
            client.send(request() + MESSAGES[kind] + MESSAGES["parallel"] * 9 + ENDS["no JSON"])
            if ending == "fin":
                client.writer.write_eof()
            else:
                client.reset()
            await gone(server)
        assert app.late == []
        assert app.running == []
        assert server.left_behind == []
