"""Spans, and where they belong."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Annotated, Any, cast

import anyio
import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id

from wsflow import (
    Address,
    Call,
    Connection,
    ConnectionSummary,
    Reject,
    Request,
    Router,
    Topic,
)
from wsflow.opentelemetry import Traces
from wsflow.testing import FakeBroker, serve_in_memory

pytestmark = pytest.mark.anyio


class Say(msgspec.Struct, tag="say"):
    text: str


class Ask(Call[int], tag="ask"):
    number: int


class Recorder:
    """Spans that have ended, in that order."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("tests")

    def traces(self, *, messages: bool = True, topics: bool = True) -> Traces:
        return Traces(messages=messages, topics=topics, tracer_provider=self.provider)

    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def one(self, name: str) -> ReadableSpan:
        (found,) = [each for each in self.spans() if each.name == name]
        return found


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def app_of(recorder: Recorder, traces: Traces | None = None) -> Router:
    app = Router("/room/{room}")
    app.observe(traces or recorder.traces())

    @app.on_connect
    async def enter(room: str, topic: Annotated[Topic[Say], "room.{room}"]) -> None:
        if room == "closed":
            raise Reject(403)
        if room == "broken":
            raise ValueError("no")
        with recorder.tracer.start_as_current_span("entering"):
            await topic.join()

    @app.consumer
    async def say(message: Say, topic: Annotated[Topic[Say], "room.{room}"]) -> None:
        await topic.publish(message)

    @app.consumer
    async def ask(message: Ask) -> int:
        if message.number < 0:
            raise ValueError("negative")
        with recorder.tracer.start_as_current_span("asking"):
            await anyio.lowlevel.checkpoint()
        return message.number + 1

    return app


def within(inner: ReadableSpan, outer: ReadableSpan) -> bool:
    """Whether a span is a child of another one."""
    assert inner.context is not None
    assert outer.context is not None
    there = inner.parent is not None and inner.parent.span_id == outer.context.span_id
    return there and inner.context.trace_id == outer.context.trace_id


async def test_a_span_for_each_connection_and_message(recorder: Recorder) -> None:
    async with serve_in_memory(app_of(recorder)) as server, server.connect("/room/a") as peer:
        await peer.send(Say("hi"))
        assert await peer.receive() == Say("hi")
    span, say = recorder.one("WebSocket /room/{room}"), recorder.one("consumer say")
    assert within(recorder.one("entering"), span)
    assert within(say, span)
    assert within(recorder.one("deliver"), say)
    assert span.kind is SpanKind.SERVER
    assert say.kind is SpanKind.CONSUMER
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes == {
        "http.request.method": "GET",
        "http.route": "/room/{room}",
        "url.path": "/room/a",
        "http.response.status_code": 101,
        "wsflow.messages.received": 1,
        "wsflow.messages.sent": 1,
        "wsflow.messages.dropped": 0,
        "wsflow.end.cause": "peer",
        "wsflow.end.code": 1000,
    }
    assert say.attributes == {"http.route": "/room/{room}", "wsflow.message": "Say"}
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_the_parent_is_what_the_opening_request_carries(recorder: Recorder) -> None:
    id = "0af7651916cd43dd8448eb211c80319c"
    sent = f"00-{id}-b7ad6b7169203331-01"
    for headers in (
        [("traceparent", sent), ("x-more", "a"), ("x-more", "b")],
        [("traceparent", "nonsense")],
        [("traceparent", sent), ("Traceparent", sent)],  # it must not come twice
    ):
        async with serve_in_memory(app_of(recorder)) as server:
            async with server.connect("/room/a", headers=headers):
                pass
    one, *others = [each for each in recorder.spans() if each.name.startswith("WebSocket")]
    assert one.parent is not None
    assert format_trace_id(one.parent.trace_id) == id
    assert [each.parent for each in others] == [None, None]


@pytest.mark.parametrize(("room", "status"), [("closed", 403), ("broken", 500)])
async def test_what_is_refused(recorder: Recorder, room: str, status: int) -> None:
    async with serve_in_memory(app_of(recorder)) as server:
        async with server.connect(f"/room/{room}") as peer:
            assert peer.rejected.status == status
            assert peer.end is not None
            assert isinstance(peer.end.error, ValueError) is (status == 500)
    span = recorder.one("WebSocket /room/{room}")
    assert span.attributes is not None
    assert span.attributes["http.response.status_code"] == status
    failed = span.status.status_code is StatusCode.ERROR
    assert failed is (status == 500)
    assert [each.name for each in span.events] == (["exception"] if failed else [])


async def test_a_call_belongs_to_its_caller(recorder: Recorder) -> None:
    """Across the connection: the client's span, its call, and what the server does for it."""
    client = Router("/")
    client.observe(recorder.traces())
    done = anyio.Event()

    @client.producer(on_end="keep")
    async def call(connection: Connection) -> None:
        with recorder.tracer.start_as_current_span("calling"):
            assert await connection.call(Ask(1)) == 2
        with pytest.raises(Exception, match="internal"):
            await connection.call(Ask(-1))
        done.set()

    async with (
        serve_in_memory(app_of(recorder)) as server,
        server.link(client, "/room/a", reconnect=False) as linked,
    ):
        await done.wait()
        await linked.server.close()
        await linked.ended()
        assert linked.server_end is not None
        assert linked.server_end.error is None  # and it is seen
    ours, theirs = recorder.one("WebSocket /"), recorder.one("WebSocket /room/{room}")
    assert ours.kind is SpanKind.CLIENT
    assert within(theirs, ours)
    assert within(recorder.one("calling"), ours)
    one, two = [each for each in recorder.spans() if each.name == "consumer ask"]
    assert one.kind is SpanKind.SERVER
    assert within(one, recorder.one("calling"))
    assert within(recorder.one("asking"), one)
    assert two.status.status_code is StatusCode.ERROR
    assert [each.name for each in two.events] == ["exception"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_publisher_in_another_process(recorder: Recorder, anyio_backend: str) -> None:
    """A loop over a topic is in the trace of each message that it gets, and in no earlier one."""
    app, seen = app_of(recorder, recorder.traces(messages=False, topics=False)), []

    @app.producer
    async def hear(topic: Annotated[Topic[Say], "room.{room}"]) -> AsyncIterator[Say]:
        async for message in topic:
            with recorder.tracer.start_as_current_span(f"heard {message.text}"):
                seen.append(message.text)
            yield message

    broker = FakeBroker()
    async with (
        serve_in_memory(app, broker=broker) as one,
        serve_in_memory(app, broker=broker) as two,
        two.connect("/room/a") as peer,
    ):
        with recorder.tracer.start_as_current_span("publishing"):
            await one.registry.topic("room.a").publish(Say("first"))
        await one.registry.topic("room.a").publish(Say("second"))
        for _ in range(4):  # as a member, and from the loop
            await peer.receive()
    assert within(recorder.one("heard first"), recorder.one("publishing"))
    connection = recorder.one("WebSocket /room/{room}")
    assert within(recorder.one("heard second"), connection)
    assert not [each for each in recorder.spans() if each.name in ("deliver", "consumer say")]


async def test_a_loop_within_a_span_within_a_loop(recorder: Recorder) -> None:
    """What a task starts is within the last message, or within the span that it is in since."""
    traces, carried = recorder.traces(), dict[str, str]()

    def start(name: str) -> AbstractContextManager[object]:
        return recorder.tracer.start_as_current_span(name)

    with start("publishing"):
        traces.carry(carried)

    def task() -> None:
        with start("own"):
            traces.topic_received("a", carried)
            with start("first"):
                traces.topic_received("b", {})
                with start("inner"):
                    pass
                traces.topic_received("b", carried)
            traces.topic_received("a", {})
            with start("second"):
                pass
        with start("after"):
            traces.topic_received("a", {})
            with start("later"):
                pass

    contextvars.copy_context().run(task)
    assert within(recorder.one("first"), recorder.one("publishing"))
    assert within(recorder.one("inner"), recorder.one("first"))
    assert within(recorder.one("second"), recorder.one("own"))
    assert within(recorder.one("later"), recorder.one("after"))
    assert recorder.one("after").parent is None


async def test_one_that_has_not_seen_the_begin(recorder: Recorder) -> None:
    """A connection whose begin has failed for it ends without a span."""
    traces = recorder.traces()

    async with serve_in_memory(app_of(recorder, traces)) as server, server.connect("/room/a"):
        traces._spans.clear()
    assert [each.name for each in recorder.spans()] == ["entering"]


def test_who_it_is_and_what_is_not_asked_for(recorder: Recorder) -> None:
    traces = recorder.traces(messages=False, topics=False)
    request = Request("/", client=Address("192.0.2.1", 5))
    connection = Connection("1", request, cast(Any, None))
    contextvars.copy_context().run(traces.connection_begun, connection, "/", False)
    assert traces.message_handling(connection, "/", "x", 1, {}) is None
    assert traces.topic_delivering("x", 1, {}) is None
    summary = ConnectionSummary("/", None, False, None, 0, 0, 0, 0, 0, 0.1, False)
    traces.connection_ended(connection, summary)
    attributes = recorder.one("WebSocket /").attributes
    assert attributes is not None
    assert attributes["client.address"] == "192.0.2.1"
