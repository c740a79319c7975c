"""What is measured, and what is aimed at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A ratio that is aimed at.

    Attributes:
        ours: the server of wsflow.
        theirs: the server it is compared with.
        ratio: how many times theirs ours is to do; for ``at_most``, what it may need of theirs.
        at_most: whether less is better.
    """

    ours: str
    theirs: str
    ratio: float
    at_most: bool = False


@dataclass(frozen=True)
class Workload:
    """A load.

    Attributes:
        title: what it is, for people.
        unit: what is counted.
        flags: of the load generator.
        targets: what is aimed at, which says who is measured.
        besides: who is measured although nothing is aimed at.
        by: what is compared: ``rate``, ``cpu`` per unit or ``memory``.
        fresh: whether each turn has a process of its own. Some servers go on pushing to who is
            gone, and what a thousand connections leave in the heap is not to count elsewhere.
    """

    title: str
    unit: str
    flags: tuple[str, ...]
    targets: tuple[Target, ...]
    besides: tuple[str, ...] = ()
    by: str = "rate"
    fresh: bool = False

    @property
    def servers(self) -> tuple[str, ...]:
        """Who is measured, the base first."""
        named = [name for target in self.targets for name in (target.theirs, target.ours)]
        return tuple(dict.fromkeys((*named, *self.besides)))


PURE, SPEED, BASE = "wsflow", "wsflow-speed", "websockets"


def _against_base(
    pure: float | None, speed: float | None, *, at_most: bool = False
) -> tuple[Target, ...]:
    return tuple(
        Target(ours, BASE, ratio, at_most)
        for ours, ratio in ((PURE, pure), (SPEED, speed))
        if ratio is not None
    )


FRAMEWORKS = ("pattern", "starlette", "aiohttp", "picows-websockets", "granian", "socketify")

WORKLOADS: Mapping[str, Workload] = {
    "A100": Workload(
        "echo of 64 B, 100 peers, one message in flight each",
        "messages",
        ("-m", "echo", "-P", "/echo", "-c", "100"),
        (
            *_against_base(2.4, 3.4),
            Target(SPEED, "picows-uvloop", 0.8),
            Target(SPEED, "uvicorn", 2.0),
        ),
        ("picows", *FRAMEWORKS, "fastapi", "litestar", "socketio", "node"),
    ),
    "A1": Workload(
        "the same, one peer, 64 in flight",
        "messages",
        ("-m", "echo", "-P", "/echo", "-c", "1", "-d", "64"),
        (*_against_base(6, 11), Target(SPEED, "picows-uvloop", 3)),
        ("picows",),
    ),
    "B100": Workload(
        "typed JSON, five message types, typed reply, one injected value, 100 peers",
        "messages",
        ("-m", "echo", "-P", "/json", "-c", "100", "-j"),
        (
            *_against_base(2.2, 3),
            Target(SPEED, "fastapi", 3.3),
            Target(SPEED, "litestar", 4),
            Target(SPEED, "socketio", 12),
            Target(SPEED, "node", 1.5),
            Target(SPEED, "picows-uvloop", 0.9),
        ),
        ("picows", *FRAMEWORKS),
    ),
    "F1": Workload(
        "a producer pushes 64 B as fast as one peer reads",
        "messages",
        ("-m", "push", "-P", "/push", "-c", "1"),
        (*_against_base(20, 25), Target(SPEED, "picows-uvloop", 8)),
        fresh=True,
    ),
    "F100": Workload(
        "the same, 100 peers",
        "messages",
        ("-m", "push", "-P", "/push", "-c", "100"),
        (*_against_base(20, 25), Target(SPEED, "picows-uvloop", 8)),
        fresh=True,
    ),
    "C": Workload(
        "one message to 1,000 peers",
        "deliveries",
        ("-m", "bcast", "-P", "/bcast", "-c", "1000"),
        (*_against_base(1.2, 1.6), Target(SPEED, "picows-uvloop", 1)),
    ),
    "C8": Workload(
        "eight messages to 1,000 peers in one turn of the loop",
        "deliveries",
        ("-m", "bcast", "-P", "/bcast", "-c", "1000", "-d", "8"),
        (*_against_base(7, 7), Target(SPEED, "picows-uvloop", 4)),
    ),
    "E": Workload(
        "connect and disconnect",
        "connections",
        ("-m", "rate", "-P", "/echo", "-d", "16"),
        _against_base(1.4, 1.6),
        fresh=True,
    ),
    "E full": Workload(
        "the same with a producer and on_connect (by hand: two tasks, raced)",
        "connections",
        ("-m", "rate", "-P", "/full", "-d", "16"),
        _against_base(1.0, None),
        fresh=True,
    ),
    "D": Workload(
        "memory of an idle connection",
        "KiB",
        ("-m", "idle", "-P", "/echo"),
        _against_base(0.6, 0.6, at_most=True),
        by="memory",
    ),
    "D full": Workload(
        "the same with a producer and on_connect (by hand: two tasks, raced)",
        "KiB",
        ("-m", "idle", "-P", "/full"),
        _against_base(1.0, 1.0, at_most=True),
        by="memory",
    ),
    "D deflate": Workload(
        "the same with compression, which websockets has by default",
        "KiB",
        ("-m", "idle", "-P", "/echo", "-z"),
        (Target("wsflow-deflate", BASE, 0.2, at_most=True),),
        by="memory",
    ),
    "takeover": Workload(
        "typed JSON, 100 peers: under uvicorn with wsflow's protocol, against wsflow run",
        "messages",
        ("-m", "echo", "-P", "/json", "-c", "100", "-j"),
        (Target("wsflow-uvicorn", PURE, 0.9),),
        ("wsflow-asgi",),
    ),
    "G": Workload(
        "publish through a broker: one peer, 64 at a time, which come back to it",
        "messages",
        ("-m", "bcast", "-P", "/publish", "-c", "1", "-d", "64"),
        (Target("wsflow-redis", "socketio-redis", 5),),
        ("wsflow-nats",),
    ),
    "G100": Workload(
        "deliver through a broker: one message to 100 peers",
        "deliveries",
        ("-m", "bcast", "-P", "/bcast", "-c", "100"),
        (Target("wsflow-redis", "socketio-redis", 5),),
        ("wsflow-nats",),
    ),
    "workers": Workload(
        "typed JSON, 100 peers: two worker processes on one core, against one process",
        "messages",
        ("-m", "echo", "-P", "/json", "-c", "100", "-j"),
        (Target("wsflow-workers", PURE, 0.9),),
    ),
    "overhead": Workload(
        "the framework over its own bare engine: typed JSON, 100 peers",
        "CPU per message",
        ("-m", "echo", "-P", "/json", "-c", "100", "-j"),
        (
            Target(PURE, "engine", 1.10, at_most=True),
            Target(SPEED, "engine-speed", 1.15, at_most=True),
        ),
        by="cpu",
    ),
}

FAIR = ("-m", "fair", "-P", "/echo", "-c", "100")
"""One peer keeps messages in flight, 99 send one a second. Without a flood it has 1 in flight,
which keeps the server awake; with one, ``FLOOD``."""

FLOOD = 512
FAIR_TARGET = 2.0

QUICK = {"A100": 1.3, "A1": 3.5, "B100": 1.3, "F1": 5.0, "C": 0.7, "C8": 3.0, "E": 0.5}
"""What ``--quick`` measures, against ``websockets`` alone, and the ratio below which something is
broken, however noisy the machine is: about half of what is measured when it is not."""
