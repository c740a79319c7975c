"""A crowd comes back at once, and each of it has missed a thousand events.

Beside it somebody talks on another topic, from a process of his own: how long his messages take is
compared with those beside a crowd that has missed nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
import zlib
from dataclasses import dataclass

import wsflow
from tests.brokers.servers import BrokerServer
from tests.cluster.app import Publish, Wide
from tests.cluster.scenario import encode
from tests.hardening.peers import connect, open_peer
from tests.hardening.process import Server, mib, percentile, running

BEFORE = 50
"""Messages that are timed before the crowd comes."""

SIZE = 300
"""Bytes of the text of an event."""


@dataclass
class Storm:
    """What was seen.

    Attributes:
        seconds: until all had what they had missed.
        refused: who was not let in.
        wrong: who has got something else than the others.
        more: bytes of memory that the server has used more.
        p99: how long messages on another topic took, in seconds, beside a crowd that had missed
            nothing and beside one that had.
    """

    seconds: float = 0.0
    refused: int = 0
    wrong: int = 0
    more: int = 0
    p99: tuple[float, float] = (0.0, 0.0)

    @property
    def weathered(self) -> bool:
        """Whether it was as it must be."""
        calm, storm = self.p99
        return self.seconds <= 5 and not (self.refused or self.wrong) and storm <= 2 * calm

    def __str__(self) -> str:
        calm, storm = self.p99
        return (
            f"back after {self.seconds:.1f} s, {self.refused} refused, {self.wrong} wrong, "
            f"{mib(self.more)} more; another topic: p99 {calm * 1000:.0f} ms, then "
            f"{storm * 1000:.0f} ms"
        )


async def crowd(server: Server, peers: int, after: str, most: int) -> tuple[float, list[bytes]]:
    """Peers that come back with the same id. Returns how long it took until each had ``most``
    events, and what each has got."""

    class Count:
        def __init__(self) -> None:
            self.heard = 0
            self.sum = 0

        def __call__(self, payload: bytes) -> None:
            self.heard += 1
            self.sum = zlib.crc32(payload, self.sum)
            if self.heard == most:
                done.release()

    done = asyncio.Semaphore(0)
    counts = [Count() for _ in range(peers)]
    began = time.monotonic()
    found = await asyncio.gather(
        *(connect(server.port, f"/storm?after={after}", heard=count) for count in counts)
    )
    statuses = [await peer.opened for peer in found]
    if most:
        async with asyncio.timeout(120):
            for _ in range(statuses.count(101)):
                await done.acquire()
    took = time.monotonic() - began
    await asyncio.sleep(0.2)
    for peer in found:
        peer.transport.abort()
    return took, [
        b"%d %d %d" % each
        for each in zip(
            statuses,
            (count.heard for count in counts),
            (count.sum for count in counts),
            strict=True,
        )
    ]


async def talk(port: int) -> None:
    """Say something on a topic, again and again, until the standard input ends; print how long each
    message took to come back."""
    speaker, listener = await open_peer(port, "/publish"), await open_peer(port, "/plain/0")
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    over = asyncio.ensure_future(reader.read())
    for number in itertools.count():
        began = time.monotonic()
        speaker.send(encode(Publish("plain.0", 0, number)))
        await listener.receive()
        print(time.monotonic() - began, flush=True)
        await speaker.receive()
        if over.done():
            return
        await asyncio.sleep(0.002)


async def beside(
    server: Server, peers: int, after: str, most: int
) -> tuple[float, list[bytes], float]:
    """The same as ``crowd``, and how long messages on another topic took meanwhile."""
    talking = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.cluster.storm",
        str(server.port),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert talking.stdin is not None
    assert talking.stdout is not None
    for _ in range(BEFORE):
        await talking.stdout.readline()
    lines: list[bytes] = []

    async def read() -> None:
        while line := await talking.stdout.readline():
            lines.append(line)

    reading = asyncio.ensure_future(read())
    took, got = await crowd(server, peers, after, most)
    talking.stdin.close()
    await reading
    await talking.wait()
    return took, got, percentile([float(line) for line in lines], 0.99)


async def play(kind: str, peers: int, events: int) -> Storm:
    broker = BrokerServer(kind)  # type: ignore[arg-type]
    broker.start()
    storm = Storm()
    try:
        arguments = ("--broker", broker.url, "--no-access-log", "--max-connections-per-client", "0")
        async with running(*arguments, app="tests.cluster.app:app") as server:
            async with wsflow.publisher(broker.url, timeout=30) as publish:
                keeper = await open_peer(server.port, "/storm")
                await keeper.leave()
                first = await publish("storm", Wide("x" * SIZE))
                pending = [publish("storm", Wide(f"{number:{SIZE}}")) for number in range(events)]
                ids = [await each for each in pending]
            await beside(server, peers, ids[-1], 0)
            server.forget_peak()
            used = server.memory
            _, _, calm = await beside(server, peers, ids[-1], 0)
            storm.seconds, got, wild = await beside(server, peers, first, events)
            storm.more = server.peak - used
            storm.p99 = calm, wild
            storm.refused = sum(not each.startswith(b"101 ") for each in got)
            storm.wrong = len({each for each in got if each.startswith(b"101 ")}) - 1
    finally:
        broker.stop()
    return storm


if __name__ == "__main__":
    asyncio.run(talk(int(sys.argv[1])))
