"""Which pages may connect, and under which names of the host."""

from __future__ import annotations

import pytest

from wsflow import Limits, Router, log
from wsflow.runtime.origins import LOOPBACK, Hosts, Origins
from wsflow.server import Settings
from wsflow.testing import serve_in_memory


@pytest.mark.parametrize(
    ("setting", "origin", "allowed"),
    [
        ("https://example.com", "https://example.com", True),
        ("https://Example.COM", "https://example.com", True),
        ("HTTPS://example.com", "https://example.com", True),
        ("https://example.com:443", "https://example.com", True),
        ("https://example.com", "https://example.com:443", True),
        ("http://example.com:80", "http://example.com", True),
        ("https://example.com:8443", "https://example.com:8443", True),
        ("https://example.com:8443", "https://example.com", False),
        ("https://example.com", "http://example.com", False),
        ("https://example.com", "https://example.com.evil.example", False),
        ("https://example.com", "https://a.example.com", False),
        ("https://example.com", "https://example.com/", False),
        ("https://example.com", "https://user@example.com", False),
        ("https://example.com", "https://example.com\\.evil.example", False),
        ("https://bücher.example", "https://xn--bcher-kva.example", True),
        ("https://BÜCHER.example", "https://xn--bcher-kva.example", True),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example", True),
        ("https://straße.example", "https://xn--strae-oqa.example", True),
        ("https://*.example.com", "https://a.example.com", True),
        ("https://*.example.com", "https://A.example.com:443", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://.example.com", False),
        ("https://*.example.com", "https://a.b.example.com", False),
        ("https://*.example.com", "http://a.example.com", False),
        ("https://*.example.com", "https://a.example.com:8443", False),
        ("https://*.example.com", "https://aexample.com", False),
        ("https://*.bücher.example", "https://a.xn--bcher-kva.example", True),
        ("http://localhost:*", "http://localhost:3000", True),
        ("http://localhost:*", "http://localhost", True),
        ("http://LOCALHOST:*", "http://localhost:1", True),
        ("http://localhost:*", "https://localhost:3000", False),
        ("http://localhost:*", "http://localhost.evil.example:3000", False),
        ("http://localhost:*", "http://a.localhost:3000", False),
        ("http://*.localhost:*", "http://a.localhost:3000", True),
        ("http://*.localhost:*", "http://localhost:3000", False),
        ("http://[::1]:*", "http://[::1]:3000", True),
        ("http://[::1]:*", "http://[::1]", True),
        ("capacitor://localhost:*", "capacitor://localhost", True),
        ("http://[::1]:3000", "http://[::1]:3000", True),
        ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000", True),
        ("chrome-extension://abcdef", "chrome-extension://abcdef", True),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("chrome-extension://abcdef", "chrome-extension://abcdee", False),
        ("*", "null", True),
        ("*", "file://", True),
        ("https://example.com", "null", False),
        ("https://example.com", "", False),
    ],
)
def test_origins(setting: str, origin: str, allowed: bool) -> None:
    assert Origins([setting]).allow(origin, "wsflow.example") is allowed
    assert Origins(["http://other.example", setting]).allow(origin, "wsflow.example") is allowed


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://a.example", "a.example", True),
        ("http://a.example", "A.example:80", True),
        ("https://a.example", "a.example", True),
        ("https://a.example:8443", "a.example:8443", True),
        ("https://a.example:8443", "a.example", False),
        ("http://a.example:443", "a.example", False),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://[::1]:8000", "[0::1]:8000", True),
        ("http://a.example", "a.example:", True),
        ("http://a.example", "user@a.example", False),
        ("http://a.example", "", False),
        ("chrome-extension://a.example", "a.example", False),
        ("null", "null", False),
        ("http://a.example:99999", "a.example:99999", True),
        ("http://a.example:123456", "a.example:123456", False),
        ("http://[::1", "[::1", False),
        ("http://[zz]", "[zz]", False),
    ],
)
def test_a_page_of_the_same_host(origin: str, host: str, same: bool) -> None:
    assert Origins([]).allow(origin, host) is same


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("null", "have no origin of their own"),
        ("file://", "have no origin of their own"),
        ("file:///home", "have no origin of their own"),
        ("example.com", "write scheme and host"),
        ("https://", "write scheme and host"),
        ("https://example.com/", "nothing behind them"),
        ("https://example.com/chat", "nothing behind them"),
        ("https://example.com:x", "nothing behind them"),
        ("https://a@example.com", "write scheme and host"),
        ("https://a b", "write scheme and host"),
        ("", "write scheme and host"),
        ("wss://example.com", "a page has http or https, as in https://example.com"),
        ("ws://example.com:80", "a page has http or https, as in http://example.com"),
        ("https://*", "only the first label can be"),
        ("https://a.*.example.com", "only the first label can be"),
        ("https://*.*.example.com", "only the first label can be"),
        ("https://a*.example.com", "only the first label can be"),
        ("http://localhost:80:*", "write scheme and host"),
        ("http://localhost:*:*", "write scheme and host"),
        ("http://localhost:*0", "nothing behind them"),
        ("http://:*", "write scheme and host"),
        ("http://*:*", "only the first label can be"),
        ("http://*.:*", "only the first label can be *, before a name"),
        ("http://*.", "only the first label can be *, before a name"),
        ("http://*..", "only the first label can be *, before a name"),
        ("http://.", "only the first label can be *, before a name"),
        ("ws://localhost:*", "http or https, as in http://localhost:*"),
        ("WSS://localhost", "http or https, as in https://localhost"),
        ("null:*", "write scheme and host"),
        ("https://\u2100\u2044.example", "write scheme and host"),
    ],
)
def test_origins_that_no_page_has(setting: str, why: str) -> None:
    with pytest.raises(ValueError, match="origin is ") as failure:
        Settings(origin=(setting,))
    assert why in str(failure.value)
    assert "None" not in str(failure.value)


@pytest.mark.parametrize(
    ("allowed", "host", "may"),
    [
        ((), "anything.example", True),
        ((), "", False),
        ((), "a/b", False),
        (("*",), "anything.example:80", True),
        (("example.com",), "example.com", True),
        (("Example.com",), "EXAMPLE.com:8000", True),
        (("example.com",), "a.example.com", False),
        (("example.com",), "example.com.evil.example", False),
        (("*.example.com",), "a.example.com:1", True),
        (("*.example.com",), "example.com", False),
        (("*.example.com",), "a.b.example.com", False),
        (("bücher.example",), "xn--bcher-kva.example", True),
        (("10.0.0.0/8",), "10.1.2.3:8000", True),
        (("10.0.0.0/8",), "11.1.2.3", False),
        (("[2001:db8::1]",), "[2001:DB8::1]:8000", True),
        (("2001:db8::1",), "[2001:db8::2]", False),
        (LOOPBACK, "localhost", True),
        (LOOPBACK, "localhost:8000", True),
        (LOOPBACK, "app.localhost:8000", True),
        (LOOPBACK, "127.0.0.1:8000", True),
        (LOOPBACK, "127.8.8.8", True),
        (LOOPBACK, "[::1]:8000", True),
        (LOOPBACK, "[::ffff:127.0.0.1]:8000", True),
        (LOOPBACK, "rebound.example:8000", False),
        (LOOPBACK, "127.0.0.1.rebound.example", False),
        (LOOPBACK, "localhost.rebound.example", False),
        (LOOPBACK, "0.0.0.0:8000", False),
        (LOOPBACK, "user@localhost", False),
        (LOOPBACK, "localhost:8000:9", False),
    ],
)
def test_hosts(allowed: tuple[str, ...], host: str, may: bool) -> None:
    assert Hosts(allowed).allow(host) is may


@pytest.mark.parametrize(
    "name",
    ["", "a.example:80", "http://a.example", "a b", "a.*.b", "a*.b", "*a.b", "*.", "*..", "."],
)
def test_hosts_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="write a name without a port"):
        Settings(allowed_host=(name,))


@pytest.mark.parametrize(
    ("settings", "hosts"),
    [
        ({}, LOOPBACK),
        ({"host": "localhost"}, LOOPBACK),
        ({"host": "::1"}, LOOPBACK),
        ({"host": "127.5.5.5"}, LOOPBACK),
        ({"host": "0.0.0.0"}, ()),
        ({"host": "::"}, ()),
        ({"host": "example.com"}, ()),
        ({"trusted_proxy": ("127.0.0.1",)}, ()),
        ({"fd": 3}, ()),
        ({"allowed_host": ("a.example",)}, ("a.example",)),
        ({"allowed_host": ("*",)}, ("*",)),
    ],
)
def test_the_default_of_allowed_hosts(settings: dict[str, object], hosts: tuple[str, ...]) -> None:
    assert Settings(**settings).effective().allowed_host == hosts  # type: ignore[arg-type]


async def test_what_a_refusal_says(caplog: pytest.LogCaptureFixture) -> None:
    app = Router("/")

    @app.consumer
    async def echo(message: str) -> str:
        return message

    async def refused(limits: Limits, **headers: str) -> str:
        caplog.clear()
        log._often.clear()
        async with serve_in_memory(app, limits=limits) as server:
            async with server.connect("/?token=secret", headers=headers) as peer:
                assert peer.rejected.status == 403
        assert "secret" not in caplog.text
        return caplog.text

    async with serve_in_memory(app) as server:
        for host in ([("Host", "a"), ("Host", "a")], [("Host", "a"), ("host", "b")]):
            async with server.connect("/", headers=host) as peer:
                assert (peer.rejected.status, peer.rejected.body) == (
                    400,
                    "one Host header is needed\n",
                )
        origins = [("Origin", "http://testserver"), ("Origin", "http://testserver")]
        async with server.connect("/", headers=origins) as peer:
            assert peer.rejected.status == 403
        assert "a browser sends one Origin" in caplog.text
    hosts = Limits(allowed_host=("a.example",), close_timeout=1)
    for host, name in {
        "evil.example:9": "evil.example",
        "evil.example": "evil.example",
        "[2001:db8::1]:9": "[2001:db8::1]",
        "[2001:db8::1]": "[2001:db8::1]",
    }.items():
        assert f"to allow it: --allowed-host {name}\n" in await refused(hosts, Host=host)
        assert Hosts((name,)).allow(host)
    for origin, advice in {
        "https://Page.example:443": "to allow it: --origin https://page.example\n",
        "null": "a page without an origin of its own cannot be allowed by itself",
        "file://": "a page without an origin of its own cannot be allowed by itself",
    }.items():
        assert advice in await refused(Limits(close_timeout=1), Origin=origin)
