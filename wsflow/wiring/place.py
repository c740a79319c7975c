"""The path of functions, and the parameter names that they can use there."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from wsflow.declare.markers import TopicName
from wsflow.declare.router import Handler


@dataclass(frozen=True)
class Place:
    """The path of functions.

    Attributes:
        template: the complete path.
        names: its parameters.
    """

    template: str
    names: Sequence[str]


def name_problem(handler: Handler, name: TopicName, place: Place) -> tuple[str, str] | None:
    """Why a topic cannot have that name there, and the fix; None if it can."""
    try:
        fields = list(string.Formatter().parse(name.template))
    except ValueError as exc:
        return f"The name {name.template!r} is malformed: {exc}.", "correct its braces."
    used = [part for _, part, _, _ in fields if part is not None]
    if any(
        spec or conversion or not part for _, part, spec, conversion in fields if part is not None
    ):
        return (
            f"The name {name.template!r} has braces that do not contain just a name.",
            "write {room}, with the name of a path parameter.",
        )
    if not name.template:
        return "The name is empty.", 'name it, as in "room.{room}".'
    if used and handler.kind == "lifespan":
        return (
            f"The name {name.template!r} depends on a path, and a lifespan has no connection.",
            "use Registry.topic(name, …) with the complete name.",
        )
    for part in used:
        if part not in place.names:
            return (
                f"The name {name.template!r} uses {{{part}}}, and the path "
                f"{place.template!r} has no such parameter.",
                name_a_parameter(place),
            )
    options = name._options
    if options.history < 0 or options.backlog < 1:
        return "history is at least 0, and backlog at least 1.", "correct the number."
    if options.max_age < 0 or (options.max_age and not options.history):
        return (
            "max_age is the age limit of a history, in seconds.",
            "set the number of events, too: history=100, max_age=3600.",
        )
    if options.history_bytes < 0 or (name._bounds_bytes and not options.history):
        return (
            "history_bytes is the limit of a history in bytes, at least 0; 0 is no limit.",
            "set the number of events, too: history=100, history_bytes=1_000_000.",
        )
    if options.when_full not in ("close", "drop_oldest", "drop_newest", "latest"):
        return (
            f"when_full is {options.when_full!r}.",
            'use "close", "drop_oldest", "drop_newest" or "latest".',
        )
    return None


def name_a_parameter(place: Place) -> str:
    if not place.names:
        return f"add a parameter to the path, as in {place.template.rstrip('/') + '/{name}'!r}."
    return f"use one of its parameters: {', '.join(f'{{{name}}}' for name in place.names)}."
