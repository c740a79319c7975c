"""Row 14: what else comes from a broker. It stops no topic, and all of it is counted."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec
import nats
import redis.asyncio

from tests.brokers.servers import BrokerServer, Kind
from tests.hardening.board import Check, Outcome, Row, Scale, both_forms
from wsflow import EventId, Query, Router, Topic, TopicName
from wsflow.brokers.nats import _class
from wsflow.limits import Limits
from wsflow.messages.events import TopicOptions
from wsflow.testing import MemoryPeer, MemoryServer, serve_in_memory


class News(msgspec.Struct, tag="news"):
    number: int
    id: Annotated[str, EventId()] = ""


Plain = Annotated[Topic[News], "plain"]
Kept = Annotated[Topic[News], TopicName("kept", history=1000)]

_KEPT = _class(TopicOptions(history=1000))
SUBJECTS = [
    "wsflow.l.0.plain",
    f"wsflow.l.{_KEPT}.kept",  # as if the stream had republished it
    f"wsflow.s.{_KEPT}.kept",  # stored, and republished
    "wsflow.c",
    "wsflow.l.0.alien",
]
CHANNELS = ["wsflow:t:plain", "wsflow:t:kept", "wsflow:c:", "wsflow:t:alien"]


def app() -> Router:
    router = Router("/")

    @router.on_connect
    async def enter(plain: Plain, kept: Kept, after: Annotated[str, Query()] = "") -> None:
        await plain.join(presence="somebody")
        await kept.join(after=after)

    @router.consumer
    async def nothing(message: str) -> None: ...

    return router


class Garbage:
    """Bytes of every kind: random, almost right, right for another version, and too deep."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        encode = msgspec.msgpack.encode
        packet = [1, "someone", 1, False, [], "", {"json": [1, b'{"type":"news","number":-1}']}]
        self.almost = [
            encode(packet),
            b"\n" + encode(packet),
            b"epoch 1-1 \n" + encode(packet),
            b"epoch 1-1 0-1\n" + encode(packet),
            b"e0c4 1-1 \n" + encode(packet),
            b"e0c4 9-9 8-8\n" + encode(packet),
        ]
        self.odd = [
            b"",
            b"\n",
            b"{}",
            b"hello",
            b'{"type":"news","number":1}',
            encode([2, *packet[1:]]),
            encode([1, "someone", -1, None, [], "", {}]),
            encode([1, "", 2**63, True, ["x"] * 100, "\x00", {"yaml": [1, b""]}]),
            encode([1, "someone", 7, False, [], "", {}]),
            b"\n" + encode([1, "someone", 8, False, [], "", {"json": [255, b"\xff\xfe"]}]),
            b"\x91" * 5000,
            b"\n" + b"\x91" * 5000,
            b"a b c\n" + encode(packet),
            b"a 1-1 1-x\n",
            b"\xff 9999999999999999999999-1 \n",
            b"\x80\x04\x95pickle",
        ]

    def next(self) -> bytes:
        match self.chance.randrange(4):
            case 0:
                return self.chance.randbytes(self.chance.randrange(200))
            case 1:
                return self.chance.choice(self.odd)
            case _:
                data = bytearray(self.chance.choice(self.almost))
                for _ in range(self.chance.randrange(1, 4)):
                    at = self.chance.randrange(len(data))
                    data[at : at + self.chance.randrange(3)] = self.chance.randbytes(
                        self.chance.randrange(3)
                    )
                return bytes(data)


class Log(logging.Handler):
    """Counts lines, and keeps what must not be there."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.lines = 0
        self.outcome = outcome

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        wrong = record.exc_info is not None or record.levelno >= logging.ERROR
        self.outcome.expect(not wrong, f"logged: {record.getMessage():.300} {record.exc_info}")


@asynccontextmanager
async def _sender(kind: Kind, server: BrokerServer):  # type: ignore[no-untyped-def]
    """Publishes bytes to all that wsflow listens to: by turns a plain topic, one with history, the
    notes of all processes, and a topic that nobody has declared."""
    if kind == "nats":
        client = await nats.connect(server.url)
        turn = iter(range(10**9))

        async def send(data: bytes) -> None:
            number = next(turn)
            await client.publish(SUBJECTS[number % len(SUBJECTS)], data)
            if number % 500 == 0:
                await client.flush()

        try:
            yield send
            await client.flush()
        finally:
            await client.close()
        return
    client = redis.asyncio.Redis(port=server.port)
    turn = iter(range(10**9))
    pipe = client.pipeline(transaction=False)

    async def send(data: bytes) -> None:
        number = next(turn)
        pipe.publish(CHANNELS[number % len(CHANNELS)], data)
        if number % 200 == 199:
            await pipe.execute()

    try:
        yield send
        await pipe.execute()
    finally:
        await client.aclose()


async def _still_works(server: MemoryServer, peer: MemoryPeer, outcome: Outcome, when: str) -> None:
    """Both topics carry a message to the peer."""
    for name, number in (("plain", 101), ("kept", 202)):
        try:
            await asyncio.wait_for(server.registry.topic(name).publish(News(number)), 5)
            while (await peer.receive(News, timeout=5)).number != number:
                pass  # garbage that happened to be right
        except Exception as exc:
            outcome.wrong.append(f"{when}: {name} is dead: {exc!r:.300}")


def _check(kind: Kind) -> Callable[[Scale], Outcome]:
    def measure(scale: Scale) -> Outcome:
        outcome = Outcome()
        count = scale.of(4000, 100_000)
        garbage = Garbage(scale.random())
        log = Log(outcome)
        server = BrokerServer(kind)
        server.start()

        async def run() -> None:
            limits = Limits(publish_timeout=5)
            async with serve_in_memory(app(), broker=server.url, limits=limits) as memory:
                async with memory.connect("/") as peer:
                    await _still_works(memory, peer, outcome, "before")
                    before = memory.registry.counters()
                    async with _sender(kind, server) as send:
                        for number in range(count):
                            await send(garbage.next())
                            if number % 100 == 0:
                                await asyncio.sleep(0)
                                peer_read(peer)
                    await asyncio.sleep(0.3)
                    peer_read(peer)
                    await _still_works(memory, peer, outcome, "after")
                    counters = memory.registry.counters()
                    told = counters["unreadable"] - before["unreadable"]
                    outcome.expect(told > count // 20, f"only {told} are counted as unreadable")
                    outcome.expect(
                        counters["reconnected"] == before["reconnected"], "the connection was lost"
                    )
                    outcome.expect(log.lines < 200, f"{log.lines} lines in the log")
                    outcome.figures = (
                        f"{kind}: {count:,} messages, {told:,} counted as unreadable, "
                        f"{log.lines} lines logged, both topics work: {outcome.reached}"
                    )

        logger = logging.getLogger("wsflow")
        logger.addHandler(log)
        propagate, logger.propagate = logger.propagate, False
        try:
            asyncio.run(run())
        finally:
            logger.removeHandler(log)
            logger.propagate = propagate
            server.stop()
        return outcome

    return measure


def peer_read(peer: MemoryPeer) -> None:
    """Read what has come, so that the peer does not lag."""
    while peer._transport.peer_unread():
        peer._transport.peer_take()


def alien_entry(scale: Scale) -> Outcome:
    """An entry in a Redis stream that wsflow has not written, and one with other fields."""
    outcome = Outcome()
    server = BrokerServer("valkey")
    server.start()

    async def run() -> None:
        limits = Limits(publish_timeout=3)
        async with serve_in_memory(app(), broker=server.url, limits=limits) as memory:
            async with memory.connect("/") as peer:
                first = await memory.registry.topic("kept").publish(News(1))
                await _still_works(memory, peer, outcome, "before")
                client = redis.asyncio.Redis(port=server.port)
                for fields in ({"x": "y"}, {"k": "a", "d": b"\xff"}, {"k": "a", "d": ""}):
                    await client.xadd("wsflow:h:{kept}", fields)
                await client.aclose()
                await _still_works(memory, peer, outcome, "after")
                # A process that has heard none of it reads the stream.
                async with serve_in_memory(app(), broker=server.url, limits=limits) as other:
                    async with other.connect(f"/?after={first}") as late:
                        await _still_works(other, late, outcome, "for who comes back")
                        await _still_works(memory, peer, outcome, "for the others")
                    counters = other.registry.counters()
                    told = counters["unreadable"] + counters["lost"]
                    outcome.expect(told, f"nothing of it is counted: {counters}")

    try:
        asyncio.run(asyncio.wait_for(run(), 60))
    except Exception as exc:
        outcome.wrong.append(f"{exc!r:.500}")
    finally:
        server.stop()
    outcome.figures = "alien entries in a stream: " + ("told" if outcome.reached else "not borne")
    return outcome


ROW = Row(
    14,
    "broker garbage",
    "10^5 messages",
    "0 crashes; losses told",
    [
        Check("valkey", _check("valkey")),
        Check("nats", _check("nats")),
        Check("alien entries", alien_entry),
    ],
)
test_quick, test_whole = both_forms(ROW)
