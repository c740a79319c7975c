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


async def test_a_fake_topic_has_a_history() -> None:
    topic = FakeTopic[str](history=3)
    assert (await topic.history()).events == []
    ids = [await topic.publish(text) for text in "abcde"]
    page = await topic.history()
    assert [(each.id, each.message) for each in page.events] == [*zip(ids[2:], "cde", strict=True)]
    assert (page.recovered, page.more) == (False, False)
    assert [each.message for each in (await topic.history(limit=1)).events] == ["e"]
    page = await topic.history(ids[2], limit=1)
    assert [each.message for each in page.events] == ["d"]
    assert (page.recovered, page.more) == (True, True)
    assert not (await topic.history(ids[0])).recovered
    await topic.clear_history()
    assert topic.published == ["a", "b", "c", "d", "e"]
    assert (await topic.history()).events == []
    assert not (await topic.history(ids[-1])).recovered
    id = await topic.publish("f")
    assert [each.message for each in (await topic.history()).events] == ["f"]
    assert (await topic.history(id)).recovered
    with pytest.raises(ValueError, match="limit is 0: use a number of events, at least 1"):
        await topic.history(limit=0)
    for call in (FakeTopic().history, FakeTopic().clear_history):
        with pytest.raises(ValueError, match=r"needs a history, and topic 'fake' has none"):
            await call()


def test_a_fake_connection_has_what_a_request_has() -> None:
    wrong: Any = {"n": 5}
    with pytest.raises(TypeError, match="path_params: n is a int: the parameters of a path are"):
        FakeConnection(path_params=wrong)
    with pytest.raises(TypeError, match="is no pair of two str"):
        FakeConnection(headers=wrong)
