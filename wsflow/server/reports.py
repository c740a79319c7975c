"""How the workers are, for who asks one of them or the supervisor: files in a directory.

A worker that is told to writes its report, and says so. The supervisor adds them up, those of
workers that have ended included, and writes the sum for a worker that was asked.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import final

import msgspec

from wsflow.log import Log
from wsflow.metrics import Family, Report, add_up, counted
from wsflow.server.scratch import Scratch

log = Log("wsflow.workers")

SCRATCH = "wsflow-reports-"
"""The prefix of the directory's name."""

SUM = "sum"
"""The file of what all processes have measured."""

_report = msgspec.msgpack.Decoder(Report)


def write(path: Path, report: Report) -> bool:
    """Write a report, so that whoever reads the file finds a whole one. Returns whether it could
    be written."""
    new = path.with_suffix(f".{os.getpid()}")
    try:
        new.write_bytes(msgspec.msgpack.encode(report))
        new.rename(path)
    except OSError as exc:
        log.error("what is measured cannot be passed on: %s", exc)
        return False
    return True


def read(path: Path) -> Report | None:
    """Read a report; None if there is none."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return _report.decode(path.read_bytes())
    return None


@final
class Reports:
    """The reports of the workers.

    Attributes:
        folder: where they are written, a temporary directory.
    """

    def __init__(self) -> None:
        self._scratch = Scratch(SCRATCH)
        self.folder = self._scratch.path
        self._known: dict[int, Report] = {}
        self._ended: list[Family] = []  # what workers have counted that are no more

    def close(self) -> None:
        """Remove the directory."""
        self._scratch.remove()

    def of(self, process: int) -> Report | None:
        """The last report of a worker, None if it has written none."""
        found = read(self.folder / str(process))
        if found is not None:
            self._known[process] = found
        return self._known.get(process)

    def ended(self, process: int) -> None:
        """A worker has ended: keep what it has counted."""
        last = self.of(process)
        if last is not None:
            self._ended = add_up([self._ended, counted(last.families)])
        self._known.pop(process, None)
        with contextlib.suppress(OSError):
            (self.folder / str(process)).unlink()

    def families(self, processes: Iterable[int]) -> list[Family]:
        """What these workers, and those that have ended, have measured together."""
        found = [report.families for each in processes if (report := self.of(each)) is not None]
        return add_up([*found, self._ended])
