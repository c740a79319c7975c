"""Clients that nobody here wrote hold a conversation with ``wsflow run examples.chat:app``."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import picows
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def chat() -> AsyncIterator[str]:
    """The URL of a lobby, served by a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wsflow", "run", "examples.chat:app", "--port", "0"),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    url = ""
    while not url:
        line = (await process.stderr.readline()).decode()
        assert line, "the server did not start"
        if line.strip().startswith("ws://"):
            url = line.strip().replace("{room}", "lobby")
    drained = asyncio.create_task(process.stderr.read())
    yield url
    process.terminate()
    await drained
    assert await process.wait() == 0


def say(text: str) -> str:
    return json.dumps({"type": "say", "text": text})


async def converse(chat: str, name: str, send: Any, receive: Any) -> None:
    """Say something, hear it, hear somebody else, be heard."""
    async with connect(f"{chat}?name=other") as other:
        await send(say(f"I am {name}"))
        heard = await until_said(receive)
        assert heard == {"type": "said", "who": name, "text": f"I am {name}"}
        assert await until_said(other.recv) == heard
        await other.send(say("welcome"))
        assert (await until_said(receive))["text"] == "welcome"


async def until_said(receive: Any) -> dict[str, Any]:
    while True:
        message: dict[str, Any] = json.loads(await receive())
        if message["type"] == "said":
            return message


async def test_websockets(chat: str) -> None:
    async with connect(f"{chat}?name=websockets") as client:
        await converse(chat, "websockets", client.send, client.recv)
    with pytest.raises(InvalidStatus) as refused:
        await connect(chat)
    assert refused.value.response.status_code == 401


async def test_aiohttp(chat: str) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{chat}?name=aiohttp") as client:
            await converse(chat, "aiohttp", client.send_str, client.receive_str)
            await client.send_str("{")
            while (message := await client.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
            assert message.type is aiohttp.WSMsgType.CLOSE
            assert message.data == 1007


async def test_picows(chat: str) -> None:
    arrived: asyncio.Queue[str] = asyncio.Queue()
    closed = asyncio.Event()

    class Listener(picows.WSListener):
        def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
            if frame.msg_type == picows.WSMsgType.TEXT:
                arrived.put_nowait(frame.get_payload_as_utf8_text())
            elif frame.msg_type == picows.WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code())
                transport.disconnect()

        def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
            closed.set()

    transport, _ = await picows.ws_connect(Listener, f"{chat}?name=picows")

    async def send(text: str) -> None:
        transport.send(picows.WSMsgType.TEXT, text.encode())

    await converse(chat, "picows", send, arrived.get)
    transport.send_close(picows.WSCloseCode.OK)
    await closed.wait()


NODE = """
const ws = new WebSocket(process.argv[1] + '?name=node');
ws.onopen = () => ws.send(JSON.stringify({type: 'say', text: 'I am node'}));
ws.onmessage = event => {
  const message = JSON.parse(event.data);
  if (message.type === 'said') { console.log(event.data); ws.close(1000, 'done'); }
};
ws.onclose = event => console.log(event.code, event.wasClean);
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
async def test_node(chat: str) -> None:
    """Node's own WebSocket, the one of undici."""
    process = await asyncio.create_subprocess_exec(
        *("node", "--experimental-websocket", "-e", NODE, chat), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output.decode().splitlines() == [
        '{"type":"said","who":"node","text":"I am node"}',
        "1000 true",
    ]
