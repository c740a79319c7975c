"""What is counted in one process: plain integers, which are read when somebody asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol, final

import anyio

from wsflow.addresses import Address
from wsflow.connection import Connection
from wsflow.end import End
from wsflow.metrics import Family, Histogram, Labels, family
from wsflow.observer import ConnectionSummary, Observer
from wsflow.runtime.session import Session
from wsflow.topics.registry import Directory

TICK = 0.5
"""Seconds between two looks at how late the event loop is."""

COUNTERS: Mapping[str, tuple[str, str]] = {
    "closed": ("connections_lagged", "Connections that were closed because their peers lagged."),
    "rate_limited": ("messages_rate_limited", "Messages that were over a rate limit."),
    "deferred": ("messages_deferred", "Large messages that waited for memory to be decoded."),
    "ignored": ("messages_ignored", "Messages with an unknown tag that were ignored."),
    "stalled": ("event_loop_blocked", "How often the event loop was blocked for too long."),
    "published": ("topic_messages_published", "Messages that were published on topics."),
    "replayed": (
        "topic_messages_replayed",
        "Messages of histories that members had missed.",
    ),
    "missed": ("topic_gaps", "How often members of a topic may have missed messages."),
    "unreadable": ("broker_messages_unreadable", "Messages from the broker that cannot be read."),
    "reconnected": ("broker_connections_lost", "How often the connection to the broker was lost."),
    "lost": ("broker_events_lost", "How often events of a history were lost for members."),
    "history_dropped": (
        "broker_history_dropped",
        "Events of histories that were dropped because all of them were too large.",
    ),
}
"""The name and the help of what ``Registry.counters`` counts."""


_Numbers = tuple[int, int, int, int]
"""Messages and bytes: received, sent, received, sent."""


class Owner(Protocol):
    """The app, as its metrics see it."""

    @property
    def sessions(self) -> Mapping[str, Session]: ...
    @property
    def directory(self) -> Directory: ...


class _Route:
    """What the connections of a route that have ended had together."""

    __slots__ = ("abandoned", "codes", "numbers", "opened")

    def __init__(self) -> None:
        self.opened = self.abandoned = 0
        self.codes: Counter[Labels] = Counter()
        self.numbers: _Numbers = (0, 0, 0, 0)


def _code(end: End) -> str:
    """A close code, or the range of those that peers choose freely: what they choose must not make
    ever more series."""
    if end.cause != "peer" or end.code < 3000:
        return str(end.code)
    return "3000-3999" if end.code < 4000 else "4000-4999"


@final
class Metrics(Observer):
    """Counts what happens to the connections of an app.

    Args:
        app: the app.

    Attributes:
        lag: how late the event loop was, each time that it was looked at.
    """

    def __init__(self, app: Owner) -> None:
        self._app = app
        self._routes: dict[str, _Route] = {}
        self._refused: Counter[Labels] = Counter()
        self._answered: Counter[Labels] = Counter()
        self._took: dict[Labels, Histogram] = {}
        self._watching: anyio.CancelScope | None = None
        self._closed = False
        self.lag = Histogram()

    # -- what it is told

    def _route(self, route: str) -> _Route:
        found = self._routes.get(route)
        if found is None:
            found = self._routes[route] = _Route()
        return found

    def connection_opened(self, connection: Connection, route: str) -> None:
        self._route(route).opened += 1

    def connection_ended(self, connection: Connection, summary: ConnectionSummary) -> None:
        route = self._route(summary.route)
        numbers = summary.received, summary.sent, summary.received_bytes, summary.sent_bytes
        route.numbers = _sum(route.numbers, numbers)
        if summary.refused is not None:
            self._refused[str(summary.refused),] += 1
        elif summary.opened and (end := summary.end) is not None:
            route.codes[end.cause, _code(end)] += 1
        else:
            route.abandoned += 1

    def request_refused(self, path: str, client: Address | None, status: int) -> None:
        self._refused[str(status),] += 1

    def page_answered(
        self, method: str, path: str, client: Address | None, status: int, seconds: float
    ) -> None:
        self._answered[str(status),] += 1

    def message_timer(self, route: str, handler: str) -> Histogram:
        return self._took.setdefault((route, handler), Histogram())

    async def watch_loop(self) -> None:
        """Look again and again how late the event loop is, until ``close``."""
        if self._closed:
            return
        with anyio.CancelScope() as self._watching:
            while True:
                due = anyio.current_time() + TICK
                await anyio.sleep_until(due)
                self.lag.add(max(0, int((anyio.current_time() - due) * 1e9)))

    def close(self) -> None:
        """Watch no longer, if it has begun to."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()

    # -- what it says

    def families(self) -> list[Family]:
        """What has been counted so far, and how it is now."""
        return [*self._of_connections(), *self._of_messages(), *self._of_topics()]

    def _of_connections(self) -> Iterable[Family]:
        sessions = self._app.sessions.values()
        now = Counter(each.plan.template for each in sessions if each.announced)
        routes = [(name, now[name], self._route(name)) for name in {*now, *self._routes}]
        yield family(
            "wsflow_connections",
            "gauge",
            "Connections that are open.",
            ("route",),
            (((name,), count) for name, count, _ in routes),
        )
        yield family(
            "wsflow_connections_opened",
            "counter",
            "Connections whose handshake was accepted.",
            ("route",),
            (((name,), route.opened) for name, _, route in routes),
        )
        yield family(
            "wsflow_connections_ended",
            "counter",
            "Connections that have ended, by the cause and the close code.",
            ("route", "cause", "code"),
            (
                ((name, *labels), count)
                for name, _, route in routes
                for labels, count in route.codes.items()
            ),
        )
        yield family(
            "wsflow_handshakes_abandoned",
            "counter",
            "Handshakes that came to nothing, and were not refused.",
            ("route",),
            (((name,), route.abandoned) for name, _, route in routes),
        )
        yield family(
            "wsflow_requests_refused",
            "counter",
            "Requests that were answered with an HTTP error: no connection came of them.",
            ("status",),
            self._refused.items(),
        )
        yield family(
            "wsflow_pages_answered",
            "counter",
            "Plain HTTP requests that a page or a file has answered.",
            ("status",),
            self._answered.items(),
        )

    def _of_messages(self) -> Iterable[Family]:
        numbers = {name: route.numbers for name, route in self._routes.items()}
        for session in self._app.sessions.values():
            name = session.plan.template
            there = session.received, session.outbox.sent, *session.transport.traffic
            numbers[name] = _sum(numbers.get(name, (0, 0, 0, 0)), there)
        for at, (name, help) in enumerate(
            (
                ("messages_received", "Messages that have come."),
                ("messages_sent", "Messages that were sent."),
                ("received_bytes", "Bytes that have come, before TLS."),
                ("sent_bytes", "Bytes that were sent, before TLS."),
            )
        ):
            values = (((route,), each[at]) for route, each in numbers.items())
            yield family(f"wsflow_{name}", "counter", help, ("route",), values)
        yield family(
            "wsflow_message_duration_seconds",
            "histogram",
            "How long a consumer took, from its call to its return; for one of 16 messages.",
            ("route", "handler"),
            ((labels, each.buckets) for labels, each in self._took.items()),
        )
        yield family(
            "wsflow_event_loop_lag_seconds",
            "histogram",
            "How late the event loop was, looked at twice a second.",
            (),
            [((), self.lag.buckets)],
        )

    def _of_topics(self) -> Iterable[Family]:
        channels = self._app.directory.channels
        waiting = channels.waiting_by_topic()
        yield family("wsflow_topics", "gauge", "Topics in use.", (), [((), len(channels))])
        yield family(
            "wsflow_topic_messages_waiting",
            "gauge",
            "Messages of topics that wait for members that lag.",
            ("topic",),
            (((name,), waiting[name]) for name in {*waiting, *channels.dropped}),
        )
        yield family(
            "wsflow_topic_messages_dropped",
            "counter",
            "Messages of topics that were dropped for members that lagged.",
            ("topic",),
            (((name,), count) for name, count in channels.dropped.items()),
        )
        yield family(
            "wsflow_broker_connected",
            "lowest",
            "Whether the broker is connected.",
            (),
            [((), int(channels.broker.connected))],
        )
        counters = {**channels.counters, **channels.broker.counters}
        for name, (full, help) in COUNTERS.items():
            yield family(f"wsflow_{full}", "counter", help, (), [((), counters[name])])


def _sum(one: _Numbers, two: _Numbers) -> _Numbers:
    return one[0] + two[0], one[1] + two[1], one[2] + two[2], one[3] + two[3]
