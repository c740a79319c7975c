"""Topic names, from templates and path parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from wsflow.http import percent_encode


def fill_name(template: str, path_params: Mapping[str, str]) -> str:
    """A topic's name, with path parameters percent-encoded outside ``[A-Za-z0-9_-]``."""
    filled = {name: percent_encode(value) for name, value in path_params.items()}
    return template.format_map(filled)


_PARAMETER = re.compile("[A-Za-z0-9_%-]+")


@cache
def _literals(template: str) -> list[str]:
    return re.split(r"\{[^}]*\}", template)


def is_name_of(template: str, name: str) -> bool:
    """Whether a name is one of a template's: in linear time, whatever the name.

    Each parameter takes as little as it can. That finds a match if there is one: what a literal
    part leaves out by coming early is taken by the parameter behind it.
    """
    first, *others = _literals(template)
    if not others:
        return name == template
    if not name.startswith(first):
        return False
    begin, last = len(first), len(others) - 1
    for number, literal in enumerate(others):
        if number < last:
            end = name.find(literal, begin + 1)
        else:
            end = len(name) - len(literal) if name.endswith(literal) else -1
        if end <= begin or not _PARAMETER.fullmatch(name, begin, end):
            return False
        begin = end + len(literal)
    return True
