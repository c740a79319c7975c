"""What the scenarios of this folder serve: topics with and without history."""

from __future__ import annotations

from typing import Annotated

import msgspec

from wsflow import (
    BrokerError,
    Connection,
    EventId,
    Query,
    Registry,
    Reject,
    Router,
    Topic,
    TopicName,
)


class Item(msgspec.Struct, tag="item", omit_defaults=True):
    publisher: int
    number: int
    id: Annotated[str, EventId()] = ""
    pad: str = ""


class Wide(msgspec.Struct, tag="wide"):
    text: str
    id: Annotated[str, EventId()] = ""


class Back(msgspec.Struct, tag="back"):
    recovered: bool


class Gap(msgspec.Struct, tag="gap"):
    """Messages may be missing here."""


class Publish(msgspec.Struct, tag="publish"):
    topic: str
    publisher: int
    number: int


Plain = Annotated[Topic[Item], TopicName("plain.{room}", gap=Gap())]
Kept = Annotated[Topic[Item], TopicName("kept.{room}", history=20_000, gap=Gap())]

Storm = Annotated[Topic[Wide], TopicName("storm", history=2000)]

plain = Router("/plain/{room}")
kept = Router("/kept/{room}")
publish = Router("/publish")
storm = Router("/storm")
app = Router("/")


@plain.on_connect
async def join(room: Plain) -> None:
    try:
        await room.join()
    except BrokerError as exc:
        raise Reject(503) from exc


@kept.on_connect
async def resume(room: Kept, peer: Connection, after: Annotated[str, Query()] = "") -> None:
    try:
        joined = await room.join(after=after)
    except BrokerError as exc:
        raise Reject(503) from exc
    await peer.send(Back(joined.recovered))


@storm.on_connect
async def come_back(room: Storm, after: Annotated[str, Query()] = "") -> None:
    if after and not (await room.join(after=after)).recovered:
        raise Reject(410)


@plain.consumer
@kept.consumer
@storm.consumer
async def nothing(message: str) -> None: ...


@publish.consumer
async def send(message: Publish, registry: Registry) -> int | str:
    """The number, once it is published; else why it is not."""
    topic = registry.topic(message.topic)
    try:
        await topic.publish(Item(message.publisher, message.number))
    except BrokerError as exc:
        return str(exc)
    return message.number


for each in (plain, kept, publish, storm):
    app.include(each)
