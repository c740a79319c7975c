"""``python -m tests.scoreboard``: measures the rows of the scoreboard, and prints it as Markdown.

Exits with 1 if a row was not reached. The rows are in ``tests/hardening/``. What was wrong is
printed to standard error, with the seed to see it again.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.hardening.board import SEED, Check, Outcome, Row, Scale, UnavailableError, scale
from tests.hardening.rows import ROWS

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- scoreboard: begin -->", "<!-- scoreboard: end -->"
HEAD = "| # | test | load or fault | must reach | reached |\n|---|---|---|---|---|"


@dataclass
class Result:
    """What a row has reached.

    Attributes:
        figures: of each check.
        missed: the checks that have not reached it, each with its known fault, if there is one.
        absent: what was not there, for checks that were left out.
    """

    figures: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        missed = [f"**not: {each}**" for each in self.missed]
        absent = [f"left out: {each}" for each in self.absent]
        verdict = ["yes"] if not missed and self.figures else []
        return "; ".join([*verdict, *missed, *absent, *self.figures]).replace("|", "\\|")


def measure(check: Check, of: Scale) -> Outcome:
    """Measure one check. An exception is a wrong outcome, too."""
    try:
        return check.measure(of)
    except UnavailableError:
        raise
    except Exception as exc:
        return Outcome("", [f"{type(exc).__name__}: {exc}"])


def measured(row: Row, of: Scale) -> Result:
    """Measure a row, and tell what is wrong."""
    result = Result()
    for check in row.checks:
        began = time.monotonic()
        try:
            outcome = measure(check, of)
        except UnavailableError as exc:
            result.absent.append(f"{check.name} ({exc})")
            continue
        seconds = time.monotonic() - began
        if outcome.figures:
            result.figures.append(outcome.figures)
        if not outcome.reached:
            result.missed.append(f"{check.name} ({check.fault})" if check.fault else check.name)
        say = "reached" if outcome.reached else f"not reached (seed: {SEED}={of.seed})"
        print(f"{row.number} {check.name}: {say}, {seconds:.1f} s", file=sys.stderr, flush=True)
        for each in outcome.wrong[:10]:
            print(f"    {each:.1000}", file=sys.stderr)
    return result


def line(row: Row, reached: str) -> str:
    return f"| {row.number} | {row.test} | {row.load} | {row.target} | {reached} |"


def table(rows: Iterable[tuple[Row, str]]) -> str:
    return "\n".join([HEAD, *(line(row, reached) for row, reached in rows)])


def written(page: str) -> list[list[str]]:
    """The rows of the table on the page: the cells of each."""
    lines = page.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    return [[cell.strip() for cell in each.strip("|").split(" | ")] for each in lines[2:]]


def write(page: str, results: Sequence[tuple[Row, str]]) -> str:
    """The page with these results; what was not measured now stays as it was."""
    known = {int(cells[0].strip("| ")): cells[-1] for cells in written(page)}
    known |= {row.number: text for row, text in results}
    rows = [(row, known.get(row.number, "not measured yet")) for row in ROWS]
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.scoreboard", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small form of each row")
    parser.add_argument("--row", type=int, action="append", help="only this one; repeatable")
    parser.add_argument("--seed", type=int, help=f"as {SEED}: for a run like an earlier one")
    parser.add_argument("--write", action="store_true", help="put it into docs/reliability.md, too")
    arguments = parser.parse_args()
    logging.getLogger("wsflow").addHandler(logging.NullHandler())
    of = scale(not arguments.quick, arguments.seed)
    chosen = [row for row in ROWS if not arguments.row or row.number in arguments.row]
    results: list[tuple[Row, str]] = []
    missed = False
    for row in chosen:
        result = measured(row, of)
        missed = missed or bool(result.missed)
        form = "" if of.whole else "small form: "
        results.append((row, form + result.text))
    print(table(results))
    if arguments.write:
        PAGE.write_text(write(PAGE.read_text(), results))
    sys.exit(missed)


if __name__ == "__main__":
    main()
