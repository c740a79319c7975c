"""``wsflow publish``: publish messages on a topic of a running app."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from wsflow.brokers.select import MEMORY
from wsflow.cli.config import variable
from wsflow.log import TextFormatter, log_to_stderr
from wsflow.messages.codec import JSON, bound
from wsflow.publishing import Publisher, declared_topic, publisher
from wsflow.server.exits import Exit, UsageError
from wsflow.server.loading import load
from wsflow.wiring.compile import compile_app


def publish(
    topic: Annotated[
        str, Parameter(help="The topic's name, as in room.lobby, or its template: 'room.{room}'.")
    ],
    message: Annotated[
        str | None,
        Parameter(help="The message in JSON. Without it, each line of standard input is one."),
    ] = None,
    /,
    *,
    broker: Annotated[
        str | None,
        Parameter(help="The app's broker, as in redis://localhost.", env_var=variable("broker")),
    ] = None,
    app: Annotated[
        str | None,
        Parameter(help="The app: module:attribute. With it, messages are validated first."),
    ] = None,
    param: Annotated[
        list[str] | None,
        Parameter(
            help="A value for a parameter of the template, NAME=VALUE: --param room='my room'. It "
            "can be repeated.",
            negative=(),
        ),
    ] = None,
    timeout: Annotated[float, Parameter(help="Seconds to wait for the broker.")] = 10.0,
) -> int:
    """Publish messages on a topic of a running app.

    On a topic with history their event ids are printed. Exit codes: 0 published, 2 usage error,
    3 the app cannot be loaded or its declarations are invalid, 5 the broker cannot be reached or
    refuses the message.
    """
    log_to_stderr("warning", TextFormatter("%(levelname)s %(name)s: %(message)s"))
    if broker in (None, MEMORY):
        raise UsageError(
            "name the app's broker: --broker redis://…, nats://… or, for a running "
            "`wsflow run --workers`, workers://; or WSFLOW_BROKER, or broker in [tool.wsflow]"
        )
    values = _values(param or [])
    router = load(app) if app is not None else None
    lines = [message] if message is not None else sys.stdin
    try:
        decode = JSON.untyped
        if router is not None:
            _, declared = declared_topic(compile_app(router).topics, topic, values)
            decode = bound("json", declared.codecs[0].hooks).decoder(*declared.types)
        asyncio.run(
            _publish(publisher(broker, app=router, timeout=timeout), topic, values, decode, lines)
        )
    except (TypeError, ValueError) as exc:
        raise UsageError(str(exc)) from None
    except KeyboardInterrupt:
        return Exit.FAILED
    return Exit.STOPPED


def _values(params: Iterable[str]) -> dict[str, str | int]:
    """The values of ``--param``."""
    values: dict[str, str | int] = {}
    for each in params:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise UsageError(f"--param {each!r}: write NAME=VALUE, as in --param room=lobby")
        if name in values:
            raise UsageError(f"--param {name}= is there twice")
        values[name] = value
    return values


async def _publish(
    broker: AbstractAsyncContextManager[Publisher],
    topic: str,
    values: dict[str, str | int],
    decode: Callable[[bytes], Any],
    lines: Iterable[str],
) -> None:
    async with broker as send:
        for line in lines:
            if not line.strip():
                continue
            try:
                message = _read(line.strip(), decode)
                id = await send(topic, message, **values)
            except (msgspec.MsgspecError, TypeError) as exc:
                raise UsageError(f"{line.strip()!r} was not published: {exc}") from None
            if id:
                print(id, flush=True)


def _read(line: str, decode: Callable[[bytes], Any]) -> Any:
    """The message of a line of JSON.

    Raises:
        msgspec.MsgspecError: it is none; the message says what to do about text without quotes.
    """
    try:
        return decode(line.encode())
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as exc:
        if line.startswith(("{", "[", '"')):
            raise
        quoted = shlex.quote(msgspec.json.encode(line).decode())
        raise msgspec.DecodeError(
            f"{exc}. A message is JSON, so that a text needs quotes: {quoted}"
        ) from None
