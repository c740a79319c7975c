"""Two processes of one app at one broker, peers in each, and who publishes: what the faults of
``faults.py`` are done to."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake

import wsflow
from tests.cluster.app import Item
from tests.cluster.judge import Count, judge
from tests.cluster.scenario import Outcome, Reader, Say, through_peers
from tests.cluster.sites import Site
from tests.processes import free_port

ROOT = Path(__file__).parents[2]
PACE = 0.04
"""Seconds between two messages of a publisher."""
HEAL = 60.0
"""Seconds within which all must be well again behind a fault."""
HELD_UP = 5.0
"""Seconds after which a publisher counts as held up, where the fault is somewhere else."""
READERS = {"kept": 3, "plain": 2}
"""Peers in each process, on the topic with history and on the other one."""
AWAY = (wsflow.BrokerError, OSError, EOFError, TimeoutError, ConnectionClosed, InvalidHandshake)
"""What is raised where a process or the broker is not there."""
OUTSIDE = 100
"""The number of the publisher that is in no process."""


def environment(path: str) -> dict[str, str]:
    """In which Python looks for modules in this folder first, if there is one, and then here."""
    paths = [each for each in (path, str(ROOT)) if each]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


class Process:
    """One ``wsflow run``, which can be killed and started again at the same port.

    Args:
        folder: where its log is.
        module: what is run in place of ``wsflow``.
        path: a folder that comes before all others where modules are looked for.
    """

    def __init__(self, folder: Path, module: str = "wsflow", path: str = "") -> None:
        self.port = free_port()
        self.base = f"ws://127.0.0.1:{self.port}"
        self._file = folder / f"{self.port}.log"
        self._module = module
        self._path = path
        self._process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> str:
        return self._file.read_text(errors="replace")

    async def start(self, url: str) -> None:
        """Start it, and wait until it serves."""
        words = ["-P", "-m", self._module, "run", "tests.cluster.app:app", "--broker", url]
        words += ["--port", str(self.port), "--no-access-log", "--publish-timeout", "30"]
        env = environment(self._path)
        self._file.touch()
        begins = len(self.log)
        with self._file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *words, stdout=log, stderr=log, env=env, cwd=ROOT
            )
        async with asyncio.timeout(60):
            while "stop it with Ctrl-C" not in self.log[begins:]:
                assert self._process.returncode is None, self.log[begins:]
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Have it drain and stop."""
        await self._end(signal.SIGTERM)

    async def _end(self, number: int) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            await asyncio.wait_for(process.wait(), 40)
        except TimeoutError:
            process.kill()
            await process.wait()


class Talker:
    """Publishes numbers on a topic, one after the other, and notes what became of each.

    Attributes:
        said: those that were acknowledged.
        maybe: those for which there was an error or no answer: they may have come, or not.
        unkept: how many were acknowledged without an id, where there should be one.
        number: the next one.
        slowest: seconds that the slowest acknowledgement took.
        where: the process through which it publishes; None for one outside of both.
    """

    def __init__(self, publisher: int, topic: str, where: int | None) -> None:
        self.publisher = publisher
        self.topic = topic
        self.where = where
        self.said: list[int] = []
        self.maybe: set[int] = set()
        self.unkept = 0
        self.number = 0
        self.slowest = 0.0
        self._over = False

    def stop(self) -> None:
        """Publish no more."""
        self._over = True

    async def talk(self, reach: Callable[[Callable[[Say], Any]], Any]) -> None:
        """Publish until ``stop``, whatever happens. ``reach`` finds the way to the broker."""
        while not self._over:
            with contextlib.suppress(*AWAY):
                await reach(self._publish)
            await asyncio.sleep(0.1)

    async def _publish(self, say: Say) -> None:
        while not self._over:
            number, self.number = self.number, self.number + 1
            self.maybe.add(number)
            began = time.monotonic()
            with contextlib.suppress(wsflow.BrokerError):
                self.unkept += await say(self.topic, Item(self.publisher, number)) == ""
                self.maybe.discard(number)
                self.said.append(number)
            self.slowest = max(self.slowest, time.monotonic() - began)
            await asyncio.sleep(PACE)


@dataclass
class Verdict:
    """What a fault has done.

    Attributes:
        kept: deliveries on the topic with history.
        other: deliveries on the other topic.
        unkept: messages on it that were acknowledged and not kept, as if it had no history.
        published: messages that were acknowledged, on both.
        felt: what was felt on the other topic where it must not be.
        healed: seconds until all was well again; None if it was not within ``HEAL``.
        failure: why the fault could not be done.
        absent: what is not there, so that the fault was left out.
        log: what both processes have logged of it.
        note: what else is to be known.
    """

    kept: Count = field(default_factory=Count)
    other: Count = field(default_factory=Count)
    unkept: int = 0
    published: int = 0
    felt: list[str] = field(default_factory=list)
    healed: float | None = None
    failure: str = ""
    absent: str = ""
    log: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def good(self) -> bool:
        wrong = self.kept.wrong or self.unkept or self.other.wrong or self.felt or self.failure
        return bool(self.absent) or not (wrong or self.healed is None)


class Stage:
    """Two processes, their peers, and who publishes.

    Args:
        site: the broker.
        processes: both.
        dice: how long a fault takes is drawn from it; None for as long as it takes at most.

    Attributes:
        victim: which process is hurt by a fault that hurts one.
    """

    def __init__(
        self, site: Any, processes: list[Process], dice: random.Random | None = None
    ) -> None:
        self.site = site
        self.processes = processes
        self.victim = 0
        self.outcome = Outcome()
        self._dice = dice
        self.readers = {
            (kind, where): [
                Reader(process.base, kind, 0, self.outcome) for _ in range(READERS[kind])
            ]
            for kind in READERS
            for where, process in enumerate(processes)
        }
        self.talkers = [
            Talker(10 * where + index, f"{kind}.0", where)
            for where in range(len(processes))
            for index, kind in enumerate(("kept", "kept", "plain"))
        ]
        self.talkers.append(Talker(OUTSIDE, "kept.0", None))
        self._tasks: list[asyncio.Task[None]] = []
        self._talking: list[asyncio.Task[None]] = []  # of these

    # -- what happens on it

    async def open(self) -> None:
        """Start all, and wait until every peer gets what is published."""
        for process, url in zip(self.processes, self.site.urls, strict=True):
            await process.start(url)
        everybody = list(itertools.chain(*self.readers.values()))
        self._tasks += [asyncio.create_task(each.read()) for each in everybody]
        async with asyncio.timeout(HEAL):
            for reader in everybody:
                await reader.joined.wait()
        self._talking = [
            asyncio.create_task(each.talk(self._way_of(each))) for each in self.talkers
        ]
        self._tasks += self._talking
        assert await self.healed() is not None, "\n".join(each.log for each in self.processes)

    def _way_of(self, talker: Talker) -> Callable[[Callable[[Say], Any]], Any]:
        where = talker.where

        async def through(publish: Callable[[Say], Any]) -> None:
            assert where is not None
            await through_peers(self.processes[where].base, publish)

        async def outside(publish: Callable[[Say], Any]) -> None:
            async with wsflow.publisher(self.site.url, timeout=30) as say:
                await publish(say)

        return outside if where is None else through

    async def close(self) -> None:
        """Stop all, however far it has come."""
        for task in self._tasks:
            task.cancel()
        for ended in (await asyncio.wait(self._tasks))[0] if self._tasks else ():
            assert ended.cancelled() or not ended.exception(), ended.exception()
        await asyncio.gather(*(each.stop() for each in self.processes))

    async def lasts(self, most: float) -> None:
        """Let a fault last so many seconds; fewer if the dice say so."""
        await asyncio.sleep(self._dice.uniform(1, most) if self._dice else most)

    async def restart(self, where: int) -> None:
        """Start a process that has ended."""
        await self.processes[where].start(self.site.urls[where])

    async def flows(self, count: int = 25) -> None:
        """Wait until so many more messages of each publisher have reached every peer."""
        ends = {each: each.number + count for each in self.talkers}
        async with asyncio.timeout(HEAL):
            while not self._reached(ends):
                await asyncio.sleep(0.02)

    async def healed(self) -> float | None:
        """Wait until every peer is there, and a message of each publisher that was published from
        now on has reached all. Returns how long it took; None if it took too long."""
        began = time.monotonic()
        ends = {each: each.number for each in self.talkers}
        while not self._reached(ends):
            if time.monotonic() - began > HEAL:
                return None
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    def _readers_of(self, topic: str) -> Iterable[tuple[int, Reader]]:
        """The peers on a topic, with the process of each."""
        for (kind, where), readers in self.readers.items():
            if topic == f"{kind}.0":
                for each in readers:
                    yield where, each

    def _reached(self, ends: dict[Talker, int]) -> bool:
        """Whether what was acknowledged from these numbers on has reached all who are there."""
        return all(
            talker.said
            and talker.said[-1] >= end
            and all(
                reader.there and reader.latest.get(talker.publisher, -1) >= end
                for _, reader in self._readers_of(talker.topic)
            )
            for talker, end in ends.items()
        )

    async def calm(self) -> None:
        """Publish no more, and wait until all that was acknowledged has come, or nothing more
        comes."""
        for talker in self.talkers:
            talker.stop()
        await asyncio.wait(self._talking, timeout=HEAL)
        ends = {each: each.said[-1] for each in self.talkers if each.said}
        quiet, before, until = 0, -1, time.monotonic() + HEAL
        while quiet < (10 if self._reached(ends) else 50) and time.monotonic() < until:
            now = sum(len(each.heard) for each in itertools.chain(*self.readers.values()))
            quiet = quiet + 1 if now == before else 0
            before = now
            await asyncio.sleep(0.1)

    # -- what is seen on it

    def judge(self, spared: Iterable[int]) -> Verdict:
        """Judge what has come, once it is calm. The fault must not be felt on the other topic in
        the processes that it spares."""
        verdict = Verdict(
            published=sum(len(each.said) for each in self.talkers),
            unkept=sum(each.unkept for each in self.talkers),
        )
        for talker in self.talkers:
            for where, reader in self._readers_of(talker.topic):
                count = judge(
                    talker.publisher, talker.said, talker.maybe, reader.heard, reader.breaks
                )
                if talker.topic.startswith("kept"):
                    verdict.kept += count
                else:
                    verdict.other += count
                    if where in spared and count.told:
                        verdict.felt.append(f"{count.told} missing at a peer elsewhere")
        for where in spared:
            verdict.felt += self._felt(where)
        for process in self.processes:
            if any(each in process.log for each in self.site.secrets):
                verdict.felt.append("the log shows a password")
        verdict.log = self.logged()
        return verdict

    def _felt(self, where: int) -> Iterable[str]:
        """What was felt on the other topic in a process where nothing must be."""
        for reader in self.readers["plain", where]:
            if reader.breaks:
                yield f"a peer elsewhere was interrupted {len(reader.breaks)} times"
        for talker in self.talkers:
            if talker.where == where and talker.topic.startswith("plain"):
                if talker.maybe:
                    yield f"{len(talker.maybe)} refused elsewhere"
                if talker.slowest > HELD_UP:
                    yield f"held up elsewhere for {talker.slowest:.1f} s"

    def logged(self) -> list[str]:
        """The distinct warnings and errors of both processes, without what differs by chance."""
        lines: dict[str, None] = {}
        for process in self.processes:
            for line in process.log.splitlines():
                if found := _LINE.match(line):
                    lines[shortened(found[1])] = None
        return list(lines)


_LINE = re.compile(r"^\d{4}-\S+ \S+ ((?:WARNING|ERROR|CRITICAL) .*)")
_CHANCE = (
    (re.compile(r"connection [0-9a-f]{16}"), "connection …"),
    (re.compile(r"127\.0\.0\.1:\d+"), "host"),
    (re.compile(r"\('127\.0\.0\.1', \d+\)"), "host"),
    (re.compile(r"\b[0-9a-f]{12,}\b"), "…"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s)\b"), "… s"),
    (re.compile(r" \((and \d+ more|sid \"\d+\")\)$"), ""),
)


def shortened(line: str) -> str:
    """A line of the log without what differs from run to run."""
    for pattern, short in _CHANCE:
        line = pattern.sub(short, line)
    return line if len(line) <= 200 else f"{line[:199]}…"


@asynccontextmanager
async def staged(
    site: Site,
    second: Callable[[Path], Process] = Process,
    dice: random.Random | None = None,
) -> AsyncIterator[Stage]:
    """A stage on which all is well, as long as the block runs. ``second`` makes the second process,
    where that is not as the first one."""
    with tempfile.TemporaryDirectory(prefix="wsflow-stage-") as folder:
        processes = [Process(Path(folder)), second(Path(folder))]
        stage = Stage(site, processes, dice)
        try:
            await stage.open()
            yield stage
        finally:
            await stage.close()
