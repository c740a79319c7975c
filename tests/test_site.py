"""The pages make a site: one that is built without a warning, and that has all of them."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wsflow
import wsflow.auth
import wsflow.server
import wsflow.testing

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / ".zensical.toml").read_text())["project"]
PAGES = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def pages_of(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        for where in entry.values():
            if isinstance(where, str):
                yield where
            else:
                yield from pages_of(where)


def test_each_page_has_one_place_in_the_navigation() -> None:
    placed = list(pages_of(CONFIG["nav"]))
    assert len(placed) == len(set(placed))
    assert set(placed) == PAGES


def test_the_readme_leads_to_each_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert {f"docs/{page}" for page in PAGES - {"index.md"}} <= set(
        re.findall(r"\]\((.*?)\)", text)
    )


@pytest.fixture(scope="module")
def zensical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, in an environment of its own; without a registry the test is skipped."""
    folder = tmp_path_factory.mktemp("site")
    env = {name: value for name, value in os.environ.items() if not name.startswith("VIRTUAL_ENV")}
    uv = shutil.which("uv") or "uv"
    python = folder / "venv/bin/python"
    install = [uv, "pip", "install", "--quiet", "--python", str(python), "--group", "docs"]
    for command in ([uv, "venv", "--quiet", str(folder / "venv")], install):
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"what makes the site cannot be installed: {done.stderr.strip()}")
    return folder / "venv/bin/zensical"


def built_of(project: Path, page: str) -> Path:
    folder = page.removesuffix(".md").removesuffix("index")
    return project / CONFIG["site_dir"] / folder / "index.html"


@pytest.mark.long
def test_the_site_is_built_without_a_warning(zensical: Path, tmp_path: Path) -> None:
    for part in ("docs", "wsflow"):
        shutil.copytree(ROOT / part, tmp_path / part)
    config = shutil.copy(ROOT / ".zensical.toml", tmp_path)
    command = [zensical, "build", "--strict", "--config-file", config]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    assert done.returncode == 0, said
    lines = sorted(re.sub(r"[\d.]+s$", "…", line) for line in said.splitlines())
    assert lines == ["Build finished in …", "Build started", "No issues found"]
    for page in PAGES:
        text = built_of(tmp_path, page).read_text()
        assert "```" not in html.unescape(text), page  # each block was seen as one
    shown = re.findall(r'<h[23] id="([\w.]+)"', built_of(tmp_path, "api.md").read_text())
    told = {where.replace("serve.serve", "serve") for where in shown}  # a module of that name, too
    for module in (wsflow, wsflow.auth, wsflow.server, wsflow.testing):
        assert {f"{module.__name__}.{name}" for name in module.__all__} <= told
