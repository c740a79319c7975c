"""Row 17: all at once, for long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import statistics
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any
from weakref import WeakSet

from tests.hardening.app import POLICIES
from tests.hardening.board import Check, Outcome, Row, Scale, both_forms
from tests.hardening.peers import Peer, connect, open_peer
from tests.hardening.process import MIB, Server, mib, running
from tests.hardening.test_malformed import FRAMES, Mutations
from tests.raw import frame, request

FLAT = 8 * MIB
"""How much more memory the last quarter may take than the second one."""

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"

_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", re.MULTILINE)
EXPLAINED = re.compile(
    r"^(\S+ wsflow(\.\w+)?: )?("
    r"wsflow \S+ serves .*"  # the start, and where it listens
    r"|connection \w+ at /work: consumer fail raised RuntimeError\n.*RuntimeError: as asked\n"
    r"|refused a connection to .*"
    r"|connection \w+ at \S+: invalid message: .*"
    r"|connection \w+ at /work: cancelled because the time was over: consumer do_work"  # resets
    r"|the event loop (was|is) blocked .*"
    r"|stopping: draining for at most .*"
    r")$",
    re.DOTALL,
)


class Soak:
    """A server, those who use it, and those who misuse it."""

    def __init__(self, server: Server, chance: random.Random, outcome: Outcome) -> None:
        self.server = server
        self.chance = chance
        self.outcome = outcome
        self.done = Counter[str]()
        self.over = False
        self.bomb = frame(self._deflated(b"a" * 2**22), rsv1=True)
        self.mutations = Mutations(chance, FRAMES)
        self.peers: WeakSet[Peer] = WeakSet()

    async def open(self, path: str = "/", **options: Any) -> Peer:
        peer = await self.connect(path, **options)
        assert await peer.opened == 101, f"{path}: {peer.status}"
        return peer

    async def connect(self, path: str = "/", **options: Any) -> Peer:
        peer = await connect(self.server.port, path, **options)
        self.peers.add(peer)
        return peer

    @staticmethod
    def _deflated(data: bytes) -> bytes:
        squeeze = zlib.compressobj(wbits=-15)
        return (squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]

    async def keep_doing(self, name: str, what: Callable[[], Awaitable[None]]) -> None:
        while not self.over:
            try:
                async with asyncio.timeout(60):
                    await what()
                self.done[name] += 1
            except (TimeoutError, ConnectionError, AssertionError) as exc:
                self.outcome.wrong.append(f"{name}: {exc!r:.300}")
                await asyncio.sleep(1)
            await asyncio.sleep(self.chance.random() * 0.2)

    # -- those who use it

    async def echo(self) -> None:
        peer = await self.open()
        for number in range(self.chance.randrange(1, 30)):
            text = f"{number} ".encode() * self.chance.choice([1, 10, 1000])
            peer.send(text)
            got = await peer.receive()
            assert got == text, f"{got[:50]!r} instead of {text[:50]!r}"
            await asyncio.sleep(self.chance.random() * 0.02)
        await peer.leave()
        assert peer.closed.result()[0] == 1000, f"closed with {peer.closed.result()}"

    async def work(self) -> None:
        peer = await self.open("/work")
        numbers = list(range(self.chance.randrange(1, 10)))
        for number in numbers:
            message = {"type": "work", "number": number, "seconds": self.chance.random() * 0.02}
            peer.send(json.dumps(message).encode())
        for number in numbers:
            assert json.loads(await peer.receive())["number"] == number
        await peer.leave()

    async def hear(self) -> None:
        peer = await self.open(f"/hear/{self.chance.choice(POLICIES)}")
        await asyncio.sleep(self.chance.random() * 2)
        await peer.leave()

    async def tell(self) -> None:
        peer = await self.open(f"/hear/{self.chance.choice(POLICIES)}")
        count = self.chance.randrange(1, 20)
        message = {"type": "tell", "count": count, "size": 4000, "rate": 200.0}
        peer.send(json.dumps(message).encode())
        while b'"done"' not in (await peer.receive())[:20]:
            pass
        await peer.leave()

    # -- those who misuse it

    async def _aside(self, peer: Peer, seconds: float) -> None:
        await asyncio.wait([peer.lost], timeout=seconds)
        peer.transport.abort()
        await peer.lost

    async def stall(self) -> None:
        peer = await self.open(f"/hear/{self.chance.choice(POLICIES)}", receives=4096)
        peer.stall()
        await self._aside(peer, self.chance.random() * 3)

    async def half(self) -> None:
        peer = await self.connect(silent=True)
        data = request("/work")
        peer.transport.write(data[: self.chance.randrange(len(data))])
        await self._aside(peer, self.chance.random() * 2)

    async def garbage(self) -> None:
        peer = await self.connect(headers=self.chance.choice([b"", OFFER]))
        await peer.opened
        for _ in range(5):
            if not peer.transport.is_closing():
                peer.transport.write(self.mutations.next())
        await self._aside(peer, 0.2)

    async def reset(self) -> None:
        peer = await self.open("/work")
        for number in range(self.chance.randrange(20)):
            peer.send(json.dumps({"type": "work", "number": number, "seconds": 0.1}).encode())
        await asyncio.sleep(self.chance.random() * 0.1)
        peer.reset()
        await peer.lost

    async def bombs(self) -> None:
        peer = await self.open(headers=OFFER)
        peer.transport.write(self.bomb)
        code, _ = await peer.closed
        assert code == 1009, f"a bomb was closed with {code}"
        peer.transport.abort()

    async def fail(self) -> None:
        peer = await self.open("/work")
        peer.send(b'{"type":"fail","text":"as asked"}')
        code, _ = await peer.closed
        assert code == 1011, f"a failing handler was closed with {code}"
        await peer.leave()
        await asyncio.sleep(self.chance.random())

    async def block(self) -> None:
        peer = await self.open("/work")
        peer.send(b'{"type":"block","seconds":0.02}')
        await peer.receive()
        await peer.leave()
        await asyncio.sleep(self.chance.random() * 2)

    async def another_site(self) -> None:
        peer = await self.connect(headers=b"Origin: https://evil.example\r\n")
        assert await peer.opened == 403
        await asyncio.sleep(self.chance.random())
        peer.transport.abort()

    @property
    def all(self) -> list[tuple[str, Callable[[], Awaitable[None]], int]]:
        users = [(self.echo, 8), (self.work, 6), (self.hear, 8), (self.tell, 2)]
        others = [
            (self.stall, 3),
            (self.half, 4),
            (self.garbage, 4),
            (self.reset, 3),
            (self.bombs, 1),
            (self.fail, 1),
            (self.block, 1),
            (self.another_site, 1),
        ]
        return [(what.__name__, what, count) for what, count in users + others]


def unexplained(log: str) -> list[str]:
    """The records of a log that nobody can explain."""
    begins = [0, *(found.start() for found in _RECORD.finditer(log)), len(log)]
    records = [log[a:b] for a, b in pairwise(begins) if a != b]
    texts = [_RECORD.sub("", record, count=1) for record in records]
    return [
        each
        for each in texts
        if not EXPLAINED.match(each.rstrip("\n") + "\n" * ("Traceback" in each))
    ]


async def _soak(loop: str, scale: Scale) -> Outcome:
    """One server, for its time."""
    outcome = Outcome()
    seconds = scale.of(3.0, 900.0)
    samples: list[int] = []
    flags = (
        *("--loop", loop, "--no-access-log", "--compression", "deflate"),
        *("--open-timeout", 1, "--close-timeout", 1),
        *("--ping-interval", 2, "--ping-timeout", 10, "--max-message-size", 2**20),
    )
    async with running(*flags) as server:
        soak = Soak(server, scale.random(), outcome)
        tasks = [
            asyncio.ensure_future(soak.keep_doing(name, what))
            for name, what, count in soak.all
            for _ in range(count)
        ]
        began, busy = time.monotonic(), server.seconds
        while time.monotonic() - began < seconds:
            await asyncio.sleep(seconds / 120)
            samples.append(server.memory)
        share = (server.seconds - busy) / (time.monotonic() - began)
        soak.over = True
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=90)
        for peer in list(soak.peers):
            peer.transport.abort()
        await _alone(server, outcome)
        server.process.terminate()
        exit_code = await server.ended()
        outcome.expect(exit_code == 0, f"exit {exit_code}")
        lines = unexplained(server.log)
        outcome.wrong += [f"unexplained: {line:.500}" for line in lines[:20]]
        quarter = len(samples) // 4
        early = statistics.median(samples[quarter : 2 * quarter])
        late = statistics.median(samples[-quarter:])
        if scale.whole:
            outcome.expect(late - early <= FLAT, f"memory: {mib(early)}, then {mib(late)}")
        idle = [name for name, _, _ in soak.all if not soak.done[name]]
        outcome.expect(not idle, f"never done: {idle}")
        outcome.figures = (
            f"{loop}: {seconds / 60:.2g} min, {sum(soak.done.values()):,} visits of "
            f"{len(soak.all)} kinds, {share:.0%} of a core; {mib(early)}, "
            f"then {mib(late)}; {len(lines)} unexplained lines"
        )
    return outcome


def soak(scale: Scale) -> Outcome:
    """A server on each event loop, at the same time."""

    async def both() -> list[Outcome]:
        return await asyncio.gather(*(_soak(loop, scale) for loop in ("asyncio", "uvloop")))

    outcomes = asyncio.run(both())
    return Outcome(
        "; ".join(each.figures for each in outcomes),
        [wrong for each in outcomes for wrong in each.wrong],
    )


async def _alone(server: Server, outcome: Outcome) -> None:
    """When all have left, nothing is left of them."""
    counters: dict[str, int] = {}
    peer = await open_peer(server.port, "/count")
    until = time.monotonic() + 10
    while counters.get("connections") != 1 and time.monotonic() < until:
        peer.send(b"how many?")
        counters = json.loads(await peer.receive())
        await asyncio.sleep(0.05)
    outcome.expect(counters["connections"] == 1, f"left behind: {counters}")
    outcome.expect(counters["waiting"] == 0, f"left behind: {counters}")
    while server.descriptors > 15 and time.monotonic() < until:
        await asyncio.sleep(0.05)
    outcome.expect(server.descriptors <= 15, f"{server.descriptors} descriptors are open")
    with contextlib.suppress(ConnectionError):
        await peer.leave()


ROW = Row(
    17,
    "soak: all at once, seeded",
    "30 min",
    "memory flat, 0 unexplained lines",
    [Check("soak", soak)],
)
test_quick, test_whole = both_forms(ROW)
