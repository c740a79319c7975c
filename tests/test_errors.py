"""The exceptions that handlers raise and catch."""

from __future__ import annotations

from typing import Any

import pytest

from wsflow import Close, Disconnected, End, Reject


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1014, 3000, 4999])
def test_codes_that_may_be_sent(code: int) -> None:
    assert Close(code, "x").code == code


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2000, 2999, 5000, "1000"])
def test_codes_that_may_not(code: Any) -> None:
    with pytest.raises(ValueError, match="is not a close code that may be sent: use 1000"):
        Close(code)


def test_a_text_in_the_place_of_the_code() -> None:
    text: Any = "bye"
    with pytest.raises(ValueError, match=r"3999; the code comes first: Close\(4000, 'bye'\)$"):
        Close(text)
    with pytest.raises(ValueError, match=r"599; the status comes first: Reject\(403, 'bye'\)$"):
        Reject(text)
    for number in ("1000", 17):
        with pytest.raises(ValueError, match=r"3999$"):
            Close(number)  # type: ignore[arg-type]


def test_reject_checks_what_it_sends() -> None:
    assert Reject(302, headers={"Location": "/x"}).headers == (("Location", "/x"),)
    assert Reject(599, headers=[("A", "1"), ("A", "2")]).headers == (("A", "1"), ("A", "2"))
    for status in (200, 101, 299, 600, "404"):
        with pytest.raises(ValueError, match="use a status from 300 to 599"):
            Reject(status)  # type: ignore[arg-type]
    for name in ("a b", "", "x\r\ny", "é"):
        with pytest.raises(ValueError, match="is not a header name"):
            Reject(400, headers={name: "x"})
    for value in ("a\r\nb", "\x00", "\u2603"):
        with pytest.raises(ValueError, match="has a character that is not allowed"):
            Reject(400, headers={"X": value})


def test_what_ends_say() -> None:
    assert str(Disconnected()) == "the connection has ended"
    assert str(Disconnected(End("peer", 1000, "bye"))) == "ended: peer (1000 bye)"
