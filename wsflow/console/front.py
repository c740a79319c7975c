"""The console beside an app: two apps behind one port."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from wsflow.addresses import Address
from wsflow.brokers.select import beside
from wsflow.console.live import PATH
from wsflow.console.page import console
from wsflow.limits import Limits
from wsflow.log import Log
from wsflow.request import Request
from wsflow.runtime.app import App
from wsflow.tasks.children import Run
from wsflow.topics.registry import Registry
from wsflow.transports.base import Exchange, Receiver, Transport
from wsflow.wiring.compile import compile_app

log = Log("wsflow.console")

MOST = 20
"""The most connections of consoles."""


@final
class Front:
    """Answers requests for an app and for its console, each with connections, limits, topics and
    metrics of its own. A path that the app declares with that name is the app's.

    Args:
        app: the app.
        token: who may see the console: see ``Access``.
        limits: those of the app.
        broker: the URL of the app's broker.
    """

    def __init__(self, app: App, token: str, limits: Limits, broker: str) -> None:
        self._app = app
        router = console(app.plan, token, Registry(app.directory), app.sessions)
        limits = replace(limits, max_connections=MOST, max_connections_per_client=0)
        self._console = App(compile_app(router), limits, beside(broker, "_console"))

    # -- running

    async def run(self, serve: Run) -> None:
        """Call ``serve``, with the console as long as that runs. Without it if it fails.

        Raises:
            Exception: what ``serve`` raises.
        """
        begun, raised = False, list[BaseException]()

        async def serve_with_it() -> None:
            nonlocal begun
            begun = True
            try:
                await serve()
            except BaseException as exc:
                raised.append(exc)

        try:
            await self._console.run(serve_with_it)
        except Exception as exc:
            log.error("the console has failed", exc_info=exc)
        if not begun:
            await serve()
        for each in raised:
            raise each

    def stop(self) -> None:
        """Do not begin, if it has not begun."""
        self._console.abort_start()

    async def drain(self, *, restart: bool) -> None:
        """End the connections of consoles."""
        await self._console.drain(0, restart=restart)

    # -- opening requests

    def _of(self, path: str) -> App:
        if not f"{path}/".startswith(f"{PATH}/"):
            return self._app
        plan = self._app.plan
        found = [
            each[0].template for each in (plan.routes.match(path), plan.pages.match(path)) if each
        ]
        return self._app if any(each.startswith(PATH) for each in found) else self._console

    def page(self, method: str, request: Request, exchange: Exchange) -> None:
        self._of(request.path).page(method, request, exchange)

    def open(self, request: Request, transport: Transport) -> Receiver | None:
        return self._of(request.path).open(request, transport)

    def refused(self, path: str, client: Address | None, status: int) -> None:
        self._app.refused(path, client, status)

    def turned_away(self, why: str) -> None:
        self._app.turned_away(why)
