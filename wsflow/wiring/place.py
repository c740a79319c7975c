"""The path of functions, and the parameter names that they can use there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wsflow.declare.markers import TopicName
from wsflow.declare.router import Handler
from wsflow.messages.codec import CODECS, BoundCodec
from wsflow.messages.hooks import Hooks
from wsflow.topics.names import parameters


@dataclass(frozen=True)
class Place:
    """The path of functions.

    Attributes:
        template: the complete path.
        names: its parameters.
        codecs: the codecs of its Router, the default first.
    """

    template: str
    names: Sequence[str]
    codecs: tuple[BoundCodec, ...] = tuple(CODECS.values())

    @property
    def hooks(self) -> Hooks:
        """The hooks of its Router."""
        return self.codecs[0].hooks


def topic_problem(name: TopicName, hooks: Hooks) -> tuple[str, str] | None:
    """Why no topic can have that name or these options, and the fix; None if one can."""
    if not isinstance(name.template, str):
        return (
            f"The name is of type {type(name.template).__name__}, and not a str.",
            'name it, as in "room.{room}".',
        )
    try:
        parameters(name.template)
    except ValueError as exc:
        why, _, cure = str(exc).partition("\n")
        return why, cure
    return name._problem(hooks)


def name_problem(handler: Handler, name: TopicName, place: Place) -> tuple[str, str] | None:
    """Why a topic cannot have that name there, and the fix; None if it can."""
    if (wrong := topic_problem(name, place.hooks)) is not None:
        return wrong
    used = parameters(name.template)
    if used and handler.kind == "lifespan":
        return (
            f"The name {name.template!r} depends on a path, and a lifespan has no connection.",
            f"use {_by_hand(name.template, used)}, with a Registry.",
        )
    for part in used:
        if part not in place.names:
            return (
                f"The name {name.template!r} uses {{{part}}}, and the path "
                f"{place.template!r} has no such parameter.",
                f"{name_a_parameter(place)[:-1]}; or, where the value is known later, use "
                f"{_by_hand(name.template, used)}, with a Registry.",
            )
    return None


def _by_hand(template: str, used: Sequence[str]) -> str:
    """How a topic is named in a handler."""
    return f"registry.topic({template!r}, {', '.join(f'{each}=…' for each in used)})"


def name_a_parameter(place: Place) -> str:
    if not place.names:
        return f"add a parameter to the path, as in {place.template.rstrip('/') + '/{name}'!r}."
    return f"use one of its parameters: {', '.join(f'{{{name}}}' for name in place.names)}."
