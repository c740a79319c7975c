"""Row 12: whatever an app closes with, its peer gets exactly one valid close frame."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import uvloop

from tests.hardening.board import Check, Outcome, Row, Scale, both_forms
from tests.raw import frame, request
from wsflow import Close, Connection, Reject, Router
from wsflow.server import Server, Settings, serve

CODES = [*range(-1, 3), 999, *range(1000, 1017), 1100, 2999, 3000, 3999, 4000, 4999, 5000, 65536]
LETTERS = ["a", "é", "€", "😀", "\ud800", "\udfff", "\x00", "\n", "\u202e", '"', "\\"]
ODD: list[Any] = [None, 1.5, "1000", b"x", True, 10**30, [], object()]
WAYS = ("raise Close", "Connection.close", "both", "Close from on_connect", "Reject late")
VALID = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


def arguments(chance: random.Random) -> tuple[Any, Any]:
    """A code and a reason, most of them almost right."""
    code: Any = chance.choice(CODES) if chance.random() < 0.7 else chance.randrange(-10, 70000)
    letters = chance.choices(LETTERS, k=chance.choice([0, 1, 5, 30, 60, 122, 123, 124, 125, 500]))
    reason: Any = "".join(letters)
    if chance.random() < 0.1:
        code = chance.choice(ODD)
    if chance.random() < 0.1:
        reason = chance.choice(ODD)
    return code, reason


def app(chance: random.Random, raised: list[str]) -> Router:
    router, early = Router("/"), Router("/early")

    async def leave(way: str, connection: Connection) -> None:
        code, reason = arguments(chance)
        if way in ("Connection.close", "both"):
            try:
                await connection.close(code, reason)
            except (TypeError, ValueError):
                pass  # told to the one who calls it
            except Exception as exc:
                raised.append(f"close({code!r}, {reason!r:.80}): {exc!r}")
        if way == "Reject late":
            raise Reject(403, reason if isinstance(reason, str) else "")
        raise Close(code, reason)

    @router.consumer
    async def take(message: str, connection: Connection) -> None:
        await leave(message, connection)

    @early.on_connect
    async def enter(connection: Connection) -> None:
        await connection.send("here")
        await leave("raise Close", connection)

    early.consumer(take)
    router.include(early)
    return router


def _frames(data: bytes) -> list[tuple[int, bytes]]:
    """The frames of a server, each of which must be whole."""
    found, at = [], 0
    while at < len(data):
        size, begin = data[at + 1], at + 2
        if size == 126:
            size, begin = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        if begin + size > len(data):
            raise ValueError(f"a cut frame: {data[at:]!r}")
        found.append((data[at], data[begin : begin + size]))
        at = begin + size
    return found


async def _close(server: Server, way: str) -> tuple[int, list[str]]:
    """One connection that the app closes: the code, and what is wrong with what was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        early = way == "Close from on_connect"
        writer.write(request("/early" if early else "/") + (b"" if early else frame(way.encode())))
        await reader.readuntil(b"\r\n\r\n")
        data = b""
        while not (data and any(first & 15 == 8 for first, _ in _frames(data))):
            got = await asyncio.wait_for(reader.read(10_000), 30)
            if not got:
                return 1006, [f"no close frame: {data!r}"]
            data += got
        writer.write(frame(_frames(data)[-1][1], 8))
        data += await asyncio.wait_for(reader.read(), 30)  # to the end of the stream
        frames = _frames(data)
        closes = [payload for first, payload in frames if first == 0x88]
        wrong = [] if len(closes) == 1 and frames[-1][0] == 0x88 else [f"frames: {frames}"]
        code = int.from_bytes(closes[0][:2], "big")
        if code not in VALID or len(closes[0]) > 125:
            wrong.append(f"close frame {closes[0]!r}")
        closes[0][2:].decode()
        return code, wrong
    finally:
        writer.transport.abort()


def closes(scale: Scale) -> Outcome:
    """Codes and reasons of every kind, in every way that an app has to close, on both loops."""
    outcome = Outcome()
    chance, raised, codes = scale.random(), list[str](), Counter[int]()
    count, at_once = scale.of(600, 10_000), 50

    async def run(times: int) -> None:
        reports: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        async with serve(app(chance, raised), Settings(port=0)) as server:
            for _ in range(0, times, at_once):
                ways = [chance.choice(WAYS) for _ in range(at_once)]
                for way, (code, wrong) in zip(
                    ways, await asyncio.gather(*(_close(server, way) for way in ways)), strict=True
                ):
                    codes[code] += 1
                    outcome.wrong += [f"{way}: {each}" for each in wrong]
            outcome.expect(not server._app.sessions, "sessions are left")
        outcome.wrong += [f"reported to the loop: {each}" for each in reports]

    for loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(run(count // 2))
    outcome.wrong += raised
    total = sum(codes.values())
    outcome.expect(len(codes) > 10, f"only these codes were seen: {dict(codes)}")
    outcome.figures = (
        f"{total} closes, {len(codes)} codes, {len(outcome.wrong)} without one valid close frame"
    )
    return outcome


ROW = Row(
    12,
    "close with any code and reason",
    "10^4",
    "exactly one valid close; never an exception",
    [Check("closes", closes)],
)
test_quick, test_whole = both_forms(ROW)
