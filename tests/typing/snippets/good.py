"""What no editor may mark."""

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar, assert_type

import msgspec

import wsflow
from wsflow import Call, Connection, Registry, Router, Stream, Topic
from wsflow.testing import MemoryPeer

P = ParamSpec("P")
T = TypeVar("T")


class Said(msgspec.Struct, tag="said"):
    text: str


class Came(msgspec.Struct, tag="came", frozen=True):
    who: str


class Went(msgspec.Struct, tag="went"):
    who: str


class Left(msgspec.Struct, tag="left"):
    who: str


# -- calls take the options of a Struct


class Add(Call[int], frozen=True):
    a: int
    b: int = 0


class AddMore(Add, frozen=True, kw_only=True, tag="add_more"):
    c: int


class Plain(Call[str]):
    text: str = msgspec.field(default="a", name="t")


class More(Plain, tag="more", omit_defaults=True, array_like=True):
    number: int = 1


class Echo(Call[T], Generic[T], frozen=True, tag="echo"):
    value: T


class Count(Stream[int], frozen=True, order=True, rename="camel", tag_field="type"):
    upto: int


class Whole(Stream[str], forbid_unknown_fields=True, gc=False):
    text: str


async def calls(connection: Connection) -> None:
    assert_type(await connection.call(Add(1, b=2)), int)
    assert_type(await connection.call(AddMore(1, c=2)), int)
    assert_type(await connection.call(Plain()), str)
    assert_type(await connection.call(More(number=2)), str)
    assert_type(await connection.call(Echo(b"a")), bytes)
    async with connection.stream(Count(3)) as items:
        assert_type(await anext(items), int)
    Plain().text = "b"


# -- topics


async def topics(registry: Registry) -> None:
    assert_type(registry.topic("a"), Topic[Any])
    assert_type(registry.topic("a", Said), Topic[Said])
    assert_type(registry.topic("a", Said, Came), Topic[Said | Came])
    assert_type(registry.topic("a", Said, Came, Went), Topic[Said | Came | Went])
    await registry.topic("a", Said).publish(Said("a"))
    async for message in registry.topic("a", Said, Came):
        assert_type(message, Said | Came)


# -- clients and peers in tests


async def peers(peer: MemoryPeer) -> None:
    assert_type(await peer.receive(), Any)
    assert_type(await peer.receive(Said), Said)
    assert_type(await peer.receive(str, timeout=2), str)
    assert_type(await peer.receive(Said, Came, Went), Said | Came | Went)
    await peer.receive(list[int])
    await peer.receive(Said, Came, Went, Left)
    await peer.receive(Said | Came)
    async with wsflow.connect("ws://x/") as raw:
        assert_type(raw, wsflow.Peer[str | bytes])
        assert_type(await raw.receive(timeout=1), str | bytes)
    async with wsflow.connect("ws://x/", receives=Said, proxy=None) as one:
        assert_type(await one.receive(), Said)
        async for said in one:
            assert_type(said, Said)
    async with wsflow.connect("ws://x/", receives=(Said,), reconnect=True) as one:
        assert_type(await one.receive(), Said)
    async with wsflow.connect("ws://x/", receives=(Said, Came)) as two:
        assert_type(await two.receive(), Said | Came)
        held: wsflow.Peer = two
        assert_type(await held.receive(), Any)
    async with wsflow.connect("ws://x/", receives=(Said, Came, Went)) as three:
        assert_type(await three.receive(), Said | Came | Went)
    async with wsflow.connect("ws://x/", receives=(Said, Came, Went, Left)) as four:
        assert_type(await four.receive(), Said | Came | Went | Left)
    async with wsflow.connect("ws://x/", receives=()) as none:
        assert_type(await none.call(Add(1)), int)
    async with wsflow.connect("ws://x/", receives=Said | Came) as union:
        await union.send(Said("a"))


# -- every form of a function


router = Router("/good")


@router.lifespan
async def life() -> AsyncIterator[int]:
    yield 1


@router.lifespan()
async def begin() -> str:
    return "a"


@router.on_connect
async def enter() -> AsyncGenerator[int, None]:
    yield 1


@router.on_connect()
async def see(connection: Connection) -> None: ...


@router.on_message
async def around() -> AsyncIterator[None]:
    yield


@router.consumer
async def say(message: Said) -> Said:
    return message


@router.consumer(concurrency=3)
async def count(message: Count) -> AsyncIterator[int]:
    yield 1


@router.producer
async def produce() -> AsyncIterator[Said]:
    yield Said("a")


@router.producer(on_end="keep")
async def produce_once() -> None: ...


@router.on_disconnect
async def gone() -> None: ...


@router.on_error
async def failed(error: ValueError) -> Said | None:
    return None


def timed(fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    @functools.wraps(fn)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return await fn(*args, **kwargs)

    return call


@router.consumer
@timed
async def wrapped(message: Came) -> None: ...


class Handler:
    async def __call__(self, message: Went) -> None: ...


async def greets(greeting: str, message: Left) -> None: ...


router.consumer(Handler())
router.consumer(functools.partial(greets, "hello"))
stays: Callable[[Said], Awaitable[Said]] = say
stays_too: Callable[[], AsyncIterator[Said]] = produce
