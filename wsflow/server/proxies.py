"""The client's address behind trusted proxies."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Literal, final

from websockets.datastructures import Headers

from wsflow.addresses import Address, IPNetwork, ip_address, ip_network, parse_address
from wsflow.log import Log

log = Log("wsflow")

ProxyHeader = Literal["x-forwarded-for", "forwarded"]
UNIX = "unix"


@final
class Proxies:
    """The trusted proxies of a server.

    Args:
        trusted: addresses and networks, and ``"unix"`` for Unix sockets.
        header: which header they write. The other one is not read: proxies pass it on as it came
            from the client.

    Raises:
        ValueError: an entry is neither an address nor a network nor ``"unix"``.
    """

    def __init__(
        self, trusted: Sequence[str] = (), header: ProxyHeader = "x-forwarded-for"
    ) -> None:
        self._networks: list[IPNetwork] = []
        self._header = header
        self._unix = False
        for each in trusted:
            if each == UNIX:
                self._unix = True
                continue
            try:
                self._networks.append(ip_network(each))
            except ValueError:
                raise ValueError(
                    f"trusted_proxy is {each!r}: write an address or a network, as in 10.0.0.0/8, "
                    'or "unix" for Unix sockets'
                ) from None

    def trusts(self, address: Address | None) -> bool:
        """Whether this is the address of a trusted proxy; None is that of a Unix socket."""
        if address is None:
            return self._unix
        ip = ip_address(address.host)
        return ip is not None and any(ip in network for network in self._networks)

    def client(self, address: Address | None, headers: Headers) -> Address | None:
        """The client's address, of a connection from ``address``.

        The header is read from the right, as long as the addresses are trusted proxies. The first
        that is not trusted is the client. What is no address ends the search: the proxy that wrote
        it counts as the client.
        """
        if not self.trusts(address):
            return address
        values = headers.get_all(self._header)
        read = _forwarded if self._header == "forwarded" else _listed
        for hop in reversed([*read(",".join(values))] if values else []):
            found = parse_address(hop)
            if found is None:
                log.often(
                    logging.WARNING,
                    "the proxy %s says that a connection comes from %s, which is no address: "
                    "the proxy counts as its client",
                    address or UNIX,
                    hop,
                )
                break
            address = found
            if not self.trusts(address):
                break
        return address


def _listed(value: str) -> Iterator[str]:
    """The hops of an ``X-Forwarded-For``."""
    return (hop.strip() for hop in value.split(",") if hop.strip())


def _forwarded(value: str) -> Iterator[str]:
    """The ``for`` of each element of a ``Forwarded`` (RFC 7239 §4).

    No address has a comma or a semicolon, so the elements are those between commas, also where a
    client has left a quote open. An element without ``for`` gives what is no address.
    """
    for element in value.split(","):
        pairs = (pair.partition("=") for pair in element.split(";"))
        names = {name.strip().lower(): given.strip() for name, _, given in pairs}
        host = names.get("for", element.strip())
        yield host[1:-1] if host[:1] == host[-1:] == '"' else host
