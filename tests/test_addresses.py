"""Addresses in one normal form."""

from __future__ import annotations

import pytest

from wsflow.addresses import Address, address_of, ip_network, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("1.2.3.4", "1.2.3.4", 0),
        ("1.2.3.4:5678", "1.2.3.4", 5678),
        ("::1", "::1", 0),
        ("[::1]", "::1", 0),
        ("[::1]:5678", "::1", 5678),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1", 0),
        ("[2001:0db8::0001]:1", "2001:db8::1", 1),
        ("::ffff:1.2.3.4", "1.2.3.4", 0),
        ("[::FFFF:1.2.3.4]:80", "1.2.3.4", 80),
        ("::ffff:102:304", "1.2.3.4", 0),
    ],
)
def test_what_is_an_address(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unknown",
        "_hidden",
        "localhost",
        "1.2.3",
        "1.2.3.4.5",
        "01.2.3.4",
        "1.2.3.4:",
        "1.2.3.4:65536",
        "1.2.3.4:123456",
        "1.2.3.4:x",
        "[1.2.3.4]:5",
        "[::1",
        "::1]",
        "[::1]5",
        "[]",
        "1.2.3.4\n",
        "1.2.3.4, 5.6.7.8",
        "\uff11.2.3.4",
        "\x1b[31m",
        "fe80::1%eth0",
        "[fe80::1%eth0]:1",
        "::1%<script>",
    ],
)
def test_what_is_none(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("address", "shown", "network"),
    [
        (Address("1.2.3.4", 5), "1.2.3.4:5", "1.2.3.4"),
        (Address("1.2.3.4", 0), "1.2.3.4", "1.2.3.4"),
        (Address("::1", 5), "[::1]:5", "::/64"),
        (address_of("::ffff:1.2.3.4", 5), "1.2.3.4:5", "1.2.3.4"),
        (address_of("2001:db8:1:2:3::4", 0), "[2001:db8:1:2:3::4]", "2001:db8:1:2::/64"),
        (address_of("2001:DB8:1:2:ffff::", 1), "[2001:db8:1:2:ffff::]:1", "2001:db8:1:2::/64"),
        (address_of("fe80::1%2", 1), "[fe80::1%2]:1", "fe80::/64"),
        (address_of("testclient", 1), "testclient:1", "testclient"),
    ],
)
def test_an_address_as_text_and_as_a_client(address: Address, shown: str, network: str) -> None:
    assert (str(address), address.network) == (shown, network)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.1", "10.0.0.1/32"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("2001:db8::1/64", "2001:db8::/64"),
        ("::/0", "::/0"),
    ],
)
def test_networks(text: str, network: str) -> None:
    assert str(ip_network(text)) == network
