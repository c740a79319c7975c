"""Pages about the process: whether it lives, whether it is ready, and what it has measured."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, final

from wsflow.metrics import Measured
from wsflow.request import Request
from wsflow.response import TEXT, Response
from wsflow.transports.base import Exchange, nothing
from wsflow.transports.handshake import ALLOW

HEALTH, READY, METRICS = "/healthz", "/readyz", "/metrics"

NO_STORE = [("Cache-Control", "no-store")]

T = TypeVar("T")

Ask = Callable[[Callable[[T], None]], None]
"""Asks for something, and calls what it is given with it, now or later."""


@final
class Status:
    """Answers requests about the process. They count for no limit, and are not logged.

    Args:
        unready: asks why no connections should be sent here now; for nothing if they should.
        measured: asks for what is measured; None for no such page.

    Raises:
        ModuleNotFoundError: ``prometheus_client`` is not installed, and is needed.
    """

    def __init__(self, unready: Ask[Sequence[str]], measured: Ask[Measured] | None = None) -> None:
        self._unready = unready
        self._measured = measured
        self._prometheus: Any = None
        if measured is not None:
            self._prometheus = prometheus()

    def has(self, path: str) -> bool:
        """Whether it answers at a path."""
        return path in (HEALTH, READY) or (path == METRICS and self._measured is not None)

    def answer(self, method: str, request: Request, exchange: Exchange) -> None:
        """Answer a request for one of its paths, now or later."""
        send = partial(respond, exchange, method)
        if method == "OPTIONS":
            send(Response(status=204, headers=[ALLOW]))
        elif method not in ("GET", "HEAD"):
            send(Response("Method Not Allowed\n", 405, [ALLOW], TEXT))
        elif request.path == METRICS and self._measured is not None:
            accept = ",".join(request.headers.get_all("Accept"))
            self._measured(lambda measured: send(self._metrics(measured, accept)))
        elif request.path == READY:
            self._unready(lambda why: send(_health("ready", why)))
        else:
            send(_health("live", ()))

    def _metrics(self, measured: Measured, accept: str) -> Response:
        if measured is None:
            return Response("The supervisor does not answer\n", 503, NO_STORE, TEXT)
        page: Response = self._prometheus.page(measured, accept)
        return Response(page.body, headers=NO_STORE, content_type=page.content_type)


NO_METRICS = "metrics need prometheus-client, which is not installed: pip install 'wsflow[metrics]'"


def prometheus() -> Any:
    """What shows metrics.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return importlib.import_module("wsflow.prometheus")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(NO_METRICS) from None


def _health(what: str, why_not: Sequence[str]) -> Response:
    said = Response.of({what: not why_not, "reasons": list(why_not)})
    return Response(said.body, 503 if why_not else 200, NO_STORE, said.content_type)


def respond(
    exchange: Exchange,
    method: str,
    response: Response,
    sent: Callable[[], None] = nothing,
) -> None:
    """Answer a request. Without effect after the first time.

    Args:
        exchange: where the answer goes.
        method: that of the request.
        response: the answer.
        sent: called when it has gone out, or cannot any more.
    """
    body, headers = response.data, response.pairs
    if method == "HEAD" and body:
        headers.append(("Content-Length", str(len(body))))
        body = b""
    exchange.answer(response.status, headers, body, sent)
