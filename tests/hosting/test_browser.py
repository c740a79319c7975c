"""Pages in a real browser: served beside their WebSocket, and by FastAPI."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

import wsflow
from examples.echo import app as echo
from tests.browser import Page, chromium
from tests.processes import free_port, running

PAGE = """<!doctype html>
<title>Chat</title>
<form action="" onsubmit="sendMessage(event)">
  <input type="text" id="messageText" autocomplete="off"/>
  <button>Send</button>
</form>
<ul id="messages"></ul>
<script type="module" src="/chat.js"></script>
"""
SCRIPT = """
const socket = new WebSocket(`ws://${location.host}PATH`);
const messages = document.getElementById("messages");
socket.onmessage = event => {
  const item = document.createElement("li");
  item.append(event.data);
  messages.append(item);
};
window.sendMessage = event => {
  const input = document.getElementById("messageText");
  socket.send(input.value);
  input.value = "";
  event.preventDefault();
};
window.opened = new Promise(done => { socket.onopen = () => done(socket.readyState); });
"""
TYPES = """
await opened;
document.getElementById("messageText").value = "hello";
document.querySelector("button").click();
await new Promise(done => new MutationObserver(done).observe(
  document.getElementById("messages"), {childList: true}));
return document.querySelector("li").textContent;
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def talks(page: Page) -> None:
    """Somebody types a message, and sees what comes back."""
    assert await page.run(TYPES) == "hello"
    assert page.console == []


@pytest.mark.long
async def test_a_page_from_a_directory(tmp_path: Path) -> None:
    """One command serves the page, its script and its socket."""
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "chat.js").write_text(SCRIPT.replace("PATH", "/"))
    (tmp_path / "favicon.ico").write_bytes(b"")
    port = free_port()
    options = ("--static", str(tmp_path), "--port", str(port))
    async with running("examples.echo:app", *options) as run:
        assert await run.until("files:") == f"       files: http://127.0.0.1:{port}/\n"
        async with chromium(f"http://127.0.0.1:{port}/") as page:
            await talks(page)
        run.process.send_signal(signal.SIGTERM)
        assert await run.ended() == 0


@pytest.mark.long
async def test_a_page_of_fastapi() -> None:
    """The app has the page, and the Router that is mounted in it has the socket: one port."""
    sockets = wsflow.asgi(echo)
    api = FastAPI()
    sockets.mount(api, "/ws")

    @api.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE)

    @api.get("/chat.js")
    async def script() -> HTMLResponse:
        return HTMLResponse(SCRIPT.replace("PATH", "/ws/"), media_type="text/javascript")

    @api.get("/favicon.ico")
    async def icon() -> HTMLResponse:
        return HTMLResponse("")

    config = uvicorn.Config(api, port=free_port(), log_level="warning")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        async with chromium(f"http://127.0.0.1:{config.port}/") as browser:
            await talks(browser)
    finally:
        server.should_exit = True
        await serving
