"""Tables and the chart, from what was measured."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.benchmarks.servers import KINDS, ROOT
from tests.benchmarks.workloads import BASE, PURE, WORKLOADS, Target, Workload

Round = dict[tuple[str, str], list[dict[str, Any]]]
"""What was measured in one round, by workload and server."""

Fairness = dict[str, list[float]]
"""p99 under a flood over p99 without, by server."""

DOCS = ROOT / "docs" / "benchmarks.md"
CHART = ROOT / "docs" / "benchmarks.svg"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass
class Results:
    """All that was measured."""

    rounds: list[Round] = field(default_factory=list)
    fairness: Fairness = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)

    @property
    def names(self) -> set[tuple[str, str]]:
        """What was measured: workloads and servers."""
        return {each for found in self.rounds for each in found}


def value(results: Sequence[dict[str, Any]], by: str) -> float:
    """One server's figure in one round, the mean of its turns; for ``cpu``, units per time."""
    figures = [1 / each["cpu_us"] if by == "cpu" else each[by] for each in results]
    return sum(figures) / len(figures)


def ratios(rounds: Sequence[Round], key: str, ours: str, theirs: str, by: str) -> list[float]:
    """Ours over theirs, in each round that has both."""
    return [
        value(each[key, ours], by) / value(each[key, theirs], by)
        for each in rounds
        if (key, ours) in each and (key, theirs) in each
    ]


def spread(found: Sequence[float]) -> str:
    if not found:
        return "-"
    if len(found) == 1:
        return f"{found[0]:.2f}"
    return f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def _aim(results: Results, key: str, workload: Workload, target: Target) -> str:
    def found(by: str) -> list[float]:
        return ratios(results.rounds, key, target.ours, target.theirs, by)

    if workload.by == "memory":
        judged = found("memory")
        cells = [spread(judged), "-"]
    elif workload.by == "cpu":
        judged = [1 / each for each in found("cpu")]
        cells = ["-", spread(judged)]
    else:
        by_rate, by_cpu = found("rate"), found("cpu")
        judged = by_cpu if median(by_cpu or [0]) > median(by_rate or [0]) else by_rate
        cells = [spread(by_rate), spread(by_cpu)]
    sign = "≤" if target.at_most else "≥"
    verdict = "not measured"
    if judged:
        middle = median(judged)
        reached = middle <= target.ratio if target.at_most else middle >= target.ratio
        verdict = "yes" if reached else "no"
    ours, theirs = KINDS[target.ours].title, KINDS[target.theirs].title
    return (
        f"| {key} | {ours} | {theirs} | {cells[0]} | {cells[1]} | {sign} {target.ratio:g} "
        f"| {verdict} |"
    )


def table(
    results: Results, chosen: Mapping[str, Workload], fair_target: float, *, complete: bool
) -> str:
    """All of it, as Markdown; if ``complete``, with what could not be measured."""
    lines = [
        "| workload | ours | theirs | by rate | by CPU | aim | reached |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, workload in chosen.items():
        lines += [
            _aim(results, key, workload, target)
            for target in workload.targets
            if complete or {target.ours, target.theirs} <= {name for _, name in results.names}
        ]
    for name, found in results.fairness.items():
        reached = "yes" if median(found) <= fair_target else "no"
        lines.append(
            f"| fairness | {KINDS[name].title} | without the flood | {spread(found)} (p99) | - "
            f"| ≤ {fair_target:g} | {reached} |"
        )
    lines += ["", *_absolute(results, chosen)]
    if results.absent:
        lines += ["", "Not measured:", "", *(f"- {each}" for each in results.absent)]
    return "\n".join(lines) + "\n"


def _absolute(results: Results, chosen: Mapping[str, Workload]) -> list[str]:
    lines = [
        "| workload | server | per second | CPU, µs each | times websockets | by CPU |",
        "|---|---|---|---|---|---|",
    ]
    for key, workload in chosen.items():
        for name in workload.servers:
            found = [each[key, name] for each in results.rounds if (key, name) in each]
            if not found:
                continue
            title = KINDS[name].title
            if workload.by == "memory":
                size = median(value(each, "memory") for each in found)
                rate = ratios(results.rounds, key, name, BASE, "memory")
                lines.append(f"| {key} | {title} | {size:.1f} KiB each | - | {spread(rate)} | - |")
                continue
            rate = median(value(each, "rate") for each in found)
            cpu = 1 / median(value(each, "cpu") for each in found)
            lines.append(
                f"| {key} | {title} | {rate:,.0f} | {cpu:.2f} "
                f"| {spread(ratios(results.rounds, key, name, BASE, 'rate'))} "
                f"| {spread(ratios(results.rounds, key, name, BASE, 'cpu'))} |"
            )
    return lines


def below(results: Results, floors: Mapping[str, float]) -> list[str]:
    """The workloads in which wsflow does less than so many times what websockets does."""
    found = {key: ratios(results.rounds, key, PURE, BASE, "rate") for key in floors}
    return [key for key, each in found.items() if each and max(each) < floors[key]]


def write(results: Results, text: str) -> None:
    """Put the table and the chart where the docs have them."""
    where = f"{platform.python_implementation()} {platform.python_version()}, {platform.system()}"
    head, _, rest = DOCS.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    legend = "\n".join(f"- **{key}**: {each.title}." for key, each in WORKLOADS.items())
    measured = f"{BEGIN}\n\nMeasured with {where}.\n\n{legend}\n\n{text}\n{END}"
    DOCS.write_text(head + measured + tail)
    CHART.write_text(chart(results))


def chart(results: Results) -> str:
    """Bars: the typed workload, in times of websockets by hand."""
    found = {
        name: median(ratios(results.rounds, "B100", name, BASE, "cpu"))
        for name in WORKLOADS["B100"].servers
        if ratios(results.rounds, "B100", name, BASE, "cpu")
    }
    bars = sorted(found.items(), key=lambda item: -item[1])
    scale = 380 / max(found.values(), default=1)
    lines = []
    for index, (name, ratio) in enumerate(bars):
        y = 50 + index * 26
        colour = "#2563eb" if name.startswith("wsflow") else "#94a3b8"
        lines.append(
            f'<text x="230" y="{y + 14}" text-anchor="end">{KINDS[name].title}</text>'
            f'<rect x="240" y="{y}" width="{ratio * scale:.0f}" height="18" fill="{colour}"/>'
            f'<text x="{246 + ratio * scale:.0f}" y="{y + 14}">{ratio:.2f}</text>'
        )
    height = 70 + len(bars) * 26
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="700" height="{height}" '
        'font-family="sans-serif" font-size="13">'
        f'<rect width="700" height="{height}" fill="white"/>'
        '<text x="20" y="28" font-size="15">Typed JSON, 100 peers: messages per second of server '
        "CPU, in times of websockets by hand</text>" + "".join(lines) + "</svg>\n"
    )
