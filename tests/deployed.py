"""The files in ``docs/deploy``, used as they are, but for places, ports and names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.node import program
from tests.processes import free_port

DEPLOY = Path(__file__).parents[1] / "docs" / "deploy"

NGINX = """
{user} daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
  fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  {file}
}}
"""
"""What a distribution has around the files of ``conf.d``."""


def here(name: str, replacing: Mapping[str, object]) -> str:
    """A file of ``docs/deploy``, with other places; each of them must be in it."""
    text = (DEPLOY / name).read_text()
    for place, other in replacing.items():
        assert place in text, f"{place} is not in {name}"
        text = text.replace(place, str(other))
    return text


def certificate(folder: Path) -> ssl.SSLContext:
    """Write ``fullchain.pem`` and ``privkey.pem`` for localhost; the context of a client."""
    chain, key = folder / "fullchain.pem", folder / "privkey.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "both.pem").write_text(chain.read_text() + key.read_text())
    return ssl.create_default_context(cafile=chain)


@asynccontextmanager
async def proxy(port: int, log: Path, *command: str) -> AsyncIterator[None]:
    """A proxy in a process of its own, once it listens."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
    try:
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.transport.abort()
                    break
                assert process.returncode is None, f"the proxy has ended: see {log}"
                await asyncio.sleep(0.02)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def nginx_in_front(folder: Path) -> AsyncIterator[tuple[int, ssl.SSLContext]]:
    """nginx with ``nginx.conf``, in front of ``chat.sock`` in a folder; its port of TLS."""
    found, port, tls = sbin("nginx"), free_port(), certificate(folder)
    file = here(
        "nginx.conf",
        {
            "unix:/run/chat/": f"unix:{folder}/",
            "/etc/letsencrypt/live/chat.example.com": folder,
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "listen 80;": f"listen 127.0.0.1:{free_port()};",
            "chat.example.com": "localhost",
        },
    )
    config = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # else its workers could not enter the folder
    config.write_text(NGINX.format(folder=folder, file=file, user=user))
    async with proxy(port, folder / "nginx.out", found, "-c", str(config)):
        yield port, tls
    log = (folder / "nginx.log").read_text()
    assert not re.search(r"\[(warn|error|crit|alert|emerg)\]", log), log


def sbin(name: str) -> str:
    """The path of a program that only root has in its PATH; without it the test is skipped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/usr/sbin:/usr/local/sbin", prepend=":")
        return program(name)
