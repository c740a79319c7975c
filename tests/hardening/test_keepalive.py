"""Row 9: nobody healthy is closed, and nobody dead is kept."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from tests.hardening.board import Check, Outcome, Row, Scale, both_forms
from tests.hardening.peers import open_peer, some_peers
from tests.hardening.process import running

T = TypeVar("T")
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


async def _together(runs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    return await asyncio.gather(*runs)


def slow_handler(scale: Scale) -> Outcome:
    """Handlers that take several times the ping timeout, and a full inbox behind them."""
    ping, count = 1.0, scale.of(20, 200)
    seconds = ping * scale.of(3, 5)
    outcome = Outcome()

    async def run(loop: str) -> int:
        pings = ("--ping-interval", ping, "--ping-timeout", ping, "--loop", loop)
        async with running(*pings, "--inbox-messages", 4) as server:
            async with some_peers(server.port, count, "/work") as peers:
                for peer in peers:
                    peer.send(_work(0, seconds))
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

    for loop, closed in zip(LOOPS, asyncio.run(_together(map(run, LOOPS))), strict=True):
        outcome.expect(not closed, f"{loop}: {closed} of {count} were closed")
        outcome.figures += f"{loop}: {closed} of {count} closed, "
    outcome.figures += f"handlers of {seconds:g} s, ping {ping:g} s + {ping:g} s"
    return outcome


def dead_peer(scale: Scale) -> Outcome:
    """A stopped process, one that reads nothing, and one that reads and does not answer."""
    ping = scale.of(0.5, 1.0)
    outcome = Outcome()

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
                while left > 1 and time.monotonic() - began < 4 * ping + 6:
                    watcher.send(b"how many?")
                    left = json.loads(await watcher.receive())["connections"]
                    await asyncio.sleep(0.02)
                took = time.monotonic() - began
                outcome.expect(left == 1, f"{loop}: {left - 1} dead peers are still there")
                late = 2 * ping + scale.of(5, 1)
                outcome.expect(took <= late, f"{loop}: found after {took:.1f} s")
            finally:
                process.kill()
                await process.wait()
                for peer in (watcher, deaf, mute):
                    peer.transport.abort()
            return took

    took = [f"{each:.1f} s" for each in asyncio.run(_together(map(run, LOOPS)))]
    outcome.figures = f"3 dead peers, ping {ping:g} s + {ping:g} s, found after {', '.join(took)}"
    return outcome


def _held_up(loop: str, stopped: bool) -> Any:
    def measure(scale: Scale) -> Outcome:
        """The server does nothing for longer than the timeout, while the pongs arrive."""
        outcome = Outcome()
        interval, timeout, count = 0.5, 2.0, scale.of(20, 50)

        async def run() -> None:
            pings = ("--ping-interval", interval, "--ping-timeout", timeout, "--loop", loop)
            async with running(*pings) as server:
                blocker = await open_peer(server.port, "/work")
                blocker.send(_work(0, 0))  # the next one is handled where it is read
                await blocker.receive()
                slow = {"at_once": count, "pongs": False}
                async with some_peers(server.port, count, **slow) as peers:
                    for rounds in range(1, scale.of(1, 5) + 1):
                        while any(peer.pings < rounds for peer in peers if not peer.lost.done()):
                            await asyncio.sleep(0.005)
                        if stopped:
                            os.kill(server.process.pid, signal.SIGSTOP)
                        else:
                            block = {"type": "block", "seconds": timeout * 1.5}
                            blocker.send(json.dumps(block).encode())
                        await asyncio.sleep(timeout / 4)  # it stands still now
                        for peer in peers:
                            if not peer.lost.done():
                                peer.send(b"", 10)  # the pong, in time
                        await asyncio.sleep(timeout * 1.5)
                        if stopped:
                            os.kill(server.process.pid, signal.SIGCONT)
                        blocker.transport.abort()
                        blocker = await open_peer(server.port, "/work")
                        blocker.send(_work(1, interval / 2))  # it serves again
                        await blocker.receive()
                    closed = sum(peer.lost.done() for peer in peers)
                    how = "stopped" if stopped else "blocked"
                    outcome.figures = f"{how}, {loop}: {closed} of {count} healthy peers closed"
                    outcome.expect(not closed, outcome.figures)
                    blocker.transport.abort()

        asyncio.run(run())
        return outcome

    return measure


ROW = Row(
    9,
    "a handler slower than the ping timeout; a dead peer",
    "ping 1 s + 1 s",
    "0 closed; found",
    [
        Check("a slow handler", slow_handler),
        Check("a dead peer", dead_peer),
        Check("a blocked loop of asyncio", _held_up("asyncio", False)),
        Check("a blocked loop of uvloop", _held_up("uvloop", False)),
        Check("a stopped process on asyncio", _held_up("asyncio", True)),
        Check("a stopped process on uvloop", _held_up("uvloop", True)),
    ],
)
test_quick, test_whole = both_forms(ROW)
