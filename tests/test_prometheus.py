"""Metrics as Prometheus reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text_metrics

from wsflow import Registry, Router
from wsflow.metrics import Histogram, family
from wsflow.prometheus import Collector, page
from wsflow.testing import serve_in_memory

pytestmark = pytest.mark.anyio


def test_each_kind_in_both_formats() -> None:
    took = Histogram()
    for nanoseconds in (10, 1_000_000, 1_000_000, 20_000_000_000):
        took.add(nanoseconds)
    families = [
        family("some", "counter", "Some.", ("route",), [(('/"a"\n',), 3)]),
        family("now", "gauge", "Now.", (), [((), 2)]),
        family("least", "lowest", "The least.", (), [((), 1)]),
        family("took_seconds", "histogram", "Took.", ("handler",), [(("x",), took.buckets)]),
        family("none", "counter", "None yet.", ("status",)),
    ]
    texts = {
        "text/plain": text_metrics,
        "application/openmetrics-text; version=1.0.0": open_metrics,
    }
    for accept, read in texts.items():
        answer = page(families, accept)
        assert answer.content_type is not None
        assert answer.content_type.startswith(accept.partition(";")[0])
        found = {each.name: each for each in read(answer.data.decode())}
        samples = {
            (each.name, *each.labels.values()): each.value
            for one in found.values()
            for each in one.samples
        }
        assert samples["some_total", '/"a"\n'] == 3
        assert samples["now",] == 2
        assert samples["least",] == 1
        assert samples["took_seconds_count", "x"] == 4
        assert samples["took_seconds_sum", "x"] == pytest.approx(20.00200001)
        buckets = [value for (name, *_), value in samples.items() if name == "took_seconds_bucket"]
        assert buckets == [1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3, 4]


@pytest.mark.parametrize(
    "accept",
    ["application/openmetrics-text; version=abc", 'text/plain;version="1.0.0"', ";q=1, ,=", "é"],
)
def test_a_header_that_asks_for_nothing_known(accept: str) -> None:
    answer = page([family("some", "counter", "Some.", (), [((), 3)])], accept)
    assert b"some_total 3.0" in answer.data


async def test_a_collector_in_a_registry_of_others() -> None:
    app, there = Router("/"), CollectorRegistry()

    @app.lifespan
    async def show(registry: Registry) -> AsyncIterator[None]:
        there.register(collector := Collector(registry))
        yield
        there.unregister(collector)

    @app.consumer
    async def echo(message: str) -> str:
        return message

    async with serve_in_memory(app) as server, server.connect("/") as peer:
        await peer.send("x")
        assert await peer.receive() == "x"
        text = generate_latest(there).decode()
    assert 'wsflow_connections{route="/"} 1.0\n' in text
    assert 'wsflow_messages_sent_total{route="/"} 1.0\n' in text
    assert generate_latest(there) == b""
