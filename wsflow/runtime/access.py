"""The access log: a line for each connection that has ended, and for each that was refused; on the
level DEBUG, one for each that is open."""

from __future__ import annotations

import logging
from typing import final

from wsflow.addresses import Address
from wsflow.connection import Connection
from wsflow.log import Log, shown_uri
from wsflow.observer import ConnectionSummary, Observer, Observers

log = Log("wsflow.access")

TOO_MANY = (429, 503)
"""Statuses of connections for which there is no room."""


@final
class AccessLog(Observer):
    """Writes it. Of connections that this side has made it says nothing."""

    def connection_opened(self, connection: Connection, route: str) -> None:
        if log.enabled(logging.DEBUG):
            fields = _of(connection, route)
            log.debug(f"{_line(fields)} open", *fields.values(), fields={**fields, "event": "open"})

    def connection_ended(self, connection: Connection, summary: ConnectionSummary) -> None:
        """Log route, id, path without query, peer, cause of the end, close code, messages in and
        out, and duration; or the HTTP status with which the handshake was refused."""
        if summary.dialled or not log.enabled(logging.INFO):
            return
        end = summary.end
        cause, code = (end.cause, end.code) if end else ("-", "-")
        fields = _of(connection, summary.route)
        if summary.refused is not None:
            fields |= {"refused": summary.refused, "end": cause, "seconds": summary.seconds}
        else:
            fields |= {
                "end": cause,
                "code": code,
                "in": summary.received,
                "out": summary.sent,
                "dropped": summary.dropped,
                "seconds": summary.seconds,
            }
        log.info(_line(fields), *fields.values(), fields={**fields, "event": "end"})

    def page_answered(
        self, method: str, path: str, client: Address | None, status: int, seconds: float
    ) -> None:
        """Log method, path without query, peer, status and duration."""
        fields: dict[str, object] = {
            "method": method,
            "path": path,
            "peer": client or "-",
            "status": status,
            "seconds": seconds,
        }
        log.info(
            "%s %s peer=%s status=%d seconds=%.3f",
            *fields.values(),
            fields={**fields, "event": "page"},
        )

    def request_refused(self, path: str, client: Address | None, status: int) -> None:
        """Log the request target, the peer, and the HTTP status of the answer. Those that were too
        many are logged once per second."""
        known = path[:1] == "/" or "://" in path  # else it may be anything, and is not shown
        fields: dict[str, object] = {
            "path": shown_uri(path) if known else "-",
            "peer": client or "-",
            "refused": status,
        }
        text, all = "%s peer=%s refused=%d", {**fields, "event": "refused"}
        if status in TOO_MANY:
            log.often(logging.INFO, text, *fields.values(), fields=all)
        else:
            log.info(text, *fields.values(), fields=all)


ALONE = Observers((AccessLog(),))
"""Where there is no app that could have others."""


def _of(connection: Connection, route: str) -> dict[str, object]:
    """What the lines of a connection begin with."""
    request = connection.request
    return {
        "route": route,
        "id": connection.id,
        "path": request.path,
        "peer": request.client or "-",
    }


def _line(fields: dict[str, object]) -> str:
    """The format of a line of text: the route, and all else by its name."""
    rest = [f"{name}=%.3f" if name == "seconds" else f"{name}=%s" for name in list(fields)[1:]]
    return " ".join(["%s", *rest])
