"""``wsflow schema``: what an app takes and sends, for the people on the other side."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from wsflow.cli.run import Target
from wsflow.contract.asyncapi import asyncapi
from wsflow.contract.changes import Document, changes
from wsflow.contract.contract import Contract
from wsflow.contract.describe import describe
from wsflow.contract.jsonschema import jsonschema
from wsflow.contract.python import python
from wsflow.contract.typescript import REACT, typescript
from wsflow.server.exits import Exit, UsageError
from wsflow.server.loading import wired

Format = Literal["json", "yaml", "jsonschema", "typescript", "react", "python"]


def schema(
    target: Target,
    /,
    *,
    format: Annotated[
        Format,
        Parameter(
            help="AsyncAPI 3.1.0 as JSON or YAML, JSON Schema for each path, a client in "
            "TypeScript, a hook for React beside it, or a module in Python for clients with wsflow."
        ),
    ] = "json",
    output: Annotated[
        Path | None, Parameter(name=("--output", "-o"), help="Write to this file.")
    ] = None,
    check: Annotated[
        Path | None,
        Parameter(
            help="Say what has changed since this file was written (JSON), and exit with 1 if that "
            "breaks the clients of today.",
        ),
    ] = None,
) -> int:
    """Write down what an app takes and sends: for tools, and for clients in other languages."""
    if check is not None and (output is not None or format != "json"):
        raise UsageError("--check compares, and writes nothing: leave out --output and --format")
    app = wired(target)
    try:
        contract = describe(app)
    except ValueError as exc:
        raise UsageError(f"{target}: {exc}") from None
    if check is not None:
        return _check(check, asyncapi(contract))
    text = _WRITERS[format](contract)
    if output is None:
        print(text, end="")
        return Exit.STOPPED
    try:
        output.write_text(text, "utf-8")
    except OSError as exc:
        raise UsageError(f"--output {output}: {exc.strerror}") from None
    return Exit.STOPPED


def _check(path: Path, new: Document) -> int:
    try:
        old = json.loads(path.read_bytes())
    except OSError as exc:
        raise UsageError(f"--check {path}: {exc.strerror}") from None
    except ValueError as exc:
        raise UsageError(
            f"--check {path}: it is no JSON ({exc}): give it what `wsflow schema` writes without "
            "--format"
        ) from None
    try:
        found = changes(old, new)
    except ValueError as exc:
        raise UsageError(f"--check {path}: {exc}") from None
    for each in sorted(found, key=lambda each: not each.breaks):
        print(each)
    breaks = sum(each.breaks for each in found)
    print(f"{len(found)} changes, of which {breaks} break the clients of today")
    return Exit.FAILED if breaks else Exit.STOPPED


def _as_json(document: Any) -> str:
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n"


def _as_yaml(document: Any) -> str:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ModuleNotFoundError:
        raise UsageError(
            "--format yaml needs PyYAML, which is not installed: pip install pyyaml"
        ) from None
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


_WRITERS: Mapping[str, Callable[[Contract], str]] = {
    "json": lambda contract: _as_json(asyncapi(contract)),
    "yaml": lambda contract: _as_yaml(asyncapi(contract)),
    "jsonschema": lambda contract: _as_json(jsonschema(contract)),
    "typescript": typescript,
    "react": lambda _: REACT,
    "python": python,
}
