"""``wsflow client``: run a client Router until it has ended and does not reconnect."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from wsflow.brokers.select import MEMORY
from wsflow.cli.config import variable
from wsflow.client.limits import ClientLimits
from wsflow.client.reconnecting import DONE, Reconnect
from wsflow.client.running import Client, check_uri, dial_sockets
from wsflow.end import End
from wsflow.errors import BrokerError, ConnectError
from wsflow.log import Log, TextFormatter, log_to_stderr, say
from wsflow.server.exits import Exit, UsageError
from wsflow.server.loading import load
from wsflow.wiring.compile import compile_app

log = Log("wsflow.client")

Uri = Annotated[str, Parameter(help="A ws:// or wss:// URI.")]
HeaderLines = Annotated[
    tuple[str, ...],
    Parameter(help='A header of the opening request: "Name: value". Repeatable.'),
]
Subprotocols = Annotated[tuple[str, ...], Parameter(help="A subprotocol to offer. Repeatable.")]


def client(
    target: Annotated[
        str, Parameter(help="The client: module:attribute, or module:factory() to call a factory.")
    ],
    uri: Uri,
    /,
    *,
    reconnect: Annotated[
        bool, Parameter(help="Reconnect when the connection is lost, or cannot be made yet.")
    ] = True,
    resume: Annotated[
        str, Parameter(help="The query parameter in which the server takes the last event id.")
    ] = "",
    header: HeaderLines = (),
    subprotocol: Subprotocols = (),
    broker: Annotated[
        str, Parameter(help="Broker of the client's own topics.", env_var=variable("broker"))
    ] = MEMORY,
    grace: Annotated[
        float,
        Parameter(
            help="Grace period in seconds: for consumers to handle what was received.",
            env_var=variable("grace"),
        ),
    ] = 10.0,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Parameter(
            help="Lowest level of log messages that are written.", env_var=variable("log_level")
        ),
    ] = "info",
) -> int:
    """Connect to a server, and serve the connection by a Router.

    Exit codes: 0 stopped by a signal, or the connection ended normally, 1 crashed, 2 usage error,
    3 the client cannot be loaded or its declarations are invalid, 5 the broker cannot be reached,
    6 the server cannot be reached or refuses the connection, 7 it closed with a code after which a
    client does not reconnect.
    """
    plan = compile_app(load(target), client=True)
    log_to_stderr(log_level, TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    limits = ClientLimits()

    with_what: dict[str, Any] = {
        "reconnect": Reconnect() if reconnect else None,
        "resume": resume,
        "headers": headers_of(header),
        "subprotocols": subprotocol,
        "limits": limits,
        "broker": broker,
    }

    async def run() -> Exit:
        running = Client(plan, check_uri(uri), dial_sockets(limits), **with_what)
        loop = asyncio.get_running_loop()
        stopping = _Stopping(running, grace)
        loop.add_signal_handler(signal.SIGTERM, stopping.drain)
        loop.add_signal_handler(signal.SIGINT, stopping.interrupt)
        running.start()
        try:
            end = await running.wait()
        except (ConnectError, BrokerError):
            raise
        except Exception as exc:
            log.error("the client failed", exc_info=exc)
            return Exit.FAILED
        return Exit.STOPPED if stopping.asked else outcome(end)

    return asyncio.run(run())


class _Stopping:
    """What signals do: each drains, and SIGINT stops at once what drains already."""

    def __init__(self, running: Client, grace: float) -> None:
        self._running = running
        self._grace = grace
        self._draining: asyncio.Task[None] | None = None

    @property
    def asked(self) -> bool:
        return self._draining is not None

    def drain(self) -> None:
        if self._draining is None:
            log.info("stopping: draining for at most %g s", self._grace)
            drain = self._running.drain(self._grace)
            self._draining = asyncio.create_task(drain, name="wsflow stopping")

    def interrupt(self) -> None:
        if self.asked:
            self._running.stop()
        self.drain()


def headers_of(lines: tuple[str, ...]) -> list[tuple[str, str]]:
    """The headers of ``--header``.

    Raises:
        UsageError: one is not a header.
    """
    found = []
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            what = "has no colon" if not colon else "has no name"
            which = f", number {number}," if len(lines) > 1 else ""
            raise UsageError(f"--header{which} is not a header: it {what}; write 'Name: value'")
        found.append((name.strip(), value.strip()))
    return found


def outcome(end: End | None) -> Exit:
    """Print how a connection ended, if that was not normal. Returns the exit code."""
    if end is None or end.cause == "closed" or end.code in DONE:
        return Exit.STOPPED
    say(f"wsflow: the connection ended: {end}")
    return Exit.CLOSED
