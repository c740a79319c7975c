"""Temporary directories, of which none is left for long by a process that was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import final

from wsflow.log import Log

log = Log("wsflow")

LOCK = "lock"
"""The file in each directory that is locked as long as a process uses the directory."""


@final
class Scratch:
    """A temporary directory. Making it removes those of the same prefix that nobody uses any more,
    because the process that made them was killed.

    Args:
        prefix: what its name begins with.

    Attributes:
        path: where it is.
        lock: a descriptor. A process that inherits it uses the directory, too, until its own end.
    """

    def __init__(self, prefix: str) -> None:
        remove_abandoned(prefix)
        self._folder = tempfile.TemporaryDirectory(prefix=prefix)
        self.path = Path(self._folder.name)
        new = self.path / "new"  # no other process finds it before it is locked
        self.lock = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        new.rename(self.path / LOCK)

    def remove(self) -> None:
        """Remove it, with all that is in it."""
        self._folder.cleanup()
        os.close(self.lock)


def remove_abandoned(prefix: str) -> None:
    """Remove this user's temporary directories of a prefix that no process uses any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        try:
            _remove_unused(folder)
        except FileNotFoundError:  # it is just being made, or removed
            continue
        except OSError as exc:
            log.warning("%s, which a killed server has left, is still there: %s", folder, exc)


def _remove_unused(folder: Path) -> None:
    """Remove a directory if it is this user's, and no process uses it."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
        log.info("removed %s, which a killed server had left", folder)
    except BlockingIOError:  # it is used
        return
    finally:
        os.close(lock)
