"""URLs in messages."""

from __future__ import annotations

import pytest

from wsflow.http import without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://me:SECRET@host:1", "redis://…@host:1"),
        ("nats://SECRET@host", "nats://…@host"),
        ("nats://me:SECRET@a,me:SECRET@b:1", "nats://…@b:1"),
        ("nats://a:1,b:2", "nats://a:1,b:2"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
        ("redis://host?password=SECRET", "redis://host?…"),
        ("redis://host?password=SEC@RET", "redis://…"),
        ("redis://:SECRET@host?x=SEC@RET", "redis://…"),
        ("redis://:SEC?RET@host", "redis://…"),
        ("redis://:SEC/RET@host", "redis://…@host"),
        ("redis://me:SECRET", "redis://me:…"),
        ("redis://:SECRET/0", "redis://:…"),
        ("me:SECRET@host", "…@host"),
        ("host:SECRET", "host:…"),
        ("nowhere", "nowhere"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert without_password(url) == shown
