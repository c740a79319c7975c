"""The client of ``docs/protocol.md``, in Node's WebSocket, against the calls example."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from examples import calls
from wsflow.server import Settings
from wsflow.server.serve import serve

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"

USE = """
const socket = wsflow(process.argv[1]);
socket.onopen = async () => {
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


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
async def test_the_documented_client() -> None:
    code = re.search(r"^```javascript\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert code is not None
    async with serve(calls.app, Settings(port=0)) as server:
        uri = f"ws://127.0.0.1:{server.port}/"
        node = await asyncio.create_subprocess_exec(
            *("node", "--experimental-websocket", "-e", code[1] + USE, uri),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(node.communicate(), 60)
    assert out.decode().splitlines() == [
        "0.333333",
        "nothing can be divided by 0",
        "2,3,5,7,11",
        "unknown",
        "the connection ended",
    ]
