"""Keepalive: whether a broker's server still answers.

The answer to a ping comes after all that the server has sent before, and this process may be busy.
So only silence counts, and it is counted in checks and not in seconds alone: while the event loop
is blocked, at most one check passes.
"""

from __future__ import annotations

import asyncio

from wsflow.brokers.engine import ConnectionLostError, EngineConnection, loop_time
from wsflow.tasks.detached import start_task

LOOKS = 6
"""How often it is checked whether anything has come, within ``patience`` seconds."""
MOST = 5
"""How many times ``patience`` seconds may pass without an answer, whatever else comes."""


async def watch(connection: EngineConnection, patience: float, interval: float) -> None:
    """Ping the server in a loop.

    Args:
        connection: the connection.
        patience: seconds of silence after which a ping times out.
        interval: seconds between an answer and the next ping.

    Raises:
        ConnectionLostError: the server does not answer.
    """
    while True:
        answer = start_task(connection.ping())
        try:
            await _answered(connection, answer, patience)
        finally:
            answer.cancel()
        await asyncio.sleep(interval)


async def _answered(
    connection: EngineConnection, answer: asyncio.Future[None], patience: float
) -> None:
    began, silent = loop_time(), 0
    while True:
        heard = connection.heard
        await asyncio.wait([answer], timeout=patience / LOOKS)
        if answer.done():
            return answer.result()
        silent = silent + 1 if heard == connection.heard else 0
        if silent == LOOKS:
            raise ConnectionLostError(f"no answer within {patience:g} s")
        if loop_time() - began > MOST * patience:
            raise ConnectionLostError(f"no answer within {MOST * patience:g} s")
