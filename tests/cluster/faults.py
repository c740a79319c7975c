"""What can happen to two processes and their broker, and what becomes of messages meanwhile.

Each fault is a function that does it to a stage, and heals it. It fails if it has not taken place.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import wsflow
from tests.cluster.app import Item
from tests.cluster.judge import judge
from tests.cluster.scenario import Reader, Say, through_peers
from tests.cluster.sites import SITES, until
from tests.cluster.stage import OUTSIDE, ROOT, Process, Stage, Verdict, environment, staged

OLD = "f35f12c"
"""The revision that is the old version, unless another one is named."""
TOGETHER = 0.3
"""How often there are two faults at the same time, in a mixture."""
PAD = 100_000
"""Bytes of a message that fills the way to a client that does not read."""
MOST = 400
"""Messages after which a client must have been cut off."""


class AbsentError(Exception):
    """Something that a fault needs is not there: it is left out."""


# -- processes


async def worker_killed(stage: Stage) -> None:
    await stage.processes[stage.victim].kill()
    await stage.lasts(1)
    await stage.restart(stage.victim)


async def evicted_as_slow(stage: Stage) -> None:
    """A process does not read what the broker says, until the broker cuts it off."""
    site, process = stage.site, stage.processes[stage.victim]
    between = site.proxies[stage.victim]
    site.server.rules.strict = True
    await site.server.apply()
    before = await site.server.cut_off()
    reader = Reader(process.base, "plain", 1, stage.outcome)  # only this process hears what comes
    reading = asyncio.create_task(reader.read())
    try:
        await asyncio.wait_for(reader.joined.wait(), 30)
        async with wsflow.publisher(site.url) as say:
            between.flowing.clear()
            for number in range(MOST):
                await say("plain.1", Item(OUTSIDE, number, pad="x" * PAD))
                if await site.server.cut_off() > before:
                    break
            else:
                raise AssertionError("the broker has not cut off who does not read")
    finally:
        reading.cancel()
        between.flowing.set()
        site.server.rules.strict = False
        await site.server.apply()


async def password_rotated(stage: Stage) -> None:
    """Both processes are restarted with a new password; then the old one is not valid any more, and
    all connections are made anew."""
    server = stage.site.server
    new = server.new_login()
    server.rules.logins.append(new)
    await server.apply()
    stage.site.log_in()
    for where, process in enumerate(stage.processes):
        await process.stop()
        await stage.restart(where)
    server.rules.logins = [new]
    await server.apply()
    for each in stage.site.proxies:
        each.reset()


async def mingled(stage: Stage) -> None:
    """Nothing but what two processes that differ do all day: peers come back to either, and the
    connections to the broker are made anew."""
    await stage.flows()
    for each in stage.site.proxies:
        each.reset()
    await stage.flows()
    for where, process in enumerate(stage.processes):
        await process.stop()
        await stage.restart(where)
        await stage.flows()


# -- the broker


async def broker_killed(stage: Stage) -> None:
    await asyncio.to_thread(stage.site.server.kill)
    await stage.lasts(1)
    await asyncio.to_thread(stage.site.server.start)


async def broker_stopped(stage: Stage) -> None:
    stage.site.server.pause()
    try:
        await stage.lasts(10)
    finally:
        stage.site.server.resume()


async def restarted_empty(stage: Stage) -> None:
    await asyncio.to_thread(stage.site.server.kill)
    stage.site.server.empty()
    await asyncio.to_thread(stage.site.server.start)


async def rolled_back(stage: Stage) -> None:
    """The broker comes back with what it had some seconds ago. One process comes back to it later,
    when it has more than it has lost."""
    server, between = stage.site.server, stage.site.proxies[stage.victim]
    await asyncio.to_thread(server.keep)
    await stage.flows()
    between.swallowing = True
    try:
        await asyncio.to_thread(server.roll_back)
        await stage.lasts(10)
    finally:
        between.swallowing = False
        between.reset()


async def flushed(stage: Stage) -> None:
    await stage.site.flush()


async def full(stage: Stage) -> None:
    server = stage.site.server
    server.rules.full = True
    await server.apply()
    try:
        await until(partial(_refused, stage, "kept.0"), 20)
        await stage.lasts(5)
    finally:
        server.rules.full = False
        await server.apply()


async def denied(stage: Stage) -> None:
    """Topics that nobody may use are joined and published on, in both processes."""
    server = stage.site.server
    server.rules.forbids = True
    await server.apply()
    try:
        for _ in range(3):
            await stage.lasts(1)
            for where in range(len(stage.processes)):
                for kind in ("kept", "plain"):
                    assert not await joins(stage, where, kind), f"{kind}.denied was joined"
                    assert await _refused(stage, f"{kind}.denied", where), "it was published"
    finally:
        server.rules.forbids = False
        await server.apply()
    for where in range(len(stage.processes)):
        for kind in ("kept", "plain"):
            await until(partial(joins, stage, where, kind))


async def revoked(stage: Stage) -> None:
    """Topics that peers have joined in both processes are denied, and then allowed again. They go
    on, and what was published meanwhile comes, or is told."""
    server = stage.site.server
    readers = {
        kind: [Reader(each.base, kind, "denied", stage.outcome) for each in stage.processes]
        for kind in ("kept", "plain")
    }
    everybody = [each for both in readers.values() for each in both]
    reading = [asyncio.create_task(each.read()) for each in everybody]
    said: list[int] = []

    async def heard() -> bool:
        number = len(said)
        for kind in readers:
            await say(f"{kind}.denied", Item(OUTSIDE, number))
        said.append(number)
        await asyncio.sleep(0.1)
        return all(number in each.latest.values() for each in everybody)

    try:
        await asyncio.gather(*(each.joined.wait() for each in everybody))
        async with wsflow.publisher(stage.site.url) as say:
            await until(heard, 20)
            server.rules.forbids = True
            try:
                await server.apply()
                await stage.flows()
                await heard()
            finally:
                server.rules.forbids = False
                await server.apply()
            with contextlib.suppress(TimeoutError):
                await until(heard, 20)
        for kind, both in readers.items():
            lost = sum(judge(OUTSIDE, said, (), each.heard, each.breaks).lost for each in both)
            assert not lost, f"{lost} of {2 * len(said)} lost on {kind}.denied, and not told"
    finally:
        for each in reading:
            each.cancel()


async def joins(stage: Stage, where: int, kind: str) -> bool:
    """Whether a peer may join the topic of this kind that may be denied."""
    try:
        async with connect(f"{stage.processes[where].base}/{kind}/denied"):
            return True
    except InvalidStatus:
        return False


async def _refused(stage: Stage, topic: str, where: int = 0) -> bool:
    """Whether publishing is refused; what is published is none of a stage's publishers."""
    refused = False

    async def publish(say: Say) -> None:
        nonlocal refused
        try:
            await say(topic, Item(-1, 0))
        except wsflow.BrokerError:
            refused = True

    await through_peers(stage.processes[where].base, publish)
    return refused


# -- the way to it


async def partitioned(stage: Stage) -> None:
    between = stage.site.proxies[stage.victim]
    between.swallowing = True
    try:
        await stage.lasts(30)
    finally:
        between.swallowing = False
        between.reset()


async def delayed(stage: Stage) -> None:
    """What one process and the broker send to each other comes late: also what was sent on
    connections that the process has given up."""
    between = stage.site.proxies[stage.victim]
    between.sending.clear()
    between.flowing.clear()
    try:
        await stage.lasts(10)
    finally:
        between.sending.set()
        between.flowing.set()


async def late(stage: Stage) -> None:
    """What one process and the broker have sent each other on the connections that there are comes
    late, when there are others for long."""
    between = stage.site.proxies[stage.victim]
    held = between.sending, between.flowing
    between.sending, between.flowing = asyncio.Event(), asyncio.Event()
    between.sending.set()
    between.flowing.set()
    for each in held:
        each.clear()
    try:
        await stage.lasts(10)
    finally:
        for each in held:
            each.set()


async def link_reset(stage: Stage) -> None:
    between = stage.site.proxies[stage.victim]
    for _ in range(5):
        between.reset()
        await stage.lasts(1)


# -- several servers


async def node_killed(stage: Stage) -> None:
    """Each of the three is killed in turn, the leader of the histories first, and started again
    some seconds later."""
    site = stage.site
    first = await site.leader()
    for number in sorted(range(3), key=lambda each: each != first):
        server = site.servers[number]
        await asyncio.to_thread(server.kill)
        await stage.lasts(5)
        await asyncio.to_thread(server.start)
        await site.in_sync()


async def failover(stage: Stage) -> None:
    """The master is killed; once the replica is one, it comes back as its replica."""
    site = stage.site
    await asyncio.to_thread(site.master.kill)

    async def promoted() -> bool:
        return (await site.role(site.replica))["role"] == "master"

    async def demoted() -> bool:
        return (await site.role(site.master))["role"] == "slave"

    await until(promoted)
    await asyncio.to_thread(site.master.start)
    await until(demoted)


# -- the table

Engine = Literal["valkey", "nats"]
ENGINES: list[Engine] = ["valkey", "nats"]
Hurts = Literal["both", "one", "none"]


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Attributes:
        name: as it is asked for.
        act: does it.
        hurts: in which processes other topics may feel it, as long as the peers are told.
        engines: at which brokers it is done.
        site: the kind of site that it needs; those of one server can be mixed.
        second: what the second process is: one with another clock, or of an older version.
        alone: whether it is no part of a mixture.
    """

    name: str
    act: Callable[[Stage], Awaitable[None]]
    hurts: Hurts = "both"
    engines: tuple[Engine, ...] = ("valkey", "nats")
    site: str = "one"
    second: Literal["", "shifted", "old"] = ""
    alone: bool = False

    @property
    def mixes(self) -> bool:
        return self.site == "one" and not self.second and not self.alone

    def spares(self, victim: int) -> list[int]:
        """The processes in which it must not be felt on other topics."""
        return {"both": [], "one": [1 - victim], "none": [0, 1]}[self.hurts]


FAULTS = [
    Fault("worker killed", worker_killed, "one"),
    Fault("broker killed", broker_killed),
    Fault("broker stopped 10 s", broker_stopped),
    Fault("broker restarted empty", restarted_empty),
    Fault("broker rolled back", rolled_back, alone=True),
    Fault("flushed", flushed, "none"),
    Fault("full", full, "none"),
    Fault("denied", denied, "none"),
    Fault("denied to who has joined", revoked, alone=True),
    Fault("partitioned 30 s", partitioned, "one"),
    Fault("held up 10 s", delayed, "one"),
    Fault("old connections late 10 s", late, "one"),
    Fault("link reset", link_reset, "one"),
    Fault("evicted as slow", evicted_as_slow, "one"),
    Fault("node of three killed", node_killed, engines=("nats",), site="three"),
    Fault("failover by Sentinel", failover, engines=("valkey",), site="sentinel"),
    Fault("password rotated", password_rotated),
    Fault("clocks an hour apart", mingled, second="shifted"),
    Fault("old and new version at once", mingled, second="old"),
]
"""All faults, by the order of the table."""


@contextlib.contextmanager
def unpacked(revision: str) -> Iterator[str]:
    """A folder with ``wsflow`` as it was at a revision.

    Raises:
        AbsentError: it is not there.
    """
    git = shutil.which("git")
    if git is None:
        raise AbsentError("git is not there")
    with tempfile.TemporaryDirectory(prefix="wsflow-old-") as folder:
        archive = Path(folder, "wsflow.tar")
        command = [git, "archive", "--output", str(archive), revision, "wsflow"]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if found.returncode:
            raise AbsentError(f"the revision {revision} is not there")
        shutil.unpack_archive(archive, folder)
        imports = [sys.executable, "-P", "-c", "import wsflow; print(wsflow.__file__)"]
        found = subprocess.run(
            imports, env=environment(folder), capture_output=True, text=True, check=True
        )
        assert found.stdout.startswith(folder), found.stdout
        yield folder


@dataclass(frozen=True)
class Turn:
    """Faults that are done to a stage at the same time.

    Attributes:
        faults: these; several only of those that do not disturb each other.
        victim: the process that is hurt by those that hurt one.
        peace: seconds of normal traffic behind them.
        later: seconds after which the next one of them begins.
    """

    faults: tuple[Fault, ...]
    victim: int = 0
    peace: float = 0.0
    later: float = 0.0

    def __str__(self) -> str:
        victim = ("first", "second")[self.victim]
        return " and ".join(
            each.name + f" ({victim} process)" * (each.hurts == "one") for each in self.faults
        )

    async def act(self, stage: Stage) -> None:
        """Do them.

        Raises:
            AssertionError: one of them has not taken place.
        """
        stage.victim = self.victim

        async def begin(number: int, fault: Fault) -> None:
            await asyncio.sleep(number * self.later)
            await fault.act(stage)

        async with asyncio.TaskGroup() as group:
            for number, fault in enumerate(self.faults):
                group.create_task(begin(number, fault))


async def play(fault: Fault, engine: Engine, old: str = OLD) -> Verdict:
    """Do a fault to a stage of its own. A stage that does not come about is a failure, too."""
    try:
        async with AsyncExitStack() as stack:
            second: Callable[[Path], Process] = Process
            if fault.second == "shifted":
                second = partial(Process, module="tests.cluster.shifted")
            elif fault.second == "old":
                second = partial(Process, path=stack.enter_context(unpacked(old)))
            site = await stack.enter_async_context(SITES[fault.site](engine))
            stage = await stack.enter_async_context(staged(site, second))
            await stage.flows()
            return await endured(stage, [Turn((fault,))], spares=fault.spares(0))
    except AbsentError as exc:
        return Verdict(absent=str(exc))
    except (AssertionError, OSError, TimeoutError) as exc:
        return Verdict(failure=f"{type(exc).__name__} {exc}")


def _silent(turn: Turn, healed: float | None) -> None: ...


Tell = Callable[[Turn, float | None], None]


async def endured(
    stage: Stage, turns: Iterable[Turn], *, spares: Sequence[int] = (), tell: Tell = _silent
) -> Verdict:
    """Do faults to a stage, one after the other, and judge what has become of all messages.

    Args:
        stage: the stage.
        turns: the faults.
        spares: the processes in which nothing may be felt on the other topic.
        tell: called with each fault, and the seconds until all was well again.
    """
    failure, slowest = "", 0.0
    healed: float | None = 0.0
    for turn in turns:
        try:
            await turn.act(stage)
        except* AssertionError as exc:
            failure = "; ".join(map(str, exc.exceptions))
        except* Exception as exc:
            failure = "; ".join(map(repr, exc.exceptions))
        if failure:
            tell(turn, None)
            break
        healed = await stage.healed()
        tell(turn, healed)
        if healed is None:
            break
        slowest = max(slowest, healed)
        await asyncio.sleep(turn.peace)
    if not failure and healed is not None:
        await stage.flows()
    await stage.calm()
    verdict = stage.judge(spares)
    verdict.healed = None if healed is None else slowest
    verdict.failure = failure
    return verdict


def mixture(dice: random.Random) -> Iterator[Turn]:
    """Faults at random, without an end; now and then one of the way and one of the broker at the
    same time."""
    known = [each for each in FAULTS if each.mixes]
    ways = [each for each in known if each.act in (partitioned, delayed, link_reset)]
    brokers = [
        each
        for each in known
        if each.act in (broker_killed, broker_stopped, restarted_empty, flushed)
    ]
    while True:
        if dice.random() < TOGETHER:
            faults = dice.choice(ways), dice.choice(brokers)
        else:
            faults = (dice.choice(known),)
        yield Turn(faults, dice.randrange(2), dice.uniform(0, 5), dice.uniform(0, 3))


async def play_mixture(engine: Engine, seed: int, minutes: float, tell: Tell = _silent) -> Verdict:
    """Do faults at random to one stage, until the time is over."""
    dice = random.Random(seed)
    async with SITES["one"](engine) as site, staged(site, dice=random.Random(seed)) as stage:
        await stage.flows()
        ends = time.monotonic() + minutes * 60
        turns = itertools.takewhile(lambda _: time.monotonic() < ends, mixture(dice))
        done = 0

        def count(turn: Turn, healed: float | None) -> None:
            nonlocal done
            done += len(turn.faults)
            tell(turn, healed)

        verdict = await endured(stage, turns, tell=count)
        verdict.note = f"at most; {done} faults in {minutes:g} min, seed {seed}"
        return verdict
