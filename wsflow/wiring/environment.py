"""The values that can be injected into functions of a connection, or of the process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anyio.abc import TaskGroup

from wsflow.connection import Connection
from wsflow.declare.router import Handler
from wsflow.end import End
from wsflow.opening import Opening
from wsflow.request import Request
from wsflow.topics.channels import Subscriber
from wsflow.topics.registry import Directory, Registry


@dataclass(slots=True)
class Environment:
    """The values that sources read.

    Attributes:
        directory: the process's connections and topics.
        values: what scope functions have provided so far.
        read: the values from the opening request, by source.
        subscriber: the connection, as topics see it; None in a ``lifespan``.
        connection: the connection; None in a ``lifespan``.
        opening: a client's opening request; None in a server.
        task_group: the injected task group, once it is open; None if no function asks for it.
        page: the request that a page answers; None elsewhere.
    """

    directory: Directory
    values: dict[Handler, Any]
    read: Mapping[Any, Any] = field(default_factory=dict)
    subscriber: Subscriber | None = None
    connection: Connection | None = None
    opening: Opening | None = None
    task_group: TaskGroup | None = None
    page: Request | None = None

    @property
    def request(self) -> Request:
        if self.page is not None:
            return self.page
        assert self.connection is not None  # wiring uses it only where there is one
        return self.connection.request

    @property
    def path_params(self) -> Mapping[str, str]:
        """The parameters of the path; none in a ``lifespan``."""
        there = self.page is not None or self.connection is not None
        return self.request.path_params if there else {}

    @property
    def registry(self) -> Registry:
        return Registry(self.directory, self.subscriber)

    @property
    def end(self) -> End | None:
        return self.connection.end if self.connection is not None else None
