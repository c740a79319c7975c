"""wsflow's transport with nothing above it: what its runtime costs is what it adds to this."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from tests.benchmarks.model import answer
from wsflow.addresses import Address
from wsflow.request import Request
from wsflow.server.settings import Settings
from wsflow.transports.base import Nobody, Transport
from wsflow.transports.frames import Found
from wsflow.transports.server import ServerTransport
from wsflow.transports.shared import Shared


class Answers(Nobody):
    """The typed JSON workload, written by hand on the transport."""

    def __init__(self, transport: Transport) -> None:
        self._send = transport.send

    def messages_received(self, messages: Sequence[Found]) -> int:
        for data, _, _ in messages:
            self._send(answer(data), True, False)
        return len(messages)


class Engine:
    """Keeps the transports, and accepts all."""

    def __init__(self) -> None:
        self.limits = Settings()
        self.shared = Shared(asyncio.get_running_loop())
        self.acceptor = self

    def open(self, request: Request, transport: Transport) -> Answers:
        transport.after(0, lambda: transport.accept(None))
        return Answers(transport)

    def requested(self, transport: ServerTransport) -> None: ...
    def closing(self, transport: ServerTransport) -> None: ...
    def closed(self, transport: ServerTransport) -> None: ...
    def refused(self, address: Address | None, target: str, status: int) -> None: ...

    def client(self, address: Address | None, headers: object) -> Address | None:
        return address


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    engine = Engine()
    server = await loop.create_server(
        lambda: ServerTransport(engine, None), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[2] == "uvloop":
        import uvloop

        uvloop.run(main(int(sys.argv[1])))
    else:
        asyncio.run(main(int(sys.argv[1])))
