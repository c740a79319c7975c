"""Row 11: a server that is told to stop answers all that it has accepted."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from typing import Any

from tests.hardening.board import Check, Outcome, Row, Scale, both_forms
from tests.hardening.peers import Peer, some_peers
from tests.hardening.process import Server, running


def _work(number: int, seconds: float) -> bytes:
    return json.dumps({"type": "work", "number": number, "seconds": seconds}).encode()


async def _at_work(peers: list[Peer], seconds: float) -> None:
    """Each has a handler at work: a first message is answered, so the second one is accepted."""
    for peer in peers:
        peer.send(_work(1, 0))
        peer.send(_work(2, seconds))
    for peer in peers:
        assert json.loads(await peer.receive())["number"] == 1


async def _answers(peers: list[Peer]) -> tuple[int, Counter[int]]:
    """How many of the second messages were answered, and the close codes."""
    answered, codes = 0, Counter[int]()
    for peer in peers:
        code, _ = await asyncio.wait_for(peer.closed, 60)
        codes[code] += 1
        answered += any(json.loads(each)["number"] == 2 for each in peer.messages)
    return answered, codes


def _stopped(number: signal.Signals) -> Any:
    def measure(scale: Scale) -> Outcome:
        """One signal: all is answered, 1001, exit code 0."""
        outcome = Outcome()
        count, seconds = scale.of(100, 1000), scale.of(0.5, 2.0)
        figures = []

        async def run(loop: str) -> None:
            async with running("--loop", loop, "--no-access-log") as server:
                async with some_peers(server.port, count, "/work") as peers:
                    await _at_work(peers, seconds)
                    began = time.monotonic()
                    server.tell(number)
                    answered, codes = await _answers(peers)
                    exit_code = await server.ended()
                    took = time.monotonic() - began
                    figures.append(f"{loop} {answered}/{count} answered, exit {exit_code}")
                    outcome.expect(answered == count, f"{loop}: {answered} of {count} answered")
                    outcome.expect(codes == {1001: count}, f"{loop}: closed with {codes}")
                    outcome.expect(exit_code == 0, f"{loop}: exit {exit_code}")
                    outcome.expect(took < scale.of(15, 7), f"{loop}: it took {took:.1f} s")
                    outcome.expect("Traceback" not in server.log, server.log[-2000:])

        for loop in ("asyncio", "uvloop"):
            asyncio.run(run(loop))
        outcome.figures = f"{number.name}: {', '.join(figures)}"
        return outcome

    return measure


def replaced(scale: Scale) -> Outcome:
    """SIGHUP replaces the workers: all is answered, 1012, and new peers find new workers."""
    outcome = Outcome()
    count, seconds = scale.of(100, 1000), scale.of(0.5, 2.0)

    async def newcomers(server: Server, until: asyncio.Event) -> Counter[int]:
        seen = Counter[int]()
        while not until.is_set():
            async with some_peers(server.port, 1) as (peer,):
                seen[peer.status] += 1
            await asyncio.sleep(0.02)
        return seen

    async def run() -> None:
        workers = ("--workers", 2, "--no-access-log")
        async with running(*workers, seconds=60) as server:
            async with some_peers(server.port, count, "/work") as peers:
                await _at_work(peers, seconds)
                until = asyncio.Event()
                coming = asyncio.ensure_future(newcomers(server, until))
                server.tell(signal.SIGHUP)
                answered, codes = await _answers(peers)
                until.set()
                seen = await coming
                async with some_peers(server.port, 10, "/work") as after:
                    await _at_work(after, 0.2)
                    server.tell(signal.SIGTERM)
                    last, _ = await _answers(after)
                    exit_code = await server.ended()
                outcome.expect(answered == count, f"{answered} of {count} answered")
                outcome.expect(codes == {1012: count}, f"closed with {codes}")
                outcome.expect(set(seen) == {101}, f"newcomers saw {seen}")
                outcome.expect(last == 10, f"{last} of 10 answered after SIGHUP")
                outcome.expect(exit_code == 0, f"exit {exit_code}")
                outcome.expect("Traceback" not in server.log, server.log[-2000:])
                outcome.figures = (
                    f"SIGHUP, 2 workers: {answered}/{count} answered, {seen[101]} newcomers let "
                    f"in, exit {exit_code}"
                )

    asyncio.run(run())
    return outcome


def twice(scale: Scale) -> Outcome:
    """SIGINT twice: handlers that would take too long are cut off, in order and at once."""
    outcome = Outcome()
    count = scale.of(100, 1000)
    figures = []

    async def run(loop: str) -> None:
        async with running("--loop", loop, "--no-access-log") as server:
            async with some_peers(server.port, count, "/work") as peers:
                await _at_work(peers, 30.0)
                server.tell(signal.SIGINT)
                await server.logged("stopping: draining")
                began = time.monotonic()
                server.tell(signal.SIGINT)
                _, codes = await _answers(peers)
                exit_code = await server.ended()
                took = time.monotonic() - began
                outcome.expect(codes == {1001: count}, f"{loop}: closed with {codes}")
                outcome.expect(took < scale.of(15, 4), f"{loop}: it took {took:.1f} s")
                outcome.expect("Traceback" not in server.log, server.log[-2000:])
                # As documented: handlers were cancelled, and each is named.
                outcome.expect(exit_code == 1, f"{loop}: exit {exit_code}")
                named = server.log.count("cancelled because the time was over: consumer do_work")
                outcome.expect(named == count, f"{loop}: {named} of {count} are named in the log")
                figures.append(f"{loop} {took:.1f} s, {named} named, exit {exit_code}")

    for loop in ("asyncio", "uvloop"):
        asyncio.run(run(loop))
    outcome.figures = f"SIGINT twice, {count} handlers of 30 s: {', '.join(figures)}"
    return outcome


ROW = Row(
    11,
    "SIGTERM, SIGHUP, SIGINT twice",
    "1,000 connections, each with a handler at work",
    "0 accepted messages unanswered, exit 0",
    [
        Check("SIGTERM", _stopped(signal.SIGTERM)),
        Check("SIGINT", _stopped(signal.SIGINT)),
        Check("SIGHUP", replaced),
        Check("SIGINT twice", twice),
    ],
)
test_quick, test_whole = both_forms(ROW)
