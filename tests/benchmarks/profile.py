"""Where a server's time goes: samples of its stack while it is under load (needs py-spy)."""

from __future__ import annotations

import subprocess
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.servers import BUILD, Running, pin
from tests.benchmarks.workloads import WORKLOADS

SECONDS = 4

# By the function that runs, or in which the kernel or C code runs; the first that fits.
AREAS = (
    ("writing to the socket (the kernel's send)", "Transport.write "),
    ("reading from the socket (the kernel's recv)", "_read_ready__"),
    ("waiting for sockets (epoll)", "select (selectors.py"),
    ("accepting and closing sockets", "accept"),
    ("accepting and closing sockets", "socket.py"),
    ("accepting and closing sockets", "_connection_lost"),
    ("the event loop", "asyncio/"),
    ("the event loop", "selectors.py"),
    ("wsflow: frames and the transport", "wsflow/transports"),
    ("wsflow: the runtime", "wsflow/"),
    ("wsflow: the runtime", "anyio/"),
    ("websockets", "websockets/"),
    ("the handlers", "tests/benchmarks"),
)


def profile(key: str, name: str, load: Path) -> str:
    """A table of areas, in per cent of the samples, and the ten busiest functions."""
    with ExitStack() as stack:
        server = Running(name)
        stack.callback(server.stop)
        if not server.ready():
            raise RuntimeError(f"{name} did not start, see {server.log.name}")
        samples = BUILD / "samples.txt"
        generator = subprocess.Popen(
            [load, "-p", str(server.port), *WORKLOADS[key].flags, "-t", str(SECONDS + 2)],
            stdout=subprocess.DEVNULL,
            preexec_fn=pin(1),
        )
        subprocess.run(
            [
                *("py-spy", "record", "--pid", str(server.process.pid), "--rate", "400"),
                *("--duration", str(SECONDS), "--format", "raw", "--output", samples, "--threads"),
            ],
            check=True,
            capture_output=True,
            preexec_fn=pin(1),
        )
        generator.wait()
    areas: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in samples.read_text().splitlines():
        frames, _, count = line.rpartition(" ")
        if "MainThread" not in frames:
            continue  # the others wait, which is not always seen
        innermost = frames.split(";")[-1].rpartition(":")[0]
        functions[innermost + ")"] += int(count)
        fits = (area for area, part in AREAS if part in innermost)
        areas[next(fits, "other")] += int(count)
    total = areas.total()
    lines = [f"| {key}, {name} | per cent of the time |", "|---|---|"]
    lines += [f"| {area} | {count / total:.0%} |" for area, count in areas.most_common()]
    lines += ["", "Busiest functions:", ""]
    lines += [f"- {count / total:.0%} {each}" for each, count in functions.most_common(10)]
    return "\n".join(lines)
