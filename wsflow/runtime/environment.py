"""What handlers of one connection, or of the process, can be given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anyio.abc import TaskGroup

from wsflow.channels import Channels, Subscriber
from wsflow.connection import Connection, End
from wsflow.declare.router import Handler
from wsflow.opening import Opening
from wsflow.registry import Directory, Registry
from wsflow.request import Request
from wsflow.wiring.sources import Source


@dataclass(slots=True)
class Surroundings:
    """The Environment of the wiring, filled in as things come to be known.

    Attributes:
        directory: the process's connections and topics.
        values: what scope functions provided.
        read: what was read from the request.
        subscriber: the connection, as topics see it; None in a ``lifespan``.
        connection: the connection; not set in a ``lifespan``.
        task_group: the injected task group; set if some function asks for it.
        opening: a client's opening request; not set in a server.
    """

    directory: Directory
    values: dict[Handler, Any] = field(default_factory=dict)
    read: Mapping[Source, Any] = field(default_factory=dict)
    subscriber: Subscriber | None = None
    connection: Connection = field(init=False)
    task_group: TaskGroup = field(init=False)
    opening: Opening = field(init=False)

    @property
    def request(self) -> Request:
        return self.connection.request

    @property
    def registry(self) -> Registry:
        return Registry(self.directory, self.subscriber)

    @property
    def end(self) -> End | None:
        return self.connection.end

    @property
    def channels(self) -> Channels:
        return self.directory.channels
