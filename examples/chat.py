"""A chat with rooms: who sends to ``/chat/lobby?name=ada`` is heard by all in the lobby.

Everybody is shown who is there, and who comes and goes. Run it: ``wsflow run examples.chat:app``,
or in four processes: ``wsflow run examples.chat:app --workers 4``
"""

from collections.abc import AsyncIterator
from typing import Annotated

import anyio
import msgspec

from wsflow import MemberJoined, MemberLeft, Query, Reject, Router, Topic, TopicName


class Say(msgspec.Struct, tag="say"):  # what clients send
    text: str


class Said(msgspec.Struct, tag="said"):  # what they receive
    who: str
    text: str


class Came(msgspec.Struct, tag="came"):  # so do these: first who is there, then who comes
    who: str


class Went(msgspec.Struct, tag="went"):
    who: str


class Tick(msgspec.Struct, tag="tick"):
    seconds: int


class Member(msgspec.Struct):
    name: str


# A typed pub/sub topic, named after the path, and what is known of those who join it.
Room = Annotated[Topic[Said], TopicName("room.{room}", presence=Member)]

app = Router("/chat/{room}")


@app.on_connect
async def enter(room: Room, name: Annotated[str, Query()] = "") -> Member:
    if not name:
        raise Reject(401, "a name is needed")  # a real HTTP answer: the socket is not open yet
    member = Member(name)
    await room.join(presence=member)  # left again on disconnect, whatever happens
    return member  # handlers may now ask for a Member


@app.consumer
async def say(message: Say, member: Member, room: Room) -> None:
    await room.publish(Said(member.name, message.text))


@app.producer
async def clock() -> AsyncIterator[Tick]:
    for seconds in range(3600):
        yield Tick(seconds)
        await anyio.sleep(1)


@app.producer
async def roster(room: Room) -> AsyncIterator[Came | Went]:
    async for change in room.watch_members():
        match change:
            case MemberJoined(member):
                yield Came(member.presence.name)
            case MemberLeft(member):
                yield Went(member.presence.name)
