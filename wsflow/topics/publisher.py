"""Publishing from outside of a server: from a background job, a web request or a script."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final

from wsflow.brokers.remote import RemoteBroker
from wsflow.brokers.select import engine
from wsflow.messages.codec import CODECS
from wsflow.messages.events import TopicOptions
from wsflow.topics.names import is_name_of
from wsflow.topics.type import TopicType


@final
class Publisher:
    """Publishes on topics of an app. Created by ``publisher``. Safe to use from several tasks."""

    def __init__(self, broker: RemoteBroker) -> None:
        self._broker = broker

    async def __call__(self, topic: str, message: object) -> str:
        """Send a message to all members of a topic, in all processes of the app.

        If the app declares the topic with ``history``, the message is kept. If this is cancelled,
        the message may have been published.

        Args:
            topic: the topic's name, with path parameters filled in.
            message: anything that msgspec encodes, of the topic's type, which is not checked here;
                ``str`` and ``bytes`` are sent as they are.

        Returns:
            The event's id on a topic with history, else ``""``.

        Raises:
            ValueError: the name is empty.
            TypeError: the message cannot be encoded.
            BrokerError: the broker was unreachable for longer than ``timeout``, or refused the
                message. Unless the error says otherwise, the message was not published.
        """
        if not topic:
            raise ValueError("a topic needs a name")
        kind = TopicType((object,), await self._options(topic), tuple(CODECS.values()))
        envelope = kind.envelope(message, frozenset())
        return await self._broker.publish(topic, envelope, kind.options)

    async def _options(self, topic: str) -> TopicOptions:
        for template, options in (await self._broker.declared()).items():
            if is_name_of(template, topic):
                return options
        return TopicOptions()


@asynccontextmanager
async def publisher(url: str, *, timeout: float = 10.0) -> AsyncIterator[Publisher]:
    """Connect to an app's broker, to publish from outside of its servers. For asyncio.

    ``async with wsflow.publisher("redis://localhost") as publish: await publish("news", message)``

    Which topics have a history is read from the broker, where the app has stored it when it
    connected.

    Args:
        url: the broker, as ``wsflow run --broker`` takes it.
        timeout: seconds that publishing waits for the broker; with 0 it fails at once while there
            is no connection. Connecting waits for at least 3 seconds.

    Raises:
        ValueError: the URL is invalid, or its client is not installed.
        BrokerError: the broker cannot be reached.
    """
    broker = RemoteBroker(None, engine(url), timeout, {})
    await broker.start()
    try:
        yield Publisher(broker)
    finally:
        await broker.stop()
