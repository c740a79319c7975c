"""Imports go one way, down: ``docs/internals.md`` draws the floors."""

from __future__ import annotations

import ast
import functools
import gc
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "wsflow"

# From the ground up. A room, which is a folder or a file beside one, may import from the floors
# below its own, and not from its siblings.
FLOORS = [
    ["output"],
    ["addresses", "credential", "end", "http", "limits", "log", "metrics", "tasks"],
    ["errors", "request", "response", "opening", "messages"],
    ["connection", "transports", "brokers"],
    ["observer"],
    ["declare"],
    ["topics"],
    ["auth", "wiring", "prometheus", "opentelemetry"],
    ["runtime", "contract"],
    ["console"],
    ["server", "client", "hosting"],
    ["testing", "publishing", "uvicorn", "gunicorn"],
    ["cli"],
    ["", "__main__"],
]
FLOOR_OF = {room: index for index, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def room_of(module: str) -> str:
    return module.split(".")[0]


@functools.cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """What a file imports, and whether at its top level."""
    return imports_of(path.read_text())


def imports_of(text: str) -> list[tuple[str, bool]]:
    """The same for a file's text: those for type checkers and those by string included."""
    gc.disable()  # CPython 3.11: a collection within ast.parse can fail it (gh-106905)
    try:
        tree = ast.parse(text)
    finally:
        gc.enable()
    nested = [
        inner
        for node in tree.body
        if isinstance(node, ast.Try | ast.If)
        for inner in ast.walk(node)
    ]
    top_level = [*tree.body, *nested]
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            names = [node.module or ""]
            if node.module is not None and node.module.startswith("wsflow"):
                # `from wsflow.runtime import ending` imports a module too
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found += [(name, node in top_level) for name in names]
    return found + [(name, True) for name in by_string(tree)]


def by_string(tree: ast.Module) -> list[str]:
    """Modules of the package whose names stand in it as texts, but for loggers'."""
    loggers = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("getLogger", "Log"))
        for argument in node.args
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("wsflow.")
        and node.value.removeprefix("wsflow.") in modules().keys() - {""}
        and id(node) not in loggers
    ]


def targets(path: Path) -> list[str]:
    """The modules of the package that a file imports."""
    known = modules()
    found = []
    for name, _ in imports(path):
        if name == "wsflow" or name.startswith("wsflow."):
            target = name.removeprefix("wsflow").removeprefix(".")
            while target not in known:  # a name within a module
                target = target.rpartition(".")[0]
            found.append(target)
    return found


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_down(module: str) -> None:
    path = modules()[module]
    room = room_of(module)
    for name, top in imports(path):
        assert top, f"{path}: {name} is imported inside of a function"
    for target in targets(path):
        if room_of(target) != room:
            assert FLOOR_OF[room_of(target)] < FLOOR_OF[room], f"{path} imports {target}"


def test_every_room_has_a_floor() -> None:
    assert {room_of(module) for module in modules()} == set(FLOOR_OF)


def test_there_is_no_circle() -> None:
    graph = {module: targets(path) for module, path in modules().items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"a circle: {' → '.join([*trail, module])}"
        if module not in done:
            for target in graph[module]:
                if target != module:
                    visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_what_must_not_be_imported_where() -> None:
    for module, path in modules().items():
        names = {name.split(".")[0] for name, _ in imports(path)}
        if room_of(module) in ("runtime", "wiring", "topics", "declare", "messages"):
            assert not names & {"asyncio", "trio"}, path
        if room_of(module) != "cli":
            assert "cyclopts" not in names, path


@pytest.mark.parametrize(
    "text",
    [
        "from wsflow.cli import main",
        "import wsflow.cli.main",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from wsflow.cli.main import main",
        "import importlib\nimportlib.import_module('wsflow.cli.main')",
        "try:\n    import wsflow.cli.main\nexcept ImportError:\n    pass",
        "def later():\n    import wsflow.cli.main",
    ],
)
def test_an_arrow_is_seen_however_it_is_drawn(text: str) -> None:
    assert any(name.startswith("wsflow.cli") for name, _ in imports_of(text))


def test_a_logger_is_no_import() -> None:
    assert imports_of("import logging\nlogging.getLogger('wsflow.topics')") == [("logging", True)]
