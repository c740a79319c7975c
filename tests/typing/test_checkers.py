"""The public API as three type checkers see it: what is right, and what is marked as wrong."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


def by_mypy(line: str) -> list[int]:
    return [int(found) for found in re.findall(r"^[^:\n]+:(\d+):(?:\d+:)? error: ", line, re.M)]


def by_pyright(output: str) -> list[int]:
    found: list[dict[str, Any]] = json.loads(output)["generalDiagnostics"]
    return [each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"]


def by_pyrefly(output: str) -> list[int]:
    return [each["line"] for each in json.loads(output)["errors"]]


CHECKERS: dict[str, tuple[list[str], Callable[[str], list[int]]]] = {
    "mypy": (["mypy", "--strict"], by_mypy),
    "pyright": (["pyright", "--outputjson", "--pythonpath", sys.executable], by_pyright),
    "pyrefly": (["pyrefly", "check", "--preset", "strict", "--output-format", "json"], by_pyrefly),
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def marked(checker: str, file: Path) -> list[int]:
    """The lines that a checker marks."""
    command, lines = CHECKERS[checker]
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed: it is in the dev group, uv sync brings it")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command, str(file)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode in (0, 1), errors.decode()
    return sorted(set(lines(output.decode())))


@pytest.mark.long
@pytest.mark.parametrize("file", ["snippets/good.py", "test_api.py"])
@pytest.mark.parametrize("checker", CHECKERS)
async def test_what_is_right_is_not_marked(checker: str, file: str) -> None:
    assert await marked(checker, HERE / file) == []


@pytest.mark.long
@pytest.mark.parametrize("checker", CHECKERS)
async def test_what_is_wrong_is_marked(checker: str) -> None:
    file = HERE / "snippets/bad.py"
    text = file.read_text().splitlines()
    wrong = [number for number, line in enumerate(text, 1) if line.endswith("# error")]
    assert wrong
    assert await marked(checker, file) == wrong
