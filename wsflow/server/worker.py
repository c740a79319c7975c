"""``python -m wsflow.server.worker N``: one worker of ``wsflow run --workers``. For internal use.

Descriptor N is a socket to the supervisor. The supervisor sends the assignment; the worker reports
that it serves and lives, and stops when the supervisor has closed the socket.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec

from wsflow.output import stderr
from wsflow.server.assignment import Assignment, inherit
from wsflow.server.exits import REFUSALS, base, refuse
from wsflow.server.loading import LoadError, wired
from wsflow.server.parent import Parent
from wsflow.server.process import HURRY, configure_logging, run_server
from wsflow.server.settings import Settings
from wsflow.wiring.plan import AppPlan
from wsflow.wiring.samples import Sample


def main() -> None:
    """Serve until a signal, or until the supervisor has ended."""
    supervisor = socket.socket(fileno=int(sys.argv[1]))
    supervisor.set_inheritable(False)
    with supervisor, supervisor.makefile("rb", buffering=0) as lines:  # what follows is unread
        assignment = msgspec.json.decode(
            lines.readline(), type=Assignment, dec_hook=lambda kind, value: kind(value)
        )
        code = _work(assignment, supervisor)
    stderr.drain()
    sys.exit(code)


def _work(assignment: Assignment, supervisor: socket.socket) -> int:
    configure_logging(assignment.settings, dev=assignment.dev)
    settings = assignment.settings
    parent = Parent(supervisor, settings.worker_timeout, assignment.reports)
    parent.end_with_it(settings.drain_time + 2 * HURRY)
    try:
        _change_directory(assignment.directory)
        plan = wired(assignment.target)
        return run_server(
            plan,
            settings,
            lambda port: parent.serves(_trial(plan, settings, port) if assignment.dev else ""),
            inherit(assignment.sockets),
            parent,
        )
    except REFUSALS as exc:
        return refuse(exc)


def _trial(plan: AppPlan, settings: Settings, port: int) -> str:
    """A command that connects to the first of the paths, if there is one that has a URL."""
    url = base(settings, port)
    routes = sorted(plan.routes, key=lambda route: route.template)
    return Sample(plan, routes[0]).command(url) if url and routes else ""


def _change_directory(directory: Path) -> None:
    """The supervisor's own may have been removed and made again since it began.

    Raises:
        LoadError: it is not there.
    """
    try:
        os.chdir(directory)
    except OSError as exc:
        raise LoadError(f"the app cannot be loaded from {directory}: {exc.strerror}") from None


if __name__ == "__main__":
    faulthandler.enable()  # the supervisor has a worker that hangs say where, by SIGABRT
    for each in (signal.SIGINT, signal.SIGHUP):  # sent to all: they are for the supervisor
        signal.signal(each, lambda *_: None)
    main()
