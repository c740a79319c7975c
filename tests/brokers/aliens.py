"""An app to which a broker brings what others have left there."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec
import pytest

from wsflow import BrokerError, EventId, Query, Reject, Router, Topic, TopicName
from wsflow.brokers import wire
from wsflow.limits import Limits
from wsflow.messages.codec import JSON
from wsflow.messages.events import Envelope
from wsflow.testing import MemoryPeer, MemoryServer, serve_in_memory


class News(msgspec.Struct, tag="news"):
    text: str
    id: Annotated[str, EventId()] = ""


Kept = Annotated[Topic[News], TopicName("kept", history=100)]
Other = Annotated[Topic[News], TopicName("other", history=100)]
Plain = Annotated[Topic[News], "plain"]

GOOD = wire.pack(Envelope({"json": JSON.encoded(News("forged"))}), "somebody", 1, False)


def app() -> Router:
    router = Router("/")

    @router.on_connect
    async def enter(
        kept: Kept, other: Other, plain: Plain, after: Annotated[str, Query()] = ""
    ) -> None:
        await other.join()
        await plain.join()
        try:
            joined = await kept.join(after=after)
        except BrokerError:
            raise Reject(503) from None
        if after and not joined.recovered:
            raise Reject(410)

    @router.consumer
    async def nothing(message: str) -> None: ...

    return router


@asynccontextmanager
async def running(url: str, caplog: pytest.LogCaptureFixture) -> AsyncIterator[MemoryServer]:
    """The app. At the end its connection was never lost, and no traceback is in the log."""
    async with serve_in_memory(app(), broker=url, limits=Limits(publish_timeout=3)) as process:
        yield process
        assert process.registry.counters()["reconnected"] == 0
        assert not [
            each for each in caplog.records if each.exc_info or each.levelno > logging.ERROR
        ]


async def work(process: MemoryServer, peer: MemoryPeer, *topics: str) -> None:
    """These topics bring a message to a peer."""
    for topic in topics or ("kept", "other", "plain"):
        await process.registry.topic(topic).publish(News(topic))
        while (await peer.receive(News, timeout=3)).text != topic:
            pass


async def resumes(process: MemoryServer, after: str, *texts: str) -> None:
    """Who comes back is sent these, and what comes then."""
    async with process.connect(f"/?after={after}") as peer:
        got = [(await peer.receive(News, timeout=3)).text for _ in texts]
        assert got == list(texts)
        await work(process, peer)
