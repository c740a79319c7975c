"""``python -m tests.cluster``: the scenarios in full, for each broker, with what was seen.

Exits with 1 if a message was lost, came twice or out of order, or if a peer was refused. With
``--storm`` a crowd comes back at once instead; it exits with 1 if not all are back within five
seconds with all that they have missed, or if others had to wait for them.

With ``--faults`` all that can happen to two processes and their broker is done to them, one after
the other, and with ``--mixture`` at random; it exits with 1 if something was lost and nobody was
told, came twice or out of order, if another topic was affected, or if not all is well again within
a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time
from collections.abc import Mapping, Sequence

from tests.brokers.servers import KINDS, BrokerServer
from tests.cluster import faults, table
from tests.cluster import storm as storms
from tests.cluster.scenario import Outcome, Scenario, Size, disturbance
from tests.processes import free_port, running

MIXTURE = "a mixture of these"


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


def table_of(arguments: argparse.Namespace) -> bool:
    """Do the faults one by one, print the table, and write it. Returns whether all is well."""
    measured = {}
    good = True
    print(table.head(), flush=True)
    for fault in faults.FAULTS:
        if arguments.fault and fault.name not in arguments.fault:
            continue
        for engine in fault.engines:
            if engine in (arguments.broker or faults.ENGINES):
                verdict = asyncio.run(faults.play(fault, engine, arguments.old))
                good = good and verdict.good
                key = fault.name, engine
                measured[key] = table.cells(verdict)
                print(table.row(key, measured[key]), flush=True)
    if arguments.write:
        write(measured)
    return good


def mixture_of(arguments: argparse.Namespace) -> bool:
    """Do faults at random. Returns whether all is well."""
    seed = arguments.seed if arguments.seed is not None else random.randrange(2**32)
    began = time.monotonic()

    def tell(turn: faults.Turn, healed: float | None) -> None:
        well = "not well again" if healed is None else f"well again after {healed:.1f} s"
        seconds = time.monotonic() - began
        print(f"{seconds:5.0f} s: {turn}: {well}", file=sys.stderr, flush=True)

    measured = {}
    good = True
    for engine in arguments.broker or faults.ENGINES:
        print(f"{engine}: --seed {seed}", file=sys.stderr, flush=True)
        verdict = asyncio.run(faults.play_mixture(engine, seed, arguments.minutes, tell))
        good = good and verdict.good
        key = MIXTURE, engine
        measured[key] = table.cells(verdict)
        print(f"{table.row(key, measured[key])}\n{verdict.published} published", flush=True)
    if arguments.write:
        write(measured)
    return good


def write(measured: Mapping[table.Key, Sequence[str]]) -> None:
    rows = [(each.name, engine) for each in faults.FAULTS for engine in each.engines]
    rows += [(MIXTURE, engine) for engine in faults.ENGINES]
    table.PAGE.write_text(table.write(table.PAGE.read_text(), measured, rows))


def scenarios_of(arguments: argparse.Namespace) -> bool:
    """The scenarios, or the storm. Returns whether all is well."""
    size = Size(messages=arguments.messages, peers=arguments.peers)
    good = True
    for kind in arguments.broker or KINDS:
        if arguments.storm:
            storm = asyncio.run(storms.play(kind, 500, 1000))
            good = good and storm.weathered
            print(f"{kind}, 500 peers, 1,000 events: {storm}", flush=True)
            continue
        for topic, disturbed in (("plain", False), ("kept", False), ("kept", True)):
            outcome = asyncio.run(play(kind, topic, size, disturbed))
            wrong = outcome.lost or outcome.twice or outcome.disorder or outcome.unrecovered
            good = good and not (wrong or outcome.refused)
            print(f"{kind} {topic}{' disturbed' * disturbed}: {outcome}", flush=True)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--broker", choices=KINDS, action="append")
    parser.add_argument("--messages", type=int, default=Size.messages)
    parser.add_argument("--peers", type=int, default=Size.peers)
    parser.add_argument("--storm", action="store_true", help="500 peers that missed 1,000 events")
    parser.add_argument("--faults", action="store_true", help="one fault after the other")
    names = [each.name for each in faults.FAULTS]
    parser.add_argument("--fault", action="append", choices=names, help="only this; repeatable")
    parser.add_argument("--old", default=faults.OLD, help="the revision that is the old version")
    parser.add_argument("--mixture", action="store_true", help="faults at random")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the mixture")
    parser.add_argument("--seed", type=int, help="of the mixture: to have an earlier one again")
    parser.add_argument("--write", action="store_true", help="put it into docs/scaling.md, too")
    arguments = parser.parse_args()
    logging.getLogger("wsflow").addHandler(logging.NullHandler())
    if arguments.faults or arguments.fault:
        good = table_of(arguments)
    elif arguments.mixture:
        good = mixture_of(arguments)
    else:
        good = scenarios_of(arguments)
    sys.exit(not good)


if __name__ == "__main__":
    main()
