"""A chat with rooms: who sends to ``/chat/lobby?name=ada`` is heard by all in the lobby.

Run it: ``wsflow run examples.chat:app``
"""

from collections.abc import AsyncIterator
from typing import Annotated

import anyio
import msgspec

from wsflow import Query, Reject, Router, Topic


class Say(msgspec.Struct, tag="say"):  # what clients send
    text: str


class Said(msgspec.Struct, tag="said"):  # what they receive
    who: str
    text: str


class Tick(msgspec.Struct, tag="tick"):
    seconds: int


class Member(msgspec.Struct):
    name: str


Room = Annotated[Topic[Said], "room.{room}"]  # a typed pub/sub topic, named after the path

app = Router("/chat/{room}")


@app.on_connect
async def enter(room: Room, name: Annotated[str, Query()] = "") -> Member:
    if not name:
        raise Reject(401, "a name is needed")  # a real HTTP answer: the socket is not open yet
    await room.join()  # left again on disconnect, whatever happens
    return Member(name)  # handlers may now ask for a Member


@app.consumer
async def say(message: Say, member: Member, room: Room) -> None:
    await room.publish(Said(member.name, message.text))


@app.producer
async def clock() -> AsyncIterator[Tick]:
    for seconds in range(3600):
        yield Tick(seconds)
        await anyio.sleep(1)
