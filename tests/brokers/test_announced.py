"""How publishers of one user find the embedded broker of a running server, and nobody else's."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from typing import Any

import pytest

from wsflow.brokers import announced as files
from wsflow.brokers.announced import announced, folders, running
from wsflow.brokers.engine import ConnectionLostError
from wsflow.brokers.nats import NatsEngine
from wsflow.brokers.select import engine
from wsflow.errors import BrokerError

ONE, OTHER = "nats://one@127.0.0.1:4", "nats://other@127.0.0.1:5"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / "run" / "wsflow"


def found(url: str) -> str:
    workers: Any = engine(url)
    return str(workers._find().url)


def test_one_server(folder: Path) -> None:
    with announced("127.0.0.1:8000", ONE):
        (file,) = folder.iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700
        for url in ("workers://", "workers://:8000", "workers://127.0.0.1:8000"):
            assert found(url) == ONE
        for url in ("workers://:800", "workers://:80", "workers://127.0.0.2:8000"):
            with pytest.raises(ConnectionLostError, match=r"there are 127\.0\.0\.1:8000"):
                found(url)
    assert list(folder.iterdir()) == []
    with pytest.raises(ConnectionLostError, match="no `wsflow run --workers` with an embedded"):
        found("workers://")


def test_several_servers() -> None:
    socket = "/run/my app.sock"
    with announced("127.0.0.1:8000", ONE), announced("[::1]:9000", OTHER), announced(socket, ONE):
        with pytest.raises(BrokerError, match="several servers run here: name one of workers:///"):
            found("workers://")
        assert found("workers://:9000") == OTHER
        assert found("workers://[::1]:9000") == OTHER
        assert found(f"workers://{socket}") == ONE


def test_a_server_that_was_killed(folder: Path) -> None:
    """Its file is there, and nobody has locked it. The next one at its address takes its place."""
    folder.mkdir(mode=0o700)
    with announced("127.0.0.1:8000", ONE):
        (file,) = folder.iterdir()
        content = file.read_bytes()
    file.touch(mode=0o600)
    file.write_bytes(content)
    with pytest.raises(ConnectionLostError):
        found("workers://")
    with announced("127.0.0.1:8000", OTHER):
        assert found("workers://") == OTHER
        with announced("127.0.0.1:8000", ONE):  # a server that has taken over the address
            assert found("workers://") == ONE
    assert list(folder.iterdir()) == []


def test_where_there_is_no_runtime_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    temporary = tmp_path / f"wsflow-{os.getuid()}"
    assert folders() == [temporary]
    with announced("127.0.0.1:8000", ONE):
        assert found("workers://") == ONE
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder.parent))  # whoever looks has one
        assert found("workers://") == ONE


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o777])
def test_a_folder_that_others_may_use(
    folder: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with announced("127.0.0.1:8000", ONE):
        assert list(folder.iterdir()) == []
    assert f"do not find the broker: others may use {folder}: chmod it to 700" in caplog.text
    with pytest.raises(BrokerError, match="others may use"):
        found("workers://")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606])
def test_a_file_that_others_may_use(folder: Path, mode: int) -> None:
    with announced("127.0.0.1:8000", ONE):
        (file,) = folder.iterdir()
        file.chmod(mode)
        with pytest.raises(BrokerError, match="others may use"):
            found("workers://")


def test_what_belongs_to_somebody_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir(mode=0o700)
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    with announced("127.0.0.1:8000", ONE):
        assert list(folder.iterdir()) == []
    assert "belongs to another user: it is not used" in caplog.text
    with pytest.raises(BrokerError, match="belongs to another user"):
        found("workers://")


def test_what_is_something_else(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with announced("127.0.0.1:8000", ONE):
        assert list(folder.iterdir()) == []
    assert "is not what wsflow has made: remove it" in caplog.text
    with pytest.raises(BrokerError, match="is not what wsflow has made"):
        found("workers://")


def test_a_link_among_the_files(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(mode=0o700)
    (tmp_path / "target").touch(mode=0o600)
    (folder / "x.json").symlink_to(tmp_path / "target")
    (folder / "y.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BrokerError, match=r"x\.json cannot be read: .*symbolic"):
        list(running(folder))


def test_a_file_that_is_gone_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [folder / "gone.json"])
    assert list(running(folder)) == []


def test_a_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "folders", lambda: [tmp_path / "a" / "b"])
    with announced("127.0.0.1:8000", ONE):
        assert "publishers on this machine do not find the broker" in caplog.text


def test_a_file_that_cannot_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(handle: int, data: bytes) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(os, "write", full)
    with announced("127.0.0.1:8000", ONE):
        assert list(folder.iterdir()) == []
    assert "no space left" in caplog.text


def test_a_file_that_somebody_has_removed(folder: Path) -> None:
    with announced("127.0.0.1:8000", ONE):
        (file,) = folder.iterdir()
        file.unlink()
        with pytest.raises(ConnectionLostError):
            found("workers://")


def test_who_looks_does_not_hold_it(folder: Path) -> None:
    with announced("127.0.0.1:8000", ONE):
        (file,) = folder.iterdir()
    file.touch(mode=0o600)
    with file.open() as handle:
        assert list(running(folder)) == []
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("url", ["workers://x", "workers://:port", "workers://localhost:"])
def test_a_url_that_names_nothing(url: str) -> None:
    with pytest.raises(ValueError, match=re.escape("as in workers://:8000")):
        engine(url)


async def test_it_is_found_anew_with_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = engine("workers://")
    assert workers.address == "workers://"
    listener: Any = None
    with pytest.raises(ConnectionLostError, match="no `wsflow run --workers`"):
        await workers.connect(listener, "p")

    async def connect(self: NatsEngine, listener: object, process: str) -> Any:
        return self.address, process

    monkeypatch.setattr(NatsEngine, "connect", connect)
    for url in (ONE, OTHER):
        with announced("127.0.0.1:8000", url):
            found: Any = await workers.connect(listener, "p")
            assert found == (f"nats://…@{url.partition('@')[2]}", "p")
