"""``wsflow schema``, as a person meets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from wsflow.cli.main import main
from wsflow.contract.changes import RULES

APP = "examples.chat:app"


def schema(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["schema", *arguments])
    return int(left.value.code or 0)


def test_each_format(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert schema(APP) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["info"]["title"] == "examples.chat"
    assert schema(APP, "--format", "yaml") == 0
    assert yaml.safe_load(capsys.readouterr().out) == document
    assert schema(APP, "--format", "jsonschema", "-o", str(tmp_path / "x.json")) == 0
    assert capsys.readouterr().out == ""
    assert "/chat/{room}" in json.loads((tmp_path / "x.json").read_text())["paths"]


def test_what_has_changed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    schema(APP, "-o", str(old))
    assert schema(APP, "--check", str(old)) == 0
    assert capsys.readouterr().out == "0 changes, of which 0 break the clients of today\n"
    assert schema("examples.calls:app", "--check", str(old)) == 1
    assert capsys.readouterr().out == (
        "breaks  /chat/{room}: the path is gone [path-gone]\n"
        "fine    /: the path is new [path-new]\n"
        "2 changes, of which 1 break the clients of today\n"
    )


TWICE = """
import msgspec
from wsflow import Router

app = Router("/")

def take(tag):
    class Say(msgspec.Struct, tag=tag): ...
    Say.__qualname__ = "Say"

    @app.consumer
    async def take(message: Say) -> None: ...

take("a")
take("b")
"""


def test_what_cannot_be_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "none.json").write_text("{}")

    def says(text: str, *arguments: str) -> None:
        assert schema(APP, *arguments) == 2
        assert text in capsys.readouterr().err

    says("No such file", "--check", str(tmp_path / "missing.json"))
    says("bad.json: it is no JSON", "--check", str(tmp_path / "bad.json"))
    says("it is no document that wsflow schema has written", "--check", str(tmp_path / "none.json"))
    says("Is a directory", "-o", str(tmp_path))
    says("--check compares, and writes nothing", "--check", "old.json", "-o", "new.json")
    says("--check compares, and writes nothing", "--check", "old.json", "--format", "yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "twice.py").write_text(TWICE)
    assert schema("twice:app") == 2
    assert capsys.readouterr().err == (
        "wsflow: twice:app: two types are twice.Say, and a schema cannot tell them apart: give one "
        "of them another name\n"
    )
    monkeypatch.setitem(sys.modules, "yaml", None)
    says("--format yaml needs PyYAML", "--format", "yaml")


def test_the_page_has_all_rules_and_fields() -> None:
    page = (Path(__file__).parents[2] / "docs/schema.md").read_text()
    rows: Any = {
        name: (breaks, said)
        for line in page.splitlines()
        if line.startswith("| `") and line.count("|") == 4
        for name, breaks, said in [[cell.strip(" `") for cell in line.split("|")[1:4]]]
    }
    assert rows == {
        name: ("yes" if breaks else "no", said.strip("`")) for name, (breaks, said) in RULES.items()
    }
