"""Admission of connections: by path, by origin, and by the number of open connections in all, of a
client and of a user."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, final
from urllib.parse import urlsplit

from websockets.datastructures import Headers

from wsflow.declare.signatures import type_name
from wsflow.errors import Reject
from wsflow.limits import Limits
from wsflow.log import Log, shown_uri
from wsflow.messages.hooks import HookError
from wsflow.request import Request
from wsflow.runtime.origins import Hosts, Origins, allowed_origin
from wsflow.runtime.rates import client_of, count_down, retry_after
from wsflow.tasks.waiting import NOTHING
from wsflow.wiring.plan import RoutePlan
from wsflow.wiring.routes import RouteTable
from wsflow.wiring.sources import FromPath, FromRequest, Source

log = Log("wsflow")

LATER = 5
"""Seconds after which a client should try again when there are too many connections; nobody knows
when one will end."""


_PORT = re.compile(r":\d*$")


class Admitted(NamedTuple):
    """An accepted opening request: the plan of its path, and what was read from the request."""

    plan: RoutePlan
    request: Request
    read: Mapping[Source, Any]


@final
class Admission:
    """Decides on opening requests.

    Attributes:
        closed: whether all further requests are refused.

    Raises:
        ValueError: an allowed origin or host is none.
    """

    def __init__(self, routes: RouteTable[RoutePlan], limits: Limits) -> None:
        self._routes = routes
        self._limits = limits
        self._origins = Origins(limits.origin)
        self._hosts = Hosts(limits.allowed_host)
        self._clients: Counter[str] = Counter()  # connections by the client's address
        self._users: Counter[str] = Counter()  # connections by their user
        self._count = 0
        self.closed = False

    def admit(self, request: Request) -> Admitted:
        """Accept a request.

        Raises:
            Reject: it is refused, or invalid.
        """
        if self.closed:
            raise Reject(503)
        self.check_host(request)
        found = self._routes.match(request.path)
        if found is None:
            raise Reject(404)
        plan, params = found
        self._check_origin(request)
        self.check_room(request)
        return _admitted(plan, request.at(params))

    def check_room(self, request: Request) -> None:
        """Refuse what is one too many, of all or of its client.

        Raises:
            Reject: it is.
        """
        most = self._limits.max_connections
        if most and self._count >= most:
            raise Reject(503, headers=[retry_after(LATER)])
        per_client = self._limits.max_connections_per_client
        if per_client and self._clients[client_of(request)] >= per_client:
            raise Reject(429, headers=[retry_after(LATER)])

    def why(self, request: Request, refusal: Reject) -> str:
        """Why ``admit`` has refused a request, for the log and for tests: the peer is not told
        which paths there are."""
        if refusal.status != 404:
            return refusal.body.strip()
        found = self._routes.match(request.path)
        if found is None:
            known = ", ".join(sorted(plan.template for plan in self._routes))
            return f"no path matches {request.path}: the app has {known}"
        plan, params = found
        wrong = [
            f"{source} takes {type_name(source.kind)}, and not {params[source.name]!r}"
            for source in plan.request_sources
            if isinstance(source, FromPath) and not source.takes(params[source.name])
        ]
        return f"{plan.template}: {'; '.join(dict.fromkeys(wrong))}"

    def begun(self, request: Request) -> None:
        """Count a connection, or a page, that has begun."""
        self._count += 1
        self._clients[client_of(request)] += 1

    def identified(self, user: str) -> None:
        """Count a connection that has begun as one of a user.

        Raises:
            Reject: the user has too many.
        """
        most = self._limits.max_connections_per_user
        if most and self._users[user] >= most:
            raise Reject(429, headers=[retry_after(LATER)])
        self._users[user] += 1

    def ended(self, request: Request, user: str | None) -> None:
        """Count a connection, or a page, that has ended."""
        self._count -= 1
        count_down(self._clients, client_of(request))
        if user is not None:
            count_down(self._users, user)

    def check_host(self, request: Request) -> None:
        """Refuse a page that was told a name of its own for this host (DNS rebinding).

        Raises:
            Reject: it is one, or there is not one Host.
        """
        hosts = request.headers.get_all("Host")
        if len(hosts) != 1:
            raise Reject(400, "one Host header is needed\n")  # RFC 9112 §3.2
        if not self._hosts.allow(hosts[0]):
            host = hosts[0].rpartition("@")[2]  # who writes a password there does not read it here
            log.often(
                logging.WARNING,
                "refused a connection to %s under the host %s; to allow it: --allowed-host %s",
                request.path,
                host,
                _PORT.sub("", host),
            )
            raise Reject(403)

    def _check_origin(self, request: Request) -> None:
        """Refuse pages of other sites (cross-site WebSocket hijacking, RFC 6455 §10.2)."""
        origins = request.headers.get_all("Origin")
        if not origins or self._origins.any:
            return
        if len(origins) > 1 or not self._origins.allow(origins[0], request.headers["Host"]):
            log.often(
                logging.WARNING,
                "refused a connection to %s from a page of %s; %s",
                request.path,
                ", ".join(origins),
                _advice(origins),
            )
            raise Reject(403)


def _advice(origins: Sequence[str]) -> str:
    """How to allow a page, if it can be."""
    if len(origins) > 1:
        return "a browser sends one Origin"
    try:
        return f"to allow it: --origin {allowed_origin(origins[0])}"
    except ValueError:
        return "a page without an origin of its own cannot be allowed by itself"


def prepare(routes: RouteTable[RoutePlan], uri: str, headers: Headers) -> Admitted:
    """Match a client's paths with a URI; a single path ``/`` matches any URI.

    Raises:
        ValueError: no path matches the URI, or the URI lacks a parameter.
    """
    parts = urlsplit(uri)
    request = Request.parse(f"{parts.path or '/'}?{parts.query}", headers)
    found = routes.match(request.path)
    if found is None:
        known = [plan.template for plan in routes]
        if known != ["/"]:
            raise ValueError(
                f"the client has no path for {request.path}: it has {', '.join(known)}"
            )
        found = next(iter(routes)), {}
    plan, params = found
    try:
        return _admitted(plan, request.at(params))
    except Reject as exc:
        raise ValueError(f"{shown_uri(uri)}: {exc.body.strip()}") from None


def _admitted(plan: RoutePlan, request: Request) -> Admitted:
    return Admitted(plan, request, read(plan.request_sources, request))


def read(sources: Iterable[FromPath | FromRequest], request: Request) -> Mapping[Source, Any]:
    """Read and convert the parameters that functions take from a request.

    Raises:
        Reject: a parameter is missing or invalid.
    """
    try:
        return {source: source.convert(request) for source in sources} or NOTHING
    except HookError as exc:
        log.error("a dec_hook failed on a request", exc_info=exc.__cause__)
        raise Reject(500) from None
