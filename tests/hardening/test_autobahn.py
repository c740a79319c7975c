"""Row 1: the cases of the Autobahn suite, against the server and against the client."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

import pytest

from tests.hardening.board import Check, Outcome, Row, Scale, UnavailableError, both_forms
from tests.hardening.process import running

SOME = ["1.1.*", "2.*", "5.*", "6.2.*", "7.1.*", "7.7.*", "12.1.1"]
ALL_MESSAGES, MESSAGES = 1000, 50
"""How many messages each case of 12 and 13 exchanges with the server, as in the original, and with
the client; see ``tests.autobahn``."""


def _kosoku() -> Any:
    if importlib.util.find_spec("kosoku") is None:
        raise UnavailableError("kosoku is not installed: uv run --group autobahn …")
    return importlib.import_module("kosoku")


def _judge(results: list[Any]) -> Outcome:
    failed = [each for each in results if not each.passed]
    skipped = sum(each.behavior.value == "UNIMPLEMENTED" for each in results)
    outcome = Outcome(f"{len(results)} cases, {len(failed)} failed, {skipped} not implemented")
    outcome.expect(results, "no case was run")
    for each in failed:
        if each.behavior.value != "UNIMPLEMENTED":
            outcome.wrong.append(
                f"{each.case_id}: {each.behavior.value}, closing {each.behavior_close.value}: "
                f"{each.result} {each.result_close}"
            )
    return outcome


def server(scale: Scale) -> Outcome:
    """The suite's fuzzing client against ``wsflow run``, with compression."""
    kosoku = _kosoku()
    importlib.import_module("tests.autobahn.__main__").shorten(scale.of(10, ALL_MESSAGES))

    async def run() -> list[Any]:
        limits = ("--max-message-size", 32 * 2**20, "--max-fragments", 100_000)
        async with running(
            *limits, "--compression", "deflate", "--no-access-log", app="examples.echo:app"
        ) as wsflow:
            uri = f"ws://127.0.0.1:{wsflow.port}"
            cases = scale.of(SOME, None)
            try:
                # One after the other: a case has 20 s, and zlib takes most of them, at both ends.
                return list(await kosoku.run_fuzzingclient(uri, cases, concurrency=1))
            except kosoku.FailureError as failure:
                return list(failure.results)

    return _judge(asyncio.run(run()))


def client(scale: Scale) -> Outcome:
    """``wsflow.connect`` against the suite's fuzzing server."""
    _kosoku()
    autobahn = importlib.import_module("tests.autobahn.__main__")
    autobahn.shorten(scale.of(5, MESSAGES))
    return _judge(asyncio.run(autobahn.run_all(scale.of(SOME, []), [], False)))


ROW = Row(
    1,
    "Autobahn by `kosoku`, server and client, compression on",
    "all 517",
    "0 failed",
    [Check("server", server), Check("client", client)],
)
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"  # kosoku does not close its own files
)
test_quick, test_whole = both_forms(ROW)
