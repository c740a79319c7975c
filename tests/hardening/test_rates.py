"""Row 10: rate limits, over which a peer goes ten times."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

import uvloop

from tests.hardening.board import Check, Outcome, Row, Scale, both_forms
from tests.hardening.peers import open_peer
from wsflow import Router
from wsflow.server import Settings, serve

WhenOver = Literal["close", "slow", "drop"]


def app(rate: str, burst: int, when_over: WhenOver) -> Router:
    router = Router("/")

    @router.consumer(rate=rate, burst=burst, when_over=when_over)
    async def echo(message: str) -> str:
        return message

    return router


async def _over(when_over: WhenOver, burst: int, outcome: Outcome) -> None:
    """One peer goes over ten times, another one keeps to the limit."""
    rate = {"close": "1/h", "drop": "1/h", "slow": f"{10 * burst}/s"}[when_over]
    async with serve(app(rate, burst, when_over), Settings(port=0)) as server:
        greedy, modest = await open_peer(server.port), await open_peer(server.port)
        began = time.monotonic()
        for number in range(10 * burst):
            greedy.send(str(number).encode())
        for number in range(burst):
            modest.send(b"%d" % number)
            outcome.expect(await modest.receive() == b"%d" % number, "another peer is affected")
        if when_over == "close":
            # What it has sent before may not be handled any more: it is answered in order.
            code, reason = await greedy.closed
            outcome.expect((code, reason) == (1008, "rate limit"), f"closed with {code} {reason}")
            answers = [b"%d" % number for number in range(len(greedy.messages))]
            outcome.expect(greedy.messages == answers, f"answers: {greedy.messages}")
            outcome.expect(len(answers) <= burst, f"{len(answers)} were answered")
        else:
            for number in range(10 * burst if when_over == "slow" else burst):
                found = await greedy.receive()
                outcome.expect(found == b"%d" % number, f"{number} was not answered")
        if when_over == "slow":
            least = (10 * burst - burst) / (10 * burst)
            seconds = time.monotonic() - began
            outcome.expect(seconds > 0.95 * least, f"all came within {seconds:.2f} s")
        if when_over != "close":
            await greedy.leave()
            code, _ = await greedy.closed
            outcome.expect(code == 1000, f"closed with {code}")
        counted = server.registry.counters()["rate_limited"]
        outcome.expect(counted >= 1, f"counted: {counted}")
        await modest.leave()


def _check(when_over: WhenOver) -> Any:
    def measure(scale: Scale) -> Outcome:
        outcome = Outcome()
        burst = scale.of(20, 200)
        for loop in (asyncio.new_event_loop, uvloop.new_event_loop):
            with asyncio.Runner(loop_factory=loop) as runner:
                runner.run(_over(when_over, burst, outcome))
        outcome.figures = f"{10 * burst:,} messages against {burst:,}, on both loops" + (
            ": as set" if outcome.reached else f": {len(outcome.wrong)} wrong"
        )
        return outcome

    return measure


ROW = Row(
    10,
    "rate limits",
    "10× over",
    "as set; others unaffected",
    [Check(kind, _check(kind)) for kind in ("close", "slow", "drop")],
)
test_quick, test_whole = both_forms(ROW)
