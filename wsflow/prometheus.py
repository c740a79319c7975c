"""Metrics for Prometheus. Needs ``wsflow[metrics]``.

``wsflow run --metrics`` shows them at ``/metrics``. In a program of one's own, or in an app of
another framework, ``Collector`` adds them to a registry of ``prometheus_client``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector as Collecting

from wsflow.metrics import BOUNDS, Family
from wsflow.response import Response
from wsflow.topics.registry import Registry

__all__ = ["Collector"]


@final
class Collector(Collecting):
    """What an app has measured in this process, for a registry of ``prometheus_client``:
    ``prometheus_client.REGISTRY.register(Collector(registry))``.

    Args:
        registry: the app's, as a ``lifespan`` function is given it.
    """

    def __init__(self, registry: Registry) -> None:
        self._measure = registry._directory.measure

    def collect(self) -> Iterable[Metric]:
        return map(_metric, self._measure())


@final
class _Snapshot(Collecting):
    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return map(_metric, self._families)


def _metric(family: Family) -> Metric:
    name, help, labels = family.name, family.help, family.labels
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, help, labels=labels)
        for values, (*counts, count, seconds) in family.values.items():
            bounds = [repr(bound) for bound in BOUNDS] + ["+Inf"]
            histogram.add_metric(values, list(zip(bounds, [*counts, count], strict=True)), seconds)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(name, help, labels=labels)
    for values, (number,) in family.values.items():
        metric.add_metric(values, number)
    return metric


def page(families: Sequence[Family], accept: str) -> Response:
    """Families as Prometheus reads them.

    Args:
        families: what was measured.
        accept: the header ``Accept`` of who asks: the text format, or OpenMetrics.
            The text format is for who asks for neither.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(families))
    try:
        encode, kind = choose_encoder(accept)
    except Exception:  # a header that it does not understand
        encode, kind = choose_encoder("")
    return Response(encode(registry), content_type=kind)
