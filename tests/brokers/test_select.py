"""From a URL to a broker: those of others, too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsflow import brokers
from wsflow.brokers import select
from wsflow.brokers.engine import Engine


class Kafka:
    """An engine that only keeps its URL."""

    def __init__(self, url: str) -> None:
        if url.endswith("bad"):
            raise ValueError("there is no bad")
        self.address = url

    connect = None


@pytest.fixture
def unregistered() -> Iterator[None]:
    before = dict(select._registered)
    yield
    select._registered.clear()
    select._registered.update(before)


@pytest.mark.usefixtures("unregistered")
def test_an_engine_of_somebody_else() -> None:
    brokers.register_engine("kafka", Kafka)  # type: ignore[arg-type]
    made: Engine = select.engine("kafka://localhost")
    assert made.address == "kafka://localhost"
    with pytest.raises(ValueError, match="'kafka://bad' cannot be used: there is no bad"):
        select.engine("kafka://bad")
    with pytest.raises(ValueError, match=r"it begins with one of memory://.*, kafka://"):
        select.engine("other://x")


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://", "memory"),
        ("REDIS://host", "redis"),
        ("rediss+sentinel://a,b/app", "redis"),
        ("nats://user:secret@host", "nats"),
        ("tls://host", "nats"),
        ("workers://:8000", "workers"),
        ("kafka://user:secret@host", "kafka"),
    ],
)
def test_the_sort_of_a_broker(url: str, kind: str) -> None:
    assert select.kind(url) == kind


def test_schemes_that_are_taken_or_are_none() -> None:
    for scheme in ("redis", "nats", "tls", "memory"):
        with pytest.raises(ValueError, match="is wsflow's own: choose another scheme"):
            brokers.register_engine(scheme, Kafka)  # type: ignore[arg-type]
    for scheme in ("", "Kafka", "1a", "a:b"):
        with pytest.raises(ValueError, match="is no scheme of a URL"):
            brokers.register_engine(scheme, Kafka)  # type: ignore[arg-type]


def test_an_engine_that_a_package_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "wsflow_pulsar-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wsflow-pulsar\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[wsflow.engines]\npulsar = {__name__}:Kafka\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert select.engine("pulsar://there").address == "pulsar://there"
    with pytest.raises(ValueError, match=r"begins with one of .*, pulsar://"):
        select.engine("nowhere://")
