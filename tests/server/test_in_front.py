"""nginx and HAProxy in front of a server, as they are configured for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import pytest
from websockets.asyncio.client import connect

from tests.node import program
from tests.processes import free_port
from wsflow import Request, Router
from wsflow.server import Server, Settings, serve

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_buffer_size 1m;  # not to disk, where its worker may not write
    proxy_max_temp_file_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{
        default upgrade;
        "" close;
    }}
    server {{
        listen 127.0.0.1:{front};
        location / {{
            proxy_pass http://127.0.0.1:{port};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""

HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout check 20s
    timeout tunnel 1h
frontend front
    bind 127.0.0.1:{front}
    option forwardfor
    default_backend app
backend app
    option httpchk
    {check}
    http-check expect status 200
    server one 127.0.0.1:{port} check inter 50ms fall 1 rise 1
"""

HTTP_1_0 = "http-check send meth {method} uri /readyz ver HTTP/1.0"
HTTP_1_1 = "http-check send meth {method} uri /readyz ver HTTP/1.1 hdr Host checks.internal"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def app() -> Router:
    router = Router("/")

    @router.consumer
    async def echo(text: str, request: Request) -> str:
        return f"{text} {request.client.host if request.client else ''}"

    @router.get("/page")
    async def page(request: Request) -> str:
        return request.client.host if request.client else ""

    @router.get("/large")
    async def large() -> bytes:
        return bytes(5_000_000)

    return router


@asynccontextmanager
async def in_front(name: str, config: str, folder: Path, server: Server) -> AsyncIterator[int]:
    """A proxy in front of a server. Gives its port."""
    front = free_port()
    file = folder / "proxy.cfg"
    file.write_text(config.format(front=front, port=server.port, folder=folder))
    words = ["-p", str(folder), "-c", str(file)] if name == "nginx" else ["-db", "-f", str(file)]
    process = await asyncio.create_subprocess_exec(
        name, *words, stderr=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await answers(front, 200)
        yield front
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def answers(port: int, status: int) -> None:
    """Wait until a page is answered with this status."""
    async with httpx2.AsyncClient() as client:
        with anyio.fail_after(20):
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    if (await client.get(f"http://127.0.0.1:{port}/page")).status_code == status:
                        return
                await asyncio.sleep(0.01)


PROXIES = {
    "nginx": ("nginx", NGINX),
    "haproxy": ("haproxy", HAPROXY.replace("{check}", HTTP_1_0.format(method="GET"))),
}


@pytest.mark.parametrize("proxy", PROXIES)
async def test_a_proxy_in_front(proxy: str, tmp_path: Path) -> None:
    program(PROXIES[proxy][0])
    settings = Settings(port=0, trusted_proxy=("127.0.0.1",), drain_delay=20)
    async with (
        serve(app(), settings) as server,
        in_front(*PROXIES[proxy], tmp_path, server) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        async with connect(f"ws://127.0.0.1:{port}/") as peer:
            await peer.send("x")
            assert await peer.recv() == "x 127.0.0.1"
            await peer.send("y" * 100_000)
            assert len(await peer.recv()) > 100_000
        assert (await client.get("/page")).text == "127.0.0.1"
        assert len((await client.get("/large")).content) == 5_000_000
        assert (await client.head("/page")).headers["Content-Length"] == "9"
        assert (await client.post("/page", content=bytes(100_000))).status_code == 405
        assert (await client.get("/none")).status_code == 404
        server.stop()
        ready = await client.get("/readyz")
        server.stop(now=True)
        if proxy == "nginx":
            assert (ready.status_code, ready.json()["ready"]) == (503, False)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("check", [HTTP_1_0, HTTP_1_1], ids=["1.0", "1.1"])
async def test_health_checks(
    check: str, method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """HAProxy sends no connection more to a server that is told to stop, and nothing is logged
    for its checks."""
    program("haproxy")
    config = HAPROXY.replace("{check}", check.format(method=method))
    if method == "OPTIONS":  # says that it is there, not that it is ready
        config = config.replace("status 200", "status 204")
    caplog.set_level("INFO")
    settings = Settings(port=0, drain_delay=20, allowed_host=("127.0.0.1",))
    async with (
        serve(app(), settings) as server,
        in_front("haproxy", config, tmp_path, server) as port,
    ):
        if method != "OPTIONS":
            server.stop()
            await answers(port, 503)
        server.stop(now=True)
    lines = [record.getMessage() for record in caplog.records if record.name == "wsflow.access"]
    assert all("/page" in line for line in lines), lines
