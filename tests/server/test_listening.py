"""Listening sockets."""

from __future__ import annotations

import errno
import socket
import stat
from pathlib import Path

import pytest

from wsflow.server import Settings
from wsflow.server.listening import bind, listen


@pytest.mark.parametrize(("mode", "is_"), [("660", 0o660), ("666", 0o666), ("0600", 0o600)])
def test_the_mode_of_a_unix_socket(mode: str, is_: int, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with bind(Settings(uds=path, uds_mode=mode))[0]:
        assert stat.S_IMODE(path.stat().st_mode) == is_


def test_its_default_lets_in_user_and_group(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    (bound,) = listen(Settings(uds=path), 2)[0]
    with bound:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


@pytest.mark.parametrize("mode", ["", "66", "999", "0x1b0", "u=rw", "6600", "-660"])
def test_modes_that_are_none(mode: str) -> None:
    with pytest.raises(ValueError, match="write three octal digits, as in 660"):
        Settings(uds_mode=mode)


def test_an_owner_whose_queue_is_full(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind(str(path))
        owner.listen(0)
        waiting = []
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            waiting.append(client)
            if client.connect_ex(str(path)) == errno.EAGAIN:
                break
        with pytest.raises(OSError, match="another process listens there") as failure:
            bind(Settings(uds=path))
        assert failure.value.errno == errno.EADDRINUSE
        for each in waiting:
            each.close()
    with bind(Settings(uds=path))[0]:  # nobody listens there now
        pass


def test_an_owner_that_has_not_started_yet(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with bind(Settings(uds=path))[0]:
        inode = path.stat().st_ino
        with pytest.raises(OSError, match="another process listens there"):
            bind(Settings(uds=path))
        assert path.stat().st_ino == inode


def test_a_socket_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(OSError, match="rong type") as failure:
            bind(Settings(uds=path))
        assert failure.value.errno == errno.EPROTOTYPE
    assert path.exists()


def test_a_socket_that_is_gone_when_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "socket"
    monkeypatch.setattr(Path, "is_socket", lambda self: True)
    with bind(Settings(uds=path))[0]:
        assert path.exists()
