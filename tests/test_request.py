"""The opening request."""

from __future__ import annotations

import sys

import pytest
from websockets.datastructures import Headers

from wsflow import Request
from wsflow.addresses import Address
from wsflow.request import Cookies, Params


def test_a_request_is_read() -> None:
    headers = Headers()
    headers["Cookie"] = "a=1; b=2"
    headers["Sec-WebSocket-Protocol"] = "x, y"
    headers["Sec-WebSocket-Protocol"] = "z"
    request = Request.parse("/a%20b?x=1&x=2&y=&z=%C3%A9", headers, Address("::1", 5))
    assert request.path == "/a%20b"
    assert request.subprotocols == ("x", "y", "z")
    assert dict(request.cookies) == {"a": "1", "b": "2"}
    assert request.query.get_all("x") == ["1", "2"]
    assert dict(request.query) == {"x": "2", "y": "", "z": "é"}
    assert len(request.query) == 3
    assert request.query.get_all("none") == []
    assert repr(Params([("a", "1")])) == "Params({'a': ['1']})"
    assert str(request.client) == "[::1]:5"
    assert str(Address("127.0.0.1", 5)) == "127.0.0.1:5"
    assert Request("/").query == {}
    assert list(Request("/").headers) == []


@pytest.mark.parametrize(
    ("odd", "read"),
    [
        ('prefs={"a":[1,2]}', {"prefs": '{"a":[1,2]}'}),
        ("a[0]=1", {"a[0]": "1"}),
        ("a,b=1", {"a,b": "1"}),
        ("name=a b", {"name": "a b"}),
        ("bare", {}),
        ("", {}),
        ("=nameless", {}),
        ("path=/; expires=never", {"path": "/", "expires": "never"}),
        ("a=", {"a": ""}),
        ("a=b=c==", {"a": "b=c=="}),
        ('a="x y"', {"a": "x y"}),
        ('a="', {"a": '"'}),
        ('a="\\073\\"\\\\"', {"a": ';"\\'}),
        ("a=1; a=2", {"a": "1"}),
        ("Session=other", {"Session": "other"}),
        ("\ta = 1 ", {"a": "1"}),
        ("é=ÿ", {"é": "ÿ"}),
        ("\\" * 56 * 1024, {}),
    ],
    ids=range(18),
)
def test_an_odd_cookie_hides_no_other(odd: str, read: dict[str, str]) -> None:
    for header in (f"{odd}; session=s", f"session=s; {odd}", f"{odd};session=s"):
        assert Request.parse("/", Headers(Cookie=header)).cookies == {**read, "session": "s"}
    two = Headers([("Cookie", odd), ("cookie", "session=s")])
    assert Request.parse("/", two).cookies == {**read, "session": "s"}


def test_a_cookie_is_read_in_linear_time() -> None:
    """Of a header eight times as long, by about eight times as many steps."""

    def steps(cookie: str) -> int:
        count = 0

        def traced(*_: object) -> object:
            nonlocal count
            count += 1
            return traced

        cookies = Cookies([f'a="{cookie}"; session=s'])
        before = sys.gettrace()
        sys.settrace(traced)  # type: ignore[arg-type]
        try:
            assert cookies["session"] == "s"
        finally:
            sys.settrace(before)
        return count

    for piece in ("\\", "\\1", '\\"', ";", "a=b;", " ", "="):
        assert steps(piece * 8000) <= 8 * steps(piece * 1000)


def test_cookies_as_a_mapping() -> None:
    cookies = Request.parse("/", Headers(Cookie="a=1; b=2")).cookies
    assert (len(cookies), list(cookies), "b" in cookies) == (2, ["a", "b"], True)
    assert repr(cookies) == "Cookies({'a': '1', 'b': '2'})"
    assert Request.parse("/", Headers()).cookies == {}


def test_a_target_with_its_host() -> None:
    """RFC 9112 §3.2.2. It is no way around the rule that there is one Host header."""
    for target, path, host in [
        ("http://a.example/b?c=d", "/b", "a.example"),
        ("HTTPS://a.example:1", "/", "a.example:1"),
        ("/b?c=http://a.example", "/b", "other.example"),
    ]:
        for hosts in (["other.example"], ["other.example", "another.example"], []):
            headers = Headers([("Host", each) for each in hosts])
            request = Request.parse(target, headers)
            assert request.path == path
            assert request.headers.get_all("Host") == ([host] if len(hosts) == 1 else hosts)
            assert headers.get_all("Host") == hosts


@pytest.mark.parametrize(
    "target", ["", "*", "Xchat/a", "chat", "ws://a/b", "http://", "http:///a", "http://a?b", "/a#b"]
)
def test_targets_that_are_no_path(target: str) -> None:
    with pytest.raises(ValueError, match="a request target"):
        Request.parse(target, Headers(Host="a"))


def test_queries_that_cannot_be_read() -> None:
    for query in ("&".join(["a=1"] * 1001), "a=%ff"):
        with pytest.raises(ValueError):
            Request.parse(f"/?{query}", Headers())
