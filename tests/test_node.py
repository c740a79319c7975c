"""What runs scripts in tests: without Node, or npm, or a browser, they are skipped and say so."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tests.node import compile_all, install, node, program


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(pytest.skip.Exception, match="no-such-browser is not installed"):
        program("no-such-browser")


def test_a_registry_that_is_not_there(tmp_path: Path) -> None:
    program("npm")
    away = ("--registry=http://127.0.0.1:9", f"--cache={tmp_path}", "--fetch-retries=0")
    with pytest.raises(pytest.skip.Exception, match="npm cannot install"):
        install(tmp_path, *away)
    for _ in range(2):  # the second time all is there
        install(tmp_path, *away, packages={})
    assert (tmp_path / "installed").exists()


@pytest.mark.long
async def test_what_a_script_throws() -> None:
    new = {"new.ts": f"export const at: number = {time.time_ns()};\n"}
    folder = compile_all(new)
    assert compile_all(new) == folder
    async with node(folder) as js:
        with pytest.raises(AssertionError, match="Error: so it is"):
            await js.run('throw new Error("so it is")')
        assert await js.run("return [1, null]") == [1, None]
        assert await js.run("") is None
        with pytest.raises(AssertionError, match="it has ended"):
            await js.run("process.exit()")
    shutil.rmtree(folder)
