"""Whether a broker's server still answers.

Its answer to a ping stands behind all that it has sent before, and this process may be busy. So
silence counts, in looks and not in seconds alone: a stall of the event loop is one look.
"""

from __future__ import annotations

import asyncio
import time

from wsflow.brokers.engine import ConnectionLostError, EngineConnection

LOOKS = 6
"""How often it is looked at what has come, while an answer is awaited patiently."""
MOST = 5
"""How many times the patience may pass without an answer, whatever else comes."""


async def watch(connection: EngineConnection, patience: float, interval: float) -> None:
    """Ping again and again.

    Args:
        connection: the connection.
        patience: seconds of silence within which an answer has to come.
        interval: seconds between an answer and the next ping.

    Raises:
        ConnectionLostError: the server does not answer.
    """
    while True:
        answer = asyncio.ensure_future(connection.ping())
        try:
            await _answered(connection, answer, patience)
        finally:
            answer.cancel()
        await asyncio.sleep(interval)


async def _answered(
    connection: EngineConnection, answer: asyncio.Future[None], patience: float
) -> None:
    began, silent = time.monotonic(), 0
    while True:
        heard = connection.heard
        await asyncio.wait([answer], timeout=patience / LOOKS)
        if answer.done():
            return answer.result()
        silent = silent + 1 if heard == connection.heard else 0
        if silent == LOOKS:
            raise ConnectionLostError(f"no answer within {patience:g} s")
        if time.monotonic() - began > MOST * patience:
            raise ConnectionLostError(f"no answer within {MOST * patience:g} s")
