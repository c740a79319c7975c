"""What wiring makes: one compiled plan per path, and what the process needs besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from wsflow.codec import CODECS, Codec, Decoding
from wsflow.declare.markers import TopicOptions
from wsflow.declare.router import Handler
from wsflow.topic_type import TopicType
from wsflow.wiring.calls import Call
from wsflow.wiring.routes import RouteTable
from wsflow.wiring.sources import TASK_GROUP, FromPath, FromRequest, FromTopic

CALLS_AT_ONCE = 256
"""How many calls a connection's consumers answer at a time, unless they say otherwise."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a scope function provides: the annotation under which its value is injected."""

    handler: Handler
    provides: Any


@dataclass(frozen=True, slots=True)
class ScopePlan:
    """A ``lifespan``, ``on_connect`` or ``on_message`` function.

    Attributes:
        call: how to call it.
        generator: whether it is resumed to tear down.
    """

    call: Call
    generator: bool

    @property
    def handler(self) -> Handler:
        return self.call.handler


@dataclass(frozen=True, slots=True, eq=False)
class ConsumerPlan:
    """A consumer: ``kinds`` are the message types; ``stream`` if it iterates them itself."""

    call: Call
    kinds: tuple[Any, ...]
    stream: bool
    generator: bool
    calls: bool

    @property
    def handler(self) -> Handler:
        return self.call.handler

    @property
    def shares_calls(self) -> bool:
        """Whether it answers calls in the slots that all such consumers share."""
        return self.calls and self.handler.concurrency is None and self.handler.key is None

    @property
    def concurrency(self) -> int:
        """How many messages it handles at a time."""
        return self.handler.concurrency or (CALLS_AT_ONCE if self.calls else 1)

    @property
    def concurrent(self) -> bool:
        return self.concurrency > 1


@dataclass(frozen=True, slots=True)
class ProducerPlan:
    """A producer: a generator (``each``), called again and again (``poll``), or run ``once``."""

    call: Call
    style: Literal["each", "poll", "once"]

    @property
    def handler(self) -> Handler:
        return self.call.handler


@dataclass(frozen=True, slots=True)
class ErrorPlan:
    """An ``on_error`` function, the exception types it takes, and how far inside it is declared."""

    call: Call
    types: tuple[type[Exception], ...]
    depth: int


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """All that is decided about one path at start-up.

    Attributes:
        template: the path, with its parameters in braces.
        codecs: those that its connections may use, the default first.
        decodings: what is received, by codec.
        calls: the same for what is asked in calls.
        controls: the frames of calls, by their class in ``wsflow.calls``.
        sends: the types of what is sent to the peer, as far as annotations tell.
    """

    template: str
    where: str
    codecs: tuple[Codec, ...]
    subprotocols: tuple[str, ...]
    on_connect: tuple[ScopePlan, ...]
    on_message: tuple[ScopePlan, ...]
    consumers: tuple[ConsumerPlan, ...]
    producers: tuple[ProducerPlan, ...]
    on_disconnect: tuple[Call, ...]
    on_error: tuple[ErrorPlan, ...]
    decodings: Mapping[str, Decoding[ConsumerPlan]]
    calls: Mapping[str, Decoding[ConsumerPlan]]
    controls: Mapping[Any, Any]
    sends: tuple[Any, ...]

    def select_subprotocol(self, offered: tuple[str, ...]) -> str | None:
        """The subprotocol to agree on: the Router's own first, then a codec's; None for none."""
        for name in (*self.subprotocols, *(codec.subprotocol for codec in self.codecs)):
            if name in offered:
                return name
        return None

    def codec(self, subprotocol: str | None) -> Codec:
        """The codec of a connection that agreed on ``subprotocol``."""
        chosen = {codec.subprotocol: codec for codec in self.codecs}
        return chosen.get(subprotocol or "", self.codecs[0])

    @property
    def functions(self) -> tuple[Call, ...]:
        """The calls of all functions of a connection on this path."""
        return (
            *(scope.call for scope in (*self.on_connect, *self.on_message)),
            *(consumer.call for consumer in self.consumers),
            *(producer.call for producer in self.producers),
            *self.on_disconnect,
            *(error.call for error in self.on_error),
        )

    def error_plan(self, exc: BaseException) -> ErrorPlan | None:
        """Who handles an error: the most specific type first, then the inner Router."""
        best: tuple[int, int] | None = None
        found: ErrorPlan | None = None
        ancestry = type(exc).__mro__
        for plan in self.on_error:
            distances = [ancestry.index(kind) for kind in plan.types if kind in ancestry]
            if distances and (best is None or (min(distances), -plan.depth) < best):
                best, found = (min(distances), -plan.depth), plan
        return found


@dataclass(frozen=True, slots=True)
class RouteDetails:
    """A path's plan, and what follows from it once.

    Attributes:
        plan: the plan.
        request_sources: what is read from the opening request.
        needs_task_group: whether some function asks for a task group.
        needs_host: whether a connection needs its task before its first message has come.
    """

    plan: RoutePlan
    request_sources: tuple[FromPath | FromRequest, ...]
    needs_task_group: bool
    needs_host: bool

    @classmethod
    def of(cls, plan: RoutePlan) -> RouteDetails:
        sources = [source for call in plan.functions for source in call.sources]
        return cls(
            plan,
            (
                *(source for source in sources if isinstance(source, FromPath)),
                *(source for source in sources if isinstance(source, FromRequest)),
            ),
            TASK_GROUP in sources,
            TASK_GROUP in sources
            or bool(plan.on_connect or plan.producers)
            or any(consumer.stream for consumer in plan.consumers),
        )


@dataclass(frozen=True, slots=True)
class AppPlan:
    """A whole app, wired."""

    lifespans: tuple[ScopePlan, ...]
    routes: RouteTable[RouteDetails]
    topics: tuple[FromTopic, ...]

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """The codecs that some path allows."""
        used = {codec.name for details in self.routes for codec in details.plan.codecs}
        return tuple(codec for codec in CODECS.values() if codec.name in used)

    @property
    def kept_topics(self) -> dict[str, TopicOptions]:
        """The options of the topics with history, by template."""
        return {
            topic.template: topic.type.options
            for topic in self.topics
            if topic.type.options.history
        }

    def presence_type(self, name: str) -> Any:
        """The declared type of a topic's presences, None if there is none."""
        declared = self.declared_topic(name)
        return declared.options.presence if declared is not None else None

    def declared_topic(self, name: str) -> TopicType | None:
        """The type of the declared topic whose template makes ``name``."""
        for topic in self.topics:
            if topic.pattern.fullmatch(name):
                return topic.type
        return None
