"""Temporary directories of processes that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from wsflow.server.scratch import LOCK, Scratch, remove_abandoned


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


USE = """
import subprocess, sys, tempfile
from wsflow.server.scratch import Scratch
tempfile.tempdir = sys.argv[1]
scratch = Scratch("mine-")
child = subprocess.Popen(["sleep", "1000"], pass_fds=[scratch.lock], stdout=subprocess.DEVNULL)
print(scratch.path, child.pid, flush=True)
input()
"""


def test_it_is_removed_by_the_next_start(temporary: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with subprocess.Popen(
        [sys.executable, "-c", USE, str(temporary)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        name, child = process.stdout.readline().split()
        left = Path(name)
        (left / "folder").mkdir()
        (left / "folder" / "file").touch()
        Scratch("mine-").remove()
        assert left.exists()  # it is used
        process.kill()
        process.wait()
        Scratch("mine-").remove()
        assert left.exists()  # by its child, too
        os.kill(int(child), 9)
        _wait_for(int(child))
        mine = Scratch("mine-")
        assert not left.exists()
        assert f"removed {left}, which a killed server had left" in caplog.text
    assert mine.path.parent == temporary
    assert mine.path.stat().st_mode & 0o777 == 0o700
    remove_abandoned("mine-")
    assert mine.path.exists()
    mine.remove()
    assert not mine.path.exists()
    assert list(temporary.iterdir()) == []


def _wait_for(child: int) -> None:
    """It is nobody's child any more: init waits for it."""
    while Path(f"/proc/{child}/stat").exists():
        if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return


def test_what_is_none_of_its_own_stays(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (temporary / "other-folder").mkdir()
    (temporary / "other-folder" / LOCK).touch()
    (temporary / "mine-file").touch()
    (temporary / "mine-link").symlink_to(temporary / "other-folder")
    (temporary / "mine-new").mkdir()  # it is being made
    before = sorted(temporary.rglob("*"))
    remove_abandoned("mine-")
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    remove_abandoned("other-")  # somebody else's
    assert sorted(temporary.rglob("*")) == before
    assert not caplog.records


def test_what_cannot_be_removed_is_told(temporary: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = temporary / "mine-strange"
    folder.mkdir()
    (folder / LOCK).symlink_to("/dev/null")
    remove_abandoned("mine-")
    assert f"{folder}, which a killed server has left, is still there: " in caplog.text
