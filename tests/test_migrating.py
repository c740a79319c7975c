"""The apps of ``docs/migrating.md``, each on its server, with clients that talk to each other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import socketio
import websockets

from tests.processes import free_port

PAGE = (Path(__file__).parents[1] / "docs/migrating.md").read_text()
FILES = dict(re.findall(r'^```python title="(\w+)\.py"[^\n]*\n(.*?)^```$', PAGE, re.M | re.S))
UVICORN = ("-m", "uvicorn", "--log-level", "warning", "--port")
SERVED: dict[str, Callable[[str], tuple[str, ...]]] = {
    "with_wsflow": lambda port: ("-m", "wsflow", "run", "with_wsflow:app", "--port", port),
    "with_websockets": lambda port: ("with_websockets.py",),
    "with_fastapi": lambda port: (*UVICORN, port, "with_fastapi:app"),
    "with_channels": lambda port: (*UVICORN, port, "with_channels:application"),
    "with_socketio": lambda port: (*UVICORN, port, "with_socketio:application"),
}
Client = Callable[[str, str, str], "contextlib.AbstractAsyncContextManager[Talk]"]


class Talk:
    """A client: what it does to say something, and what it hears."""

    def __init__(self, say: Callable[[str], Awaitable[Any]]) -> None:
        self.say = say
        self.heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def hears(self, who: str, text: str) -> None:
        assert await asyncio.wait_for(self.heard.get(), 20) == (who, text)


class RefusedError(Exception):
    pass


@asynccontextmanager
async def plain(url: str, room: str, query: str) -> AsyncIterator[Talk]:
    """A client that speaks JSON."""
    try:
        socket = await websockets.connect(f"ws{url}/chat/{room}?{query}")
    except websockets.InvalidStatus as refused:
        raise RefusedError(refused.response.status_code) from None
    async with socket:
        talk = Talk(lambda text: socket.send(json.dumps({"type": "say", "text": text})))

        async def hear() -> None:
            async for message in socket:
                said = json.loads(message)
                assert said["type"] == "said"
                talk.heard.put_nowait((said["who"], said["text"]))

        hearing = asyncio.create_task(hear())
        yield talk
        await socket.close()
        await hearing


@asynccontextmanager
async def of_socketio(url: str, room: str, query: str) -> AsyncIterator[Talk]:
    client = socketio.AsyncClient(reconnection=False)
    talk = Talk(lambda text: client.emit("say", {"text": text}))
    client.on("said", lambda said: talk.heard.put_nowait((said["who"], said["text"])))
    try:
        await client.connect(f"http{url}?room={room}&{query}", transports=["websocket"])
    except socketio.exceptions.ConnectionError:
        raise RefusedError(403) from None  # it does not say
    yield talk
    await client.disconnect()


@asynccontextmanager
async def serving(folder: Path, name: str) -> AsyncIterator[str]:
    """Serve one of the files; where, behind the ``ws`` or ``http``."""
    port = free_port()
    (folder / f"{name}.py").write_text(FILES[name])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *SERVED[name](str(port))),
        cwd=folder,
        env={**os.environ, "PORT": str(port)},
    )
    try:
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                assert process.returncode is None
                await asyncio.sleep(0.05)
        yield f"://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


def test_all_of_them_are_run() -> None:
    assert set(SERVED) == set(FILES)


@pytest.mark.long
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("name", SERVED)
async def test_the_same_chat(name: str, tmp_path: Path) -> None:
    client: Client = of_socketio if name == "with_socketio" else plain
    async with serving(tmp_path, name) as url:
        async with (
            client(url, "lobby", "name=ada") as ada,
            client(url, "lobby", "name=bob") as bob,
            client(url, "attic", "name=eve") as eve,
        ):
            await ada.say("hi")
            await bob.hears("ada", "hi")
            await ada.hears("ada", "hi")
            await eve.say("alone")
            await eve.hears("eve", "alone")
            assert bob.heard.empty()
        with pytest.raises(RefusedError, match="403"):
            async with client(url, "lobby", "colour=red"):
                pass
