"""What an editor has to mark: each line that ends in ``error`` as a comment, and no other."""

from collections.abc import AsyncIterator

import msgspec

import wsflow
from wsflow import Call, Connection, Registry, Router, Topic
from wsflow.testing import MemoryPeer


class Said(msgspec.Struct, tag="said"):
    text: str


class Came(msgspec.Struct, tag="came"):
    who: str


class Add(Call[int], frozen=True):
    a: int
    b: int = 0


router = Router("/bad")


# -- a function that is not async, under every decorator


@router.lifespan  # error
def life() -> int:
    return 1


@router.on_connect  # error
def enter(connection: Connection) -> None: ...


@router.on_message  # error
def around() -> None: ...


@router.consumer  # error
def say(message: Said) -> None: ...


@router.consumer(concurrency=2)  # error
def say_often(message: Came) -> int:
    return 1


@router.producer  # error
def produce() -> Said:
    return Said("a")


@router.producer(on_end="keep")  # error
def produce_on() -> Said:
    return Said("a")


@router.on_disconnect  # error
def gone() -> None: ...


@router.on_error  # error
def failed(error: ValueError) -> None: ...


@router.on_disconnect  # error
async def gone_again() -> AsyncIterator[None]:
    yield


# -- calls


async def calls(connection: Connection) -> None:
    Add("1")  # error
    Add(1).a = 2  # error
    text: str = await connection.call(Add(1))  # error
    await connection.call(Said("a"))  # error
    print(text)


# -- topics


async def topics(registry: Registry, topic: Topic[Said]) -> None:
    await registry.topic("a", Said).publish(Came("ada"))  # error
    await registry.topic("a", Said, Came).publish("text")  # error
    await topic.publish("text")  # error


# -- clients and peers in tests


async def peers(peer: MemoryPeer) -> None:
    await peer.receive(5)  # error
    await peer.receive("said")  # error
    heard = await peer.receive(Said)
    print(heard.who)  # error
    async with wsflow.connect("ws://x/", receives=Said) as one:
        came: Came = await one.receive()  # error
        print(came)
    async with wsflow.connect("ws://x/", receives=(Said, Came)) as two:
        said: Said = await two.receive()  # error
        print(said)
        async for each in two:
            print(each.who)  # error
    async with wsflow.connect("ws://x/") as raw:
        number: int = await raw.receive()  # error
        print(number)
