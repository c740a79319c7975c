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


@cache
def topic_pattern(template: str) -> re.Pattern[str]:
    """A pattern that matches the names of a template."""
    literal = re.split(r"\{[^}]*\}", template)
    return re.compile("[A-Za-z0-9_%-]+".join(map(re.escape, literal)))
