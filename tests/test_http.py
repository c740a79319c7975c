"""What is shown of URLs."""

from __future__ import annotations

import pytest

from wsflow.log import shown_uri


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
