"""Checks of headers and URLs."""

from __future__ import annotations

import pytest

from wsflow.http import url_parts
from wsflow.log import shown_uri


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://host:x/", "host or port is invalid"),
        ("redis://host:99999/", "host or port is invalid"),
        ("redis://[::1", "host or port is invalid"),
        ("redis://host:0/", "names no host"),
        ("redis://", "names no host"),
        ("redis://host?other=SECRET", "unknown option 'other': use known"),
        ("redis://host?known=", "option known has no value, or two"),
        ("redis://host?known=SECRET&known=SECRET", "option known has no value, or two"),
    ],
)
def test_urls_that_cannot_be_used(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as failure:
        url_parts(url, ("known",))
    assert "SECRET" not in str(failure.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:SECRET@host:1",
        "nats://SECRET@host",
        "nats://me:SECRET@a,me:SECRET@b:1",
        "redis://host?password=SECRET",
        "redis://host?password=SEC@RET",
        "redis://:SECRET@host?x=SEC@RET",
        "redis://:SEC?RET@host",
        "redis://:SEC/RET@host",
        "redis://me:SECRET",
        "redis://:SECRET/0",
        "me:SECRET@host",
        "host:SECRET",
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str) -> None:
    shown = shown_uri(url)
    assert "SEC" not in shown
    assert "RET" not in shown
