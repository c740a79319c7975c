"""Imports go one way, down, and no file is too long to be read at once."""

from __future__ import annotations

import ast
import functools
import gc
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "wsflow"

# From the ground up. A module may import from its own layer and from those before it.
LAYERS = [
    ["errors", "detached", "backoff", "news"],
    ["request", "transports.limits", "transports.frames", "codec", "calls", "declare"],
    ["connection", "opening", "transports.base", "brokers.base"],
    ["transports", "brokers", "presence", "channels"],
    ["topic_type", "loops"],
    ["topics"],
    ["registry", "publisher"],
    ["wiring"],
    ["runtime"],
    ["server", "client"],
    ["testing"],
    ["cli"],
    ["__main__", ""],
]


def layer_of(module: str) -> int:
    """The layer of a module, by the longest name that covers it."""
    best = -1, -1
    for index, names in enumerate(LAYERS):
        for name in names:
            if module == name or module.startswith(f"{name}."):
                best = max(best, (len(name), index))
    assert best[1] >= 0, f"{module} is in no layer"
    return best[1]


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


@functools.cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """What a file imports, and whether at its top level."""
    gc.disable()  # CPython 3.11: a collection within ast.parse can fail it (gh-106905)
    try:
        tree = ast.parse(path.read_text())
    finally:
        gc.enable()
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    tried = [each for node in tree.body if isinstance(node, ast.Try) for each in ast.walk(node)]
    top_level = [*tree.body, *tried]
    found = []
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found += [(name, node in top_level) for name in names]
    return found


def test_imports_go_down() -> None:
    known = modules()
    for module, path in known.items():
        for name, top in imports(path):
            assert top, f"{path}: {name} is imported inside of a function"
            if not name.startswith("wsflow."):
                continue
            target = name.removeprefix("wsflow.")
            if module.split(".")[0] == target.split(".")[0] and module:
                continue  # within one folder
            assert layer_of(target) <= layer_of(module), f"{path} imports {name}, which is above"


def test_no_cycles() -> None:
    known = modules()
    graph = {
        module: [
            name.removeprefix("wsflow.") for name, _ in imports(path) if name.startswith("wsflow.")
        ]
        for module, path in known.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"a cycle: {' → '.join([*trail, module])}"
        if module in done:
            return
        for target in graph.get(module, []):
            visit(target, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_a_transport_or_a_broker_knows_nothing_above_its_protocol() -> None:
    for module, path in modules().items():
        if module.startswith(("transports.", "brokers.")):
            for name, _ in imports(path):
                target = name.removeprefix("wsflow.")
                if name.startswith("wsflow."):
                    assert layer_of(target) <= layer_of("transports"), f"{path} imports {name}"


def test_what_must_not_be_imported_where() -> None:
    for module, path in modules().items():
        names = {name.split(".")[0] for name, _ in imports(path)}
        if module.startswith("runtime"):
            assert not names & {"asyncio", "trio"}, path
        if not module.startswith("cli"):
            assert "cyclopts" not in names, path


def test_no_file_is_over_500_lines() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in modules().values()}
    assert {path: count for path, count in lengths.items() if count > 500} == {}
