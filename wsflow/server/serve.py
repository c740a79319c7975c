"""Serving an app on a socket, in one process."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, final

import anyio

from wsflow.addresses import Address
from wsflow.console.front import Front
from wsflow.declare.router import Router
from wsflow.limits import check_is
from wsflow.metrics import Measured, Report
from wsflow.runtime.app import App
from wsflow.runtime.status import Ask, Status
from wsflow.server.accepting import Listener
from wsflow.server.admin import Admin
from wsflow.server.listening import bind, tls_context
from wsflow.server.settings import Settings
from wsflow.server.transports import Transports
from wsflow.tasks.background import Background
from wsflow.tasks.detached import detach
from wsflow.topics.registry import Registry
from wsflow.wiring.compile import compile_app
from wsflow.wiring.plan import AppPlan


@final
class Server:
    """Listens, serves, and shuts down gracefully. Created by ``serve``.

    Args:
        plan: the wired app.
        settings: how to serve it.
        sockets: the sockets to listen on, instead of the address in the settings.
        measured: asks for what is measured in all processes; None if this is the only one. Then it
            has the admin port, too.

    Attributes:
        registry: the connections of the app.
        started: set when it listens.

    Raises:
        ValueError: the broker's URL is invalid.
    """

    def __init__(
        self,
        plan: AppPlan,
        settings: Settings,
        sockets: Sequence[socket.socket] = (),
        measured: Ask[Measured] | None = None,
    ) -> None:
        self._settings = settings
        self._app = App(plan, settings.effective(), settings.broker)
        shown = (measured or self._measured) if settings.metrics else None
        self._status = Status(lambda take: take(self._app.unready), shown)
        self._app.pages.status = self._status if settings.admin_port is None else None
        self._alone = measured is None
        self._admin: Admin | None = None
        self._app.pages.files = settings.static and settings.static.resolve()
        self.registry = Registry(self._app.directory)
        self._console: Front | None = None
        if settings.console is not None:
            limits, broker = settings.effective(), settings.broker
            self._console = Front(self._app, settings.console, limits, broker)
        self._transports = Transports(settings, self._console or self._app)
        self.started = anyio.Event()
        self._stop = anyio.Event()
        self._at_once = anyio.Event()
        self._restart = False
        self._sockets = sockets
        self._listeners: list[Listener] = []
        self._inode = 0  # of the Unix socket that this server has bound

    # -- running

    @property
    def port(self) -> int:
        """The TCP port that it listens on; 0 on a Unix socket, or before it listens."""
        name = self._listeners[0].socket.getsockname() if self._listeners else ""
        return int(name[1]) if isinstance(name, tuple) else 0

    @property
    def admin(self) -> Address | None:
        """Where the admin port is; None if there is none here."""
        return None if self._admin is None else self._admin.address

    def _measured(self, take: Callable[[Measured], None]) -> None:
        take(self._app.metrics.families())

    def report(self) -> Report:
        """How this process is, for its supervisor."""
        return Report(self._app.unready, self._app.metrics.families())

    @property
    def overran(self) -> bool:
        """Whether, during shutdown, handlers were cancelled because their time was over."""
        return self._app.overran

    @property
    def left_behind(self) -> list[str]:
        """The handlers that did not end although they were cancelled."""
        return self._app.left_behind

    @property
    def running(self) -> list[str]:
        """The handlers that run, including those that did not end although they were cancelled."""
        return [*self._app.left_behind, *self._app.running]

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until ``stop`` is called or a task of the app fails. Calls ``bind`` if need be.

        Args:
            ready: called once it listens.

        Raises:
            OSError: the address cannot be listened on.
            Exception: what made the app fail.
        """
        if not self._listeners:
            self.bind()
        try:
            if self._admin is not None:
                self._admin.start()
            serve = partial(self._serve, ready)
            if self._console is not None:
                serve = partial(self._console.run, serve)
            await self._app.run(serve)
        finally:
            self._unbind()
            if self._admin is not None:
                await self._admin.stop()

    def stalled(self) -> None:
        """The event loop was blocked for too long: count it."""
        self._app.stalled()

    def stop(self, *, now: bool = False, restart: bool = False) -> None:
        """Stop serving, after ``drain_delay``: let consumers handle what was received, within the
        grace period.

        Args:
            now: do not wait for them. May follow an earlier call without it.
            restart: close with 1012 (service restart), not 1001 (going away). Another process
                listens on the same address by now: connections that have reached this server are
                accepted first, and none is answered with 503.
        """
        self._restart = self._restart or restart
        self._app.told_to_stop = True
        self._app.abort_start()
        if self._console is not None:
            self._console.stop()
        if now:
            self._at_once.set()
            self._app.cut_short()
            self._transports.look_again()
        self._stop.set()

    async def _serve(self, ready: Callable[[], None]) -> None:
        for listener in self._listeners:
            listener.start()
        self.started.set()
        ready()
        detach(self._app.metrics.watch_loop, name="wsflow loop lag")
        try:
            await self._serve_until_stopped()
        finally:
            self._app.metrics.close()

    async def _serve_until_stopped(self) -> None:
        await self._app.wait_for(self._stop)
        await self._hand_over()
        grace, over = self._settings.grace, self._settings.drain_over
        if self._is_now():
            grace = over = 0
        if self._console is not None:
            await self._console.drain(restart=self._restart)
        await self._app.drain(grace, over=over, restart=self._restart)
        # Not before: connections that came meanwhile were answered.
        for listener in self._listeners:
            await listener.settle()
        self._transports.refuse_requests()
        self._unbind()
        await self._transports.all_closed(self._is_now)

    async def _hand_over(self) -> None:
        """Go on until no more connections come: a load balancer has its time to notice. On a
        restart, leave the address to another process at once, and accept pending connections."""
        if not self._restart:
            await self._app.wait_for(self._at_once, self._settings.drain_delay)
        elif not self._is_now():
            for listener in self._listeners:
                listener.stop()
            await self._transports.all_requested(self._is_now)

    def _is_now(self) -> bool:
        return self._at_once.is_set()

    def _unbind(self) -> None:
        """Stop listening. Idempotent."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        if listeners and not self._sockets:
            path = self._settings.uds
            if path is not None and path.exists() and path.stat().st_ino == self._inode:
                path.unlink()  # bound by this server, not by a later one

    def bind(self) -> None:
        """Bind the address. No connection is accepted before the lifespans are entered.

        Raises:
            OSError: the address cannot be listened on.
            ValueError: a TLS file cannot be used.
        """
        settings = self._settings
        context = tls_context(settings)
        self._listeners = [
            Listener(each, self._transports, context, settings.open_timeout)
            for each in self._sockets or bind(settings)
        ]
        self._transports.listen(self._listeners)
        if settings.admin_port is not None and self._alone:
            self._admin = Admin(settings, self._status)
        if settings.uds is not None and not self._sockets:
            self._inode = settings.uds.stat().st_ino


@asynccontextmanager
async def serve(
    router: Router,
    settings: Settings | None = None,
    *,
    override: Mapping[Any, Any] | None = None,
) -> AsyncIterator[Server]:
    """Serve an app on a socket as long as the block runs. For asyncio and Trio.

    Leaving the block drains the server, as ``SIGTERM`` does: after ``drain_delay`` connections are
    closed, spread over ``drain_over``, each with its grace period.

    Args:
        router: the app.
        settings: how to serve it; ``Settings(port=0)`` for any free port.
        override: values by type that are injected instead of others.

    Raises:
        DeclarationError: the app's declarations are invalid.
        ValueError: a setting is one that only ``wsflow run`` does: ``workers``, ``loop``,
            ``log_level``, ``log_format``, ``log_config``, ``access_log``, ``stall_timeout``,
            ``worker_timeout``, ``start_timeout``.
        ModuleNotFoundError: ``metrics`` is set, and ``prometheus_client`` is not installed.
        TypeError: the app is no Router, or the settings are no Settings.
        OSError: the address cannot be listened on.
    """
    settings = Settings() if settings is None else settings
    check_is(settings, Settings, "settings")
    settings.check_program()
    server = Server(compile_app(router, override), settings)
    background = Background()
    background.begin(server.run, "wsflow server")
    try:
        await background.ready(server.stop)
        yield server
    finally:
        server.stop()
        await background.finished()
