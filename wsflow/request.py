"""The opening request of a connection."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.cookies import CookieError, SimpleCookie
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import parse_qsl

from websockets.datastructures import Headers

MAX_QUERY_FIELDS = 1000


class Address(NamedTuple):
    """The address that the client connects from."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def counted_as(self) -> str:
        """What limits per client count: an IPv4 address, or the /64 of an IPv6 address, since a
        client has at least one (RFC 6177)."""
        return _counted_as(self.host)


@functools.lru_cache(maxsize=4096)
def _counted_as(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


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


def _headers() -> Headers:
    return Headers()


@dataclass(frozen=True, slots=True)
class Request:
    """The opening request of a connection (RFC 6455 §4.1).

    Attributes:
        path: the path as it was sent, still percent-encoded, without the query.
        path_params: the parameters of the route's path, percent-decoded.
        query: the query, percent-decoded.
        headers: the headers; names are case-insensitive.
        cookies: the cookies.
        client: the client's address, None where there is none (a Unix socket, a test).
        subprotocols: what the client offered, in its order of preference.
    """

    path: str
    path_params: Mapping[str, str] = field(default_factory=dict)
    query: Params = field(default_factory=Params)
    headers: Headers = field(default_factory=_headers)
    cookies: Mapping[str, str] = field(default_factory=dict)
    client: Address | None = None
    subprotocols: tuple[str, ...] = ()

    @classmethod
    def parse(cls, target: str, headers: Headers, client: Address | None = None) -> Request:
        """Read a request target (``/path?query``) and its headers.

        Raises:
            ValueError: the query has more than 1,000 fields or is not UTF-8.
        """
        path, _, query = target.partition("?")
        return cls(
            path,
            {},
            _query(query) if query else _NO_PARAMS,
            headers,
            _cookies(headers) if "Cookie" in headers else {},
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


def _subprotocols(headers: Headers) -> tuple[str, ...]:
    offered = ",".join(headers.get_all("Sec-WebSocket-Protocol"))
    return tuple(name.strip() for name in offered.split(",") if name.strip())


def _cookies(headers: Headers) -> dict[str, str]:
    """Read the Cookie headers; if one is malformed, there are no cookies (RFC 6265 §4.2)."""
    jar: SimpleCookie = SimpleCookie()
    try:
        for value in headers.get_all("Cookie"):
            jar.load(value)
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}
