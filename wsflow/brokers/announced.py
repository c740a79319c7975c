"""Where a running ``wsflow run --workers`` tells its user's publishers of its embedded broker.

It writes the broker's URL, which has its token, to a file that only its user can read, in
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

import msgspec

from wsflow.errors import BrokerError
from wsflow.http import percent_encode
from wsflow.log import Log

log = Log("wsflow.broker")


class Found(msgspec.Struct):
    """What is in such a file.

    Attributes:
        address: where the server listens: ``host:port``, or the path of a Unix socket.
        url: its broker.
    """

    address: str
    url: str


def folders() -> list[Path]:
    """Where the files can be, the best place first."""
    user = os.getuid()
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user}")
    own = [runtime / "wsflow"] if runtime.is_absolute() and runtime.is_dir() else []
    return [*own, Path(tempfile.gettempdir()) / f"wsflow-{user}"]


@contextlib.contextmanager
def announced(address: str, url: str) -> Iterator[None]:
    """Have publishers of the same user find a broker, while the block runs. A place that others
    could read or change is not used; if there is no other one, the log says so.

    Args:
        address: where the server listens.
        url: the URL of its broker.
    """
    wrong: list[str] = []
    with contextlib.ExitStack() as around:
        for folder in folders():
            try:
                around.enter_context(_written(folder, Found(address, url)))
                break
            except (OSError, BrokerError) as exc:
                wrong.append(str(exc))
        else:
            log.warning("publishers on this machine do not find the broker: %s", "; ".join(wrong))
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


def running(wrong: list[str]) -> Iterator[Found]:
    """The servers whose files are there. What others could have written, or cannot be read, is
    passed over: nobody else's file keeps a server from being found.

    Args:
        wrong: takes what was passed over, and why.
    """
    for folder in folders():
        try:
            _check(folder, folder.lstat(), stat.S_ISDIR)
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            continue
        except (OSError, BrokerError) as exc:
            wrong.append(str(exc))
            continue
        for path in (folder / name for name in names if name.endswith(".json")):
            try:
                found = _read(path)
            except FileNotFoundError:  # its server has just stopped
                continue
            except (OSError, BrokerError, msgspec.MsgspecError) as exc:
                wrong.append(str(exc) if isinstance(exc, BrokerError) else f"{path}: {exc}")
                continue
            if found is not None:
                yield found


def _read(path: Path) -> Found | None:
    """The server whose file this is, if it runs."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        _check(path, os.fstat(file.fileno()), stat.S_ISREG)
        if _is_locked(file.fileno()):
            return msgspec.json.decode(file.read(), type=Found)
    return None


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
