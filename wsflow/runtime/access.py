"""The access log: a line for each connection that has ended, and for each that was refused; on the
level DEBUG, one for each that is open."""

from __future__ import annotations

import logging

from wsflow.addresses import Address
from wsflow.log import Log, shown_uri
from wsflow.runtime.session import Session

log = Log("wsflow.access")

TOO_MANY = (429, 503)
"""Statuses of connections for which there is no room."""


CONNECTION = "%s id=%s path=%s peer=%s"


def log_connection(session: Session) -> None:
    """Log route, id, path without query, peer, cause of the end, close code, messages in and out,
    and duration; or the HTTP status with which the handshake was refused."""
    if not log.enabled(logging.INFO):
        return
    end, refused = session.end, session.ending.refused
    if refused is not None:
        log.info(
            f"{CONNECTION} refused=%d end=%s seconds=%.3f",
            *_values(session),
            refused,
            end.cause if end else "-",
            session.duration,
        )
        return
    log.info(
        f"{CONNECTION} end=%s code=%s in=%d out=%d dropped=%d seconds=%.3f",
        *_values(session),
        end.cause if end else "-",
        end.code if end else "-",
        session.received,
        session.outbox.sent,
        session.outbox.dropped,
        session.duration,
    )


def log_opened(session: Session) -> None:
    """Log on the level DEBUG that a connection is open."""
    log.debug(f"{CONNECTION} open", *_values(session))


def _values(session: Session) -> tuple[object, ...]:
    """What the lines of a connection begin with."""
    request = session.connection.request
    return session.plan.template, session.id, request.path, request.client or "-"


def log_refusal(target: str, client: Address | None, status: int) -> None:
    """Log the request target, the peer, and the HTTP status of the answer.

    Those that were too many are logged once per second.
    """
    path = target[:1] == "/" or "://" in target  # else it may be anything, and is not shown
    values = shown_uri(target) if path else "-", client or "-", status
    if status in TOO_MANY:
        log.often(logging.INFO, "%s peer=%s refused=%d", *values)
    else:
        log.info("%s peer=%s refused=%d", *values)
