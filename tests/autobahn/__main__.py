"""``python -m tests.autobahn``: ``wsflow.connect`` against the Autobahn suite's fuzzing server.

``kosoku`` serves the suite's cases. Exits with 1 if our client fails one. The cases that need an
offer of compression that our client does not make of itself are run with that offer.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
import time
from collections import Counter
from typing import Any

from kosoku import FailureError, _caseindex, run_fuzzingserver
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

import wsflow

AGENT = "wsflow"
MESSAGES = 50
"""How many messages each case of 12 and 13 exchanges. The suite's thousand of 128 kB take longer
than the 20 s that kosoku gives a case: most of that is zlib's."""

LIMITS = wsflow.ClientLimits(max_message_size=32 * 2**20, max_fragments=100_000)
"""Cases of 9 send 16 MiB, and 4 MiB in fragments of 64 bytes."""

OFFER = ClientPerMessageDeflateFactory(client_max_window_bits=True, client_no_context_takeover=True)
"""What 13.2, 13.5 and 13.6 need: the suite asks for no context takeover only who brings it up."""


def shorten(messages: int) -> None:
    """Let the cases of 12 and 13 exchange so many messages."""
    _caseindex.initialize_shims()
    compression = importlib.import_module("case12_x_x")
    for case in compression.Case12_X_X + compression.Case13_X_X:
        case.COUNT = messages


async def echo(uri: str, **options: Any) -> wsflow.End | None:
    """Send back all that comes, to the end."""
    async with wsflow.connect(uri, limits=LIMITS, **options) as peer:
        try:
            async for message in peer:
                await peer.send(message)
        except wsflow.Disconnected:
            pass  # most cases end with a broken rule
        return peer.end


async def run(cases: list[str], exclude: list[str], verbose: bool, **options: Any) -> list[Any]:
    """Run our client through the cases; what the suite says of each."""
    async with run_fuzzingserver(cases or None, exclude, host="127.0.0.1", port=0) as server:
        base = f"ws://127.0.0.1:{server.port}"
        async with connect(f"{base}/getCaseCount") as control:
            count = int(await control.recv())
        for case in range(1, count + 1):
            began = time.monotonic()
            end = await echo(f"{base}/runCase?case={case}&agent={AGENT}", **options)
            if verbose:
                print(f"{case}/{count}: {time.monotonic() - began:.2f} s, {end}", flush=True)
        await echo(f"{base}/updateReports?agent={AGENT}")
        try:
            return list(await server.get_result())
        except FailureError as failure:
            return list(failure.results)


async def run_all(cases: list[str], exclude: list[str], verbose: bool) -> list[Any]:
    """The same, and what was declined for want of an offer once more."""
    results = await run(cases, exclude, verbose)
    declined = [each.case_id for each in results if each.behavior.value == "UNIMPLEMENTED"]
    if declined:
        again = {
            each.case_id: each for each in await run(declined, [], verbose, extensions=[OFFER])
        }
        results = [again.get(each.case_id, each) for each in results]
    return results


def summarise(results: list[Any]) -> None:
    """Print a table of the groups of cases, and what is known of each failure."""
    verdicts = ("OK", "NON-STRICT", "INFORMATIONAL")
    print(f"{'cases':6}{'OK':>6}{'NON-STRICT':>12}{'INFORMATIONAL':>15}{'failed':>8}{'seconds':>9}")
    groups = dict.fromkeys(result.case_id.split(".")[0] for result in results)
    for group in [*groups, ""]:
        those = [each for each in results if not group or each.case_id.split(".")[0] == group]
        seen = Counter(each.behavior.value for each in those if each.passed)
        failed = sum(not each.passed for each in those)
        seconds = sum(each.duration for each in those) / 1000
        ok, lax, told = (seen[each] for each in verdicts)
        name = f"{group}.*" if group else "all"
        print(f"{name:6}{ok:>6}{lax:>12}{told:>15}{failed:>8}{seconds:>9.1f}")
    for each in results:
        if not each.passed:
            verdict = f"{each.behavior.value}, closing {each.behavior_close.value}"
            print(f"\n{each.case_id}: {verdict}\n  {each.description}\n  {each.expectation}")
            print(f"  {each.result}\n  {each.result_close}")
            for line in each.wirelog[-8:]:
                print(f"    {str(line)[:160]}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.autobahn", description=__doc__)
    parser.add_argument("cases", nargs="*", help="such as 1.1.1 or '9.*'; all by default")
    parser.add_argument("--exclude", action="append", default=[], help="the same, to leave out")
    parser.add_argument("--messages", type=int, default=MESSAGES, help="in each of 12.* and 13.*")
    parser.add_argument("--verbose", action="store_true", help="tell of each case")
    arguments = parser.parse_args()
    shorten(arguments.messages)
    results = asyncio.run(run_all(arguments.cases, arguments.exclude, arguments.verbose))
    summarise(results)
    if not results or not all(each.passed for each in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
