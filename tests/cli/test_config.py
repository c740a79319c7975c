"""What the environment and ``pyproject.toml`` set, and how the sources go together."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wsflow.cli import main as command_line
from wsflow.cli.main import main
from wsflow.server import Settings

APP = """
from wsflow import Router

app = Router("/hi")


@app.consumer
async def hi(message: str) -> str:
    return message
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    output = capsys.readouterr()
    return int(left.value.code or 0), output.out, output.err


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Settings]]:
    """What ``wsflow run`` would serve."""
    found: list[tuple[str, Settings]] = []

    def run(target: command_line.Target, settings: Settings) -> int:
        found.append((target, settings))
        return 0

    monkeypatch.setattr(command_line, "run", run)
    return found


@pytest.mark.parametrize(
    ("project", "says"),
    [
        ("[tool.wsflow]\nprot = 1", ": 'prot' is not a setting: did you mean port?"),
        ("[tool.wsflow]\nxyz = 1", ": 'xyz' is not a setting; see wsflow run --help"),
        ("[tool.wsflow.run]\nport = 1", ": [tool.wsflow.run] is a table, and settings have none"),
        ("[tool.wsflow]\nport = = 1", " cannot be read: Invalid value (at line 2, column 8)"),
        ("[tool]\nwsflow = 5", ": 'wsflow' is no table: write [tool.wsflow]"),
        ("tool = 5", ": 'tool' is no table: write [tool.wsflow]"),
        ("[tool.wsflow]\nport = [1, 2]", "port in {file} is a list, and it has one value"),
        ("[tool.wsflow]\nport = 'x'", 'port from {file}: unable to convert "x" into int.'),
        ("[tool.wsflow]\ngrace = true", 'grace from {file}: unable to convert "True" into float.'),
        ("[tool.wsflow]\nping-interval = -1", "ping-interval in {file} is -1.0: it must be 0 or"),
        (
            "[tool.wsflow]\nuds = 'x'\nhost = '::1'",
            "host in {file} and uds in {file} are both set, and a server listens on one of them",
        ),
    ],
)
def test_mistakes_in_the_project_name_its_file(
    folder: Path, capsys: pytest.CaptureFixture[str], project: str, says: str
) -> None:
    file = folder / "pyproject.toml"
    file.write_text(project)
    said = " ".join(call(capsys, "run", "app:app")[2].replace("│", " ").split())
    expected = says.replace("{file}", str(file))
    assert expected.replace(" ", "") in said.replace(" ", "")  # where the box breaks lines
    assert str(file).replace(" ", "") in said.replace(" ", "")
    assert call(capsys, "run", "app:app")[0] == 2


def test_a_project_above_names_the_app_and_the_broker(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "pyproject.toml").write_text(
        "[tool.wsflow]\ntarget = 'app:app'\nbroker = 'kafka://x'\norigin = ['https://a.example']\n"
    )
    below = folder / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    monkeypatch.syspath_prepend(folder)
    assert call(capsys, "routes") == (0, "/hi  takes str  sends str\n", "")
    assert call(capsys, "check")[0] == 0
    for command in (
        ("publish", "news", "{}"),
        ("client", "examples.bot:bot", "ws://localhost:1"),
        ("run",),
    ):
        code, _, err = call(capsys, *command)
        assert code == 2
        assert "'kafka://x' is no broker" in err
    monkeypatch.setenv("WSFLOW_BROKER", "pigeon://x")
    assert "'pigeon://x' is no broker" in call(capsys, "publish", "news", "{}")[2]
    monkeypatch.setenv("WSFLOW_TARGET", "app:other")
    assert "has no attribute 'other'" in call(capsys, "check")[2]
    monkeypatch.setenv("WSFLOW_TARGETS", "app:app")
    assert "did you mean WSFLOW_TARGET?" in call(capsys, "check")[2]


@pytest.mark.parametrize(
    ("project", "environment", "flags", "expected"),
    [
        ("uds = 'x'", {}, [], (8000, Path("x"), None)),
        ("uds = 'x'", {}, ["--port", "1"], (1, None, None)),
        ("port = 5", {}, ["--uds", "y"], (8000, Path("y"), None)),
        ("port = 5", {}, ["--host", "::1"], (5, None, None)),
        ("uds = 'x'\nuds-mode = '600'", {"WSFLOW_FD": "3"}, [], (8000, None, 3)),
        ("uds = 'x'", {"WSFLOW_PORT": "7"}, ["--fd", "3"], (8000, None, 3)),
    ],
)
def test_the_nearest_source_says_where_to_listen(
    folder: Path,
    served: list[tuple[str, Settings]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    project: str,
    environment: dict[str, str],
    flags: list[str],
    expected: tuple[int, Path | None, int | None],
) -> None:
    (folder / "pyproject.toml").write_text(f"[tool.wsflow]\n{project}\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert call(capsys, "run", "app:app", *flags) == (0, "", "")
    ((_, settings),) = served
    assert (settings.port, settings.uds, settings.fd) == expected


@pytest.mark.parametrize(
    ("environment", "flags", "says"),
    [
        ({}, ["--uds", "x", "--port", "8000"], "--port and --uds are both set"),
        ({}, ["--fd", "3", "--host", "::1"], "--host and --fd are both set"),
        ({"WSFLOW_UDS": "x", "WSFLOW_PORT": "1"}, [], "WSFLOW_PORT and WSFLOW_UDS are both set"),
        ({}, ["--workers", "2", "--broker", "memory://"], "--broker is memory://, which carries"),
        ({"WSFLOW_BROKER": "memory://"}, ["--workers", "2"], "WSFLOW_BROKER is memory://, which"),
        ({}, ["--uds-mode", "600"], "--uds-mode is set and --uds is not"),
        ({"WSFLOW_UDS_MODE": "600"}, [], "WSFLOW_UDS_MODE is set and --uds is not"),
    ],
)
def test_contradictions(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    flags: list[str],
    says: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, _, err = call(capsys, "run", "app:app", *flags)
    assert (code, err.count("\n")) == (2, 1)
    assert says in err


@pytest.mark.parametrize("workers", ["1", "x"])
def test_one_worker_needs_no_other_broker(
    folder: Path,
    served: list[tuple[str, Settings]],
    capsys: pytest.CaptureFixture[str],
    workers: str,
) -> None:
    err = call(capsys, "run", "app:app", "--workers", workers, "--broker", "memory://")[2]
    assert "memory://" not in err
    assert len(served) == (workers == "1")


def test_publish_has_no_broker_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "publish", "--help")
    assert (code, "memory://" in out) == (0, False)


@pytest.mark.parametrize("command", [["check", "app:app"], ["routes", "app:app"], ["run", "-h"]])
def test_an_output_that_nobody_reads(folder: Path, command: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "wsflow", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait() == 1


@pytest.mark.parametrize("command", [["check", "app:app"], ["routes", "app:app"], ["run", "-h"]])
def test_a_terminal_that_is_gone(folder: Path, command: list[str]) -> None:
    window, terminal = os.openpty()
    os.close(window)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "wsflow", *command],
            stdout=terminal,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    finally:
        os.close(terminal)
    assert (done.returncode, done.stderr) == (1, "")


def test_an_error_of_the_system_is_no_end_of_the_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(target: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(command_line, "wired", fails)
    with pytest.raises(OSError, match="No space left"):
        command_line.main(["check", "app:app"])


@pytest.mark.parametrize("command", ["check", "run"])
def test_ctrl_c_while_the_app_is_imported(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (folder / "late.py").write_text("raise KeyboardInterrupt")
    assert call(capsys, command, "late:app") == (130, "", "")


@pytest.mark.parametrize("command", ["check", "run", "dev", "routes"])
def test_a_directory_that_is_gone(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, _, err = call(capsys, command, "app:app")
    assert (code, err.count("\n")) == (3, 1)
    assert "wsflow: the current directory does not exist any more: change to" in err


def test_without_an_output(folder: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m wsflow routes app:app >&-"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
