"""The results of wiring: one compiled plan per path, and the plan of the app."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from wsflow.declare.router import About, Declared, Handler, Per, WhenOver
from wsflow.declare.signatures import Parameter
from wsflow.errors import DeclarationError, InvalidMessage, Problem
from wsflow.limits import Limits
from wsflow.messages.codec import BoundCodec, Decoding, bound
from wsflow.messages.hooks import Hooks
from wsflow.observer import Observer
from wsflow.topics.declared import DeclaredTopics
from wsflow.topics.registry import Registry
from wsflow.wiring.invocation import Invocation
from wsflow.wiring.routes import RouteTable
from wsflow.wiring.sources import TASK_GROUP, FromPath, FromRequest

CALLS_AT_ONCE = 256
"""How many calls a connection's consumers answer at a time by default."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A scope function, the annotation under which its value is injected, and what it asks for."""

    handler: Handler
    provides: Any
    asks: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True)
class ScopePlan:
    """A ``lifespan``, ``on_connect`` or ``on_message`` function.

    Attributes:
        invocation: how to call it.
        generator: whether it is resumed to tear down.
        gives: the type of the value that it provides, EMPTY if it has no annotation.
    """

    invocation: Invocation
    generator: bool
    gives: Any

    @property
    def handler(self) -> Handler:
        return self.invocation.handler


@dataclass(frozen=True, slots=True, eq=False)
class RatePlan:
    """A rate limit.

    Attributes:
        name: which it is, the same in all processes of the app.
        interval: seconds between two messages at this rate.
        burst: how many may come at once.
        when_over: what happens to a message that comes too early.
        per: what is counted together.
    """

    name: str
    interval: float
    burst: int
    when_over: WhenOver
    per: Per


@dataclass(frozen=True, slots=True, eq=False)
class ConsumerPlan:
    """A consumer: ``kinds`` are the message types; ``stream`` if it iterates them itself.

    Attributes:
        rates: the limits that its messages count for: those of the Routers around it, outermost
            first, and its own.
    """

    invocation: Invocation
    kinds: tuple[Any, ...]
    stream: bool
    generator: bool
    calls: bool
    rates: tuple[RatePlan, ...]

    @property
    def handler(self) -> Handler:
        return self.invocation.handler

    @property
    def shares_calls(self) -> bool:
        """Whether it answers calls in the slots that such consumers of a connection share."""
        return self.calls and self.handler.concurrency is None and self.handler.key is None

    @property
    def concurrency(self) -> int:
        """How many messages it handles at a time."""
        return self.handler.concurrency or (CALLS_AT_ONCE if self.calls else 1)

    @property
    def concurrent(self) -> bool:
        """Whether it has a lane of its own, or one that it shares with other consumers of calls:
        also with a ``concurrency`` of 1, if that was said."""
        said = self.handler.concurrency is not None
        return not self.stream and (said or self.concurrency > 1)


@dataclass(frozen=True, slots=True)
class ProducerPlan:
    """A producer: a generator (``each``), called in a loop (``poll``), or run ``once``."""

    invocation: Invocation
    style: Literal["each", "poll", "once"]

    @property
    def handler(self) -> Handler:
        return self.invocation.handler


@dataclass(frozen=True, slots=True)
class ErrorPlan:
    """An ``on_error`` function, its exception types, and the nesting depth of its Router."""

    invocation: Invocation
    types: tuple[type[Exception], ...]
    depth: int


@dataclass(frozen=True, eq=False)
class PagePlan:
    """The plan of a page: what answers plain HTTP requests to one path."""

    template: str
    invocation: Invocation
    hooks: Hooks

    @property
    def handler(self) -> Handler:
        return self.invocation.handler

    @functools.cached_property
    def to_json(self) -> Callable[[Any], bytes]:
        """Encodes what it returns."""
        return bound("json", self.hooks).encode

    @functools.cached_property
    def request_sources(self) -> tuple[FromPath | FromRequest, ...]:
        """The sources that read the request; path parameters first."""
        return request_sources([self.invocation])


def request_sources(functions: Iterable[Invocation]) -> tuple[FromPath | FromRequest, ...]:
    """The sources of functions that read the request; path parameters first."""
    sources = [source for each in functions for source in each.sources]
    return (
        *(source for source in sources if isinstance(source, FromPath)),
        *(source for source in sources if isinstance(source, FromRequest)),
    )


@dataclass(frozen=True, eq=False)
class RoutePlan:
    """The plan of one path, compiled at start-up.

    Attributes:
        template: the path, with its parameters in braces.
        where: the place of its Router.
        codecs: the codecs that its connections may use, the default first.
        decodings: how messages are decoded, by codec.
        call_decodings: how the messages inside of calls are decoded, by codec.
        call_frames: the call frames, by their class in ``wsflow.messages.calls``.
        sends: the types of the messages that are sent to the peer, as far as they are annotated.
        rates: the limits of the Routers around it.
        ignores_unknown: whether messages with an unknown tag are ignored.
        about: what its Router says of itself.
    """

    template: str
    where: str
    codecs: tuple[BoundCodec, ...]
    subprotocols: tuple[str, ...]
    on_connect: tuple[ScopePlan, ...]
    on_message: tuple[ScopePlan, ...]
    consumers: tuple[ConsumerPlan, ...]
    producers: tuple[ProducerPlan, ...]
    on_disconnect: tuple[Invocation, ...]
    on_error: tuple[ErrorPlan, ...]
    decodings: Mapping[str, Decoding[ConsumerPlan]]
    call_decodings: Mapping[str, Decoding[ConsumerPlan]]
    call_frames: Mapping[Any, Any]
    sends: tuple[Any, ...]
    rates: tuple[RatePlan, ...]
    ignores_unknown: bool = False
    about: About = About()

    def select_subprotocol(self, offered: tuple[str, ...]) -> str | None:
        """Negotiate the subprotocol: the Router's own first, then a codec's; None without one."""
        for name in (*self.subprotocols, *(codec.subprotocol for codec in self.codecs)):
            if name in offered:
                return name
        return None

    def codec(self, subprotocol: str | None) -> BoundCodec:
        """The codec of a connection with this subprotocol."""
        chosen = {codec.subprotocol: codec for codec in self.codecs}
        return chosen.get(subprotocol or "", self.codecs[0])

    @functools.cached_property
    def functions(self) -> tuple[Invocation, ...]:
        """The invocations of all functions of a connection on this path."""
        return (
            *(scope.invocation for scope in (*self.on_connect, *self.on_message)),
            *(consumer.invocation for consumer in self.consumers),
            *(producer.invocation for producer in self.producers),
            *self.on_disconnect,
            *(error.invocation for error in self.on_error),
        )

    @functools.cached_property
    def request_sources(self) -> tuple[FromPath | FromRequest, ...]:
        """The sources that read the opening request; path parameters first."""
        return request_sources(self.functions)

    @functools.cached_property
    def needs_task_group(self) -> bool:
        """Whether any function asks for a task group."""
        return any(TASK_GROUP in each.sources for each in self.functions)

    @functools.cached_property
    def needs_host(self) -> bool:
        """Whether a connection needs its host before its first message has come."""
        return (
            self.needs_task_group
            or bool(self.on_connect or self.producers)
            or any(consumer.stream for consumer in self.consumers)
        )

    @functools.cached_property
    def gives_values(self) -> bool:
        """Whether any ``on_connect`` function gives a value."""
        return any(scope.gives is not None for scope in self.on_connect)

    @functools.cached_property
    def has_lanes(self) -> bool:
        """Whether any consumer has a lane of its own, not that of the host."""
        return any(consumer.stream or consumer.concurrent for consumer in self.consumers)

    @functools.cached_property
    def rests(self) -> bool:
        """Whether it needs none once it is open, until a message comes: nothing is left of its
        ``on_connect`` functions, and its producers are tasks of their own."""
        return not (
            self.needs_task_group
            or any(scope.generator for scope in self.on_connect)
            or self.has_lanes
        )

    @functools.cached_property
    def limits(self) -> tuple[RatePlan, ...]:
        """All rate limits that messages on this path count for."""
        found = (*self.rates, *(rate for each in self.consumers for rate in each.rates))
        return tuple(dict.fromkeys(found))

    @functools.cached_property
    def client_limits(self) -> tuple[RatePlan, ...]:
        """The limits for which a handshake is refused, as far as the client's address decides that:
        those per user too, if no function can identify the user."""
        return tuple(
            each
            for each in self.limits
            if each.when_over == "close"
            and (each.per == "client" or (each.per == "user" and not self.on_connect))
        )

    @functools.cached_property
    def user_limits(self) -> tuple[RatePlan, ...]:
        """The limits for which a handshake is refused once the user may have been identified."""
        return tuple(
            each
            for each in self.limits
            if each.when_over == "close" and each.per == "user" and self.on_connect
        )

    @functools.cached_property
    def invalid(self) -> ConsumerPlan | None:
        """Stands for the consumer of messages that cannot be decoded, if an ``on_error`` function
        takes them."""
        plan = self.error_plan(InvalidMessage(""))
        if plan is None:
            return None
        kinds = (InvalidMessage,)
        return ConsumerPlan(plan.invocation, kinds, False, False, False, self.rates)

    def error_plan(self, exc: BaseException) -> ErrorPlan | None:
        """The ``on_error`` function for an error: the most specific type first, then the innermost
        Router."""
        best: tuple[int, int] | None = None
        found: ErrorPlan | None = None
        ancestry = type(exc).__mro__
        for plan in self.on_error:
            distances = [ancestry.index(kind) for kind in plan.types if kind in ancestry]
            if distances and (best is None or (min(distances), -plan.depth) < best):
                best, found = (min(distances), -plan.depth), plan
        return found


@runtime_checkable
class ChecksLimits(Protocol):
    """A function that cannot be used with all limits."""

    def check_limits(self, limits: Limits) -> tuple[str, str] | None:
        """Why it cannot be used with these limits, and what to do; None if it can."""


@runtime_checkable
class TakesCredential(Protocol):
    """A function that refuses a connection without a credential."""

    @property
    def credential_options(self) -> Sequence[tuple[str, str]]:
        """How ``wsflow connect`` is given one, as far as that is done by its options: each with its
        value, and ``…`` for the secret."""

    @property
    def credential_places(self) -> Sequence[tuple[str, str]]:
        """Where clients may put it: ``("header", "Authorization")``, ``("cookie", name)``,
        ``("subprotocol", prefix)`` or ``("message", "")``."""


@runtime_checkable
class Prepares(Protocol):
    """A function that must be sure of something before the app serves."""

    async def prepare(self, registry: Registry) -> None:
        """Prepare, once the broker is connected.

        Raises:
            Exception: the app cannot serve.
        """


@dataclass(frozen=True, slots=True)
class AppPlan:
    """The plan of an app.

    Attributes:
        lifespans: its lifespan functions, outermost first.
        routes: its paths.
        pages: its pages, by path.
        topics: its topics.
        declared: what it was made of, by Router.
        codecs: the codecs that any path allows, with ``hooks``.
        hooks: those of all Routers, the outermost first, for what is encoded once for all.
        observers: are told what happens in it.
        about: what the outermost Router says of itself.
    """

    lifespans: tuple[ScopePlan, ...]
    routes: RouteTable[RoutePlan]
    pages: RouteTable[PagePlan]
    topics: DeclaredTopics
    declared: tuple[Declared, ...]
    codecs: tuple[BoundCodec, ...]
    hooks: Hooks
    observers: tuple[Observer, ...]
    about: About

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """All functions of the app, each once."""
        found = {scope.handler: None for scope in self.lifespans}
        for route in self.routes:
            found.update({each.handler: None for each in route.functions})
        found.update({page.handler: None for page in self.pages})
        return tuple(found)

    def check_limits(self, limits: Limits) -> None:
        """Check that the app can be served with these limits.

        Raises:
            DeclarationError: a function cannot be used with them.
        """
        problems: list[Problem] = []
        for handler in self.handlers:
            if isinstance(handler.fn, ChecksLimits):
                found = handler.fn.check_limits(limits)
                if found is not None:
                    problems.append(Problem(handler.where, str(handler), *found))
        if problems:
            raise DeclarationError(problems)

    async def prepare(self, registry: Registry) -> None:
        """Have functions prepare, once the broker is connected.

        Raises:
            Exception: the app cannot serve.
        """
        for handler in self.handlers:
            if isinstance(handler.fn, Prepares):
                await handler.fn.prepare(registry)

    @property
    def shared_limits(self) -> dict[str, RatePlan]:
        """The rate limits that connections share, by name."""
        limits = (each for plan in self.routes for each in plan.limits)
        return {each.name: each for each in limits if each.per != "connection"}
