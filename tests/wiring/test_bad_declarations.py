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
