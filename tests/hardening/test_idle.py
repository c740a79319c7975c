"""Row 16: connections that do nothing cost little, and stay."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

from tests.hardening.board import Check, Outcome, Row, Scale, UnavailableError, both_forms
from tests.hardening.process import mib, running

KIB = 1024
PER_CHILD = 2500

CHILD = """
import asyncio, sys
from tests.hardening.peers import open_peers
async def run():
    port, count = int(sys.argv[1]), int(sys.argv[2])
    peers = await open_peers(port, count, "/idle", at_once=50)
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(sum(peer.lost.done() for peer in peers), min(peer.pings for peer in peers), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
asyncio.run(run())
"""


@contextlib.contextmanager
def descriptors(count: int) -> Iterator[None]:
    """Let this process and its children have so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise UnavailableError(f"{count} descriptors are needed, and {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _check(loop: str) -> Any:
    def measure(scale: Scale) -> Outcome:
        """Connections with a producer that waits, and keepalive on."""
        outcome = Outcome()
        count = scale.of(400, 10_000)
        seconds = scale.of(2.5, 180 if loop == "asyncio" else 60)
        ping, patience = scale.of(1.0, 20.0), 20.0

        async def run() -> None:
            pings = ("--ping-interval", ping, "--ping-timeout", patience, "--loop", loop)
            async with running("--max-connections", count, "--no-access-log", *pings) as server:
                before = server.memory
                children = []
                try:
                    for _ in range(0, count, PER_CHILD):
                        child = await asyncio.create_subprocess_exec(
                            sys.executable,
                            "-c",
                            CHILD,
                            str(server.port),
                            str(min(count, PER_CHILD)),
                            stdin=asyncio.subprocess.PIPE,
                            stdout=asyncio.subprocess.PIPE,
                        )
                        children.append(child)
                    for child in children:
                        assert await asyncio.wait_for(child.stdout.readline(), 120) == b"open\n"
                    each = (server.memory - before) / count
                    began, busy = time.monotonic(), server.seconds
                    await asyncio.sleep(seconds)
                    share = (server.seconds - busy) / (time.monotonic() - began)
                    lost, pinged = 0, 10**9
                    for child in children:
                        child.stdin.write(b"\n")
                        words = (await child.stdout.readline()).split()
                        lost, pinged = lost + int(words[0]), min(pinged, int(words[1]))
                    outcome.figures = (
                        f"{loop}: {count:,} connections, {each / KIB:.1f} KiB each "
                        f"({mib(server.memory)} in all), {lost} dropped in {seconds:g} s, "
                        f"at least {pinged} pings each, {share:.1%} of a core"
                    )
                    # The quick form spreads what the process takes over few, and may be traced.
                    most = scale.of(24, 16) * KIB
                    outcome.expect(each <= most, f"{loop}: {each / KIB:.1f} KiB each")
                    outcome.expect(not lost, f"{loop}: {lost} were dropped")
                    outcome.expect(pinged, f"{loop}: no keepalive")
                    limit = scale.of(0.5, 0.1)  # the quick form pings twenty times as often
                    outcome.expect(share < limit, f"{loop}: {share:.1%} of a core")
                finally:
                    for child in children:
                        child.kill()
                        await child.wait()

        with descriptors(scale.of(1000, count + 1000)):
            asyncio.run(run())
        return outcome

    return measure


ROW = Row(
    16,
    "idle",
    "10,000 connections, keepalive on",
    "≤ 16 KiB each with a producer, 0 dropped in 3 min, < 10 % of a core",
    [Check("asyncio", _check("asyncio")), Check("uvloop", _check("uvloop"))],
)
test_quick, test_whole = both_forms(ROW)
