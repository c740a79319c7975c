"""Routing: path templates, joining them, and matching the path of a request.

A path consists of segments. ``{name}`` matches one non-empty segment; a literal segment takes
precedence over it. Segments are compared percent-decoded. A path and the same path with one slash
at its end are the same; any other empty segment makes another path, which matches nothing.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from typing import Generic, TypeVar, final
from urllib.parse import unquote

T = TypeVar("T")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def join(*paths: str) -> str:
    """Join paths: ``/a``, ``b/`` and ``/`` make ``/a/b``."""
    parts = [part for path in paths for part in path.strip("/").split("/") if part]
    return "/" + "/".join(parts)


def parameters(template: str) -> list[str]:
    """The names of a template's parameters.

    Raises:
        ValueError: the template is malformed; the message says why and what to do, one line each.
    """
    names: list[str] = []
    for segment in template.split("/"):
        if match := _PARAMETER.fullmatch(segment):
            if match[1] in names:
                raise ValueError(f"{{{match[1]}}} occurs twice\nname them differently")
            names.append(match[1])
            if keyword.iskeyword(match[1]):
                raise ValueError(
                    f"{{{match[1]}}} is a Python keyword, and cannot be a parameter\nrename it"
                )
        elif (wrong := _wrong(segment)) is not None:
            why, cure = wrong
            raise ValueError(f"{segment!r} {why}\n{cure}")
    return names


_NAME = "([A-Za-z_][A-Za-z0-9_]*)"
_CONVERTED = re.compile(rf"\{{{_NAME}:[^{{}}]*\}}")
_ELSEWHERE = re.compile(rf"<(?:[^<>:]*:)?{_NAME}>|:{_NAME}[?+]?|\[{_NAME}\]")
"""How a parameter is written for Django, Flask, Express and Next.js."""
_NEVER = re.compile(r"[\x00-\x20\x7f\"#<>?\[\\\]^`|]")
"""What no path of a request contains as it is (RFC 3986 §3.3), but for what is not ASCII."""
_HALF_ENCODED = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _wrong(segment: str) -> tuple[str, str] | None:
    """Why a segment is no literal one, and the fix; None if it is one."""
    if found := _CONVERTED.fullmatch(segment):
        return (
            "has a converter, and paths have none",
            f"write {{{found[1]}}}, which is one segment; the annotation of the function's "
            f"parameter converts it, as in {found[1]}: int",
        )
    if found := _ELSEWHERE.fullmatch(segment):
        name = next(filter(None, found.groups()))
        colon = f"; or %3A{name} for a colon" if segment.startswith(":") else ""
        return "is not how a parameter is written", f"write {{{name}}}{colon}"
    if "*" in segment:
        return (
            "has an asterisk, and nothing matches several segments",
            "write a parameter for each segment, as in {name}; or %2A for an asterisk",
        )
    if "{" in segment or "}" in segment:
        return (
            "is not a segment: a parameter is a name in braces and a complete segment, as in "
            "/chat/{room}",
            "correct the path",
        )
    if found := _NEVER.search(segment):
        return f"has {found[0]!r}, which is in no path of a request", "remove it, or encode it"
    if _HALF_ENCODED.search(segment):
        return "has a % that encodes nothing", "write %25 for a percent sign"
    if segment in (".", ".."):
        return "is in no path of a request, since clients resolve it", "remove it"
    return None


@final
class RouteTable(Generic[T]):
    """Finds the route of a path, in a time that does not depend on the number of routes."""

    __slots__ = ("_children", "_names", "_parameter", "_value")

    def __init__(self) -> None:
        self._children: dict[str, RouteTable[T]] = {}
        self._parameter: RouteTable[T] | None = None
        self._value: T | None = None
        self._names: list[str] = []

    def add(self, template: str, value: T) -> T | None:
        """Add a route, or return the value of the route that is there already."""
        node = self
        for segment in _segments(template):
            if _PARAMETER.fullmatch(segment):
                if node._parameter is None:
                    node._parameter = RouteTable()
                node = node._parameter
            else:
                node = node._children.setdefault(unquote(segment), RouteTable())
        if node._value is None:
            node._value = value
            node._names = parameters(template)
            return None
        return node._value

    def match(self, path: str) -> tuple[T, dict[str, str]] | None:
        """The value of the route that matches a request's path, and the path parameters; None if
        there is no such route."""
        try:
            segments = [unquote(segment, errors="strict") for segment in _segments(path)]
        except UnicodeDecodeError:
            return None
        return self._match(segments, 0, [])

    def _match(
        self, segments: list[str], index: int, values: list[str]
    ) -> tuple[T, dict[str, str]] | None:
        if index == len(segments):
            if self._value is None:
                return None
            return self._value, dict(zip(self._names, values, strict=True))
        segment = segments[index]
        child = self._children.get(segment)
        found = child._match(segments, index + 1, values) if child else None
        if found is None and self._parameter is not None and segment:
            found = self._parameter._match(segments, index + 1, [*values, segment])
        return found

    def __iter__(self) -> Iterator[T]:
        if self._value is not None:
            yield self._value
        for child in self._children.values():
            yield from child
        if self._parameter is not None:
            yield from self._parameter


def _segments(path: str) -> list[str]:
    return path.removesuffix("/").split("/")[1:]
