"""The reference has every public name, with its members and parameters, and no others; and every
command, flag, extra, counter, close code and exit code. Settings, loggers and metrics are compared
in ``test_docs.py``, declaration errors in ``wiring/test_bad_declarations.py``."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import wsflow
import wsflow.auth
import wsflow.server
import wsflow.testing
from wsflow.cli.main import main
from wsflow.contract.asyncapi import CLOSE_CODES
from wsflow.server.exits import Exit

ROOT = Path(__file__).parents[1]
DOCS = {path.stem: path.read_text() for path in (ROOT / "docs").glob("*.md")}
PAGE = DOCS["reference"]
ROW = re.compile(r"^\| ([^|\n]*`[^|\n]*) \|", re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")
NAME = re.compile(r"^(?:await |async with |with |@)?(?:\w+\.)?(\w+)")
ELSEWHERE = {"Limits", "ClientLimits", "Settings", "Server"}
"""Those whose fields docs/limits.md has, and one of which the page has a part."""
MODULES = [wsflow, wsflow.testing, wsflow.auth, wsflow.server]


def entries(module: ModuleType) -> dict[str, str]:
    """What the page says of each public name: its section, or its rows."""
    (part,) = re.findall(
        rf"^## {re.escape(module.__name__)}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    found: dict[str, str] = {}
    for section in part.split("\n### ")[1:]:
        title, _, text = section.partition("\n")
        if title.startswith("`"):
            found[title.strip("`")] = text
            continue
        for line in text.splitlines():
            if row := ROW.match(line):
                for code in CODE.findall(row[1]):
                    name = named(code)
                    found[name] = found.get(name, "") + line + "\n"
    return found


def named(code: str) -> str:
    """The name that a row of a table is about."""
    match = NAME.match(code)
    assert match is not None, code
    return match[1]


def described(doc: str | None, section: str) -> list[str]:
    """The names in a section of a docstring: ``Args`` or ``Attributes``."""
    text = re.search(
        rf"^{section}:\n((?:    .*\n?|\n)*)", inspect.cleandoc(doc or ""), re.MULTILINE
    )
    lines = re.findall(r"^    ([\w, ]+):", text[1], re.MULTILINE) if text else []
    return [name.strip() for line in lines for name in line.split(",")]


def ours(kind: type) -> list[type]:
    return [each for each in kind.__mro__ if each.__module__.startswith("wsflow")]


def members(kind: type) -> dict[str, Any]:
    """The public methods and attributes of a class, also those that only its docstring names."""
    found: dict[str, Any] = {}
    for each in ours(kind):
        for name in (*vars(each), *getattr(each, "_fields", ())):
            found.setdefault(name, inspect.getattr_static(each, name))
        for name in described(each.__doc__, "Attributes"):
            found.setdefault(name, None)
    return {name: member for name, member in found.items() if not name.startswith("_")}


def parameters(function: Any) -> list[str]:
    """The parameters that a caller passes."""
    all_of_it = inspect.signature(function).parameters
    return [name for name in all_of_it if name not in ("self", "cls", "fn")]


def missing(name: str, thing: Any, text: str) -> Iterator[str]:
    """What the page does not say of a name."""
    said = set(re.findall(r"\w+", " ".join(CODE.findall(text))))
    if not inspect.isclass(thing):
        if callable(thing) and not hasattr(thing, "__args__"):
            yield from (f"{name}({each}=…)" for each in parameters(thing) if each not in said)
        return
    if described(thing.__doc__, "Args"):  # users make it
        yield from (f"{name}({each}=…)" for each in parameters(thing) if each not in said)
    rows = {named(code): row for row in ROW.findall(text) for code in CODE.findall(row)}
    for member, value in members(thing).items():
        if member not in said:
            yield f"{name}.{member}"
        function = getattr(value, "__func__", value)
        if member in rows and inspect.isfunction(function):
            shown = set(re.findall(r"\w+", rows[member]))
            wanted = parameters(function)
            yield from (f"{name}.{member}({each}=…)" for each in wanted if each not in shown)


@pytest.mark.parametrize("module", MODULES, ids=lambda it: it.__name__)
def test_every_public_name_is_on_the_page_with_all_that_it_has(module: ModuleType) -> None:
    told = entries(module)
    assert set(told) == set(module.__all__)
    gaps = [
        gap
        for name in module.__all__
        if name not in ELSEWHERE
        for gap in missing(name, getattr(module, name), told[name])
    ]
    assert not gaps


@pytest.mark.parametrize("module", MODULES, ids=lambda it: it.__name__)
def test_every_row_is_about_something_that_is_there(module: ModuleType) -> None:
    gone = []
    for name, text in entries(module).items():
        thing = getattr(module, name)
        if text.startswith("| "):  # rows of a table of several names
            continue
        known = {*members(thing), *parameters(thing)}
        rows = [named(code) for row in ROW.findall(text) for code in CODE.findall(row)]
        assert rows, name
        gone += [f"{name}.{row}" for row in rows if row not in known]
    assert not gone


def rows(page: str, heading: str) -> list[str]:
    """The first cells of the tables below a heading."""
    part = re.split(rf"^#+ {re.escape(heading)}$", DOCS[page], maxsplit=1, flags=re.MULTILINE)[1]
    part = re.split(r"^#", part, maxsplit=1, flags=re.MULTILINE)[0]
    cells = re.findall(r"^\| ([^|]*) \|", part, re.MULTILINE)
    return [name for cell in cells for name in (CODE.findall(cell) or [cell])]


def helped(*command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert not ended.value.code
    return capsys.readouterr().out


def test_every_command_is_on_the_page_with_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    commands = set(re.findall(r"^│ (\w+) ", helped(capsys=capsys), re.MULTILINE))
    told = dict(re.findall(r"^## wsflow (\w+)(.*)$", DOCS["commands"], re.MULTILINE))
    assert set(told) == commands
    settings = {f"--{each.name}".replace("_", "-") for each in fields(wsflow.server.Settings)}
    settings |= {"--no-access-log", "--no-metrics"}
    for command, arguments in told.items():
        flags = set(re.findall(r"(?<!\S)--?[a-z][\w-]*", helped(command, capsys=capsys)))
        own = flags - settings if command in ("run", "dev") else flags
        own = {flag for flag in own if not flag.startswith("--empty-")}
        shown = rows("commands", f"wsflow {command}{arguments}")
        assert own == {row.split()[0] for row in shown if row.startswith("-") and row.strip("-")}


def test_every_extra_is_on_the_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = [row for row in rows("commands", "Extras") if row.startswith("wsflow[")]
    assert sorted(told) == sorted(f"wsflow[{name}]" for name in project["optional-dependencies"])


async def test_every_counter_is_on_the_page() -> None:
    app = wsflow.Router("/")

    @app.consumer
    async def hear(message: str) -> None: ...

    async with wsflow.testing.serve_in_memory(app) as server:
        counters = set(server.registry.counters())
    assert counters == set(rows("observing", "Counters")) - {"counter", "---"}


def test_every_close_code_is_on_the_pages() -> None:
    """Those that a schema has, too."""
    told = {int(code) for row in rows("protocol", "Closing") for code in re.findall(r"\d+", row)}
    assert told == set(CLOSE_CODES)
    guide = DOCS["guide"].partition("## How a connection ends")[2].partition("\n## ")[0]
    assert set(CLOSE_CODES) - {int(code) for code in re.findall(r"\b[14]\d{3}\b", guide)} == set()


def test_every_exit_code_is_on_the_page() -> None:
    told = {int(row) for row in rows("running", "Exit codes") if row.isdigit()}
    assert told == {*map(int, Exit), 130}


def test_every_example_is_named() -> None:
    text = (ROOT / "README.md").read_text() + "".join(DOCS.values())
    examples = {path.stem for path in (ROOT / "examples").iterdir() if path.stem[0] not in "_."}
    assert not {name for name in examples if f"`{name}`" not in text}


def test_links_between_pages_hold() -> None:
    """As they are shown without the site, too."""
    for name, text in DOCS.items():
        outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)]+)\)", outside):
            page, _, anchor = link.partition("#")
            if "://" in page:
                continue
            assert not page or (ROOT / "docs" / page).exists(), (name, link)
            if anchor:
                target = DOCS[page.removesuffix(".md")] if page else text
                titles = re.findall(r"^#+ (.*)$", target, re.MULTILINE)
                anchors = {
                    re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
                }
                assert anchor in anchors, (name, link)
