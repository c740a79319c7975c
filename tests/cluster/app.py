"""What the scenarios of this folder serve: topics with and without history."""

from __future__ import annotations

from typing import Annotated

import msgspec

from wsflow import Connection, EventId, Query, Registry, Reject, Router, Topic, TopicName


class Item(msgspec.Struct, tag="item"):
    publisher: int
    number: int
    id: Annotated[str, EventId()] = ""


class Wide(msgspec.Struct, tag="wide"):
    text: str
    id: Annotated[str, EventId()] = ""


class Back(msgspec.Struct, tag="back"):
    recovered: bool


class Publish(msgspec.Struct, tag="publish"):
    topic: str
    publisher: int
    number: int


Plain = Annotated[Topic[Item], "plain.{room}"]
Kept = Annotated[Topic[Item], TopicName("kept.{room}", history=20_000)]

Storm = Annotated[Topic[Wide], TopicName("storm", history=2000)]

plain = Router("/plain/{room}")
kept = Router("/kept/{room}")
publish = Router("/publish")
storm = Router("/storm")
app = Router("/")


@plain.on_connect
async def join(room: Plain) -> None:
    await room.join()


@kept.on_connect
async def resume(room: Kept, peer: Connection, after: Annotated[str, Query()] = "") -> None:
    joined = await room.join(after=after)
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
async def send(message: Publish, registry: Registry) -> int:
    topic = registry.topic(message.topic)
    await topic.publish(Item(message.publisher, message.number))
    return message.number


for each in (plain, kept, publish, storm):
    app.include(each)
