"""Row 9: nobody healthy is closed, and nobody dead is kept."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

from tests.hardening.board import Check, Outcome, Row, Scale, tests_of
from tests.hardening.peers import open_peer, some_peers
from tests.hardening.process import running

LOOPS = ("asyncio", "uvloop")

PEER = """
import asyncio, sys
from tests.hardening.peers import open_peer
async def run():
    await open_peer(int(sys.argv[1]))
    print("open", flush=True)
    await asyncio.sleep(3600)
asyncio.run(run())
"""


def _work(number: int, seconds: float) -> bytes:
    return json.dumps({"type": "work", "number": number, "seconds": seconds}).encode()


def slow_handler(scale: Scale) -> Outcome:
    """Handlers that take several times the ping timeout, and a full inbox behind them."""
    ping, count = scale.of(0.3, 1.0), scale.of(20, 200)
    outcome = Outcome()

    async def run(loop: str) -> int:
        pings = ("--ping-interval", ping, "--ping-timeout", ping, "--loop", loop)
        async with running(*pings, "--inbox-messages", 4) as server:
            async with some_peers(server.port, count, "/work") as peers:
                for peer in peers:
                    peer.send(_work(0, ping * 5))
                    for number in range(1, 9):  # more than the inbox takes: reading pauses
                        peer.send(_work(number, 0))
                closed = 0
                for peer in peers:
                    try:
                        for number in range(9):
                            assert json.loads(await peer.receive())["number"] == number
                    except ConnectionError:
                        closed += 1
                return closed

    for loop in LOOPS:
        closed = asyncio.run(run(loop))
        outcome.expect(not closed, f"{loop}: {closed} of {count} were closed")
    outcome.figures = f"{count} handlers of {ping * 5:g} s, ping {ping:g} s + {ping:g} s, {LOOPS}"
    outcome.figures += f": {len(outcome.wrong) or 'none'} closed"
    return outcome


def dead_peer(scale: Scale) -> Outcome:
    """A stopped process, one that reads nothing, and one that reads and does not answer."""
    ping = scale.of(0.3, 1.0)
    outcome = Outcome()
    figures = []

    async def run(loop: str) -> float:
        pings = ("--ping-interval", ping, "--ping-timeout", ping, "--loop", loop)
        async with running(*pings) as server:
            watcher = await open_peer(server.port, "/count")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PEER, str(server.port), stdout=asyncio.subprocess.PIPE
            )
            assert process.stdout is not None
            await process.stdout.readline()
            process.send_signal(signal.SIGSTOP)
            deaf = await open_peer(server.port)
            deaf.stall()
            mute = await open_peer(server.port, pongs=False)
            began = time.monotonic()
            try:
                left = 4
                while left > 1 and time.monotonic() - began < 4 * ping + 3:
                    watcher.send(b"how many?")
                    left = json.loads(await watcher.receive())["connections"]
                    await asyncio.sleep(0.02)
                took = time.monotonic() - began
                outcome.expect(left == 1, f"{loop}: {left - 1} dead peers are still there")
                outcome.expect(took <= 2 * ping + 1, f"{loop}: found after {took:.1f} s")
            finally:
                process.kill()
                await process.wait()
                for peer in (watcher, deaf, mute):
                    peer.transport.abort()
            return took

    for loop in LOOPS:
        figures.append(f"{loop} {asyncio.run(run(loop)):.1f} s")
    outcome.figures = f"3 dead peers, ping {ping:g} s + {ping:g} s, found: {', '.join(figures)}"
    return outcome


def _held_up(loop: str, stopped: bool) -> Any:
    def measure(scale: Scale) -> Outcome:
        """The server does nothing for longer than the timeout, while the pongs arrive."""
        outcome = Outcome()
        ping, count = scale.of(0.3, 1.0), 50

        async def run() -> None:
            pings = ("--ping-interval", ping, "--ping-timeout", ping, "--loop", loop)
            async with running(*pings) as server:
                blocker = await open_peer(server.port, "/work")
                slow = {"at_once": count, "latency": ping / 3}
                async with some_peers(server.port, count, **slow) as peers:
                    for rounds in range(1, scale.of(2, 5) + 1):
                        while any(peer.pings < rounds for peer in peers if not peer.lost.done()):
                            await asyncio.sleep(0.005)
                        if stopped:
                            os.kill(server.process.pid, signal.SIGSTOP)
                            await asyncio.sleep(ping * 2)
                            os.kill(server.process.pid, signal.SIGCONT)
                        else:
                            blocker.send(
                                json.dumps({"type": "block", "seconds": ping * 2}).encode()
                            )
                            await asyncio.sleep(ping * 2)
                        await asyncio.sleep(ping / 2)
                    closed = sum(peer.lost.done() for peer in peers)
                    how = "stopped" if stopped else "blocked"
                    outcome.figures = f"{how}, {loop}: {closed} of {count} healthy peers closed"
                    outcome.expect(not closed, outcome.figures)
                    blocker.transport.abort()

        asyncio.run(run())
        return outcome

    return measure


LATE = "issue 12, fault 11: the ping's timer runs before the pong that has come is read"
ROW = Row(
    9,
    "a handler slower than the ping timeout; a dead peer",
    "ping 1 s + 1 s",
    "0 closed; found",
    [
        Check("a slow handler", slow_handler),
        Check("a dead peer", dead_peer),
        Check("a blocked loop of asyncio", _held_up("asyncio", False)),
        Check("a blocked loop of uvloop", _held_up("uvloop", False), LATE),
        Check("a stopped process on asyncio", _held_up("asyncio", True), LATE),
        Check("a stopped process on uvloop", _held_up("uvloop", True), LATE),
    ],
)
test_quick, test_whole = tests_of(ROW)
