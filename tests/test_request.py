"""The opening request."""

from __future__ import annotations

import pytest
from websockets.datastructures import Headers

from wsflow import Request
from wsflow.request import Address, Params


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


def test_a_malformed_cookie_is_none() -> None:
    assert Request.parse("/", Headers(Cookie="a,b=1; ok=2")).cookies == {}


def test_queries_that_cannot_be_read() -> None:
    for query in ("&".join(["a=1"] * 1001), "a=%ff"):
        with pytest.raises(ValueError):
            Request.parse(f"/?{query}", Headers())
