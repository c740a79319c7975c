"""What a session needs of the app that it belongs to."""

from __future__ import annotations

from contextvars import Context
from typing import Any, Protocol

from wsflow.declare.router import Handler
from wsflow.registry import Directory
from wsflow.runtime.limits import Limits


class Home(Protocol):
    """The app, as its sessions see it."""

    @property
    def limits(self) -> Limits: ...
    @property
    def directory(self) -> Directory: ...
    @property
    def context(self) -> Context: ...
    @property
    def values(self) -> dict[Handler, Any]: ...
    def ended(self, id: str) -> None: ...
    def fail(self, exc: BaseException) -> None: ...
