"""``examples/mounted.py``: by FastAPI's client, over memory, and with a browser at uvicorn."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

from examples import mounted
from tests.browser import chromium
from tests.node import UNTIL
from tests.processes import free_port
from wsflow.testing import connect

ADA = {"name": "ada", "password": "lovelace"}


def test_it_says_how_to_run_it() -> None:
    assert mounted.__doc__ is not None
    assert "``uvicorn examples.mounted:web``" in mounted.__doc__


def test_one_login_for_both() -> None:
    with TestClient(mounted.web) as client:
        assert client.post("/post", json={"text": "hi"}).status_code == 401
        with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/ws/feed"):
            pass
        assert denied.value.status_code == 401
        for wrong in ({**ADA, "password": "wrong"}, {"name": "eve", "password": ""}):
            assert client.post("/login", json=wrong).status_code == 401
        assert client.post("/login", json=ADA).status_code == 204
        with client.websocket_connect("/ws/feed") as socket:
            posted = {"type": "posted", "by": "ada", "text": "hi"}
            assert client.post("/post", json={"text": "hi"}).json() == posted
            assert socket.receive_json() == posted
            socket.send_json({"type": "post", "text": "and over the socket"})
            assert socket.receive_json() == {**posted, "text": "and over the socket"}
            assert client.post("/post", json={"text": ""}).status_code == 422
            socket.send_json({"type": "post", "text": ""})
            assert socket.receive()["code"] == 1007


async def test_who_comes_later_is_shown_the_last_posts() -> None:
    with TestClient(mounted.web) as client:
        client.post("/login", json=ADA)
        cookie = {"Cookie": f"session={client.cookies['session']}"}
    async with connect(mounted.router, "/feed", headers=cookie) as ada:
        await ada.send(mounted.Post(text="hi"))
        posted = mounted.Posted(by="ada", text="hi")
        assert await ada.receive(mounted.Posted) == posted
        async with connect(mounted.router, "/feed", headers=cookie) as late:
            assert await late.receive(mounted.Posted) == posted
    for forged in ("session=forged", "session=bnVsbA==", "session="):
        async with connect(mounted.router, "/feed", headers={"Cookie": forged}) as nobody:
            assert nobody.rejected.status == 401


PAGE = (
    UNTIL
    + """
globalThis.shown = () => document.querySelector("div").innerText.trim();
globalThis.fill = (id, values) => {
  for (const [name, value] of Object.entries(values))
    document.getElementById(id).elements[name].value = value;
  document.querySelector(`#${id} button`).click();
};
"""
)


@pytest.mark.long
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_page(anyio_backend: str) -> None:
    port = free_port()
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "examples.mounted:web", "--port", str(port)),
        cwd=Path(__file__).parents[2],
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        assert server.stderr is not None
        while b"running on" not in (line := await asyncio.wait_for(server.stderr.readline(), 60)):
            assert line
        url = f"http://127.0.0.1:{port}/"
        async with chromium(url) as one, chromium(url) as two:
            for page in (one, two):
                await page.run(PAGE)
                await page.run("globalThis.old = true; fill('login', " + repr(ADA) + ")")
                while await page.run("return globalThis.old || document.readyState !== 'complete'"):
                    await asyncio.sleep(0.01)  # until the page was loaded anew
                await page.run(PAGE)
                await page.run("await until(() => socket.readyState === 1)")
            await one.run("fill('post', { text: 'hi' })")
            for page in (one, two):
                await page.run("await until(() => shown())")
                assert await page.run("return shown()") == "ada: hi"
    finally:
        server.terminate()
        await server.communicate()
