"""The client's address behind trusted proxies."""

from __future__ import annotations

import pytest
from websockets.datastructures import Headers

from wsflow.addresses import address_of
from wsflow.server.proxies import Proxies, ProxyHeader

NET = ("10.0.0.0/8",)


def client(
    trusted: tuple[str, ...],
    socket_host: str | None,
    values: list[str],
    header: ProxyHeader = "x-forwarded-for",
) -> str:
    headers = Headers([(header, value) for value in values])
    address = None if socket_host is None else address_of(socket_host, 5)
    return str(Proxies(trusted, header).client(address, headers))


@pytest.mark.parametrize(
    ("trusted", "socket_host", "forwarded", "seen"),
    [
        ((), "10.0.0.1", ["1.2.3.4"], "10.0.0.1:5"),
        (NET, "10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        (NET, "11.0.0.1", ["1.2.3.4"], "11.0.0.1:5"),
        (NET, "10.0.0.1", [], "10.0.0.1:5"),
        (NET, "10.0.0.1", ["", " , "], "10.0.0.1:5"),
        (NET, "10.0.0.1", ["evil, 1.2.3.4, 10.0.0.9"], "1.2.3.4"),
        (NET, "10.0.0.1", ["1.2.3.4", "10.0.0.9"], "1.2.3.4"),
        (NET, "10.0.0.1", ["10.0.0.8, 10.0.0.9"], "10.0.0.8"),
        (NET, "10.0.0.1", ["1.2.3.4:5678"], "1.2.3.4:5678"),
        (NET, "10.0.0.1", ["1.2.3.4, 10.0.0.9:80"], "1.2.3.4"),
        (NET, "10.0.0.1", ["[2001:DB8::1]:5678"], "[2001:db8::1]:5678"),
        (NET, "10.0.0.1", ["::ffff:1.2.3.4"], "1.2.3.4"),
        (NET, "10.0.0.1", ["1.2.3.4, ::ffff:10.0.0.9"], "1.2.3.4"),
        (NET, "::ffff:10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        (("::ffff:10.0.0.0/104",), "10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        (("127.0.0.1",), "::ffff:127.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        (("::1",), "::1", ["2001:db8::1"], "[2001:db8::1]"),
        (("::1",), "0:0:0:0:0:0:0:1", ["2001:db8::1"], "[2001:db8::1]"),
        (("10.0.0.1",), "10.0.0.1", ["1.2.3.4, unknown"], "10.0.0.1:5"),
        (NET, "10.0.0.1", ["1.2.3.4, \t10.0.0.9,unknown,10.0.0.7"], "10.0.0.7"),
        (NET, None, ["1.2.3.4"], "None"),
        (("unix",), None, ["1.2.3.4"], "1.2.3.4"),
        (("unix",), "10.0.0.1", ["1.2.3.4"], "10.0.0.1:5"),
        (("unix",), None, ["unknown"], "None"),
        (("unix", *NET), None, ["1.2.3.4, 10.0.0.9"], "1.2.3.4"),
    ],
)
def test_x_forwarded_for(
    trusted: tuple[str, ...], socket_host: str | None, forwarded: list[str], seen: str
) -> None:
    assert client(trusted, socket_host, forwarded) == seen


@pytest.mark.parametrize(
    ("forwarded", "seen"),
    [
        (["for=1.2.3.4"], "1.2.3.4"),
        (["For=1.2.3.4; proto=https; by=10.0.0.1"], "1.2.3.4"),
        (['for="1.2.3.4:5678"'], "1.2.3.4:5678"),
        (['proto=http;FOR="[2001:db8::1]:5678"'], "[2001:db8::1]:5678"),
        (['for="[2001:db8::1]"'], "[2001:db8::1]"),
        (["for=9.9.9.9, for=1.2.3.4;by=x, for=10.0.0.9"], "1.2.3.4"),
        (["for=9.9.9.9", 'for="1.2.3.4"', "for=10.0.0.9"], "1.2.3.4"),
        (['for="9.9.9.9, for=1.2.3.4'], "1.2.3.4"),  # the client left a quote open
        (['for="9.9.9.9, for="1.2.3.4"'], "1.2.3.4"),
        (['for="9.9.9.9\\, for="1.2.3.4";by="a"'], "1.2.3.4"),
        (["for=unknown"], "10.0.0.1:5"),
        (["for=_hidden, for=10.0.0.9"], "10.0.0.9"),
        (["proto=https"], "10.0.0.1:5"),
        (["1.2.3.4"], "1.2.3.4"),
        (['for="'], "10.0.0.1:5"),
        ([""], "10.0.0.1:5"),
        ([], "10.0.0.1:5"),
    ],
)
def test_forwarded(forwarded: list[str], seen: str) -> None:
    """RFC 7239."""
    assert client(NET, "10.0.0.1", forwarded, "forwarded") == seen


def test_the_other_header_is_not_read() -> None:
    """Proxies pass it on as it came from the client."""
    headers = Headers([("Forwarded", "for=6.6.6.6"), ("X-Forwarded-For", "1.2.3.4")])
    address = address_of("10.0.0.1", 5)
    assert str(Proxies(NET).client(address, headers)) == "1.2.3.4"
    assert str(Proxies(NET, "forwarded").client(address, headers)) == "6.6.6.6"


def test_what_is_no_address_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    client(NET, "10.0.0.1", ["\x9b31m"])
    assert "10.0.0.1:5 says that a connection comes from \\x9b31m, which is no address" in (
        caplog.text
    )
