"""One process that serves until a signal, and its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import importlib.util
import json
import logging
import logging.config
import os
import resource
import signal
import socket
import threading
import tomllib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from wsflow.addresses import Address
from wsflow.brokers import select
from wsflow.errors import BrokerError
from wsflow.log import JSONFormatter, Log, TextFormatter, log_to_stderr, say
from wsflow.runtime.status import prometheus
from wsflow.server.accepting import AddressInUse
from wsflow.server.exits import AdminAddressError, Exit, UsageError, no_broker, not_bound
from wsflow.server.parent import Parent
from wsflow.server.serve import Server
from wsflow.server.service import NOBODY, ServiceManager
from wsflow.server.settings import Settings
from wsflow.server.watchdog import watching
from wsflow.tasks.loops import event_loop
from wsflow.transports import frames
from wsflow.wiring.plan import AppPlan

log = Log("wsflow")

Run = Callable[[Callable[[], Coroutine[Any, Any, Exit]]], Exit]
"""Runs an async function on an event loop."""

EXTRAS = {"uvloop": "speed", "trio": "trio"}
"""What event loops are installed with, but for asyncio's own."""

LAST_WORDS = 2.0
"""Seconds that logging has before a process exits that was not stopped in time."""

HURRY = 3.0
"""Seconds that scope functions have to tear down when the process stops at once."""

GOING_ON = "the drain goes on; SIGINT (Ctrl-C) stops at once"
"""Logged when a process that drains is told to stop once more."""

SPARE_DESCRIPTORS = 128
"""How many file descriptors are left for all that is no connection: logs, brokers, the app's."""


def run_server(
    plan: AppPlan,
    settings: Settings,
    started: Callable[[int], None],
    sockets: Sequence[socket.socket] = (),
    parent: Parent | None = None,
    manager: ServiceManager = NOBODY,
) -> Exit:
    """Serve an app until SIGTERM or SIGINT.

    Args:
        plan: the app.
        settings: how to serve it.
        started: called with its TCP port once it serves; 0 for a Unix socket.
        sockets: the sockets to listen on, instead of the address in the settings.
        parent: the supervisor; when it ends, the process stops as on SIGTERM.
        manager: the service manager.

    Raises:
        UsageError: a setting cannot be used.
    """
    try:
        run = runner(settings)
        return run(partial(_serve, plan, settings, started, sockets, parent, manager))
    except KeyboardInterrupt:  # before the signal handlers were installed
        return Exit.STOPPED


def configure_logging(settings: Settings, *, dev: bool = False) -> None:
    """Log to standard error, or as a file says; with several workers each line has the process id.

    Args:
        settings: what is logged.
        dev: whether tracebacks begin at the app's own frame.

    Raises:
        UsageError: the file cannot be used.
    """
    process = "[%(process)d] " if settings.workers > 1 else ""
    line = f"%(asctime)s %(levelname)s {process}%(name)s: %(message)s"
    if settings.log_config is not None:
        _configure_logging(settings.log_config)
    elif settings.log_format == "json":
        log_to_stderr(settings.log_level, JSONFormatter(own_frames=dev))
    else:
        log_to_stderr(settings.log_level, TextFormatter(line, own_frames=dev))
    logging.getLogger("wsflow.access").disabled = not settings.access_log


def _configure_logging(path: Path) -> None:
    """Configure ``logging`` as a file says: that of ``dictConfig`` as TOML or JSON, or that of
    ``fileConfig``."""
    defaults = {"version": 1, "disable_existing_loggers": False}
    try:
        if path.suffix == ".toml":
            logging.config.dictConfig(defaults | tomllib.loads(path.read_text()))
        elif path.suffix == ".json":
            found = json.loads(path.read_text())
            if not isinstance(found, dict):
                raise ValueError("it has no object of JSON")
            logging.config.dictConfig(defaults | found)
        else:
            logging.config.fileConfig(path, disable_existing_loggers=False)
    except Exception as exc:  # of whatever the file names
        what = f"it has no {exc.args[0]!r}" if isinstance(exc, KeyError) else str(exc)
        cause = f" ({exc.__cause__})" if exc.__cause__ is not None else ""
        raise UsageError(f"--log-config {path}: {what}{cause}") from None


def loop_of(settings: Settings) -> str:
    """The name of the event loop in the settings; by default the fastest that is installed."""
    if settings.loop != "auto":
        return settings.loop
    return "asyncio" if importlib.util.find_spec("uvloop") is None else "uvloop"


def engine(settings: Settings) -> str:
    """What runs the connections, in words."""
    form = "in Python" if str(frames.__file__).endswith(".py") else "compiled"
    return f"{loop_of(settings)}; frames are {form}"


def runner(settings: Settings) -> Run:
    """What runs a function on the event loop in the settings.

    Raises:
        UsageError: it is not installed.
    """
    loop = loop_of(settings)
    if loop == "asyncio":
        return _run_on_asyncio
    try:
        installed: Any = importlib.import_module(loop)
    except ModuleNotFoundError:
        raise UsageError(
            f"--loop {loop} needs {loop}, which is not installed: "
            f"pip install 'wsflow[{EXTRAS[loop]}]'"
        ) from None
    if loop == "trio":
        return cast(Run, installed.run)
    return partial(_run_on_asyncio, factory=installed.new_event_loop)


def _run_on_asyncio(
    serve: Callable[[], Coroutine[Any, Any, Exit]],
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> Exit:
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(serve())


async def _serve(
    plan: AppPlan,
    settings: Settings,
    started: Callable[[int], None],
    sockets: Sequence[socket.socket],
    parent: Parent | None,
    manager: ServiceManager,
) -> Exit:
    check_broker(settings)
    check_descriptors(settings)
    check_metrics(settings)
    server = Server(plan, settings, sockets, parent and parent.measured)
    try:
        server.bind()
    except ValueError as exc:
        raise UsageError(str(exc)) from None
    except OSError as exc:
        return not_bound(exc, settings)
    stopping = Stopping(server, settings, manager)
    loop = event_loop()

    def ready() -> None:
        started(server.port)
        say_admin(settings, server.admin)
        manager.serving("serving")

    with (
        stopping.on_signals(loop, parent),
        manager.kept_alive(loop),
        watching(loop, settings.stall_timeout, server.stalled),
    ):
        # Imported and wired objects are permanent: the garbage collector need not scan them.
        gc.collect()
        gc.freeze()
        try:
            await server.run(ready)
        except BrokerError as exc:
            return no_broker(exc)
        except (AddressInUse, AdminAddressError) as exc:
            return not_bound(exc, settings)
        except Exception as exc:
            log.error("the app failed", exc_info=exc)
            return Exit.FAILED
        finally:
            stopping.done()
    return Exit.FAILED if server.overran else Exit.STOPPED


def check_metrics(settings: Settings) -> None:
    """Check that what shows metrics is installed.

    Raises:
        UsageError: it is not.
    """
    try:
        if settings.metrics:
            prometheus()
    except ModuleNotFoundError as exc:
        raise UsageError(str(exc)) from None


def say_admin(settings: Settings, at: Address | None) -> None:
    """Print where the admin port is, if there is one."""
    if at is not None:
        pages = "/healthz, /readyz and /metrics" if settings.metrics else "/healthz and /readyz"
        say(f"  {pages} on http://{at}")


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


def _leave_it_to_the_supervisor() -> None:
    """SIGHUP has reached a worker: it is for the supervisor, which replaces the workers."""


class Stopping:
    """Handles SIGTERM and SIGINT: each drains the server, and SIGINT stops it at once if it drains.

    A drain that has begun is not hurried by SIGTERM: that may reach a worker directly and through
    its supervisor. So only the supervisor has a worker stop at once, or hand over to another one.

    Args:
        server: what to stop.
        settings: how long to wait.
        manager: the service manager.
    """

    def __init__(
        self, server: Server, settings: Settings, manager: ServiceManager = NOBODY
    ) -> None:
        self._server = server
        self._settings = settings
        self._manager = manager
        self._draining = False
        self._watchdog: threading.Timer | None = None

    @contextlib.contextmanager
    def on_signals(
        self, loop: asyncio.AbstractEventLoop, parent: Parent | None = None
    ) -> Iterator[None]:
        """Handle the signals, and what the supervisor says, as long as the block runs."""
        handled = {
            signal.SIGTERM: self.terminated,
            signal.SIGINT: self.interrupted,
            signal.SIGHUP: self.not_reloaded,
        }
        with contextlib.ExitStack() as around:
            if parent is not None:
                hand_over = partial(self.drain, restart=True)
                around.enter_context(
                    parent.followed(
                        loop,
                        hand_over=hand_over,
                        at_once=self.at_once,
                        gone=self.drain,
                        report=self._server.report,
                    )
                )
                handled = dict.fromkeys(handled, self.drain)
                handled[signal.SIGHUP] = _leave_it_to_the_supervisor
            for each, act in handled.items():
                loop.add_signal_handler(each, act)
                around.callback(loop.remove_signal_handler, each)
            yield

    def not_reloaded(self) -> None:
        """A single process cannot replace itself: SIGHUP does nothing to it."""
        log.warning("SIGHUP is ignored: to reload without refusing a connection, use --workers")

    def terminated(self) -> None:
        """Drain; go on if it drains already."""
        if self._draining:
            log.info(GOING_ON)
        self.drain()

    def interrupted(self) -> None:
        """Drain; stop at once if it drains already."""
        if self._draining:
            self.at_once()
        else:
            self.drain()

    def drain(self, *, restart: bool = False) -> None:
        """Let consumers handle what was received. No effect if it drains already.

        Args:
            restart: another process has taken this one's place.
        """
        if self._draining:
            return
        self._draining = True
        settings = self._settings
        delay = 0.0 if restart else settings.drain_delay
        longest = delay + settings.drain_over + settings.grace
        log.info("stopping: draining for at most %g s", longest)
        self._manager.stopping(settings.drain_time + HURRY)
        # Handlers that swallow cancellation, or block the loop, must not keep the process.
        self._watch(settings.drain_time + HURRY)
        self._server.stop(restart=restart)

    def at_once(self) -> None:
        """Do not wait for consumers any longer."""
        self._draining = True
        log.warning("stopping at once")
        self._watch(HURRY)
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
            self._watch(HURRY)
        elif self._watchdog is not None:
            self._watchdog.cancel()
