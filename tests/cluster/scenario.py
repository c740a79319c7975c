"""Four workers, 400 peers, four publishers, 20,000 messages: who has got what.

Each room has its share of the peers. Publishers go round the rooms. What a publisher was told to be
published is expected at every peer of its room, once, in the publisher's order.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

import wsflow
from tests.brokers.servers import BrokerServer
from tests.cluster.app import Back, Gap, Item, Publish
from tests.processes import Run

decode = msgspec.json.Decoder(Item | Back | Gap).decode
encode = msgspec.json.encode


PACE = 0.01
"""Seconds between two messages of a publisher that has published its share."""


@dataclass
class Size:
    """How much of everything."""

    workers: int = 4
    rooms: int = 20
    peers: int = 400
    publishers: int = 4
    messages: int = 20_000


@dataclass
class Outcome:
    """What was seen.

    Attributes:
        published: messages that publishers were told to be published.
        failed: messages for which they got an error.
        delivered: messages that peers got.
        lost: deliveries that are missing.
        twice: deliveries that came again.
        disorder: deliveries that came before an earlier one of the same publisher.
        unrecovered: times that a peer came back and was told that it had missed something.
        reconnects: by why: the close code, or the error.
        refused: handshakes that were answered with an HTTP error.
        seconds: from the first message to the last.
    """

    published: int = 0
    failed: int = 0
    delivered: int = 0
    lost: int = 0
    twice: int = 0
    disorder: int = 0
    unrecovered: int = 0
    reconnects: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    seconds: float = 0.0


class Reader:
    """One peer of a room; it comes back when it is cut off, with the last id that it has seen.

    Attributes:
        heard: who has published what, in the order in which it came.
        latest: the last number of each publisher.
        breaks: where in ``heard`` the peer knows that something may be missing: from one place to
            another. It was told so, or it has come back to a topic that replays nothing.
        there: whether it is connected now, and has joined.
    """

    def __init__(self, base: str, kind: str, room: int | str, outcome: Outcome) -> None:
        self.room = room
        self.heard: list[tuple[int, int]] = []
        self.latest: dict[int, int] = {}
        self.breaks: list[tuple[int, int]] = []
        self.joined = asyncio.Event()
        self.there = False
        self._target = f"{base}/{kind}/{room}"
        self._kept = kind == "kept"
        self._last = ""
        self._outcome = outcome

    async def read(self) -> None:
        while True:
            try:
                why = await self._visit()
            except InvalidHandshake:
                self._outcome.refused += 1
                why = "refused"
            except ConnectionClosed as exc:
                why = str(exc.rcvd.code if exc.rcvd else 1006)
            except (OSError, EOFError, TimeoutError) as exc:
                why = type(exc).__name__
            finally:
                self.there = False
            seen = self._outcome.reconnects
            seen[why] = seen.get(why, 0) + 1
            await asyncio.sleep(random.uniform(0, 0.2))

    async def _visit(self) -> str:
        """Connect, and read until the end. Returns the close code."""
        query = f"?after={self._last}" if self._last else ""
        async with connect(self._target + query, compression=None) as socket:
            since = len(self.heard)
            again, resumes = self.joined.is_set(), bool(self._last)
            if again and not resumes:
                self.breaks.append((since, since))
            if not self._kept:
                self._joined()
            async for message in socket:
                self._take(decode(message), since if resumes else None)
        return str(socket.close_code)

    def _take(self, item: Item | Back | Gap, since: int | None) -> None:
        """Something has come; ``since`` is the place at which it has come back to what it knows."""
        here = len(self.heard)
        if isinstance(item, Gap):
            self._outcome.unrecovered += self._kept
            self.breaks.append((here, here))
        elif isinstance(item, Back):  # behind what is replayed
            if since is not None and not item.recovered:
                self._outcome.unrecovered += 1
                self.breaks.append((since, here))
            self._joined()
        else:
            self.heard.append((item.publisher, item.number))
            self.latest[item.publisher] = item.number
            if self._kept:
                self._last = item.id

    def _joined(self) -> None:
        self.there = True
        self.joined.set()


Say = Callable[[str, Item], Any]
"""Publishes. From outside of the app it returns the id; "" if the message is in no history."""


async def through_peers(base: str, publish: Callable[[Say], Any]) -> None:
    """Publish by asking the app to, over a connection of one's own."""
    async with connect(f"{base}/publish", compression=None) as socket:

        async def say(topic: str, item: Item) -> None:
            await socket.send(encode(Publish(topic, item.publisher, item.number)).decode())
            answer = str(await socket.recv())
            if not answer.isdigit():
                raise wsflow.BrokerError(answer)
            assert int(answer) == item.number

        await publish(say)


async def through_the_broker(url: str, publish: Callable[[Say], Any]) -> None:
    """Publish from outside, as a job would."""
    async with wsflow.publisher(url, timeout=30) as say:
        await publish(say)


class Scenario:
    """One run.

    Args:
        run: the server, with ``size.workers`` workers.
        port: where it listens.
        url: its broker.
        kind: ``plain`` or ``kept``.
        size: how much of everything.
    """

    def __init__(self, run: Run, port: int, url: str, kind: str, size: Size) -> None:
        self._run = run
        self._base = f"ws://127.0.0.1:{port}"
        self._url = url
        self._kind = kind
        self._size = size
        self.outcome = Outcome()
        self._said: dict[int, list[tuple[int, int]]] = {room: [] for room in range(size.rooms)}
        self._maybe: set[tuple[int, int]] = set()
        self._calm = asyncio.Event()  # nothing is to be disturbed any more
        self._readers: list[Reader] = []
        self.progress = asyncio.Condition()

    async def play(self, disturb: Callable[[Scenario], Any] | None = None) -> Outcome:
        size = self._size
        readers = self._readers = [
            Reader(self._base, self._kind, number % size.rooms, self.outcome)
            for number in range(size.peers)
        ]
        tasks = [asyncio.create_task(reader.read()) for reader in readers]
        try:
            for reader in readers:
                await asyncio.wait_for(reader.joined.wait(), 60)
            began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for publisher in range(size.publishers):
                    group.create_task(self._publish(publisher))
                if disturb is not None:
                    await disturb(self)
                self._calm.set()
            await self._all_heard(readers)
            self.outcome.seconds = time.monotonic() - began
        finally:
            for task in tasks:
                task.cancel()
            for ended in (await asyncio.wait(tasks))[0]:
                assert ended.cancelled(), ended.exception()
        for reader in readers:
            self._judge(reader)
        return self.outcome

    async def reached(self, part: float) -> None:
        """Wait until this part of all messages is published."""
        target = int(part * self._size.messages)
        async with self.progress:
            await self.progress.wait_for(lambda: self.outcome.published >= target)

    async def all_have_an_id(self) -> None:
        """Wait until every peer has got something: who has not cannot say what it has missed."""
        while not all(reader.heard for reader in self._readers):
            await asyncio.sleep(0.01)

    async def _publish(self, publisher: int) -> None:
        size = self._size
        rooms = itertools.cycle(range(size.rooms))

        async def publish(say: Say) -> None:
            for number in itertools.count():
                if number >= size.messages // size.publishers:
                    if self._calm.is_set():
                        return
                    await asyncio.sleep(PACE)
                room = next(rooms)
                item = Item(publisher, number)
                try:
                    await say(f"{self._kind}.{room}", item)
                except wsflow.BrokerError:
                    self.outcome.failed += 1
                    self._maybe.add((publisher, number))
                else:
                    self._said[room].append((publisher, number))
                    self.outcome.published += 1
                    async with self.progress:
                        self.progress.notify_all()

        if self._kind == "plain":
            await through_peers(self._base, publish)
        else:
            await through_the_broker(self._url, publish)

    async def _all_heard(self, readers: list[Reader]) -> None:
        """Wait until every peer has as much as it must, or nothing more comes."""
        quiet = 0
        before = -1
        while quiet < 100:
            missing = sum(len(self._said[reader.room]) > len(reader.heard) for reader in readers)
            if not missing:
                return
            now = sum(len(reader.heard) for reader in readers)
            quiet = quiet + 1 if now == before else 0
            before = now
            await asyncio.sleep(0.1)

    def _judge(self, reader: Reader) -> None:
        expected = set(self._said[reader.room])
        heard = [each for each in reader.heard if each not in self._maybe]
        unique = set(heard)
        self.outcome.delivered += len(heard)
        self.outcome.lost += len(expected - unique)
        self.outcome.twice += len(heard) - len(unique)
        for publisher in range(self._size.publishers):
            mine = [number for by, number in heard if by == publisher]
            self.outcome.disorder += sum(a > b for a, b in itertools.pairwise(mine))


def children_of(run: Run, command: str = "") -> list[int]:
    """The process ids of a server's children whose command has this in it."""
    children = f"/proc/{run.process.pid}/task/{run.process.pid}/children"
    found = []
    with open(children) as listed:
        for pid in map(int, listed.read().split()):
            with open(f"/proc/{pid}/cmdline", "rb") as words:
                if command.encode() in words.read():
                    found.append(pid)
    return found


def disturbance(run: Run, server: BrokerServer) -> Callable[[Scenario], Any]:
    """A worker is killed, the broker is killed and restarted, and all workers are replaced.

    Publishing goes on until they are, at a pace that leaves the machine room to start them.
    """

    async def disturb(scenario: Scenario) -> None:
        await scenario.reached(0.2)
        await scenario.all_have_an_id()
        os.kill(children_of(run, "wsflow.server.worker")[0], signal.SIGKILL)
        await scenario.reached(0.4)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.start)
        await scenario.reached(0.6)
        run.process.send_signal(signal.SIGHUP)
        await run.until("all workers are replaced")

    return disturb
