"""Stand-ins for calling a handler directly."""

from __future__ import annotations

from typing import Any

import pytest

from wsflow.testing import FakeConnection, FakeTopic


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


@pytest.mark.parametrize("messages", [str, "hi", b"hi", 5])
def test_a_fake_topic_yields_messages(messages: Any) -> None:
    with pytest.raises(TypeError, match="pass a list of the messages that it yields"):
        FakeTopic(messages)


def test_a_fake_connection_has_what_a_request_has() -> None:
    wrong: Any = {"n": 5}
    with pytest.raises(TypeError, match="path_params: n is a int: the parameters of a path are"):
        FakeConnection(path_params=wrong)
    with pytest.raises(TypeError, match="is no pair of two str"):
        FakeConnection(headers=wrong)
