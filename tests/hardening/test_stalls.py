"""Row 13: a handler that blocks the event loop is named and counted."""

from __future__ import annotations

import asyncio
import contextlib
import json

from tests.hardening.board import Check, Outcome, Row, Scale, both_forms
from tests.hardening.peers import open_peer
from tests.hardening.process import running

BLOCKED = 0.1


def blocked_loop(scale: Scale) -> Outcome:
    """``time.sleep`` in a handler, beside peers who wait for it."""
    outcome = Outcome()
    times = scale.of(2, 20)
    seconds = scale.of(10 * BLOCKED, 1.5 * BLOCKED)  # quick is run beside other tests

    async def run(loop: str) -> None:
        async with running("--loop", loop) as server:
            peer = await open_peer(server.port, "/work")
            for _ in range(times):
                peer.send(json.dumps({"type": "block", "seconds": seconds}).encode())
                await peer.receive()
            counter = await open_peer(server.port, "/count")
            named = counted = False
            counters: dict[str, int] = {}
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):  # it is told by a thread
                    while not (named and counted):
                        counter.send(b"how many?")
                        counters = json.loads(await counter.receive())
                        named, counted = "block_the_loop" in server.log, bool(counters["stalled"])
            outcome.expect(named, f"{loop}: no line of the log names block_the_loop")
            outcome.expect(counted, f"{loop}: no counter of stalls: {counters}")
            for each in (peer, counter):
                each.transport.abort()

    for loop in ("asyncio", "uvloop"):
        asyncio.run(run(loop))
    outcome.figures = f"{times} times {seconds:g} s on asyncio and uvloop: " + (
        "not told" if outcome.wrong else "named, counted"
    )
    return outcome


ROW = Row(
    13,
    "the loop blocked for 100 ms",
    "a handler that calls `time.sleep`",
    "named, counted",
    [Check("a blocked loop", blocked_loop)],
)
test_quick, test_whole = both_forms(ROW)
