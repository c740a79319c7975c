"""Topic names, from templates and values: one rule, for whoever names a topic.

In a template ``{name}`` stands for a value. A value is percent-encoded outside of
``[A-Za-z0-9_-]``, and between two values there is always a character that no value has. So no value
makes the name of another topic, whatever its characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from urllib.parse import unquote

from wsflow.http import check_encodable, percent_encode

Cure = Callable[[str, Mapping[str, str]], str]
"""How a topic is named by a template and values, where somebody has given a finished name."""

_FIELD = re.compile(r"\{([^{}]*)\}")
_BETWEEN = re.compile(r"[A-Za-z0-9_%-]*")
"""What cannot stand between two values: each of them could have a part of it."""


@lru_cache(maxsize=1024)
def parameters(template: str) -> tuple[str, ...]:
    """The parameters of a template, each once; none if it is a finished name.

    Raises:
        ValueError: it is malformed; the message says why and what to do, one line each.
    """
    if not template:
        raise ValueError('The name is empty.\nname it, as in "room.{room}".')
    literals, names = _parts(template)
    if any(set(literal) & set("{}") for literal in literals):
        raise ValueError(
            f"The name {template!r} is malformed: it has a brace without its other one.\n"
            "correct its braces."
        )
    if not all(name.isidentifier() for name in names):
        raise ValueError(
            f"The name {template!r} has braces that do not contain just a name.\n"
            "write {room}, with the name of a path parameter."
        )
    for before, between, after in zip(names, literals[1:-1], names[1:], strict=False):
        if _BETWEEN.fullmatch(between):
            raise ValueError(
                f"The name {template!r} is not clear: where {{{before}}} ends and {{{after}}} "
                "begins, none can tell, so two topics could have one name.\n"
                f'put a dot between them: "{{{before}}}.{{{after}}}".'
            )
    return tuple(dict.fromkeys(names))


@lru_cache(maxsize=1024)
def _parts(template: str) -> tuple[list[str], list[str]]:
    """The literal parts of a template, and its parameters between them."""
    parts = _FIELD.split(template)
    return parts[::2], parts[1::2]


def shape(template: str) -> str:
    """A template without the names of its parameters: those with the same one make the same
    names."""
    return _FIELD.sub("{}", template)


def fill_name(template: str, values: Mapping[str, str]) -> str:
    """A topic's name, with values for its parameters."""
    literals, names = _parts(template)
    if not names:
        return template
    filled = [percent_encode(values[name]) for name in names]
    return literals[0] + "".join(map("".join, zip(filled, literals[1:], strict=True)))


def name_topic(template: str, values: Mapping[str, object]) -> str:
    """The same, of what a user has given.

    Raises:
        ValueError: a value is missing, or empty, or there is one too many, or the template is
            malformed.
        TypeError: a value is neither a str nor an int, or the template is no str.
    """
    if not isinstance(template, str):
        raise TypeError(f"the name of a topic is a {type(template).__name__}: use a str")
    names = _named(template)
    missing = [name for name in names if name not in values]
    extra = [name for name in values if name not in names]
    if missing:
        given = f", and was given {', '.join(extra)}" if extra else ""
        raise ValueError(f"the topic {template!r} needs a value for {', '.join(missing)}{given}")
    if extra:
        has = f"only {', '.join(names)}" if names else "no parameter"
        raise ValueError(f"the topic {template!r} has {has}, and a value for {', '.join(extra)}")
    return fill_name(template, {name: _text(template, name, values[name]) for name in names})


def _named(template: str) -> tuple[str, ...]:
    """The parameters of a template; of a finished name too, of which nothing is remembered."""
    if template and "{" not in template and "}" not in template:
        check_encodable(f"the topic {template!r}", template)
        return ()
    try:
        return parameters(template)
    except ValueError as exc:
        if not template:
            raise ValueError("a topic needs a name") from None
        why, _, cure = str(exc).partition("\n")
        raise ValueError(f"{why} Fix: {cure}") from None


def _text(template: str, name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(
            f"the topic {template!r}: {name} is a {type(value).__name__}: use a str or an int"
        )
    text = str(value)
    if not text:
        raise ValueError(f"the topic {template!r}: {name} is empty, and no topic is named so")
    check_encodable(f"the topic {template!r}: {name}", text)
    return text


def is_name_of(template: str, name: str) -> bool:
    """Whether a name is one of a template's: in linear time, whatever the name."""
    values = values_of(template, name)
    return values is not None and all(map(_is_encoded, values))


def _is_encoded(text: str) -> bool:
    """Whether it is what a value is encoded to."""
    try:
        return percent_encode(unquote(text, errors="strict")) == text
    except UnicodeError:
        return False


def values_of(template: str, name: str) -> list[str] | None:
    """The parts of a name at the places of a template's values, of any characters; None if the name
    has not the shape of the template."""
    literals, names = _parts(template)
    if not names:
        return [] if name == template else None
    if not name.startswith(literals[0]):
        return None
    begin, last = len(literals[0]), len(literals) - 1
    found = []
    for literal in literals[1:last]:
        end = name.find(literal, begin + 1)
        if end < 0:
            return None
        found.append(name[begin:end])
        begin = end + len(literal)
    end = len(name) - len(literals[last])
    if end <= begin or not name.endswith(literals[last]):
        return None
    return [*found, name[begin:end]]


def check_finished(name: str, templates: Collection[str], cure: Cure) -> None:
    """Check a finished name that none of these templates makes.

    Raises:
        ValueError: it looks like a name of one of them, and has characters that no value leaves.
    """
    for template in templates:
        values = values_of(template, name) if _FIELD.sub("", template) else None
        if values:
            given = dict(zip(_parts(template)[1], values, strict=True))
            raise ValueError(
                f"the topic {name!r} can be none of {template!r}, though it looks like one: in the "
                "name of a topic a value is percent-encoded. Give the template and the value: "
                f"{cure(template, given)}"
            )


def said(values: Mapping[str, str]) -> str:
    """Values as the arguments of a call."""
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
