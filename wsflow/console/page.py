"""The Router of the console: a page that is made from an app's contract, and a WebSocket that tells
what all processes of the app are doing."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import msgspec

from wsflow.addresses import ip_address
from wsflow.console.live import PATH, live_router
from wsflow.contract.contract import Contract
from wsflow.contract.describe import describe
from wsflow.declare.router import Router
from wsflow.errors import Reject
from wsflow.log import Log
from wsflow.request import Request
from wsflow.response import HTML, Response
from wsflow.runtime.origins import LOOPBACK, Hosts, Origins
from wsflow.runtime.session import Session
from wsflow.topics.registry import Registry
from wsflow.wiring.plan import AppPlan

log = Log("wsflow.console")

PROXIED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")
"""What proxies add: then the client is not whom the connection comes from."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_TEMPLATE = Path(__file__).with_name("page.html")
_PLACE = "{/*contract*/}"


@final
class Access:
    """Who may see the console.

    Args:
        token: who knows it; if it is empty, who is on this machine.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._local = Hosts(LOOPBACK)
        self._own = Origins(())

    def check(self, request: Request) -> None:
        """Check a request.

        Raises:
            Reject: it may not see the console.
        """
        given = request.query.get("token", "").encode()
        host = request.headers.get("Host", "")
        if self._token and not hmac.compare_digest(given, self._token):
            raise Reject(401, f"The console wants its token: {PATH}/?token=…\n")
        if not self._token and not (self._is_local(request) and self._local.allow(host)):
            raise Reject(403, "Without a token the console is for browsers on this machine.\n")
        if not all(self._own.allow(each, host) for each in request.headers.get_all("Origin")):
            raise Reject(403, "The console is for its own page.\n")

    @staticmethod
    def _is_local(request: Request) -> bool:
        if any(each in request.headers for each in PROXIED):
            return False
        address = ip_address(request.client.host) if request.client is not None else None
        return address is not None and address.is_loopback


def console(
    plan: AppPlan, token: str, registry: Registry, sessions: Mapping[str, Session]
) -> Router:
    """The Router of the console.

    Args:
        plan: the app that it shows.
        token: who may see it: who knows it. If it is empty, who is on this machine.
        registry: that of the app, in this process.
        sessions: the connections of the app in this process, by id.
    """
    router, access = Router(PATH), Access(token)
    page = made(_contract(plan))

    @router.get("/")
    async def show(request: Request) -> Response:
        access.check(request)
        return Response(page, headers=HEADERS, content_type=HTML)

    router.include(live_router(access.check, registry, sessions))
    return router


def _contract(plan: AppPlan) -> Contract:
    """The contract of an app; an empty one, which says why, if its types have no schema."""
    try:
        return describe(plan)
    except ValueError as exc:
        log.warning("the console has no forms: %s", exc)
        about = plan.about
        return Contract(about.title, about.version, f"There are no forms: {exc}.", [])


def made(contract: Contract) -> str:
    """The page of a contract: one file, which needs no other."""
    about: Mapping[str, Any] = msgspec.to_builtins(contract)
    data = json.dumps(about).replace("<", "\\u003c")  # so that no text in it ends the script
    return _TEMPLATE.read_text("utf-8").replace(_PLACE, data)
