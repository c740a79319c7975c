"""One process that serves until a signal, and its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from wsflow.brokers import select
from wsflow.errors import BrokerError
from wsflow.log import Log, log_to_stderr
from wsflow.server.accepting import AddressInUse
from wsflow.server.exits import Exit, UsageError, no_broker, not_bound
from wsflow.server.serve import Server
from wsflow.server.settings import Settings
from wsflow.server.watchdog import watching
from wsflow.wiring.plan import AppPlan

log = Log("wsflow")

LAST_WORDS = 2.0
"""Seconds that logging has before a process exits that was not stopped in time."""

SPARE_DESCRIPTORS = 128
"""How many file descriptors are left for all that is no connection: logs, brokers, the app's."""


def run_server(
    plan: AppPlan,
    settings: Settings,
    started: Callable[[int], None],
    sockets: Sequence[socket.socket] = (),
    parent: socket.socket | None = None,
) -> Exit:
    """Serve an app until SIGTERM or SIGINT.

    Args:
        plan: the app.
        settings: how to serve it.
        started: called with its TCP port once it serves; 0 for a Unix socket.
        sockets: the sockets to listen on, instead of the address in the settings.
        parent: a socket to the supervisor; when the supervisor closes it, the process stops as on
            SIGTERM.

    Raises:
        UsageError: a setting cannot be used.
    """
    try:
        with asyncio.Runner(loop_factory=loop_factory(settings)) as runner:
            return runner.run(_serve(plan, settings, started, sockets, parent))
    except KeyboardInterrupt:  # before the signal handlers were installed
        return Exit.STOPPED


def configure_logging(settings: Settings) -> None:
    """Log to standard error; with several workers each line has the process id."""
    process = "[%(process)d] " if settings.workers > 1 else ""
    log_to_stderr(settings.log_level, f"%(asctime)s %(levelname)s {process}%(name)s: %(message)s")
    logging.getLogger("wsflow.access").disabled = not settings.access_log


def loop_factory(settings: Settings) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The factory of the event loop in the settings; None for the default.

    Raises:
        UsageError: it is not installed.
    """
    if settings.loop == "asyncio":
        return None
    try:
        uvloop: Any = importlib.import_module("uvloop")
    except ModuleNotFoundError:
        raise UsageError(
            "--loop uvloop needs uvloop, which is not installed: pip install 'wsflow[speed]'"
        ) from None
    return uvloop.new_event_loop  # type: ignore[no-any-return]


async def _serve(
    plan: AppPlan,
    settings: Settings,
    started: Callable[[int], None],
    sockets: Sequence[socket.socket],
    parent: socket.socket | None,
) -> Exit:
    check_broker(settings)
    check_descriptors(settings)
    server = Server(plan, settings, sockets)
    try:
        server.bind()
    except ValueError as exc:
        raise UsageError(str(exc)) from None
    except OSError as exc:
        return not_bound(exc, settings)
    stopping = Stopping(server, settings)
    loop = asyncio.get_running_loop()
    with (
        stopping.on_signals(loop, parent),
        watching(loop, settings.stall_timeout, server.stalled),
    ):
        # Imported and wired objects are permanent: the garbage collector need not scan them.
        gc.collect()
        gc.freeze()
        try:
            await server.run(lambda: started(server.port))
        except BrokerError as exc:
            return no_broker(exc)
        except AddressInUse as exc:
            return not_bound(exc, settings)
        except Exception as exc:
            log.error("the app failed", exc_info=exc)
            return Exit.FAILED
        finally:
            stopping.done()
    return Exit.FAILED if server.overran else Exit.STOPPED


def check_descriptors(settings: Settings) -> None:
    """Raise the limit of file descriptors to what the settings may need, or say that it is too low.

    Each connection takes one. What is left for others is ``SPARE_DESCRIPTORS``.
    """
    needed = settings.max_connections + settings.max_handshakes + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not settings.max_connections or soft == resource.RLIM_INFINITY or soft >= needed:
        return
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < needed:
        log.warning(
            "max_connections is %d, and this process may have %d file descriptors, which is enough "
            "for %d connections: further ones wait. Raise the limit (ulimit -Hn, or LimitNOFILE of "
            "systemd), or lower max_connections",
            settings.max_connections,
            most,
            max(0, most - settings.max_handshakes - SPARE_DESCRIPTORS),
        )


def check_broker(settings: Settings) -> None:
    """Check the broker's URL, and that its client is installed.

    Raises:
        UsageError: the URL is invalid, or the client is not installed.
    """
    try:
        if settings.broker != select.MEMORY:
            select.engine(settings.broker)
    except ValueError as exc:
        raise UsageError(f"--broker: {exc}") from None


class Stopping:
    """Handles SIGTERM and SIGINT: the first one drains, the second one stops at once.

    SIGHUP drains a worker, too: another one has replaced it. It does not count as the first.

    Args:
        server: what to stop.
        settings: how long to wait.
    """

    SECOND_SIGNAL = 3.0
    """Seconds that scope functions have to tear down after the second signal."""

    def __init__(self, server: Server, settings: Settings) -> None:
        self._server = server
        self._settings = settings
        self._signals = 0
        self._watchdog: threading.Timer | None = None

    @contextlib.contextmanager
    def on_signals(
        self, loop: asyncio.AbstractEventLoop, parent: socket.socket | None = None
    ) -> Any:
        """Handle the signals, and the end of the supervisor, as long as the block runs."""
        handled = {signal.SIGTERM: False, signal.SIGINT: False}
        if parent is not None:
            handled[signal.SIGHUP] = True
            loop.add_reader(parent, self._parent_is_gone, loop, parent)
        for each, restart in handled.items():
            loop.add_signal_handler(each, self.signalled, restart)
        if parent is None:
            handled[signal.SIGHUP] = False
            loop.add_signal_handler(signal.SIGHUP, self.not_reloaded)
        try:
            yield
        finally:
            for each in handled:
                loop.remove_signal_handler(each)
            if parent is not None:
                loop.remove_reader(parent)

    def _parent_is_gone(self, loop: asyncio.AbstractEventLoop, parent: socket.socket) -> None:
        """The supervisor has closed its socket, on which it sends nothing after the start."""
        loop.remove_reader(parent)
        log.error("the supervisor is gone")
        self.signalled()

    def not_reloaded(self) -> None:
        """A single process cannot replace itself: SIGHUP does nothing to it."""
        log.warning("SIGHUP is ignored: to reload without refusing a connection, use --workers")

    def signalled(self, restart: bool = False) -> None:
        self._signals += not restart  # one of the supervisor's does not make the next the second
        if self._signals <= 1:
            log.info("stopping: draining for at most %g s", self._settings.grace)
            # Handlers that swallow cancellation, or block the loop, must not keep the process.
            self._watch(
                self._settings.grace + 3 * self._settings.close_timeout + self.SECOND_SIGNAL
            )
            self._server.stop(restart=restart)
        else:
            log.warning("stopping at once")
            self._watch(self.SECOND_SIGNAL)
            self._server.stop(now=True)

    def _watch(self, seconds: float) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        seconds = min(seconds, threading.TIMEOUT_MAX)
        self._watchdog = threading.Timer(seconds, self._give_up)
        self._watchdog.daemon = True
        self._watchdog.start()

    def _give_up(self) -> None:
        """Exit without waiting for handlers that do not end, those of ``logging`` included."""
        logging_it = threading.Thread(target=self._log_giving_up, daemon=True)
        logging_it.start()
        logging_it.join(LAST_WORDS)
        os._exit(Exit.FAILED)

    def _log_giving_up(self) -> None:
        running = ", ".join(self._server.running) or "-"
        log.error("not stopped in time, exiting; still running: %s", running)
        logging.shutdown()

    def done(self) -> None:
        """The server has stopped. Closing the event loop waits for all tasks: limit that time."""
        if self._server.left_behind:
            self._watch(self.SECOND_SIGNAL)
        elif self._watchdog is not None:
            self._watchdog.cancel()
