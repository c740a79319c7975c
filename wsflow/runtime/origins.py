"""Which pages may connect, and under which names of the host.

A browser connects to any server from any page, with the user's cookies. The page's origin says
which page it is (RFC 6455 §10.2, RFC 6454); the Host says which name the page was told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple, final

import idna

from wsflow.addresses import Address, IPNetwork, ip_address, ip_network

ANY: Literal["*"] = "*"
LOOPBACK = ("localhost", "*.localhost", "127.0.0.0/8", "::1")
"""Names and addresses of this host, which no name server can give to another."""

_HOST = r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\\\s,]+)"
_ORIGIN = re.compile(rf"([A-Za-z][A-Za-z0-9+.-]*)://{_HOST}(?::(\d{{1,5}}))?")
_ANY_PORT = re.compile(rf"([^:]*://{_HOST}):\*")
_NAMED = re.compile(rf"{_HOST}(?::(\d{{1,5}})?)?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """The scheme, host and port of a page (RFC 6454 §4), in their normal form."""

    scheme: str
    host: str
    port: int | Literal["*"] | None

    def __str__(self) -> str:
        shown = "" if self.port == _DEFAULT_PORTS.get(self.scheme) else f":{self.port}"
        return f"{self.scheme}://{self.host}{shown}"


@final
class Origins:
    """The origins whose pages may connect, besides those of the same host.

    Args:
        allowed: origins, whose first label and port may be ``*``; ``"*"`` allows any page.

    Attributes:
        any: whether all pages may connect.

    Raises:
        ValueError: one of them is no origin that a page can have.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self.any = False
        self._exact: set[Origin] = set()
        self._below: set[Origin] = set()  # one label below
        for text in allowed:
            if text == ANY:
                self.any = True
                continue
            origin = allowed_origin(text)
            if origin.host.startswith("*."):
                self._below.add(origin._replace(host=origin.host[2:]))
            else:
                self._exact.add(origin)

    def allow(self, text: str, host: str) -> bool:
        """Whether a page of this origin may connect to that Host."""
        if self.any:
            return True
        origin = parse_origin(text)
        if origin is None:
            return False
        label, _, rest = origin.host.partition(".")
        as_allowed = (origin, origin._replace(port=ANY))
        return (
            any(each in self._exact for each in as_allowed)
            or (bool(label) and any(each._replace(host=rest) in self._below for each in as_allowed))
            or _same(origin, host)
        )


@final
class Hosts:
    """The names under which a server may be asked.

    Args:
        allowed: names, whose first label may be ``*``, addresses and networks; ``"*"`` and none at
            all allow any.

    Raises:
        ValueError: one of them is neither.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        allowed = tuple(allowed)
        self._any = ANY in allowed or not allowed
        self._names: set[str] = set()
        self._below: set[str] = set()
        self._networks: list[IPNetwork] = []
        for text in allowed:
            if text == ANY:
                continue
            try:
                self._networks.append(ip_network(text.strip("[]")))
            except ValueError:
                name = _normal(text) if _NAMED.fullmatch(text) and ":" not in text else None
                if name is None or not _is_pattern(name):
                    raise ValueError(
                        f"allowed_host is {text!r}: write a name without a port, as in example.com "
                        "or *.example.com, an address or a network"
                    ) from None
                (self._below if name.startswith("*.") else self._names).add(name.removeprefix("*."))

    def allow(self, text: str) -> bool:
        """Whether a request may have this Host (RFC 9110 §7.2)."""
        found = _NAMED.fullmatch(text)
        host = _normal(found[1]) if found else None
        if host is None:
            return False
        if self._any or host in self._names or host.partition(".")[2] in self._below:
            return True
        address = ip_address(host.strip("[]"))
        return address is not None and any(address in network for network in self._networks)


def parse_origin(text: str) -> Origin | None:
    """Read an Origin; None if it is none, like ``null``."""
    found = _ORIGIN.fullmatch(text)
    host = _normal(found[2]) if found else None
    if found is None or host is None:
        return None
    scheme = found[1].lower()
    return Origin(scheme, host, int(found[3]) if found[3] else _DEFAULT_PORTS.get(scheme))


def allowed_origin(text: str) -> Origin:
    """Read an origin that is to be allowed.

    Raises:
        ValueError: it is none that a page can have, or more than its first label and port are
            ``*``.
    """
    found = _ANY_PORT.fullmatch(text)
    origin = parse_origin(found[1] if found else text)
    if origin is None:
        if text == "null" or text.lower().startswith("file:"):
            why = (
                "sandboxed pages of any site, and files, have no origin of their own: none can be "
                'told from another. "*" allows all pages'
            )
        else:
            why = "write scheme and host and nothing behind them, as in https://example.com"
        raise ValueError(f"origin is {text!r}: {why}")
    if origin.scheme in ("ws", "wss"):
        page = origin.scheme.replace("ws", "http") + text[len(origin.scheme) :]
        raise ValueError(f"origin is {text!r}: a page has http or https, as in {page}")
    if not _is_pattern(origin.host):
        raise ValueError(
            f"origin is {text!r}: only the first label can be *, before a name, as in "
            "https://*.example.com"
        )
    return origin._replace(port=ANY) if found else origin


def _is_pattern(host: str) -> bool:
    """Whether it is a host, or those one label below a name."""
    name = host.removeprefix("*.")
    return "*" not in name and name.strip(".") != ""


def _same(origin: Origin, host: str) -> bool:
    """Whether a page is one of the host that is asked."""
    default = _DEFAULT_PORTS.get(origin.scheme)
    found = _NAMED.fullmatch(host)
    if default is None or found is None:
        return False
    port = int(found[2]) if found[2] else default
    return (origin.host, origin.port) == (_normal(found[1]), port)


def _normal(host: str) -> str | None:
    """A host in its normal form: lower case, as a browser sends a name of another script
    (UTS #46), an IPv6 address in brackets. None if it is none."""
    if host.startswith("["):
        address = ip_address(host[1:-1])
        return None if address is None else str(Address(str(address), 0))
    if host.isascii():
        return host.lower()
    try:
        star, name = ("*.", host[2:]) if host.startswith("*.") else ("", host)
        return star + idna.encode(name, uts46=True).decode()
    except idna.IDNAError:
        return None
