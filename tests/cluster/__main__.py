"""``python -m tests.cluster``: the scenarios in full, for each broker, with what was seen.

Exits with 1 if a message was lost, came twice or out of order, or if a peer was refused. With
``--storm`` a crowd comes back at once instead; it exits with 1 if not all are back within five
seconds with all that they have missed, or if others had to wait for them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests.brokers.servers import KINDS, BrokerServer
from tests.cluster import storm as storms
from tests.cluster.scenario import Outcome, Scenario, Size, disturbance
from tests.processes import free_port, running


async def play(kind: str, topic: str, size: Size, disturbed: bool) -> Outcome:
    server = BrokerServer(kind, durable=True)  # type: ignore[arg-type]
    server.start()
    port = free_port()
    try:
        async with running(
            "tests.cluster.app:app",
            "--workers",
            str(size.workers),
            "--port",
            str(port),
            "--broker",
            server.url,
            "--no-access-log",
            "--publish-timeout",
            "30",
        ) as run:
            await run.until("stop it with Ctrl-C")
            scenario = Scenario(run, port, server.url, topic, size)
            outcome = await scenario.play(disturbance(run, server) if disturbed else None)
            run.process.terminate()
            assert await run.ended() == 0, run.log
            return outcome
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--broker", choices=KINDS, action="append")
    parser.add_argument("--messages", type=int, default=Size.messages)
    parser.add_argument("--peers", type=int, default=Size.peers)
    parser.add_argument("--storm", action="store_true", help="500 peers that missed 1,000 events")
    arguments = parser.parse_args()
    size = Size(messages=arguments.messages, peers=arguments.peers)
    bad = False
    for kind in arguments.broker or KINDS:
        if arguments.storm:
            storm = asyncio.run(storms.play(kind, 500, 1000))
            bad = bad or not storm.weathered
            print(f"{kind}, 500 peers, 1,000 events: {storm}", flush=True)
            continue
        for topic, disturbed in (("plain", False), ("kept", False), ("kept", True)):
            outcome = asyncio.run(play(kind, topic, size, disturbed))
            wrong = outcome.lost or outcome.twice or outcome.disorder or outcome.unrecovered
            bad = bad or bool(wrong or outcome.refused)
            print(f"{kind} {topic}{' disturbed' * disturbed}: {outcome}", flush=True)
    sys.exit(bad)


if __name__ == "__main__":
    main()
