"""``wsflow publish``: publish messages on a topic of a running app."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import Annotated, Any, Union

import msgspec
from cyclopts import Parameter

from wsflow.brokers.select import MEMORY
from wsflow.log import log_to_stderr
from wsflow.server.exits import Exit, UsageError
from wsflow.server.loading import wired
from wsflow.topics.publisher import publisher
from wsflow.wiring.plan import AppPlan


def publish(
    topic: Annotated[str, Parameter(help="The topic's name, as in room.lobby.")],
    message: Annotated[
        str | None,
        Parameter(help="The message in JSON. Without it, each line of standard input is one."),
    ] = None,
    /,
    *,
    broker: Annotated[
        str, Parameter(help="The app's broker, as in redis://localhost.", env_var="WSFLOW_BROKER")
    ] = MEMORY,
    app: Annotated[
        str | None,
        Parameter(help="The app: module:attribute. With it, messages are validated first."),
    ] = None,
    timeout: Annotated[float, Parameter(help="Seconds to wait for the broker.")] = 10.0,
) -> int:
    """Publish messages on a topic of a running app.

    On a topic with history their event ids are printed. Exit codes: 0 published, 2 usage error,
    3 the app cannot be loaded or its declarations are invalid, 5 the broker cannot be reached or
    refuses the message.
    """
    log_to_stderr("warning", "%(levelname)s %(name)s: %(message)s")
    if broker == MEMORY:
        raise UsageError("name the app's broker: --broker redis://… or nats://…, or WSFLOW_BROKER")
    kind = _kind(wired(app), topic) if app is not None else Any
    lines = [message] if message is not None else sys.stdin
    try:
        asyncio.run(_publish(broker, timeout, topic, kind, lines))
    except KeyboardInterrupt:
        return Exit.FAILED
    return Exit.STOPPED


def _kind(plan: AppPlan, topic: str) -> Any:
    """The type of a topic's messages."""
    declared = plan.topics.find(topic)
    if declared is None:
        known = ", ".join(sorted(plan.topics.types)) or "none"
        raise UsageError(f"the app declares no topic {topic!r}; it has: {known}")
    return Union[declared.types]  # noqa: UP007


async def _publish(
    broker: str, timeout: float, topic: str, kind: Any, lines: Iterable[str]
) -> None:
    async with publisher(broker, timeout=timeout) as send:
        for line in lines:
            if not line.strip():
                continue
            try:
                message = msgspec.json.decode(line, type=kind)
            except msgspec.MsgspecError as exc:
                raise UsageError(f"{line.strip()!r} was not published: {exc}") from None
            if id := await send(topic, message):
                print(id, flush=True)
