"""``uv run python -m tests.benchmarks``: measure, print a table, and write it to the docs.

The server under load has core 0, the load generator core 1. Servers take turns within each round,
forwards and backwards, and ratios are taken within rounds: what else the machine does meanwhile
happens to both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.benchmarks import report
from tests.benchmarks.profile import profile
from tests.benchmarks.servers import (
    BUILD,
    KINDS,
    Running,
    missing,
    pin,
    prepare_compiled,
    prepare_load,
    prepare_node,
)
from tests.benchmarks.workloads import (
    BASE,
    FAIR,
    FAIR_TARGET,
    FLOOD,
    PURE,
    QUICK,
    SPEED,
    WORKLOADS,
    Workload,
)
from tests.brokers import servers as brokers

IDLE = 2000
"""Connections of which the memory is measured."""


class Bench:
    """Servers that run, and the load generator."""

    def __init__(self, load: Path, seconds: float) -> None:
        self.load = load
        self.seconds = seconds
        self.running: dict[str, Running] = {}
        self.brokers: dict[brokers.Kind, brokers.BrokerServer] = {}

    def start(self, names: Sequence[str], stack: ExitStack) -> list[str]:
        """Start servers; what does not run, and why."""
        absent = []
        for name in names:
            if lacking := missing(KINDS[name]):
                absent.append(f"{KINDS[name].title}: needs {', '.join(lacking)}")
                continue
            server = Running(name, self.broker(KINDS[name].broker, stack))
            stack.callback(server.stop)
            self.running[name] = server
        for name, server in list(self.running.items()):
            if not server.ready():
                absent.append(f"{KINDS[name].title}: did not start, see {server.log.name}")
                del self.running[name]
        return absent

    def broker(self, kind: brokers.Kind | None, stack: ExitStack) -> str | None:
        """The URL of a broker of this kind; started on the core of the load if there is none."""
        if kind is not None and kind not in self.brokers:
            server = self.brokers[kind] = brokers.BrokerServer(kind)
            server.start()
            stack.callback(server.stop)
            os.sched_setaffinity(server.pid, {1})
        return None if kind is None else self.brokers[kind].url

    def measure(
        self, name: str, flags: Sequence[str], seconds: float | None = None
    ) -> dict[str, Any]:
        """Put load on a server: what the generator printed."""
        server = self.running[name]
        server.settle()
        command = [self.load, "-p", str(server.port), "-k", str(server.process.pid), *flags]
        command += ["-t", str(seconds or self.seconds), "-w", "0.15"]
        if server.kind.engineio:
            path = "/socket.io/?EIO=4&transport=websocket"
            command += ["-e", "-P", path]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=20, preexec_fn=pin(1)
            )
        except subprocess.TimeoutExpired:
            return {"error": "the load generator was not served in time"}
        found: dict[str, Any] = json.loads(done.stdout or '{"error": "no output"}')
        if found.get("wrong"):
            found["error"] = f"{found['wrong']} replies were wrong"
        return found

    def memory(self, name: str, flags: Sequence[str], count: int) -> dict[str, Any]:
        """KiB of proportional set size that an idle connection adds."""
        server = self.running[name]
        command = [self.load, "-p", str(server.port), *flags, "-c"]

        def hold(connections: int) -> Any:
            return subprocess.Popen(
                [*command, str(connections)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=pin(1),
            )

        for connections in (50, count):  # the first to warm up
            before = _memory(server.process.pid)
            load = hold(connections)
            load.stdout.readline()
            time.sleep(0.3)
            after = _memory(server.process.pid)
            load.communicate()
        return {"memory": (after - before) / count}


def _memory(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def turns(names: Sequence[str], index: int) -> Iterator[str]:
    """The order of a round: the base at both ends, the others turned around every other time."""
    others = [name for name in names if name != BASE]
    bases = [BASE] if BASE in names else []
    yield from [*bases, *(others if index % 2 == 0 else reversed(others)), *bases]


def one_round(bench: Bench, index: int, chosen: dict[str, Workload]) -> report.Round:
    found: report.Round = {}
    for key, workload in chosen.items():
        if workload.by == "memory":
            continue
        names = [name for name in workload.servers if name in bench.running]
        for name in turns(names, index):
            with ExitStack() as stack:
                served = bench
                if workload.fresh:
                    served = Bench(bench.load, bench.seconds)
                    served.start([name], stack)
                result = served.measure(name, workload.flags)
            if "error" not in result and not result["units"]:
                result["error"] = "nothing was answered"
            if "error" in result:
                print(f"  {key} {name}: {result['error']}", file=sys.stderr)
            else:
                found.setdefault((key, name), []).append(result)
    return found


def measure_memory(bench: Bench, chosen: dict[str, Workload]) -> report.Round:
    found: report.Round = {}
    for key, workload in chosen.items():
        for name in workload.servers if workload.by == "memory" else ():
            if name in bench.running:
                with ExitStack() as stack:  # on a fresh process: memory is not given back
                    alone = Bench(bench.load, 0)
                    alone.start([name], stack)
                    found[key, name] = [alone.memory(name, workload.flags, IDLE)]
    return found


def measure_fairness(bench: Bench, rounds: int) -> report.Fairness:
    found: report.Fairness = {}
    for name in (PURE, SPEED):
        for _ in range(rounds if name in bench.running else 0):
            alone, flooded = (
                bench.measure(name, (*FAIR, "-d", str(depth)), 4.0)["p99_us"]
                for depth in (1, FLOOD)
            )
            found.setdefault(name, []).append(flooded / alone)
    return found


def with_peers() -> None:
    """Run again in an environment that has the peers, if this one has not."""
    absent = [need for kind in KINDS.values() for need in missing(kind)]
    if absent and "BENCHMARKS_AGAIN" not in os.environ and (uv := shutil.which("uv")):
        command = [uv, "run", "--group", "bench", "python", "-m", "tests.benchmarks", *sys.argv[1:]]
        os.execve(uv, command, {**os.environ, "BENCHMARKS_AGAIN": "again"})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute, and writes nothing")
    parser.add_argument(
        "--only", default="", help=f"workloads, as in A100,C8, of {', '.join(WORKLOADS)}"
    )
    parser.add_argument("--rounds", type=int, default=0, help="5, or 2 with --quick")
    parser.add_argument("--profile", default="", help="where the time goes, as in A100,wsflow")
    options = parser.parse_args()
    if unknown := {each for each in options.only.split(",") if each} - set(WORKLOADS):
        parser.error(f"--only: no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    key, _, name = options.profile.partition(",")
    if options.profile and (key not in WORKLOADS or name not in KINDS):
        parser.error(
            f"--profile: write a workload ({', '.join(WORKLOADS)}), a comma and a server "
            f"({', '.join(KINDS)})"
        )
    if options.profile and not shutil.which("py-spy"):
        parser.error("--profile needs py-spy: run it with `uv run --group bench`")
    if not options.quick and not options.profile:
        with_peers()
    try:
        if (os.cpu_count() or 1) < 2:
            raise OSError("one core is for the server and one for the load, and there is only one")
        load = prepare_load()
    except OSError as exc:
        print(f"skipped: {exc}")
        return 0 if options.quick else 2
    if options.profile:
        print(profile(key, name, load))
        return 0
    keys = options.only.split(",") if options.only else QUICK if options.quick else list(WORKLOADS)
    chosen = {key: WORKLOADS[key] for key in keys}
    names = list(dict.fromkeys(name for each in chosen.values() for name in each.servers))
    if options.quick:
        names = [name for name in names if name in (PURE, BASE)]
    why_not = prepare_compiled() if any(KINDS[name].compiled for name in names) else ""
    if why_not:
        print(f"the frame path could not be compiled: {why_not}", file=sys.stderr)
    if "node" in names:
        prepare_node()
    rounds = options.rounds or (2 if options.quick else 5)
    bench = Bench(load, 0.25 if options.quick else 0.4)
    results = report.Results()
    with ExitStack() as stack:
        results.absent = bench.start(names, stack)
        for index in range(rounds):
            print(f"round {index + 1} of {rounds}", file=sys.stderr)
            results.rounds.append(one_round(bench, index, chosen))
        results.rounds.append(measure_memory(bench, chosen))
        if not options.quick and not options.only:
            results.fairness = measure_fairness(bench, 3)
    raw = json.dumps([_plain(each) for each in results.rounds])
    (BUILD / "results.json").write_text(raw)
    text = report.table(results, chosen, FAIR_TARGET, complete=not options.quick)
    print(text)
    if not options.quick and not options.only:
        report.write(results, text)
    if options.quick and (broken := report.below(results, QUICK)):
        print("too slow, whatever the noise: " + ", ".join(broken))
        return 1
    return 0


def _plain(found: report.Round) -> dict[str, Any]:
    return {f"{key} {name}": value for (key, name), value in found.items()}


if __name__ == "__main__":
    sys.exit(main())
