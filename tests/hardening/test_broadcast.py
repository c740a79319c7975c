"""Row 8: readers that stall in a broadcast cost what was promised, and nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

from tests.hardening.app import BACKLOG, POLICIES
from tests.hardening.board import Check, Outcome, Row, Scale, both_forms
from tests.hardening.peers import Peer, open_peer, open_peers
from tests.hardening.process import MIB, mib, percentile, running

SIZE = 16 * 1024
"""Bytes of a message: so much that a stalled reader's kernel is full at once."""

FILLING = 320
"""Messages in a broadcast with stalled readers: more than fit into the kernel and the backlog."""

SLACK = (1.0, 0.01)
"""Seconds below which two latencies are not told apart, quick and whole: the quick form is run
beside other tests."""


class Listeners:
    """Peers who note how long each message took to come."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.took: list[float] = []

    def heard(self, payload: bytes) -> None:
        now = time.monotonic()
        begin = payload.find(b'"sent":') + 7
        self.took.append(now - float(payload[begin : payload.find(b",", begin)]))

    async def lost(self, count: int) -> int:
        """How many messages of a broadcast did not come to those who read. The speaker may be the
        first to have the last one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                while len(self.took) < self.size * count:
                    await asyncio.sleep(0.001)
        return self.size * count - len(self.took)


async def _round(listeners: Listeners, speaker: Peer, count: int, rate: float) -> float:
    """One broadcast; the 99th percentile of what it took to reach those who read."""
    listeners.took.clear()
    speaker.messages.clear()
    speaker.send(json.dumps({"type": "tell", "count": count, "size": SIZE, "rate": rate}).encode())
    while not any(b'"done"' in each[:20] for each in speaker.messages):
        speaker._more.clear()
        await asyncio.wait_for(speaker._more.wait(), 60)
    return percentile(listeners.took, 0.99)


def _check(policy: str) -> Any:
    def measure(scale: Scale) -> Outcome:
        """The broadcast without and with stalled readers, in turn."""
        outcome = Outcome()
        readers, stalled = scale.of(40, 1000), scale.of(4, 10)
        rate, rounds = scale.of(250.0, 10.0), scale.of(1, 2)
        allowed = BACKLOG * SIZE * stalled + 16 * MIB
        more, gone, lost = 0, 0, 0
        path = f"/hear/{policy}"
        calm: list[float] = []
        stirred: list[float] = []

        async def run() -> None:
            nonlocal more, gone, lost
            async with running("--no-access-log", "--ping-interval", 0) as server:
                listeners = Listeners(readers)
                peers = await open_peers(server.port, readers, path, heard=listeners.heard)
                speaker = await open_peer(server.port, path)
                counter = await open_peer(server.port, "/count")
                await _round(listeners, speaker, 10, rate)
                for _ in range(rounds):
                    calm.append(await _round(listeners, speaker, 60, rate))
                    before = server.memory
                    server.forget_peak()
                    slow = await open_peers(server.port, stalled, path, receives=4096)
                    for peer in slow:
                        peer.stall()
                    stirred.append(await _round(listeners, speaker, FILLING, rate))
                    more = max(more, server.peak - before)
                    lost += await listeners.lost(FILLING)
                    counter.send(b"how many?")
                    counters = json.loads(await counter.receive())
                    gone += readers + 2 + stalled - counters["connections"]
                    for peer in slow:
                        peer.transport.abort()
                if policy != "close":
                    outcome.expect(counters["dropped"], f"{policy}: nothing is counted as dropped")
                for peer in (*peers, speaker, counter):
                    peer.transport.abort()

        asyncio.run(run())
        before, after = min(calm), min(stirred)
        outcome.figures = (
            f"{policy}: {readers:,} readers, {stalled} stalled: {mib(more)} more of "
            f"{mib(allowed)}; p99 {before * 1000:.0f} ms, then {after * 1000:.0f} ms"
        )
        outcome.expect(more <= allowed, f"{policy}: {mib(more)} more, {mib(allowed)} allowed")
        outcome.expect(
            after <= max(1.5 * before, before + scale.of(*SLACK)),
            f"{policy}: p99 {after * 1000:.1f} ms instead of {before * 1000:.1f} ms",
        )
        outcome.expect(not lost, f"{policy}: {lost} messages did not reach those who read")
        due = stalled * rounds if policy == "close" else 0
        outcome.expect(gone == due, f"{policy}: {gone} were closed instead of {due}")
        return outcome

    return measure


ROW = Row(
    8,
    "stalled readers in a broadcast",
    "1 % of 1,000, each policy",
    "≤ backlog × stalled + 16 MiB; p99 of the others ≤ 1.5×",
    [Check(policy, _check(policy)) for policy in POLICIES],
)
test_quick, test_whole = both_forms(ROW)
