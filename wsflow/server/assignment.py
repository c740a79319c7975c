"""The messages between a supervisor and its workers, on the socket pair between them.

The first one is the assignment, a line. The answer, once the worker serves, is a line, too. All
others are single bytes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec

from wsflow.server.settings import Settings

SERVING = b"+"
"""From a worker: it serves. A command that connects to it may follow in the line."""
ALIVE = b"."
"""From a worker that serves: its event loop turns."""
HAND_OVER = b"h"
"""To a worker: another one has taken its place."""
AT_ONCE = b"!"
"""To a worker that drains: stop at once."""
REPORT = b"?"
"""To a worker: write a report. From a worker: it was asked for what all have measured."""
REPORTED = b"r"
"""From a worker: its report is written. To a worker: so is what all have measured."""

BEATS = 10
"""How often a worker that serves must say something within ``worker_timeout``, at least."""
BEAT = 1.0
"""The most seconds between two signs of life."""


class Assignment(msgspec.Struct, frozen=True):
    """What a worker must serve.

    Attributes:
        target: the app.
        settings: how to serve it.
        sockets: the descriptors of the sockets to listen on.
        reports: the directory of the reports.
        directory: the current directory.
        dev: whether tracebacks begin at the app's own frame.
    """

    target: str
    settings: Settings
    sockets: list[int]
    reports: Path
    directory: Path = Path()
    dev: bool = False


def inherit(descriptors: Sequence[int]) -> list[socket.socket]:
    """The sockets that a supervisor has passed on to a worker."""
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]


def beat(timeout: float) -> float:
    """Seconds between two signs of life, for a timeout."""
    return min(BEAT, timeout / BEATS)
