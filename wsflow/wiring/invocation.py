"""The precomputed call of a handler.

At start-up, each parameter gets a source. Per connection, ``bind`` reads the sources into one
closure. Per message, that closure is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsflow.declare.markers import Requires
from wsflow.declare.router import Handler
from wsflow.wiring.environment import Environment
from wsflow.wiring.sources import PerMessage, Provided, Source

Bound = Callable[..., Any]
"""Called with the leading arguments (a message, an exception, or none)."""

Guard = tuple[Requires, Source]
"""What is required, and the source of the user that it is asked of."""

MessageValues = Mapping[Handler | None, Any]
"""The values of ``on_message`` functions for one message; the message itself under None."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """How to call one function.

    Attributes:
        handler: the function.
        positional: sources by position, after the leading arguments.
        keywords: sources by name.
        names: the parameters that ``positional`` fills.
        guards: what each call requires.
    """

    handler: Handler
    positional: tuple[Source, ...]
    keywords: tuple[tuple[str, Source], ...]
    names: tuple[str, ...]
    guards: tuple[Guard, ...] = ()

    @property
    def per_message(self) -> bool:
        """Whether a value is only known per message."""
        return any(isinstance(source, PerMessage) for source in self.sources)

    @property
    def sources(self) -> tuple[Source, ...]:
        return (
            *self.positional,
            *(source for _, source in self.keywords),
            *(source for _, source in self.guards),
        )

    def has_all(self, environment: Environment) -> bool:
        """Whether all that it asks of scope functions is provided by now."""
        provided = (each for each in self.sources if isinstance(each, Provided))
        return all(each.handler in environment.values for each in provided)

    @property
    def named_sources(self) -> tuple[tuple[str, Source], ...]:
        """Each injected parameter, with its source."""
        return (*zip(self.names, self.positional, strict=True), *self.keywords)

    def bind(self, environment: Environment, *, leads: bool = False) -> Bound:
        """Bind all values. Not for a call with values per message.

        Args:
            environment: the values of the connection.
            leads: whether it is always called with one leading argument, a message.
        """
        bound = self._bind(environment, leads)
        if not self.guards:
            return bound
        asked = [(requires, source.get(environment)) for requires, source in self.guards]
        return _guarded(bound, asked)

    def _bind(self, environment: Environment, leads: bool) -> Bound:
        fn = self.handler.call
        values = [source.get(environment) for source in self.positional]
        if self.keywords:
            named = {name: source.get(environment) for name, source in self.keywords}
            return lambda *leading: fn(*leading, *values, **named)
        match values:
            case []:
                return fn
            case [one] if leads:
                return lambda first: fn(first, one)
            case [one, two] if leads:
                return lambda first: fn(first, one, two)
            case _:
                return lambda *leading: fn(*leading, *values)

    def bind_each(self, environment: Environment) -> Callable[[MessageValues], Bound]:
        """Bind a call with values per message: returns a function from those to the closure."""
        fn = self.handler.call
        holes = [
            (index, source.handler)
            for index, source in enumerate(self.positional)
            if isinstance(source, PerMessage)
        ]
        named_holes = [
            (name, source.handler)
            for name, source in self.keywords
            if isinstance(source, PerMessage)
        ]
        fixed = [source.get(environment) for source in self.positional]
        fixed_named = {name: source.get(environment) for name, source in self.keywords}
        guards = [(requires, source, source.get(environment)) for requires, source in self.guards]

        def fill(provided: MessageValues) -> Bound:
            values, named = fixed.copy(), fixed_named.copy()
            for index, handler in holes:
                values[index] = provided[handler]
            for name, handler in named_holes:
                named[name] = provided[handler]
            for requires, source, user in guards:
                if isinstance(source, PerMessage):
                    user = provided[source.handler]
                requires.check(user)
            return lambda *leading: fn(*leading, *values, **named)

        return fill


def _guarded(bound: Bound, asked: Sequence[tuple[Requires, Any]]) -> Bound:
    """A bound call that is only made if its guards let it pass."""

    def guarded(*leading: Any) -> Any:
        for requires, user in asked:
            requires.check(user)
        return bound(*leading)

    return guarded
