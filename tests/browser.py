"""Chromium without a window, driven through its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.node import Js, program

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-port=0",
]


class Page(Js):
    """A page of a browser.

    Attributes:
        console: errors and warnings, and what was thrown and not caught.
    """

    def __init__(self, devtools: ClientConnection) -> None:
        self._devtools = devtools
        self._ids = count(1)
        self._session = ""
        self.console: list[str] = []

    async def _ask(self, method: str, **params: Any) -> Any:
        async with asyncio.timeout(60):  # so that a test that hangs leaves no browser behind
            return await self._answer(method, params)

    async def _answer(self, method: str, params: Mapping[str, Any]) -> Any:
        id = next(self._ids)
        session = {"sessionId": self._session} if self._session else {}
        await self._devtools.send(
            json.dumps({"id": id, "method": method, "params": params, **session})
        )
        while True:
            frame = json.loads(await self._devtools.recv())
            if frame.get("id") == id:
                return frame["result"]
            said = frame.get("params", {})
            if said.get("type") in ("error", "warning"):
                self.console += [str(each.get("value", each)) for each in said["args"]]
            self.console += [
                str(said[each]) for each in ("exceptionDetails", "entry") if each in said
            ]

    async def go(self, url: str) -> None:
        """Open a page."""
        made = await self._ask("Target.createTarget", url="about:blank")
        attached = await self._ask("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            await self._ask(f"{domain}.enable")
        await self._ask("Page.navigate", url=url)
        loaded = "new Promise(done => document.readyState == 'complete' ? done() : onload = done)"
        await self._ask("Runtime.evaluate", expression=loaded, awaitPromise=True)

    async def show(self, width: int, height: int, *, dark: bool = False) -> None:
        """Have it this large, in CSS pixels, and in light or dark colours."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self._ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._ask("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self) -> bytes:
        """What it shows, as PNG."""
        answer = await self._ask("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])

    async def press(self, key: str) -> None:
        """Press and release a key: ``Tab``, ``Enter``, ``ArrowRight``."""
        codes = {"Tab": (9, ""), "Enter": (13, "\r"), "ArrowRight": (39, "")}
        code, text = codes[key]
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self._ask("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        await self._ask("Input.dispatchKeyEvent", type="keyUp", **about)

    async def type(self, text: str) -> None:
        """Type where the focus is."""
        await self._ask("Input.insertText", text=text)

    async def run(self, code: str) -> Any:
        answer = await self._ask(
            "Runtime.evaluate",
            expression=f"(async (load, options) => {{{code}\n}})(name => import(name), {{}})",
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")


@asynccontextmanager
async def chromium(url: str, *flags: str) -> AsyncIterator[Page]:
    """A page in a browser of its own, which is started with these flags, too."""
    profile = tempfile.mkdtemp(prefix="wsflow-chromium-")
    process = await asyncio.create_subprocess_exec(
        program("chromium"),
        *FLAGS,
        *flags,
        f"--user-data-dir={profile}",
        "about:blank",
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        line = b""
        while b"DevTools listening on " not in line:
            line = await asyncio.wait_for(process.stderr.readline(), 60)
            assert line, "the browser has not started"
        address = line.decode().split()[-1]
        async with connect(address, max_size=None) as devtools:
            page = Page(devtools)
            await page.go(url)
            yield page
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        shutil.rmtree(Path(profile), ignore_errors=True)
