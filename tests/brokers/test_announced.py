"""How publishers of one user find the embedded broker of a running server, and nobody else's."""

from __future__ import annotations

import contextlib
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


def spoilt_by_mode(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o750)


def spoilt_by_a_link(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)


def spoilt_by_a_file(folder: Path) -> None:
    folder.touch(mode=0o600)


BAD_FOLDERS = [
    (spoilt_by_mode, "others may use {}: chmod it to 700"),
    (spoilt_by_a_link, "{} is not what wsflow has made: remove it"),
    (spoilt_by_a_file, "{} is not what wsflow has made: remove it"),
]


@pytest.mark.parametrize(("spoil", "why"), BAD_FOLDERS)
def test_a_folder_that_is_not_used(
    folder: Path, tmp_path: Path, spoil: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The server uses the other place, and whoever looks finds it there."""
    spoil(folder)
    other = tmp_path / f"wsflow-{os.getuid()}"
    with pytest.raises(ConnectionLostError, match=re.escape(why.format(folder))):
        found("workers://")
    with announced("127.0.0.1:8000", ONE):
        assert len(list(other.iterdir())) == 1
        assert not caplog.text
        assert found("workers://") == ONE
        assert f"passed over: {why.format(folder)}" in caplog.text


@pytest.mark.parametrize(("spoil", "why"), BAD_FOLDERS)
def test_a_folder_beside_the_one_that_is_used(
    folder: Path, tmp_path: Path, spoil: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What somebody else puts among the temporary files keeps no server from being found."""
    other = tmp_path / f"wsflow-{os.getuid()}"
    spoil(other)
    with announced("127.0.0.1:8000", ONE):
        assert found("workers://") == ONE
        assert f"passed over: {why.format(other)}" in caplog.text
        with pytest.raises(ConnectionLostError, match=r"there are 127\.0\.0\.1:8000; passed over"):
            found("workers://:9")


def test_no_folder_can_be_used(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoilt_by_mode(folder)
    spoilt_by_a_file(tmp_path / f"wsflow-{os.getuid()}")
    with announced("127.0.0.1:8000", ONE):
        for why in ("do not find the broker: others may use", "; /", "is not what wsflow has made"):
            assert why in caplog.text
        with pytest.raises(ConnectionLostError, match="passed over: others may use"):
            found("workers://")


def test_what_belongs_to_somebody_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(files, "folders", lambda: [folder])
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    with announced("127.0.0.1:8000", ONE):
        assert list(folder.iterdir()) == []
    assert "belongs to another user: it is not used" in caplog.text
    with pytest.raises(ConnectionLostError, match="belongs to another user"):
        found("workers://")


def test_a_folder_that_cannot_be_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the XDG_RUNTIME_DIR of another user, which ``su`` keeps."""

    def lstat(self: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(ConnectionLostError, match="Permission denied"):
        found("workers://")


def torn(path: Path) -> None:
    path.write_bytes(b'{"address": "127.')
    path.chmod(0o600)


def other_content(path: Path) -> None:
    path.write_bytes(b'{"address": 7}')
    path.chmod(0o600)


def readable_by_others(path: Path) -> None:
    path.write_bytes(b"{}")
    path.chmod(0o640)


def a_link(path: Path) -> None:
    path.symlink_to(path.parent / "target")


def a_folder(path: Path) -> None:
    path.mkdir(mode=0o700)


def a_pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


BAD_FILES = [torn, other_content, readable_by_others, a_link, a_folder, a_pipe]


@pytest.mark.parametrize("spoil", BAD_FILES)
@pytest.mark.parametrize("name", ["0.json", "z.json"])
def test_a_file_among_the_others(
    folder: Path, spoil: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with announced("127.0.0.1:8000", ONE):
        spoil(folder / name)
        with contextlib.ExitStack() as locked:
            if spoil in (torn, other_content):
                fcntl.flock(locked.enter_context((folder / name).open()), fcntl.LOCK_EX)
            assert found("workers://") == ONE
            assert f"passed over: {folder / name}" in caplog.text.replace("others may use ", "")
            with pytest.raises(ConnectionLostError, match=re.escape(name)):
                found("workers://:9")


def test_a_file_that_is_gone_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "listdir", lambda path: ["gone.json"])
    wrong: list[str] = []
    assert list(running(wrong)) == []
    assert not wrong


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
    assert "no space left; no space left" in caplog.text


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
        assert list(running([])) == []
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
