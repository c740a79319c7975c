"""The topics of one process."""

from __future__ import annotations

from wsflow.brokers.memory import MemoryBroker
from wsflow.messages.codec import JSON
from wsflow.messages.events import TopicOptions
from wsflow.topics.channels import Channels, Listener
from wsflow.topics.type import TopicType


def test_a_listener_may_stop_twice() -> None:
    channels = Channels(MemoryBroker)
    listener = Listener(
        channels.use("x", TopicType((object,), TopicOptions(), (JSON,))), None, keeps=False
    )
    listener.stop()
    listener.stop()
    assert len(channels) == 0
