"""Row 15: whose address a client has, behind proxies that are trusted and others."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.deployed import proxy
from tests.hardening.app import app
from tests.hardening.board import Check, Outcome, Row, Scale, UnavailableError, both_forms
from tests.hardening.peers import connect
from tests.hardening.process import running
from tests.processes import free_port
from wsflow.server import Settings, serve
from wsflow.server.proxies import ProxyHeader

SOCKET, BROWSER = "127.0.0.1", "127.0.0.2"
"""The addresses of the proxy, and of its client."""

MAPPED = "::ffff:127.0.0.1"


@dataclass(frozen=True)
class Case:
    """Headers from a proxy, and whose address they lead to; None for a refusal with 400.

    ``either`` is for headers that name no address: refused, or as if they were not there.
    """

    name: str
    trusted: tuple[str, ...]
    headers: tuple[str, ...]
    client: str
    either: bool = False
    header: ProxyHeader = "x-forwarded-for"


CASES = [
    Case("untrusted", (), ("X-Forwarded-For: 203.0.113.1",), SOCKET),
    Case("untrusted, RFC 7239", ("10.0.0.1",), ("Forwarded: for=203.0.113.1",), SOCKET),
    Case("trusted", (SOCKET,), ("X-Forwarded-For: 203.0.113.1",), "203.0.113.1"),
    Case(
        "what a client adds on its own",
        (SOCKET,),
        ("X-Forwarded-For: 127.0.0.1, 6.6.6.6, 203.0.113.1",),
        "203.0.113.1",
    ),
    Case(
        "two proxies, two headers",
        (SOCKET, "10.0.0.0/8"),
        ("X-Forwarded-For: 6.6.6.6, 203.0.113.1", "X-Forwarded-For: 10.1.2.3"),
        "203.0.113.1",
    ),
    Case("no header", (SOCKET,), (), SOCKET),
    Case("IPv6", (SOCKET,), ("X-Forwarded-For: 2001:db8::1",), "2001:db8::1"),
    Case("with a port", (SOCKET,), ("X-Forwarded-For: 203.0.113.1:5678",), "203.0.113.1"),
    Case("IPv6 with a port", (SOCKET,), ("X-Forwarded-For: [2001:DB8::1]:5678",), "2001:db8::1"),
    Case(
        "mapped",
        (SOCKET,),
        (f"X-Forwarded-For: 203.0.113.1, {MAPPED}",),
        "203.0.113.1",
    ),
    Case(
        "no address",
        (SOCKET,),
        ("X-Forwarded-For: unknown, <script>",),
        SOCKET,
        either=True,
    ),
    Case(
        "RFC 7239",
        (SOCKET,),
        ('Forwarded: for=6.6.6.6, for="[2001:db8::1]:5678";proto=https',),
        "2001:db8::1",
        header="forwarded",
    ),
]


async def _who(port: int, headers: tuple[str, ...], source: str = SOCKET) -> tuple[int, str]:
    """The status of a handshake with these headers, and who the server takes the client for."""
    lines = "".join(f"{line}\r\n" for line in headers).encode()
    peer = await connect(port, "/who", headers=lines, source=source)
    try:
        status = await asyncio.wait_for(peer.opened, 10)
        if status != 101:
            return status, ""
        peer.send(b"who?")
        return status, (await peer.receive()).decode()
    finally:
        peer.transport.abort()


def _check(case: Case):  # type: ignore[no-untyped-def]
    def measure(scale: Scale) -> Outcome:
        outcome = Outcome()

        async def run() -> None:
            settings = Settings(
                port=0, trusted_proxy=case.trusted, proxy_header=case.header, allowed_host=("*",)
            )
            async with serve(app, settings) as server:
                status, who = await _who(server.port, case.headers)
                refused = case.either and status == 400
                outcome.expect(
                    refused or who == case.client,
                    f"{case.name}: {case.headers}: {status}, {who!r} instead of {case.client!r}",
                )

        asyncio.run(run())
        outcome.figures = "as it must be" if outcome.reached else "wrong"
        return outcome

    return measure


# -- the real ones


NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
  fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{server}; proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
}}
"""

HAPROXY = """
global
  maxconn 1000
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout tunnel 1h
frontend web
  bind 127.0.0.1:{port}
  option forwardfor
  default_backend app
backend app
  server one 127.0.0.1:{server}
"""


def _configure(kind: str, folder: str, **values: int) -> str:
    """Write the configuration of a proxy into a folder; the path."""
    path = Path(folder, "config")
    path.write_text({"nginx": NGINX, "haproxy": HAPROXY}[kind].format(folder=folder, **values))
    return str(path)


@asynccontextmanager
async def _proxy(kind: str, server: int) -> AsyncIterator[int]:
    program = shutil.which(kind) or shutil.which(kind, path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise UnavailableError(f"{kind} is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="wsflow-proxy-") as folder:
        config = _configure(kind, folder=folder, port=port, server=server)
        flags = ["-c"] if kind == "nginx" else ["-db", "-f"]
        async with proxy(port, Path(folder, "log"), program, *flags, config):
            yield port


def _real(kind: str):  # type: ignore[no-untyped-def]
    def measure(scale: Scale) -> Outcome:
        """Through the proxy: the client's address, echoes, a large message, and a close."""
        outcome = Outcome()
        count = scale.of(10, 200)

        async def run() -> None:
            async with (
                running("--trusted-proxy", SOCKET) as server,
                _proxy(kind, server.port) as port,
            ):
                status, who = await _who(port, (), BROWSER)
                outcome.expect((status, who) == (101, BROWSER), f"{kind}: {status} {who}")
                forged = await _who(port, ("X-Forwarded-For: 6.6.6.6",), BROWSER)
                outcome.expect(forged == (101, BROWSER), f"{kind}, forged: {forged}")
                alien = await _who(port, ("Origin: https://evil.example",))
                outcome.expect(alien[0] == 403, f"{kind}, another site's page: {alien}")
                same = await _who(port, ("Origin: http://127.0.0.1",))
                outcome.expect(same[0] == 101, f"{kind}, the same host's page: {same}")
                for number in range(count):
                    peer = await connect(port)
                    await peer.opened
                    for size in (1, 1000, 300_000):
                        peer.send(b"x" * size)
                        got = await peer.receive()
                        outcome.expect(len(got) == size, f"{kind} {number}: {len(got)} bytes")
                    await peer.leave()
                    outcome.expect(peer.closed.result()[0] == 1000, f"{kind}: no close")
                outcome.figures = f"{count} connections through {kind}, {len(outcome.wrong)} wrong"

        asyncio.run(run())
        return outcome

    return measure


ROW = Row(
    15,
    "proxies: forwarded headers from trusted and untrusted; nginx, HAProxy",
    "12 rows",
    "0 wrong",
    [
        *(Check(case.name, _check(case)) for case in CASES),
        Check("nginx", _real("nginx")),
        Check("haproxy", _real("haproxy")),
    ],
)
test_quick, test_whole = both_forms(ROW)
