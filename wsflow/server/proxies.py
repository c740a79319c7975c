"""The client's address behind trusted proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from websockets.datastructures import Headers

from wsflow.request import Address

Resolve = Callable[[Address | None, Headers], Address | None]
UNIX = "unix"


def resolver(trusted: Sequence[str]) -> Resolve:
    """A function from the socket's address and the headers to the client's address.

    ``X-Forwarded-For`` is read from the right, as long as the addresses are trusted proxies. The
    first address that is not trusted is the client.

    Raises:
        ValueError: an entry is neither an address nor a network nor ``"unix"``.
    """
    if not trusted:
        return lambda address, _headers: address
    networks = [ipaddress.ip_network(each, strict=False) for each in trusted if each != UNIX]

    def is_trusted(host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in networks)

    def resolve(address: Address | None, headers: Headers) -> Address | None:
        if not (UNIX in trusted if address is None else is_trusted(address.host)):
            return address
        hops = [hop.strip() for hop in ",".join(headers.get_all("X-Forwarded-For")).split(",")]
        for hop in reversed([hop for hop in hops if hop]):
            address = Address(hop, 0)
            if not is_trusted(hop):
                break
        return address

    return resolve
