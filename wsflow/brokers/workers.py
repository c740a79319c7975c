"""``workers://``: the broker that a running ``wsflow run --workers`` has started on this machine.

Who runs it writes the broker's URL, which has its token, to a file that only its user can read, in
a folder that only its user can use: ``$XDG_RUNTIME_DIR/wsflow``, or ``wsflow-<uid>`` among the
temporary files where there is no such directory. The file is locked as long as it is true, so that
one that a killed server has left is told from that of a server that runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import final

import msgspec

from wsflow.brokers.engine import ConnectionLostError, Engine, EngineConnection, EngineListener
from wsflow.brokers.nats import NatsEngine
from wsflow.errors import BrokerError
from wsflow.http import percent_encode
from wsflow.log import Log

log = Log("wsflow.broker")

SCHEME = "workers://"


class Found(msgspec.Struct):
    """What is in such a file.

    Attributes:
        address: where the server listens: ``host:port``, or the path of a Unix socket.
        url: its broker.
    """

    address: str
    url: str


@final
class WorkersEngine:
    """Connects to the broker of a running ``wsflow run --workers`` of the same user.

    The file is read whenever it connects, so that a publisher finds a server that was restarted.

    Args:
        url: ``workers://`` if one runs; else the port, as in ``workers://:8000``, its address, as
            in ``workers://127.0.0.1:8000``, or the path of its Unix socket:
            ``workers:///run/x.sock``.

    Raises:
        ValueError: the URL has something else.
    """

    def __init__(self, url: str) -> None:
        self._wanted = url[len(SCHEME) :]
        self.address = SCHEME + self._wanted
        port = self._wanted.rpartition(":")[2]
        if self._wanted and not self._wanted.startswith("/") and not port.isdecimal():
            raise ValueError(
                "name the port of the server, as in workers://:8000, or the path of its Unix "
                "socket, as in workers:///run/x.sock"
            )

    async def connect(self, listener: EngineListener, process: str) -> EngineConnection:
        engine: Engine = NatsEngine(self._find().url)
        return await engine.connect(listener, process)

    def _find(self) -> Found:
        """The server that is meant."""
        found = {each.address: each for folder in folders() for each in _running(folder)}
        meant = [each for each in found.values() if self._is_meant(each.address)]
        if len(meant) == 1:
            return meant[0]
        if meant:
            urls = ", ".join(sorted(SCHEME + each.address for each in meant))
            raise BrokerError(f"several servers run here: name one of {urls}")
        others = f"; there are {', '.join(sorted(found))}" if found else ""
        raise ConnectionLostError(
            "no `wsflow run --workers` with an embedded broker runs here "
            + (f"at {self._wanted} " if self._wanted else "")
            + f"as this user (looked in {', '.join(map(str, folders()))}){others}"
        )

    def _is_meant(self, address: str) -> bool:
        wanted = self._wanted
        return wanted in ("", address) or (wanted.startswith(":") and address.endswith(wanted))


def folders() -> list[Path]:
    """Where the files can be, the best place first."""
    user = os.getuid()
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user}")
    own = [runtime / "wsflow"] if runtime.is_absolute() and runtime.is_dir() else []
    return [*own, Path(tempfile.gettempdir()) / f"wsflow-{user}"]


@contextlib.contextmanager
def announced(address: str, url: str) -> Iterator[None]:
    """Have publishers of the same user find a broker, while the block runs. A place that others
    could read or change is not used: then the log says so.

    Args:
        address: where the server listens.
        url: the URL of its broker.
    """
    folder = folders()[0]
    with contextlib.ExitStack() as around:
        try:
            around.enter_context(_written(folder, Found(address, url)))
        except (OSError, BrokerError) as exc:
            log.warning("publishers on this machine do not find the broker: %s", exc)
        yield


@contextlib.contextmanager
def _written(folder: Path, found: Found) -> Iterator[None]:
    """The file is there, and locked."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    _check(folder, os.lstat(folder), stat.S_ISDIR)
    path = folder / f"{percent_encode(found.address)[:200]}.json"
    handle, new = tempfile.mkstemp(dir=folder)  # of mode 0600
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            os.write(handle, msgspec.json.encode(found))
            Path(new).replace(path)  # one that is left there is stale: this server has the address
        except BaseException:
            Path(new).unlink()
            raise
        yield
        if _is_there(path, handle):
            path.unlink()
    finally:
        os.close(handle)


def _is_there(path: Path, handle: int) -> bool:
    """Whether a path is still that of an open file."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(handle))
    return False


def _running(folder: Path) -> Iterator[Found]:
    """The servers whose files are in a folder.

    Raises:
        BrokerError: others could have written there.
    """
    try:
        _check(folder, folder.lstat(), stat.S_ISDIR)
    except FileNotFoundError:
        return
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            with open(handle, "rb") as file:
                _check(path, os.fstat(handle), stat.S_ISREG)
                if _is_locked(handle):
                    yield msgspec.json.decode(file.read(), type=Found)


def _is_locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _check(path: Path, found: os.stat_result, is_kind: Callable[[int], bool]) -> None:
    """Check that nobody else can read or change a file or folder.

    Raises:
        BrokerError: somebody could.
    """
    if not is_kind(found.st_mode):
        raise BrokerError(f"{path} is not what wsflow has made: remove it")
    if found.st_uid != os.getuid():
        raise BrokerError(f"{path} belongs to another user: it is not used")
    if found.st_mode & 0o077:
        raise BrokerError(f"others may use {path}: chmod it to 700, a file in it to 600")
