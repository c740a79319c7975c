"""The messages between a supervisor and its workers, on the socket pair between them."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import msgspec

from wsflow.server.settings import Settings

READY = b"ready\n"


class Assignment(msgspec.Struct, frozen=True):
    """What a worker must serve.

    Attributes:
        target: the app.
        settings: how to serve it.
        sockets: the descriptors of the sockets to listen on.
    """

    target: str
    settings: Settings
    sockets: list[int]


def inherit(descriptors: Sequence[int]) -> list[socket.socket]:
    """The sockets that a supervisor has passed on to a worker."""
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]
