"""What carries topics between the processes of an app.

A broker of one's own is an ``Engine``: it connects to a server, and its ``EngineConnection`` does
what a client of that server can. Reconnecting, recovering a history, deduplicating and presence are
wsflow's. ``register_engine`` makes it known by the scheme of its URLs; or a package does so, in its
``pyproject.toml``::

    [project.entry-points."wsflow.engines"]
    kafka = "wsflow_kafka:KafkaEngine"

Then ``wsflow run --broker kafka://…`` uses it. ``wsflow.testing.conformance.brokers`` has the tests
that it has to pass. ``Broker`` is what the topics of a process see of all this.
"""

from wsflow.brokers.base import Broker, BrokerListener, Mark, Page, Replay
from wsflow.brokers.engine import (
    Attempt,
    ConnectionLostError,
    Engine,
    EngineConnection,
    EngineListener,
    Stamp,
    Stored,
)
from wsflow.brokers.select import register_engine
from wsflow.messages.events import Envelope, Event, TopicOptions, UnreadableError

__all__ = [
    "Attempt",
    "Broker",
    "BrokerListener",
    "ConnectionLostError",
    "Engine",
    "EngineConnection",
    "EngineListener",
    "Envelope",
    "Event",
    "Mark",
    "Page",
    "Replay",
    "Stamp",
    "Stored",
    "TopicOptions",
    "UnreadableError",
    "register_engine",
]
