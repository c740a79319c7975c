"""Addresses in one normal form, wherever they come from: a socket, a proxy's header, a setting."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_WITH_PORT = re.compile(r"\[([^\[\]]+)\](?::(\d{1,5}))?|([^:\[\]]+):(\d{1,5})")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_CLIENT_PREFIX = 64
"""The bits of an IPv6 address that tell clients apart: a network of this size has one owner."""


class Address(NamedTuple):
    """The address that the client connects from.

    ``host`` is in its normal form (RFC 5952), and an IPv4 address that is mapped to IPv6 is an IPv4
    address. ``port`` is 0 where it is not known.
    """

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host

    @property
    def network(self) -> str:
        """What is counted as one client: the address, or its /64 network for IPv6."""
        return _network_of(self.host)


@lru_cache(1024)
def ip_address(text: str) -> IPAddress | None:
    """The IP address that a text is, in its normal form; None if it is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if address.version == 6 and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def ip_network(text: str) -> IPNetwork:
    """The network that a text is, in its normal form; an address is a network of one.

    Raises:
        ValueError: it is neither a network nor an address.
    """
    network = ipaddress.ip_network(text, strict=False)
    if network.version == 6 and network.subnet_of(_MAPPED):
        address = int(network.network_address) & 0xFFFF_FFFF
        return ipaddress.IPv4Network((address, network.prefixlen - 96))
    return network


def address_of(host: str, port: int) -> Address:
    """An address in its normal form. What is no IP address stays as it is."""
    return Address(_normal(host), port)


@lru_cache(1024)
def _normal(host: str) -> str:
    address = ip_address(host)
    return host if address is None else str(address)


@lru_cache(1024)
def _network_of(host: str) -> str:
    address = ip_address(host)
    if address is None or address.version == 4:
        return host
    return str(ipaddress.IPv6Network((int(address), _CLIENT_PREFIX), strict=False))


def parse_address(text: str) -> Address | None:
    """Read an address with or without a port: ``1.2.3.4``, ``1.2.3.4:5``, ``::1``, ``[::1]``,
    ``[::1]:5``.

    Returns:
        The address in its normal form; None if the text is none, or has a zone, which only the host
        that wrote it knows.
    """
    host, port = text, "0"
    if found := _WITH_PORT.fullmatch(text):
        host, port = found[1] or found[3], found[2] or found[4] or "0"
        if (":" in host) != (found[1] is not None):
            return None
    address = ip_address(host)
    if address is None or int(port) > 65535 or "%" in host:  # a zone may be any text
        return None
    return Address(str(address), int(port))
