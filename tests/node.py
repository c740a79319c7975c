"""Node, and the compiler of TypeScript: from npm, in ``build/node``, which git ignores."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

FOLDER = Path(__file__).parents[1] / "build" / "node"

PACKAGES = {
    "@types/node": "20.19.24",
    "@types/react": "19.2.2",
    "@types/react-dom": "19.2.2",
    "@types/ws": "8.18.1",
    "react": "19.2.0",
    "react-dom": "19.2.0",
    "typescript": "5.9.3",
    "ws": "8.18.3",
}

STRICT = {
    "target": "es2022",
    "module": "esnext",
    "moduleResolution": "bundler",
    "strict": True,
    "exactOptionalPropertyTypes": True,
    "noUncheckedIndexedAccess": True,
    "noImplicitOverride": True,
    "noImplicitReturns": True,
    "noUnusedParameters": True,
    "noUnusedLocals": True,
    "noFallthroughCasesInSwitch": True,
    "verbatimModuleSyntax": True,
    "jsx": "react-jsx",
    "erasableSyntaxOnly": True,
    "removeComments": True,
    "types": ["node", "react", "react-dom"],
    "lib": ["es2022", "dom", "dom.iterable"],
}
"""What users set who are strict."""


def program(name: str) -> str:
    """The path of a program; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@contextmanager
def locked() -> Iterator[None]:
    """Alone among the processes that run tests."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install(folder: Path, *options: str, packages: Mapping[str, str] = PACKAGES) -> None:
    """Install packages, unless they are there; without a registry the test is skipped."""
    wanted = json.dumps({"private": True, "type": "module", "dependencies": packages})
    mark = folder / "installed"
    if mark.exists() and mark.read_text() == wanted:
        return
    (folder / "package.json").write_text(wanted)
    command = [program("npm"), "install", "--no-audit", "--no-fund", "--fetch-retries=1", *options]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if run.returncode:
        pytest.skip(f"npm cannot install {', '.join(packages)}: {run.stderr.strip()}")
    mark.write_text(wanted)


def compile_all(files: Mapping[str, str], *, emit: bool = True, **options: object) -> Path:
    """Compile files, by their names, and return where they and what was made of them is.

    Raises:
        AssertionError: with what the compiler says.
    """
    with locked():
        install(FOLDER)
        config = {"compilerOptions": {**STRICT, "noEmit": not emit, **options}}
        texts = {"tsconfig.json": json.dumps(config), **files}
        folder = FOLDER / hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
        if not (folder / "compiled").exists():
            folder.mkdir(exist_ok=True)
            for name, text in texts.items():
                (folder / name).write_text(text)
            command = [program("node"), FOLDER / "node_modules/typescript/bin/tsc", "-p", folder]
            run = subprocess.run(command, capture_output=True, text=True, cwd=folder)
            assert run.returncode == 0, run.stdout
            (folder / "compiled").touch()
    return folder


UNTIL = """
globalThis.until = async (isSo) => {
  const began = Date.now();
  while (!isSo()) {
    if (Date.now() - began > 20000) throw new Error(`never: ${isSo}`);
    await new Promise((look) => setTimeout(look, 10));
  }
};
"""
"""Has a script wait for something: ``await until(() => …)``. What does not come in time is said."""


class Js(Protocol):
    """Evaluates JavaScript somewhere."""

    async def run(self, code: str) -> Any:
        """Run the body of an async function, and return what it returns, as JSON.

        Raises:
            AssertionError: it has thrown.
        """
        ...


class Node(Js):
    """A process of Node that evaluates what it is told, one after another."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def run(self, code: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(code).encode() + b"\n")
        line = await asyncio.wait_for(self._process.stdout.readline(), 60)
        assert line, "it has ended"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer.get("value")


_EVALUATES = """
import { createInterface } from "node:readline";
import { WebSocket } from "ws";
globalThis.options = { WebSocket };
const AsyncFunction = (async () => {}).constructor;
for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { value: await new AsyncFunction("load", JSON.parse(line))((name) => import(name)) };
  } catch (error) {
    answer = { error: String(error?.stack ?? error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\\n");
}
"""


@asynccontextmanager
async def node(folder: Path) -> AsyncIterator[Node]:
    """A process of Node in a folder of what was compiled."""
    (folder / "evaluates.mjs").write_text(_EVALUATES)
    process = await asyncio.create_subprocess_exec(
        program("node"),
        "evaluates.mjs",
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Node(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
