"""A request that a path accepts, as far as the types of its parameters allow to guess."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, final
from urllib.parse import quote, urlencode

import msgspec
from websockets.datastructures import Headers

from wsflow.declare.markers import Cookie, Header, Query
from wsflow.declare.signatures import EMPTY
from wsflow.errors import Reject
from wsflow.messages.hooks import HookError
from wsflow.request import Params, Request
from wsflow.wiring.plan import AppPlan, RoutePlan, TakesCredential
from wsflow.wiring.routes import parameters
from wsflow.wiring.sources import FromPath, FromRequest

_SAMPLES = (
    "true",
    "2026-01-01",
    "2026-01-01T12:00:00Z",
    "12:00:00",
    "12:00:00Z",
    "123e4567-e89b-12d3-a456-426614174000",
    "1.5",
    "1",
    "MQ==",
    "null",
)
"""Values of the types that are written as text. What converts to more types comes later."""

_MOST_TRIED = 1000
"""How many paths are tried at most."""

_ALWAYS_SENT = ("host", "user-agent")
"""Headers that every client sends by itself."""

_COOKIE = "Cookie: "

Source = FromPath | FromRequest


@final
class Sample:
    """A request to a path, with a value for each parameter that has no default.

    Attributes:
        target: the path, and the query.
        options: options of ``wsflow connect`` for what it needs besides, each with its value.
    """

    def __init__(self, plan: AppPlan, route: RoutePlan) -> None:
        self._plan = plan
        self._route = route
        query = self._values(Query)
        path = self._path()
        self.target = f"{path}?{urlencode(query)}" if query else path
        self.options = _one_cookie_header([*self._headers(), *self._credentials()])

    def command(self, base: str) -> str:
        """A command that connects to the path.

        Args:
            base: scheme and authority, as in ``ws://127.0.0.1:8000``.
        """
        options = "".join(f' {name} "{value}"' for name, value in self.options)
        return f'wsflow connect "{base}{self.target}"{options}'

    def _path(self) -> str:
        names = parameters(self._route.template)
        sources: dict[str, list[Source]] = {name: [] for name in names}
        for source in self._route.request_sources:
            if isinstance(source, FromPath):
                sources[source.name].append(source)
        tried = itertools.product(*(_fitting(name, sources[name]) for name in names))
        paths = [self._filled(names, values) for values in itertools.islice(tried, _MOST_TRIED)]
        return next((path for path in paths if self._is_here(path)), paths[0])

    def _filled(self, names: list[str], values: tuple[str, ...]) -> str:
        path = self._route.template
        for name, value in zip(names, values, strict=True):
            path = path.replace(f"{{{name}}}", quote(value, safe=":@"))
        return path

    def _is_here(self, path: str) -> bool:
        """Whether it is no path of another Router."""
        found = self._plan.routes.match(path)
        return found is not None and found[0] is self._route

    def _values(self, place: type[Query | Header | Cookie]) -> dict[str, str]:
        """What is needed in one place of the request, by name."""
        needed: dict[str, list[Source]] = {}
        for source in self._route.request_sources:
            if isinstance(source, FromRequest) and isinstance(source.mark, place):
                name = source.name.lower() if place is Header else source.name
                needed.setdefault(name, []).append(source)
        return {
            sources[0].name: _fitting(sources[0].name, sources)[0]
            for sources in needed.values()
            if any(isinstance(each, FromRequest) and each.default is EMPTY for each in sources)
        }

    def _headers(self) -> Iterator[tuple[str, str]]:
        for name, value in self._values(Header).items():
            if name.lower() not in _ALWAYS_SENT:
                yield "--header", f"{name}: {value}"
        if cookies := self._values(Cookie):
            yield "--header", _COOKIE + "; ".join("=".join(each) for each in cookies.items())

    def _credentials(self) -> Iterator[tuple[str, str]]:
        for scope in self._route.on_connect:
            if isinstance(scope.handler.fn, TakesCredential):
                yield from scope.handler.fn.credential_options


def _one_cookie_header(options: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same options with all cookies in one header, as clients send them (RFC 6265 §5.4)."""
    cookies = [each for each in options if each[1].startswith(_COOKIE)]
    others = [each for each in options if each not in cookies]
    joined = "; ".join(value.removeprefix(_COOKIE) for _, value in cookies)
    return [*others, ("--header", _COOKIE + joined)] if cookies else others


def _fitting(name: str, sources: list[Source]) -> list[str]:
    """The values that all of the sources convert, the most telling first; the name if there are
    none."""
    candidates = [each for source in sources for each in _candidates(source.kind, name)]
    found = [
        value
        for value in dict.fromkeys((*candidates, name, *_SAMPLES))
        if all(_converts(source, value) for source in sources)
    ]
    return found or [name]


def _converts(source: Source, value: str) -> bool:
    """Whether a source takes this value, as it reads it from a request that can be sent."""
    in_header = isinstance(source, FromRequest) and not isinstance(source.mark, Query)
    if in_header and not value.isascii():
        return False
    pair = (source.name, value)
    request = Request("/", dict([pair]), Params([pair]), Headers([pair]), dict([pair]))
    try:
        source.convert(request)
    except (Reject, HookError):
        return False
    return True


def _candidates(kind: Any, name: str) -> Iterator[str]:
    """Values that a type itself names: its choices, its bounds."""
    return _of(msgspec.inspect.type_info(kind), name)


def _of(info: msgspec.inspect.Type, name: str) -> Iterator[str]:
    match info:
        case msgspec.inspect.Metadata():
            yield from _of(info.type, name)
        case msgspec.inspect.UnionType():
            for each in info.types:
                yield from _of(each, name)
        case msgspec.inspect.CollectionType():
            yield from _of(info.item_type, name)
        case msgspec.inspect.LiteralType():
            yield from map(str, info.values)
        case msgspec.inspect.EnumType():
            yield from (str(each.value) for each in info.cls)
        case msgspec.inspect.StrType():
            yield name
            yield (name * (info.min_length or 1))[: info.max_length]
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            yield from map(str, _numbers(info))


def _numbers(info: msgspec.inspect.IntType | msgspec.inspect.FloatType) -> Iterator[float]:
    """Numbers at the bounds of a type, and between them."""
    whole = isinstance(info, msgspec.inspect.IntType)
    low = info.ge if info.ge is not None else info.gt
    high = info.le if info.le is not None else info.lt
    if low is None and high is None and info.multiple_of is None:
        yield 1 if whole else 1.5
        return
    step = info.multiple_of or 1
    first = low if low is not None else 0
    yield from (-(-first // step) * step, first // step * step + step)
    if high is not None:
        yield from (high // step * step, -(-high // step) * step - step)
        yield first + (high - first) / 2
