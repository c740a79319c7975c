"""Traces by OpenTelemetry. Needs ``wsflow[opentelemetry]``.

``app.observe(Traces())``: a span for each connection and, on request, for each message. What is
published on topics, and each call, carries its context to where it is received.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import final

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from wsflow.connection import Connection
from wsflow.observer import Carrier, ConnectionSummary, Observer

__all__ = ["Traces"]

_RECEIVED = context.create_key("wsflow-received")
"""In a context that came with a message of a topic: the one before the loop over it, and the span
that came."""


@final
class Traces(Observer):
    """Makes spans. Sampling and exporting is up to the tracer provider.

    - One for each connection, from its opening request until its end: ``WebSocket /chat/{room}``.
      It is of the kind server, and its parent is what the opening request carries (W3C Trace
      Context, or what else the global propagator reads); of a client's it is of the kind client,
      and carried to the server. Spans that the functions of the connection start are its children.
    - With ``messages``, one for each message that a consumer handles, named after the consumer. Of
      a call, its parent is the span of the caller, in the other process.
    - With ``topics``, one for each message of a topic that a process delivers to its members:
      ``deliver``. Its parent is the span of the publisher, in whichever process.

    Spans that a loop over a topic starts for a message are children of the publisher's, too.
    Context is taken from whoever sends it, peers included, as HTTP frameworks do.

    Args:
        messages: whether there is a span for each message.
        topics: whether there is a span for each delivery of a topic's message.
        tracer_provider: makes the tracer; by default the global one.
    """

    def __init__(
        self,
        *,
        messages: bool = False,
        topics: bool = False,
        tracer_provider: trace.TracerProvider | None = None,
    ) -> None:
        self._messages = messages
        self._topics = topics
        self._tracer = trace.get_tracer("wsflow", tracer_provider=tracer_provider)
        self._spans: dict[str, Span] = {}  # by connection

    def connection_begun(self, connection: Connection, route: str, dialled: bool) -> None:
        request = connection.request
        if dialled:
            kind, parent = SpanKind.CLIENT, context.get_current()
        else:
            found = request.headers
            headers = {name.lower(): ",".join(found.get_all(name)) for name in found}
            kind, parent = SpanKind.SERVER, propagate.extract(headers, Context())
        attributes = {"http.request.method": "GET", "http.route": route, "url.path": request.path}
        if request.client is not None:
            attributes["client.address"] = request.client.host
        span = self._tracer.start_span(f"WebSocket {route}", parent, kind, attributes)
        self._spans[connection.id] = span
        context.attach(trace.set_span_in_context(span, parent))  # of the connection's tasks alone

    def connection_ended(self, connection: Connection, summary: ConnectionSummary) -> None:
        span = self._spans.pop(connection.id, None)
        if span is None:
            return
        end, status = summary.end, 101 if summary.opened else summary.refused
        if status is not None:
            span.set_attribute("http.response.status_code", status)
        span.set_attributes(
            {
                "wsflow.messages.received": summary.received,
                "wsflow.messages.sent": summary.sent,
                "wsflow.messages.dropped": summary.dropped,
            }
        )
        span.set_attribute("wsflow.end.cause", end.cause if end else "-")
        span.set_attribute("wsflow.end.code", end.code if end else 0)
        if end is not None and end.error is not None:
            span.record_exception(end.error)
            span.set_status(Status(StatusCode.ERROR, end.cause))
        if status is not None and status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def message_handling(
        self,
        connection: Connection,
        route: str,
        handler: str,
        message: object,
        carried: Mapping[str, str],
    ) -> AbstractContextManager[object] | None:
        if not self._messages:
            return None
        kind = SpanKind.SERVER if carried else SpanKind.CONSUMER
        attributes = {"http.route": route, "wsflow.message": type(message).__name__}
        parent = propagate.extract(carried, context.get_current())
        return self._tracer.start_as_current_span(handler, parent, kind, attributes)

    def topic_delivering(
        self, topic: str, members: int, carried: Mapping[str, str]
    ) -> AbstractContextManager[object] | None:
        if not self._topics:
            return None
        attributes: dict[str, str | int] = {
            "messaging.destination.name": topic,
            "wsflow.members": members,
        }
        parent = propagate.extract(carried, Context())
        return self._tracer.start_as_current_span("deliver", parent, SpanKind.CONSUMER, attributes)

    def topic_received(self, topic: str, carried: Mapping[str, str]) -> None:
        before = context.get_current()
        match before.get(_RECEIVED):
            case (Context() as first, span) if span is trace.get_current_span(before):
                before = first  # of the message before; else the task is in a span of its own
        within = propagate.extract(carried, before)
        came = before, trace.get_current_span(within)
        context.attach(context.set_value(_RECEIVED, came, within))

    def carry(self, carrier: Carrier) -> None:
        propagate.inject(carrier)
