"""What carries one connection: sockets, and memory.

A transport of one's own implements ``Transport`` and reports to a ``Receiver``. It hands each
opening request to an ``Acceptor``, which is the app: ``wsflow.runtime.app.App``. The suite in
``wsflow.testing.conformance.transports`` has the tests that it has to pass.
"""

from wsflow.messages.encoded import EncodedMessage
from wsflow.tasks.waiting import Clock, Timer
from wsflow.transports.base import (
    NOBODY,
    Acceptor,
    Begin,
    DiallingTransport,
    Receiver,
    Transport,
)
from wsflow.transports.frames import Found

__all__ = [
    "NOBODY",
    "Acceptor",
    "Begin",
    "Clock",
    "DiallingTransport",
    "EncodedMessage",
    "Found",
    "Receiver",
    "Timer",
    "Transport",
]
