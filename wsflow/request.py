"""The opening request of a connection."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl

from websockets.datastructures import Headers

from wsflow.addresses import Address

MAX_QUERY_FIELDS = 1000


class Params(Mapping[str, str]):
    """The query of a URL. Indexing returns the last value of a name, ``get_all`` all values."""

    __slots__ = ("_values",)

    def __init__(self, pairs: Sequence[tuple[str, str]] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> str:
        return self._values[name][-1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def get_all(self, name: str) -> list[str]:
        """All values of ``name``, in the order of the query."""
        return list(self._values.get(name, ()))

    def __repr__(self) -> str:
        return f"Params({self._values!r})"


_NO_PARAMS = Params()


class Cookies(Mapping[str, str]):
    """The cookies of a request (RFC 6265 §5.4), read when the first is looked up.

    Each stands for itself: what is no cookie (without ``=`` or a name) is left out, and hides no
    other. Of two with one name the first counts: clients send the one with the longer path first.
    A value in double quotes is unquoted, as ``http.cookies`` quotes it.
    """

    __slots__ = ("_headers", "_values")

    def __init__(self, headers: Iterable[str] = ()) -> None:
        self._headers = headers
        self._values: dict[str, str] | None = None

    def _read(self) -> dict[str, str]:
        if self._values is None:
            self._values = {}
            for header in self._headers:
                for cookie in header.split(";"):
                    name, found, value = cookie.partition("=")
                    if found and name.strip():
                        self._values.setdefault(name.strip(), _unquoted(value.strip()))
        return self._values

    def __getitem__(self, name: str) -> str:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return f"Cookies({self._read()!r})"


_ESCAPED = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))", re.DOTALL)


def _unquoted(value: str) -> str:
    if len(value) < 2 or not (value[0] == value[-1] == '"'):
        return value
    return _ESCAPED.sub(lambda it: chr(int(it[1], 8)) if it[1] else it[2], value[1:-1])


_NO_COOKIES = Cookies()


def _headers() -> Headers:
    return Headers()


@dataclass(frozen=True, slots=True)
class Request:
    """The opening request of a connection (RFC 6455 §4.1).

    Attributes:
        path: the path as it was sent, still percent-encoded, without the query.
        path_params: the parameters of the route's path, percent-decoded.
        query: the query, percent-decoded.
        headers: the headers; names are case-insensitive. Bytes beyond ASCII are read as
            ISO-8859-1 (RFC 9110 §5.5).
        cookies: the cookies; of two with one name, the first.
        client: the client's address, None where there is none (a Unix socket, a test).
        subprotocols: what the client offered, in its order of preference.
    """

    path: str
    path_params: Mapping[str, str] = field(default_factory=dict)
    query: Params = field(default_factory=Params)
    headers: Headers = field(default_factory=_headers)
    cookies: Mapping[str, str] = field(default_factory=lambda: _NO_COOKIES)
    client: Address | None = None
    subprotocols: tuple[str, ...] = ()

    @classmethod
    def parse(cls, target: str, headers: Headers, client: Address | None = None) -> Request:
        """Read a request target (``/path?query``) and its headers.

        Raises:
            ValueError: it is no path, or its query has more than 1,000 fields or is not UTF-8.
        """
        if target[:1] != "/":
            target, headers = _absolute(target, headers)
        if "#" in target:
            raise ValueError("a request target has no fragment")
        path, _, query = target.partition("?")
        return cls(
            path,
            {},
            _query(query) if query else _NO_PARAMS,
            headers,
            Cookies(headers.get_all("Cookie")) if "Cookie" in headers else _NO_COOKIES,
            client,
            _subprotocols(headers) if "Sec-WebSocket-Protocol" in headers else (),
        )

    def at(self, path_params: Mapping[str, str]) -> Request:
        """The same request, matched to a route."""
        return replace(self, path_params=path_params) if path_params else self


def _query(query: str) -> Params:
    return Params(
        parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS, errors="strict")
    )


def _absolute(target: str, headers: Headers) -> tuple[str, Headers]:
    """The path of a target with scheme and host, which says the host instead of the Host header
    (RFC 9112 §3.2.2). There must be one all the same: without, or with several, they stay.

    Raises:
        ValueError: it is none.
    """
    scheme, _, rest = target.partition("://")
    host, slash, path = rest.partition("/")
    if scheme.lower() not in ("http", "https") or not host or "?" in host:
        raise ValueError("a request target is a path")
    if len(headers.get_all("Host")) == 1:
        headers = headers.copy()
        del headers["Host"]
        headers["Host"] = host
    return slash + path or "/", headers


def _subprotocols(headers: Headers) -> tuple[str, ...]:
    offered = ",".join(headers.get_all("Sec-WebSocket-Protocol"))
    return tuple(name.strip() for name in offered.split(",") if name.strip())
