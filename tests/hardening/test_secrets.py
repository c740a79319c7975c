"""Row 18: what must stay secret is in no line that wsflow writes, at any level, in any error.

The secret is planted wherever users have one. Then all that a command has written, to both of its
streams, is searched for it, and for each word of it.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.brokers.servers import BrokerServer
from tests.hardening.board import Check, Outcome, Row, Scale, both_forms
from tests.hardening.peers import Peer, connect
from tests.hardening.process import Server, running
from tests.processes import free_port

SECRET = "hush/hush+hush"
QUOTED = urllib.parse.quote(SECRET, safe="")
PARTS_OF_IT = ["hush", base64.b64encode(f"user:{SECRET}".encode()).decode()]
"""What must not be shown: no word of it, which each of its other spellings has."""
SECONDS = 30.0
"""How long a command may run that does not end by itself; few do not."""

LEVELS = ("debug", "info", "warning", "error")
CARRIED = (
    f"Cookie: session={QUOTED}\r\nAuthorization: Bearer {SECRET}\r\n"
    f"Sec-WebSocket-Protocol: bearer.{QUOTED}\r\n"
).encode()


def search(text: str, what: str, outcome: Outcome) -> None:
    """Note each line that shows the secret."""
    for line in text.splitlines():
        if any(spelling in line for spelling in PARTS_OF_IT):
            outcome.wrong.append(f"{what}: {line:.300}")


# -- the server


@dataclass(frozen=True)
class Opening:
    """An opening request with the secret, and what comes after it."""

    name: str
    target: str
    headers: bytes = CARRIED
    sent: bytes = b""
    raw: bytes = b""


TARGET = f"/secret?token={QUOTED}"
OPENINGS = [
    Opening("accepted", TARGET),
    Opening("a handler raises", TARGET, sent=b'{"type":"fail","text":"as asked"}'),
    Opening("a bad message", TARGET, sent=b'{"type":'),
    Opening("an unknown message", TARGET, sent=b'{"type":"unknown"}'),
    Opening("a parameter that cannot be read", TARGET + "&number=many"),
    Opening("a number in its place", f"/secret?token=x&number={QUOTED}"),
    Opening("no such path", f"/nowhere?token={QUOTED}"),
    Opening("in the user part", f"http://user:{QUOTED}@127.0.0.1/secret"),
    Opening("another site", TARGET, CARRIED + b"Origin: https://evil.example\r\n"),
    Opening("in the origin", TARGET, f"Origin: https://user:{QUOTED}@evil.example\r\n".encode()),
    Opening("a query that cannot be read", TARGET + "&x=%ff"),
    Opening("no WebSocket", "", raw=f"GET {TARGET} HTTP/1.1\r\nHost: x\r\n\r\n".encode()),
    Opening("another method", "", raw=f"POST {TARGET} HTTP/1.1\r\nHost: x\r\n\r\n".encode()),
    Opening("another version", "", raw=f"GET {TARGET} HTTP/1.0\r\nHost: x\r\n\r\n".encode()),
    Opening("a malformed line", "", raw=f"GET {TARGET} HTTP/1.1 x\r\nHost: x\r\n\r\n".encode()),
    Opening("a malformed header", TARGET, CARRIED + f"{SECRET} {SECRET}\r\n".encode()),
    Opening("a long line", "", raw=f"GET {TARGET}{'x' * 9000} HTTP/1.1\r\n\r\n".encode()),
    Opening("a long header", TARGET, f"Authorization: {SECRET}{'x' * 9000}\r\n".encode()),
    Opening("many headers", TARGET, CARRIED * 60),
    Opening("only a part of it", "", raw=f"GET {TARGET} HTTP/1.1\r\nCookie: {SECRET}".encode()),
]


async def _visit(server: Server, opening: Opening) -> None:
    if opening.raw:
        peer = await connect(server.port, silent=True)
        peer.transport.write(opening.raw)
    else:
        peer = await connect(server.port, opening.target, headers=opening.headers)
    await asyncio.wait([peer.opened, peer.lost], timeout=0.3, return_when=asyncio.FIRST_COMPLETED)
    if peer.status == 101:
        if opening.sent:
            peer.send(opening.sent)
            await asyncio.wait([peer.closed, peer.lost], timeout=0.5)
        await peer.leave()
    else:
        await _half_closed(peer)


async def _half_closed(peer: Peer) -> None:
    if not peer.transport.is_closing():
        peer.transport.write_eof()
        await asyncio.wait([peer.lost], timeout=0.5)
    peer.transport.abort()


def served(scale: Scale) -> Outcome:
    """Each kind of opening request, at each level of the log."""
    outcome = Outcome()
    lines = 0

    async def run(level: str, loop: str) -> None:
        nonlocal lines
        flags = ("--log-level", level, "--loop", loop, "--open-timeout", 1)
        async with running(*flags) as server:
            await asyncio.gather(*(_visit(server, opening) for opening in OPENINGS))
            server.process.terminate()
            await server.ended()
            search(server.log, f"wsflow run --log-level {level}", outcome)
            lines += server.log.count("\n")

    for level in scale.of(("debug",), LEVELS):
        for loop in scale.of(("asyncio",), ("asyncio", "uvloop")):
            asyncio.run(run(level, loop))
    outcome.expect(lines > 20, f"only {lines} lines were logged")
    outcome.figures = f"{len(OPENINGS)} kinds of requests, {lines} lines, {_shown(outcome)}"
    return outcome


def _shown(outcome: Outcome) -> str:
    return f"{len(outcome.wrong)} show the secret"


# -- commands


async def _command(*arguments: str, seconds: float, **environment: str) -> tuple[str, bool]:
    """What a command has written until it ended, or until it was stopped after some seconds; and
    whether it has ended by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "wsflow",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **environment},
    )
    reading = asyncio.ensure_future(process.communicate())
    ended, _ = await asyncio.wait([reading], timeout=seconds)
    if not ended:
        process.terminate()
        await asyncio.wait([reading], timeout=5)
        if not reading.done():
            process.kill()
    return (await reading)[0].decode(errors="replace"), bool(ended)


Commands = Sequence[tuple[str, Sequence[str], dict[str, str]]]


async def _all(commands: Commands, outcome: Outcome, seconds: float) -> int:
    """Run commands, some at a time; how many lines they have written."""
    turn, lines = asyncio.Semaphore(8), 0

    async def one(name: str, arguments: Sequence[str], environment: dict[str, str]) -> None:
        nonlocal lines
        async with turn:
            text, ended = await _command(*arguments, seconds=seconds, **environment)
        search(text, name, outcome)
        lines += text.count("\n")
        outcome.expect(text or not ended or _quiet(name), f"{name}: it has written nothing")

    await asyncio.gather(*(one(*each) for each in commands))
    return lines


def brokers(scale: Scale) -> Outcome:
    """URLs of brokers with a user and a password, that cannot be reached, or are refused."""
    outcome = Outcome()
    nobody = free_port()
    run = ("run", "tests.hardening.app:app", "--port", "0", "--log-level", "debug")

    async def play() -> int:
        urls = {
            "redis, nobody there": f"redis://user:{QUOTED}@127.0.0.1:{nobody}/0",
            "redis, in the query": f"redis://127.0.0.1:{nobody}/0?password={QUOTED}",
            "redis, an odd port": f"redis://user:{QUOTED}@127.0.0.1:port/0",
            "rediss": f"rediss://user:{QUOTED}@127.0.0.1:{valkey.port}/0",
            "redis, refused": f"redis://user:{QUOTED}@127.0.0.1:{valkey.port}/0",
            "redis, unknown option": f"redis://user:{QUOTED}@127.0.0.1:{nobody}/0?unknown={QUOTED}",
            "nats, nobody there": f"nats://user:{QUOTED}@127.0.0.1:{nobody}",
            "nats, two": f"nats://user:{QUOTED}@127.0.0.1:{nobody},nats://{QUOTED}@127.0.0.1:1",
            "nats, an odd port": f"nats://user:{QUOTED}@127.0.0.1:port",
            "tls": f"tls://user:{QUOTED}@127.0.0.1:{valkey.port}",
            "redis, a number and a slash": f"redis://user:1/{SECRET}@127.0.0.1:{nobody}",
            "redis, a question mark": f"redis://user:1?{SECRET}=@127.0.0.1:{nobody}/0",
            "redis, a fragment": f"redis://user:1#{SECRET}@127.0.0.1:{nobody}/0",
            "redis, a bad file": f"rediss://127.0.0.1:{nobody}?ssl_ca_certs=/{SECRET}",
            "sentinel, nobody there": f"redis+sentinel://user:{QUOTED}@127.0.0.1:{nobody}/app"
            f"?sentinel_password={QUOTED}",
            "sentinel, a comma": f"redis+sentinel://user:1,{SECRET}@127.0.0.1:{nobody}/app",
            "nats, a comma": f"nats://user:1,{SECRET}@127.0.0.1:{nobody}",
            "nats, a bad file": f"nats://127.0.0.1:{nobody}?credentials=/{SECRET}",
            "no broker": f"mqtt://user:{QUOTED}@127.0.0.1:{nobody}",
            "no URL": f"user:{QUOTED}@127.0.0.1",
            "a slash in the password": f"redis://user:{SECRET}@127.0.0.1:{nobody}/0",
            "nats, a slash in the password": f"nats://user:{SECRET}@127.0.0.1:{nobody}",
            "nats, no scheme": f"nats://127.0.0.1:{nobody},user:{QUOTED}@127.0.0.1",
        }
        if not scale.whole:
            urls = {
                name: urls[name]
                for name in ("redis, refused", "nats, an odd port", "no broker", "no URL")
            }
        commands: list[tuple[str, Sequence[str], dict[str, str]]] = []
        for name, url in urls.items():
            commands.append((f"run --broker, {name}", (*run, "--broker", url), {}))
            publish = ("publish", "news", "1", "--broker", url, "--timeout", "1")
            if scale.whole or name != "redis, refused":
                commands.append((f"publish --broker, {name}", publish, {}))
            if scale.whole:
                commands.append((f"WSFLOW_BROKER, {name}", run, {"WSFLOW_BROKER": url}))
                workers = (*run, "--workers", "2", "--broker", url)
                commands.append((f"--workers, {name}", workers, {}))
        return await _all(commands, outcome, SECONDS)

    valkey = BrokerServer("valkey")
    valkey.start()
    try:
        lines = asyncio.run(play())
    finally:
        valkey.stop()
    outcome.figures = f"brokers: {lines} lines, {_shown(outcome)}"
    return outcome


def clients(scale: Scale) -> Outcome:
    """``wsflow client`` and ``wsflow connect``, whose URIs and headers have the secret."""
    outcome = Outcome()
    nobody = free_port()
    secret = f"token={QUOTED}"
    headers = ("--header", f"Authorization: Bearer {SECRET}", "--header", f"Cookie: s={QUOTED}")

    async def play() -> int:
        async with running() as server:
            port = server.port
            uris = {
                "open": f"ws://127.0.0.1:{port}/secret?{secret}",
                "with a user": f"ws://user:{QUOTED}@127.0.0.1:{port}/secret?{secret}",
                "refused": f"ws://127.0.0.1:{port}/nowhere?{secret}",
                "nobody there": f"ws://user:{QUOTED}@127.0.0.1:{nobody}/?{secret}",
                "no such host": f"ws://user:{QUOTED}@nowhere.invalid/?{secret}",
                "TLS to a plain server": f"wss://user:{QUOTED}@127.0.0.1:{port}/?{secret}",
                "another scheme": f"http://user:{QUOTED}@127.0.0.1:{port}/?{secret}",
                "an odd port": f"ws://user:{QUOTED}@127.0.0.1:port/?{secret}",
                "a fragment": f"ws://127.0.0.1:{port}/?{secret}#{QUOTED}",
                "no URI": f"127.0.0.1/?{secret}",
                "a slash in the password": f"ws://user:{SECRET}@127.0.0.1:{port}/?{secret}",
                "a bracket": f"ws://user:{QUOTED}@[127.0.0.1:{port}/?{secret}",
                "twice a scheme": f"ws://ws://user:{QUOTED}@127.0.0.1:{port}/?{secret}",
                "a slash too few": f"ws:/user:{QUOTED}@127.0.0.1:{port}/?{secret}",
            }
            if not scale.whole:
                uris = {name: uris[name] for name in ("another scheme", "refused")}
            commands: list[tuple[str, Sequence[str], dict[str, str]]] = []
            proxy = f"http://user:{QUOTED}@127.0.0.1:{nobody}"
            for name, uri in uris.items():
                client = ("client", "tests.hardening.client:app", uri, "--log-level", "debug")
                once = (*client, "--no-reconnect", *headers)
                commands.append((f"client, {name}, once", once, {}))
                commands.append((f"connect, {name}", ("connect", uri, *headers), {}))
                if scale.whole:
                    commands.append((f"client, {name}", (*client, *headers), {}))
            environment = {"http_proxy": proxy, "no_proxy": ""}
            through = ("connect", f"ws://127.0.0.1:{port}/secret?{secret}")
            commands.append(("connect, a proxy", through, environment))
            for odd in ("Authorization {}", "Authorization {}: x", "{}: x", "A: {}\nB"):
                line = (*through, "--header", odd.format(SECRET))
                commands.append((f"connect, a malformed header, {odd!r}", line, {}))
            loose = (*through, "--header", "Authorization:", "Bearer", SECRET)
            commands.append(("connect, a header without quotes", loose, {}))
            lines = await _all(commands, outcome, SECONDS)
            search(server.log, "the server's own log", outcome)
            return lines

    lines = asyncio.run(play())
    outcome.figures = f"clients: {lines} lines, {_shown(outcome)}"
    return outcome


def _quiet(name: str) -> bool:
    """A command that has nothing to say."""
    return name in ("connect, open", "connect, with a user", "connect, a fragment")


PARTS: list[tuple[str, Callable[[Scale], Outcome]]] = [
    ("served", served),
    ("brokers", brokers),
    ("clients", clients),
]
ROW = Row(
    18,
    "secrets in query, cookies, `Authorization`, broker URLs",
    "every log level, every error",
    "never shown",
    [Check(name, measure) for name, measure in PARTS],
)
test_quick, test_whole = both_forms(ROW)
