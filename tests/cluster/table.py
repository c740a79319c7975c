"""The table of faults in ``docs/scaling.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cluster.stage import Verdict, shortened

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
COLUMNS = (
    "fault",
    "broker",
    "lost",
    "told",
    "twice",
    "out of order",
    "other topics",
    "well again after",
    "the log says",
)
LINES = 4
"""Lines of the log that are shown."""

Key = tuple[str, str]
"""A fault and a broker."""


def cells(verdict: Verdict) -> list[str]:
    """What stands in a row, behind the fault and the broker."""
    if verdict.absent:
        return ["", "", "", "", "", "", f"left out: {verdict.absent}"]
    kept = verdict.kept
    lost = _bold(kept.lost) + f"; **{verdict.unkept} not kept**" * bool(verdict.unkept)
    counts = [lost, str(kept.told), _bold(kept.twice), _bold(kept.disorder)]
    if verdict.failure:
        healed = f"**{shortened(verdict.failure)}**"
    else:
        healed = "**not**" if verdict.healed is None else f"{verdict.healed:.1f} s"
        healed += f" ({verdict.note})" * bool(verdict.note)
    return [*(_safe(each) for each in (*counts, _others(verdict), healed)), _log(verdict.log)]


def _bold(count: int) -> str:
    return f"**{count}**" if count else "0"


def _others(verdict: Verdict) -> str:
    """What was seen on the other topic."""
    other = verdict.other
    names = ("missing", "twice", "out of order")
    wrong = [
        f"**{count} {name}**"
        for count, name in zip((other.lost, other.twice, other.disorder), names, strict=True)
        if count
    ]
    wrong += [f"**{each}**" for each in dict.fromkeys(verdict.felt)]
    return "; ".join([*(wrong or ["none"]), *([f"{other.told} told"] if other.told else [])])


def _safe(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _log(lines: Sequence[str]) -> str:
    shown = [f"`{_safe(each.replace('`', chr(39)))}`" for each in lines[:LINES]]
    more = [f"and {len(lines) - LINES} more"] if len(lines) > LINES else []
    return "<br>".join([*shown, *more]) or "nothing"


def row(key: Key, values: Sequence[str]) -> str:
    return f"| {' | '.join([*key, *values])} |"


def head() -> str:
    return f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def written(page: str) -> dict[Key, list[str]]:
    """The rows that stand on the page."""
    found = {}
    for line in page.partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]:
        fault, broker, *values = [each.strip() for each in line[1:-1].split(" | ")]
        found[fault, broker] = values
    return found


def write(page: str, measured: Mapping[Key, Sequence[str]], order: Sequence[Key]) -> str:
    """The page with these rows. What was not measured now stays as it was."""
    known = {**written(page), **measured}
    rows = "\n".join(row(key, known[key]) for key in order if key in known)
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{head()}\n{rows}\n{END}{rest.partition(END)[2]}"
