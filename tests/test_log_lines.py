"""The page of log lines has all of them, as they stand in the source.

``WSFLOW_GOLDEN=write uv run pytest tests/test_log_lines.py`` writes it anew; read the difference.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/log-lines.md"
LEVELS = {"debug", "info", "warning", "error"}
METHODS = LEVELS | {"often", "log"}
INTRODUCTION = """# Log lines

All lines that wsflow writes to its log, by logger and level, as they stand in its source; `…` is
what differs. Most name a connection or a handler first. The lines of the access log are put
together from fields, which are in [observing.md](observing.md#logs), with what each logger is for.
"""


def constants(tree: ast.Module) -> dict[str, str]:
    """The texts that a module has a name for."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }


def texts(node: ast.expr, known: dict[str, str]) -> Iterator[str]:
    """What an argument may be, as a text."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.Name(id=name) if name in known:
            yield known[name]
        case ast.IfExp(body=body, orelse=orelse):
            yield from texts(body, known)
            yield from texts(orelse, known)
        case ast.JoinedStr(values=values):
            yield "".join(
                str(each.value) if isinstance(each, ast.Constant) else "%s" for each in values
            )


def level_of(method: str, arguments: list[ast.expr]) -> str:
    if method in LEVELS:
        return method
    named = re.findall(r"logging\.([A-Z]+)", ast.unparse(arguments[0]))
    return " or ".join(each.lower() for each in named) or "warning or error"


def logger_of(source: str) -> str:
    """The name of a module's logger, which may be that of another one; none without one."""
    if own := re.search(r'^log = Log\("(.*)"\)', source, re.MULTILINE):
        return own[1]
    if other := re.search(r"^from (wsflow[\w.]*) import .*\blog\b", source, re.MULTILINE):
        file = ROOT / f"{other[1].replace('.', '/')}.py"
        return logger_of(file.read_text()) if file.exists() else ""
    return ""


def lines() -> dict[str, set[tuple[str, str]]]:
    """By logger, the level and the text of each line."""
    found: dict[str, set[tuple[str, str]]] = {}
    for path in sorted((ROOT / "wsflow").rglob("*.py")):
        source = path.read_text()
        logger = logger_of(source)
        tree = ast.parse(source)
        known = constants(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            whose, method = ast.unparse(node.func.value), node.func.attr
            if (whose, method) != ("self", "_log") and (whose != "log" or method not in METHODS):
                continue
            arguments = node.args if method in LEVELS else node.args[1:]
            for text in texts(arguments[0], known):
                shown = re.sub(r"%(\.\d+)?[a-z]", "…", text)
                if shown.strip("…:() "):
                    line = level_of(method, node.args), shown
                    found.setdefault(logger, set()).add(line)
    return found


def escaped(text: str) -> str:
    """As text in a cell of a table."""
    return re.sub(r"([|*_<>])", r"\\\1", text)


def test_the_page_has_each_line() -> None:
    found = lines()
    assert "" not in found
    assert sum(map(len, found.values())) > 60
    parts = [INTRODUCTION]
    for logger in sorted(found):
        rows = [
            f"| {level} | {escaped(text)} |"
            for level, text in sorted(found[logger], key=lambda line: line[1].lower())
        ]
        parts.append(
            "\n".join(["", f"## {logger}", "", "| level | line |", "|---|---|", *rows, ""])
        )
    page = "".join(parts)
    if os.environ.get("WSFLOW_GOLDEN") == "write":
        PAGE.write_text(page)
    assert page == PAGE.read_text()
