"""The reference page has every public name, with its members and parameters, and no others."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import wsflow
import wsflow.testing

PAGE = (Path(__file__).parents[1] / "docs" / "reference.md").read_text()
ROW = re.compile(r"^\| ([^|\n]*`[^|\n]*) \|", re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")
NAME = re.compile(r"^(?:await |async with |with |@)?(?:\w+\.)?(\w+)")
ELSEWHERE = {"Limits", "ClientLimits"}
"""Those whose fields docs/limits.md has."""


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


@pytest.mark.parametrize("module", [wsflow, wsflow.testing], ids=lambda it: it.__name__)
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


@pytest.mark.parametrize("module", [wsflow, wsflow.testing], ids=lambda it: it.__name__)
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


def test_its_links_hold() -> None:
    docs = Path(__file__).parents[1] / "docs"
    for page, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", PAGE)):
        text = (docs / page).read_text()
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert not anchor or anchor in {title.lower().replace(" ", "-") for title in titles}, anchor
