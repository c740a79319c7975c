"""A proxy between an app and its broker, that fails on demand."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """Passes bytes on, or swallows them.

    Attributes:
        port: where it listens.
        swallowing: whether what comes, in either direction, vanishes: connections stay open and
            silent, as behind a firewall that drops packets.
        deaf: whether what the broker says vanishes.
        flowing: while it is not set, nothing that the broker says is read: the client is slow.
        sending: while it is not set, nothing that the client says is read: it comes late. Another
            event in its place is for connections that are made from then on.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self.swallowing = False
        self.deaf = False
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.sending = asyncio.Event()
        self.sending.set()
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, there}
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass(reader, there, self.sending))
                tasks.create_task(self._pass(there_reader, writer, self.flowing, answers=True))
        finally:
            for each in (writer, there):
                each.close()
                self._writers.discard(each)

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        flowing: asyncio.Event,
        answers: bool = False,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await flowing.wait()
                if not self.swallowing and not (answers and self.deaf):
                    writer.write(data)
                    await writer.drain()
        if not self.swallowing:
            writer.close()

    def reset(self) -> None:
        """Cut off every connection, without a word."""
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def proxy(target: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """A proxy to a port, as long as the block runs. With ``tls`` its clients speak TLS."""
    between = Proxy(target)
    server = await asyncio.start_server(between._serve, "127.0.0.1", 0, ssl=tls)
    between.port = server.sockets[0].getsockname()[1]
    yield between
    between.swallowing = False
    between.flowing.set()
    between.sending.set()
    server.close()
    between.reset()
    while between._writers:
        await asyncio.sleep(0.005)
