"""Stand-ins for calling a handler directly."""

from __future__ import annotations

import pytest

from wsflow.testing import FakeConnection


async def test_a_fake_connection_is_closed_with_a_code_that_may_not_be_sent() -> None:
    connection = FakeConnection()
    await connection.close(99)
    assert connection.end is not None
    assert (connection.end.cause, connection.end.code) == ("error", 1011)


async def test_a_fake_connection_has_a_user() -> None:
    connection = FakeConnection()
    assert connection.user is None
    connection.identify("ada")
    connection.identify("ada")
    assert connection.user == "ada"
    with pytest.raises(RuntimeError, match="the user of this connection is 'ada' already"):
        connection.identify("bob")
