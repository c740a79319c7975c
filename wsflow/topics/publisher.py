"""Publishing from outside of a server: a job, a web request, a script."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final

from wsflow.brokers.remote import RemoteBroker
from wsflow.brokers.select import engine
from wsflow.messages.codec import CODECS
from wsflow.messages.events import TopicOptions
from wsflow.topics.names import topic_pattern
from wsflow.topics.type import TopicType


@final
class Publisher:
    """Publishes on topics of an app. Made by ``publisher``; safe from many tasks."""

    def __init__(self, broker: RemoteBroker) -> None:
        self._broker = broker

    async def __call__(self, topic: str, message: object) -> str:
        """Send a message to all who have joined a topic, in every process of the app.

        A topic that the app declares with ``history`` keeps it. Cancelled, it may have been
        published.

        Args:
            topic: the topic's name, with path parameters filled in.
            message: anything that msgspec encodes, of the topic's type, which is not checked here;
                ``str`` and ``bytes`` go as they are.

        Returns:
            The event's id on a topic with history, else ``""``.

        Raises:
            ValueError: the name is empty.
            TypeError: the message cannot be encoded.
            BrokerError: the broker was away for longer than ``timeout``, or refused. Unless that
                says so, nobody has got the message.
        """
        if not topic:
            raise ValueError("a topic needs a name")
        kind = TopicType((object,), await self._options(topic), tuple(CODECS.values()))
        envelope = kind.envelope(message, frozenset())
        return await self._broker.publish(topic, envelope, kind.options)

    async def _options(self, topic: str) -> TopicOptions:
        for template, options in (await self._broker.declared()).items():
            if topic_pattern(template).fullmatch(topic):
                return options
        return TopicOptions()


@asynccontextmanager
async def publisher(url: str, *, timeout: float = 10.0) -> AsyncIterator[Publisher]:
    """Connect to an app's broker, to publish from outside of its servers. For asyncio.

    ``async with wsflow.publisher("redis://localhost") as publish: await publish("news", message)``

    Which topics keep a history is known from the app, once it has run at this broker.

    Args:
        url: the broker, as ``wsflow run --broker`` takes it.
        timeout: seconds that connecting and publishing wait for it; 0 to fail at once.

    Raises:
        ValueError: it is no such URL, or its client is not installed.
        BrokerError: it cannot be reached.
    """
    broker = RemoteBroker(None, engine(url), timeout, {})
    await broker.start()
    try:
        yield Publisher(broker)
    finally:
        await broker.stop()
