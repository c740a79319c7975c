"""The client of ``docs/protocol.md``, in Node's WebSocket, against the calls example."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as websocket_server
from websockets.typing import Subprotocol

from examples import calls, chat
from tests.node import program
from wsflow import Close, Router
from wsflow.server import Settings
from wsflow.server.serve import serve

WSFLOW = Subprotocol("wsflow.json")
PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"

USE = """
const socket = wsflow(process.argv[1]);
socket.onready = async () => {
  console.log((await socket.call({type: "divide", a: 1, b: 3})).value);
  await socket.call({type: "divide", a: 1, b: 0}).catch(error => console.log(error.message));
  const primes = [];
  await socket.call({type: "primes", upto: 12}, prime => primes.push(prime));
  console.log(primes.join());
  await socket.call({type: "nothing"}).catch(error => console.log(error.code));
  const last = socket.call({type: "primes", upto: 1e9}).catch(error => console.log(error.message));
  socket.close();
  await last;
};
"""


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio"


ENDS = """
const socket = wsflow(process.argv[1], Number(process.argv[2]));
socket.onready = () => console.log("ready");
socket.onended = ({code, reason, status, again}) => console.log(code, reason, status, again);
"""


async def said(use: str, *arguments: str) -> list[str]:
    """What a script with the documented client prints."""
    code = re.search(r"^```javascript\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert code is not None
    node = await asyncio.create_subprocess_exec(
        *(program("node"), "--experimental-websocket", "-e", code[1] + use, *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(node.communicate(), 60)
    return out.decode().splitlines()


async def test_the_documented_client() -> None:
    async with serve(calls.app, Settings(port=0)) as server:
        assert await said(USE, f"ws://127.0.0.1:{server.port}/") == [
            "0.333333",
            "nothing can be divided by 0",
            "2,3,5,7,11",
            "unknown",
            "the connection ended",
        ]


async def test_it_sees_a_refusal() -> None:
    async with serve(chat.app, Settings(port=0)) as server:
        lines = await said(ENDS, f"ws://127.0.0.1:{server.port}/chat/lobby", "1000")
    assert lines == ["4401 a name is needed 401 false"]


async def test_it_notices_a_silent_server() -> None:
    """And not one that answers: that is left to close, after many beats."""
    pings: list[Any] = []

    def answer(connection: ServerConnection) -> Any:
        async def serve() -> None:
            async for message in connection:
                pings.append(message)
                if not silent and len(pings) < 3:
                    await connection.send('{"type": "$pong"}')
                elif not silent:
                    return

        return serve()

    silent = True
    async with websocket_server(answer, "127.0.0.1", 0, subprotocols=[WSFLOW]) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert (await said(ENDS, uri, "50"))[-1] == "4000 the server is silent null true"
        pings.clear()
        silent = False
        assert await said(ENDS, uri, "1000") == ["ready", "1000  null false"]
        assert pings == ['{"type":"$ping"}'] * 3


@pytest.mark.parametrize(
    ("code", "again"),
    [(1000, False), (1012, True), (1008, False), (3000, False), (4000, True), (4403, False)],
)
async def test_it_says_whether_to_come_back(code: int, again: bool) -> None:
    app = Router("/")

    @app.producer
    async def end() -> AsyncIterator[str]:
        raise Close(code, "so")
        yield ""

    async with serve(app, Settings(port=0)) as server:
        lines = await said(ENDS, f"ws://127.0.0.1:{server.port}/", "1000")
    assert lines[-1] == f"{code} so null {str(again).lower()}"
