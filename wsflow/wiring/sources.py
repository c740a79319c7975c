"""Sources of parameters.

Each parameter gets its source at start-up. ``get`` reads the value from the ``Environment`` of a
process or a connection. It is called once when a handler is bound, and not per message; the values
of ``on_message`` functions are filled in by ``Invocation.bind_each``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from wsflow.connection import Connection
from wsflow.declare.markers import Cookie, Header, Query
from wsflow.declare.router import Handler
from wsflow.declare.signatures import EMPTY, type_name
from wsflow.errors import Reject
from wsflow.messages.events import TopicOptions
from wsflow.messages.hooks import NO_HOOKS, HookError, Hooks
from wsflow.request import Request
from wsflow.topics.names import fill_name
from wsflow.topics.registry import Registry
from wsflow.topics.topic import Topic
from wsflow.wiring.environment import Environment


class Source(Protocol):
    """Where a value comes from. ``str()`` is a description."""

    def get(self, environment: Environment) -> Any: ...


@dataclass(frozen=True, slots=True)
class Given:
    """An attribute of the environment: an object of the connection or the app."""

    attribute: str
    said: str

    def get(self, environment: Environment) -> Any:
        return getattr(environment, self.attribute)

    def __str__(self) -> str:
        return self.said


@dataclass(frozen=True, slots=True)
class Fixed:
    """A value that is known at start-up: an override, or the parameter's default."""

    value: Any
    said: str

    def get(self, environment: Environment) -> Any:
        return self.value

    def __str__(self) -> str:
        return self.said


@dataclass(frozen=True, slots=True)
class Provided:
    """The value of a ``lifespan`` or ``on_connect`` function."""

    handler: Handler

    def get(self, environment: Environment) -> Any:
        return environment.values[self.handler]

    def __str__(self) -> str:
        return str(self.handler)


@dataclass(frozen=True, slots=True)
class PerMessage:
    """A value that is only known per message: that of an ``on_message`` function, or the message
    itself if ``handler`` is None."""

    handler: Handler | None

    def get(self, environment: Environment) -> Any:
        return None

    def __str__(self) -> str:
        return str(self.handler) if self.handler else "the message"


@dataclass(frozen=True, eq=False, slots=True)
class FromPath:
    """A parameter of the path, converted; ``hooks`` convert to types that msgspec does not know."""

    name: str
    kind: Any
    hooks: Hooks = NO_HOOKS

    def get(self, environment: Environment) -> Any:
        return environment.read[self]

    def convert(self, request: Request) -> Any:
        try:
            return self.hooks.convert_text(request.path_params[self.name], self.kind)
        except msgspec.ValidationError:
            raise Reject(404, "not found\n") from None

    def takes(self, value: str) -> bool:
        """Whether the value of a path's segment can be converted."""
        try:
            self.convert(Request("/", {self.name: value}))
        except (Reject, HookError):
            return False
        return True

    def __str__(self) -> str:
        return f"path parameter {{{self.name}}}"


@dataclass(frozen=True, eq=False, slots=True)
class FromRequest:
    """A query parameter, header or cookie, converted.

    Attributes:
        mark: where it is.
        name: its name there.
        kind: its type.
        default: its default; EMPTY without one.
        collects: whether its type takes all values; else it is the last one.
        hooks: convert to types that msgspec does not know.
    """

    mark: Query | Header | Cookie
    name: str
    kind: Any
    default: Any
    collects: bool
    hooks: Hooks = NO_HOOKS

    def get(self, environment: Environment) -> Any:
        return environment.read[self]

    def convert(self, request: Request) -> Any:
        if isinstance(self.mark, Query):
            found = request.query.get_all(self.name)
        elif isinstance(self.mark, Header):
            found = request.headers.get_all(self.name)
        else:
            found = [request.cookies[self.name]] if self.name in request.cookies else []
        if not found:
            if self.default is not EMPTY:
                return self.default
            raise Reject(400, f"{self} is missing\n")
        try:
            return self.hooks.convert_text(found if self.collects else found[-1], self.kind)
        except msgspec.ValidationError as exc:
            raise Reject(400, f"{self} is not valid: {_why(exc)}\n") from None

    def __str__(self) -> str:
        return f"{type(self.mark).__name__.lower()} {self.name!r}"


@dataclass(frozen=True, eq=False, slots=True)
class FromTopic:
    """A topic, its name filled from the path.

    Attributes:
        template: its name.
        types: the types of its messages.
        options: its options.
        keeps_hearing: whether it also receives what is published between two loops over it.
    """

    template: str
    types: tuple[Any, ...]
    options: TopicOptions
    keeps_hearing: bool

    def get(self, environment: Environment) -> Topic[Any]:
        subscriber, directory = environment.subscriber, environment.directory
        return Topic(
            fill_name(self.template, environment.path_params),
            directory.declared.types[self.template],
            directory.channels,
            subscriber,
            keeps_hearing=self.keeps_hearing,
        )

    def __str__(self) -> str:
        return f"topic {self.template!r} of {' | '.join(map(type_name, self.types))}"


def _why(exc: msgspec.ValidationError) -> str:
    """The part of the error that names the expected type: the value is always a string."""
    return str(exc).partition(", got `str`")[0]


GIVEN: Mapping[Any, Given] = {
    Connection: Given("connection", "this connection"),
    Request: Given("request", "its opening request"),
    Registry: Given("registry", "the app's registry"),
}
TASK_GROUP = Given("task_group", "the connection's task group")
APP_TASK_GROUP = Given("task_group", "the app's task group")
END = Given("end", "how the connection ended")
OPENING = Given("opening", "the opening request, before it is sent")
