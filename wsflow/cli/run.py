"""``wsflow run``: serve until a signal, and say how it ended by the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from enum import IntEnum
from importlib.metadata import version
from typing import Any

from wsflow.cli.explain import try_lines
from wsflow.server import Server, Settings
from wsflow.wiring.plan import AppPlan

log = logging.getLogger("wsflow")


class Exit(IntEnum):
    """Exit codes."""

    STOPPED = 0  # by a signal, in order
    FAILED = 1  # a crash, or connections were cut off because the grace time was over
    USAGE = 2
    APP = 3  # the app cannot be loaded, or does not wire
    ADDRESS = 4  # the address is in use


class UsageError(Exception):
    """A setting cannot be used: one line that says why, and what to do."""


def serve(target: str, plan: AppPlan, settings: Settings) -> Exit:
    """Serve an app until SIGTERM or SIGINT.

    Raises:
        UsageError: a setting cannot be used.
    """
    _configure_logging(settings)
    try:
        server_loop = asyncio.Runner(loop_factory=_loop_factory(settings))
        with server_loop as runner:
            return runner.run(_serve(target, plan, settings))
    except KeyboardInterrupt:  # before the signal handlers stood
        return Exit.STOPPED


def _configure_logging(settings: Settings) -> None:
    logging.basicConfig(
        level=settings.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("wsflow.access").disabled = not settings.access_log


def _loop_factory(settings: Settings) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if settings.loop == "asyncio":
        return None
    try:
        uvloop: Any = importlib.import_module("uvloop")
    except ModuleNotFoundError:
        raise UsageError(
            "--loop uvloop needs uvloop, which is not installed: pip install 'wsflow[speed]'"
        ) from None
    return uvloop.new_event_loop  # type: ignore[no-any-return]


async def _serve(target: str, plan: AppPlan, settings: Settings) -> Exit:
    try:
        server = Server(plan, settings)
    except ValueError as exc:
        raise UsageError(f"--trusted-proxy: {exc}") from None
    try:
        await server.bind()
    except ValueError as exc:
        raise UsageError(str(exc)) from None
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            print(
                f"wsflow: {_address(settings)} is in use: stop what listens there, or choose "
                f"another with {'--uds' if settings.uds else '--port'}",
                file=sys.stderr,
            )
            return Exit.ADDRESS
        why = exc.strerror or str(exc)
        if exc.errno == errno.EACCES and 0 < settings.port < 1024:
            why += "; ports below 1024 need privileges: choose another with --port"
        raise UsageError(f"cannot listen on {_address(settings)}: {why}") from None
    stopping = Stopping(server, settings)
    with stopping.on_signals(asyncio.get_running_loop()):
        announced = asyncio.create_task(_announce(target, server))
        # What has been imported and wired stays: the garbage collector need not look at it again.
        gc.collect()
        gc.freeze()
        try:
            await server.run()
        except Exception:
            log.exception("the app failed")
            return Exit.FAILED
        finally:
            announced.cancel()
            stopping.done()
    return Exit.FAILED if server.app.overran else Exit.STOPPED


def _address(settings: Settings) -> str:
    if settings.fd is not None:
        return f"file descriptor {settings.fd}"
    return str(settings.uds or f"{settings.host}:{settings.port}")


async def _announce(target: str, server: Server) -> None:
    """Once it serves, say where, and how to try it."""
    await server.started.wait()
    settings = server.settings
    print(f"wsflow {version('wsflow')} serves {target}; stop it with Ctrl-C", file=sys.stderr)
    if not server.port:
        print(f"  on {_address(settings)}", file=sys.stderr)
        return
    scheme = "ws" if settings.ssl_certfile is None else "wss"
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    for line in try_lines(server.plan, f"{scheme}://{host}:{server.port}"):
        print(line, file=sys.stderr)
    sys.stderr.flush()


class Stopping:
    """What SIGTERM and SIGINT do: the first drains, the second stops at once.

    Args:
        server: what to stop.
        settings: how long to wait.
    """

    AT_ONCE = 1.0
    """Seconds that scope functions have to tear down after the second signal."""

    def __init__(self, server: Server, settings: Settings) -> None:
        self._server = server
        self._settings = settings
        self._signals = 0
        self._watchdog: threading.Timer | None = None

    @contextlib.contextmanager
    def on_signals(self, loop: asyncio.AbstractEventLoop) -> Any:
        """Handle the signals as long as the block runs."""
        handled = (signal.SIGTERM, signal.SIGINT)
        for each in handled:
            loop.add_signal_handler(each, self.signalled)
        try:
            yield
        finally:
            for each in handled:
                loop.remove_signal_handler(each)

    def signalled(self) -> None:
        self._signals += 1
        if self._signals == 1:
            log.info("stopping: within %g s what was received is answered", self._settings.grace)
            # Handlers that swallow cancellation, or block the loop, must not keep the process.
            self._watch(self._settings.grace + 3 * self._settings.close_timeout + self.AT_ONCE)
            self._server.stop()
        else:
            log.warning("stopping at once")
            self._watch(self.AT_ONCE)
            self._server.stop(now=True)

    def _watch(self, seconds: float) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        seconds = min(seconds, threading.TIMEOUT_MAX)
        self._watchdog = threading.Timer(seconds, self._give_up)
        self._watchdog.daemon = True
        self._watchdog.start()

    def _give_up(self) -> None:
        """The process ends without those that do not."""
        app = self._server.app
        sessions = list(app.sessions.values())
        running = [*app.left_behind, *(name for each in sessions for name in each.running)]
        log.error("not stopped in time, exiting; still running: %s", ", ".join(running) or "-")
        logging.shutdown()
        os._exit(Exit.FAILED)

    def done(self) -> None:
        """The server has stopped. The event loop still waits for what does not end: see to that."""
        if self._server.app.left_behind:
            self._watch(self.AT_ONCE)
        elif self._watchdog is not None:
            self._watchdog.cancel()
