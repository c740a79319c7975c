"""Row 5: who may connect from which page, and that nobody else reaches the app's own code."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tests.hardening.board import Check, Outcome, Row, Scale, both_forms
from tests.hardening.peers import connect
from wsflow import Router
from wsflow.server import Settings, serve

HOST = "chat.example.com"
ALL = frozenset({"default", "listed", "wildcard", "any"})

SETTINGS: dict[str, tuple[str, ...]] = {
    "default": (),
    "listed": ("https://App.Example.org:443",),  # one normal form, however it is written
    "wildcard": ("https://*.example.net",),  # matched, or refused at the start
    "any": ("*",),
}

# The kinds of Origin, with the settings that let them in.
KINDS: dict[str, tuple[list[str], Iterable[str]]] = {
    "none": ([], ALL),
    "same host": ([f"http://{HOST}"], ALL),
    "same host, its port written out": ([f"http://{HOST}:80"], ALL),
    "same host, in capitals": ([f"HTTP://{HOST.upper()}"], ALL),
    "same host, another port": ([f"http://{HOST}:8080"], {"any"}),
    "another site": (["https://evil.example"], {"any"}),
    "the listed one": (["https://app.example.org"], {"listed", "any"}),
    "a subdomain": (["https://a.example.net"], {"wildcard", "any"}),
    "one that begins as an allowed one": (
        [f"https://{HOST}.evil.example", "https://app.example.org.evil.example"],
        {"any"},
    ),
    "null": (["null"], {"any"}),
    "with a user, or not one at all": (
        [f"http://{HOST}@evil.example", f"http://evil.example#{HOST}", "", "http://", "x" * 5000],
        {"any"},
    ),
    "two headers": ([f"http://{HOST}\r\nOrigin: http://{HOST}"], set()),
}


class Seen:
    """Counts how often the app's own functions were called."""

    def __init__(self) -> None:
        self.calls = 0
        self.app = Router("/")
        self.app.on_connect(self._seen())
        self.app.on_disconnect(self._seen())
        self.app.consumer(self._message())

    def _seen(self):  # type: ignore[no-untyped-def]
        async def seen() -> None:
            self.calls += 1

        return seen

    def _message(self):  # type: ignore[no-untyped-def]
        async def echo(message: str) -> str:
            self.calls += 1
            return message

        return echo


async def _try(name: str, outcome: Outcome) -> int:
    tried = 0
    try:
        settings = Settings(port=0, origin=SETTINGS[name], allowed_host=(HOST,))
    except ValueError:
        return sum(len(origins) or 1 for origins, _ in KINDS.values())  # refused at the start
    for kind, (origins, allowing) in KINDS.items():
        for origin in origins or [None]:
            seen = Seen()
            async with serve(seen.app, settings) as server:
                lines = f"Host: {HOST}\r\n" + (
                    f"Origin: {origin}\r\n" if origin is not None else ""
                )
                peer = await connect(server.port, silent=True)
                peer.transport.write(
                    f"GET / HTTP/1.1\r\n{lines}Upgrade: websocket\r\nConnection: Upgrade\r\n"
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                    "Sec-WebSocket-Version: 13\r\n\r\n".encode()
                )
                status = await asyncio.wait_for(peer.opened, 10)
                let_in = name in allowing
                tried += 1
                what = f"{name}, {kind} ({origin!r:.60}): {status}"
                outcome.expect((status == 101) == let_in, what)
                outcome.expect(let_in or status in (400, 403), what)
                outcome.expect(status == 101 or seen.calls == 0, f"{what} after user code")
                if status == 101:
                    peer.send(b"hello")
                    outcome.expect(await peer.receive() == b"hello", f"{what}: no echo")
                peer.transport.abort()
    return tried


def _check(name: str):  # type: ignore[no-untyped-def]
    def measure(scale: Scale) -> Outcome:
        outcome = Outcome()
        tried = asyncio.run(_try(name, outcome))
        outcome.figures = f"{tried} requests of {len(KINDS)} kinds, {len(outcome.wrong)} wrong"
        return outcome

    return measure


ROW = Row(
    5,
    "origins: 12 kinds × 4 settings",
    "raw sockets",
    "0 wrong, before any user code",
    [Check(name, _check(name)) for name in SETTINGS],
)
test_quick, test_whole = both_forms(ROW)
