"""Each bad declaration is reported as the golden file beside it says.

``WSFLOW_GOLDEN=write uv run pytest tests/wiring`` writes the files anew; read the difference.
"""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

import pytest

from wsflow import DeclarationError
from wsflow.wiring.compile import compile_app

BAD = Path(__file__).parent / "bad"
PAGE = Path(__file__).parents[2] / "docs/errors.md"
INTRODUCTION = """# Declaration errors

All mistakes in an app are reported at once, before the server listens, by `wsflow check` and
`wsflow run`, and as the `problems` of a `DeclarationError`. Each says where it is, why it cannot
be, and how to fix it:

```text
wsflow: 1 problem in the app's declarations

chat.py:12: consumer say, parameter `user: User`
    No scope function provides User.
    Fix: return it from a function decorated with lifespan, on_connect or …
```

Here are those that the test suite provokes, by kind. Names and places are those of its examples.
"""
NAMES = sorted(path.stem for path in BAD.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_the_report_is_the_golden_one(name: str) -> None:
    module = importlib.import_module(f"tests.wiring.bad.{name}")
    with pytest.raises(DeclarationError) as raised:
        compile_app(module.app)
    report = re.sub(rf"{re.escape(str(BAD))}/", "", str(raised.value)) + "\n"
    golden = BAD / f"{name}.txt"
    if os.environ.get("WSFLOW_GOLDEN") == "write":
        golden.write_text(report)
    assert report == golden.read_text()


def test_every_problem_says_where_why_and_what_to_do() -> None:
    for name in NAMES:
        module = importlib.import_module(f"tests.wiring.bad.{name}")
        with pytest.raises(DeclarationError) as raised:
            compile_app(module.app)
        assert raised.value.problems
        for problem in raised.value.problems:
            assert re.fullmatch(rf".*/{name}\.py:\d+", problem.where)
            assert problem.subject
            assert problem.why.endswith(".")
            assert problem.cure.endswith(".")


def test_the_page_has_each_with_its_cure() -> None:
    parts = [INTRODUCTION]
    for name in NAMES:
        module = importlib.import_module(f"tests.wiring.bad.{name}")
        with pytest.raises(DeclarationError) as raised:
            compile_app(module.app)
        rows = [
            f"| {cell(each.subject)} | {cell(each.why)} | {cell(each.cure)} |"
            for each in raised.value.problems
        ]
        title = (module.__doc__ or name.replace("_", " ").capitalize()).rstrip(".")
        lines = ["", f"## {title}", "", "| declared | why it cannot be | fix |", "|---|---|---|"]
        parts.append("\n".join([*lines, *dict.fromkeys(rows)]) + "\n")
    page = "".join(parts)
    if os.environ.get("WSFLOW_GOLDEN") == "write":
        PAGE.write_text(page)
    assert page == PAGE.read_text()


def cell(text: str) -> str:
    """A text for a table in Markdown."""
    text = re.sub(rf"{re.escape(str(BAD))}/", "", text)
    text = re.sub(r" \(\w+\.py:\d+\)|(?<= )\w+\.py:\d+", "", text)
    parts = text.split("`")  # every second one is code, in which nothing else is markup
    parts[::2] = [re.sub(r"([*_<>\[\]\\])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts).replace("|", r"\|")
