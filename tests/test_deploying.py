"""The files of ``docs/deploy``: proxies run with them, and what they set is there to be set."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets
import yaml
from websockets.asyncio.client import ClientConnection

from tests.deployed import DEPLOY, certificate, here, nginx_in_front, proxy, sbin
from tests.node import program
from tests.processes import free_port, running
from wsflow.server import Settings

ROOT = DEPLOY.parents[1]
ECHO = "examples.echo:app"
SETTINGS = {each.name: each for each in fields(Settings)}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def connected(url: str, **options: Any) -> ClientConnection:
    """Connect to the echo, and hear it."""
    peer = await websockets.connect(url, **options)
    await peer.send("hi")
    assert await asyncio.wait_for(peer.recv(), 20) == "hi"
    return peer


async def test_nginx(tmp_path: Path) -> None:
    socket = tmp_path / "chat.sock"
    async with running(ECHO, "--uds", str(socket), "--trusted-proxy", "unix") as server:
        await server.until("serves")
        async with nginx_in_front(tmp_path) as (port, tls):
            url = f"localhost:{port}"
            peer = await connected(f"wss://{url}", ssl=tls, origin=f"https://{url}")
            await peer.close()
            line = await server.until("path=/ ")
            assert "peer=127.0.0.1 " in line  # the client, and not the socket
            with pytest.raises(websockets.InvalidStatus, match="403"):
                await connected(f"wss://{url}", ssl=tls, origin="https://evil.example")
            async with aiohttp.ClientSession() as http:
                async with http.get(f"https://{url}/healthz", ssl=tls) as answer:
                    assert answer.status == 200
                async with http.get(f"https://{url}/metrics", ssl=tls) as answer:
                    assert answer.status == 404


@asynccontextmanager
async def haproxy(folder: Path, one: int, two: int) -> AsyncIterator[tuple[int, Any]]:
    found, port, tls = sbin("haproxy"), free_port(), certificate(folder)
    file = here(
        "haproxy.cfg",
        {
            "maxconn 20000": "maxconn 1000",  # so many descriptors are not everywhere
            "bind :443": f"bind 127.0.0.1:{port}",
            "/etc/haproxy/chat.example.com.pem": folder / "both.pem",
            "127.0.0.1:8001": f"127.0.0.1:{one}",
            "127.0.0.1:8002": f"127.0.0.1:{two}",
        },
    )
    config, log = folder / "haproxy.cfg", folder / "haproxy.log"
    config.write_text(file)
    async with proxy(port, log, found, "-db", "-f", str(config)):
        yield port, tls


@pytest.mark.long
async def test_haproxy_refuses_nobody_while_one_server_after_the_other_stops(
    tmp_path: Path,
) -> None:
    """Newcomers are let in at every moment, and whoever is with the other server stays."""
    one, two = free_port(), free_port()
    flags = ("--trusted-proxy", "127.0.0.1", "--drain-delay", "5", "--drain-over", "3")
    flags += ("--no-access-log", "--port")  # nobody reads the log of the second one
    async with (
        running(ECHO, *flags, str(one)) as first,
        running(ECHO, *flags, str(two)) as second,
    ):
        await first.until("serves")
        await second.until("serves")
        async with haproxy(tmp_path, one, two) as (port, tls):
            url = f"wss://localhost:{port}"
            peers = [await connected(url, ssl=tls) for _ in range(4)]
            first.process.send_signal(signal.SIGTERM)
            ending = asyncio.create_task(first.ended())
            came = 0
            while not ending.done():
                await (await connected(url, ssl=tls)).close()
                came += 1
            assert await ending == 0
            assert came > 4
            await (await connected(url, ssl=tls)).close()
            gone = [peer for peer in peers if peer.close_code is not None]
            assert [peer.close_code for peer in gone] == [1001, 1001]
            for peer in peers:
                await peer.close()


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    systemd = program("systemd-analyze")
    text = here("chat.service", {"/srv/chat/.venv/bin/wsflow": sys.executable})
    version = subprocess.run([systemd, "--version"], capture_output=True, text=True).stdout
    if int(version.split()[1]) < 253:  # as a comment in the file says
        text = text.replace("Type=notify-reload", "Type=notify\nExecReload=kill -HUP $MAINPID")
    unit = tmp_path / "chat.service"
    unit.write_text(text)
    checked = subprocess.run([systemd, "verify", unit], capture_output=True, text=True)
    said = [line for line in checked.stderr.splitlines() if "chat.service" in line]
    assert not said


def test_what_the_image_sets_are_settings() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    named = {name.lower() for name in re.findall(r"WSFLOW_([A-Z_]+)", text)}
    assert named - {"target"} <= set(SETTINGS)


def test_kubernetes_waits_for_longer_than_a_server_takes_to_stop() -> None:
    deployment, service, ingress = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = {}
    for name, _, value in (
        each.removeprefix("--").partition("=") for each in container["args"][3:]
    ):
        setting = SETTINGS[name.replace("-", "_")]
        given[setting.name] = type(setting.default)(value) if setting.default else value
    settings = Settings(
        drain_delay=float(given["drain_delay"]), drain_over=float(given["drain_over"])
    )
    assert pod["terminationGracePeriodSeconds"] > settings.drain_time
    assert f"{settings.drain_time:.0f} seconds here" in (DEPLOY / "kubernetes.yaml").read_text()
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"http": Settings().port, "admin": int(given["admin_port"])}
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    assert service["spec"]["ports"][0]["targetPort"] in ports
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"]["name"] == service["metadata"]["name"]


def test_each_flag_in_the_pages_is_one_of_the_command(tmp_path: Path) -> None:
    """In lines that run ``wsflow``, in files for deploying and in the pages."""
    known = flags_of("run") | flags_of("connect") | flags_of("client") | flags_of("publish")
    known |= flags_of("schema") | flags_of("dev") | {"--help"}
    for path in (*DEPLOY.iterdir(), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"):
        text = path.read_text().replace("\\\n", " ")
        for line in re.findall(
            r"\bwsflow (?:run|dev|connect|client|publish|schema) .*$", text, re.M
        ):
            told = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", line))
            assert told <= known, (path.name, line)


def flags_of(command: str) -> set[str]:
    python = [sys.executable, "-m", "wsflow", command, "--help"]
    said = subprocess.run(python, capture_output=True, text=True, env={"COLUMNS": "200"}).stdout
    return set(re.findall(r"--[a-z][\w-]*", said))
