"""``python -m wsflow.server.worker N``: one worker of ``wsflow run --workers``. For internal use.

Descriptor N is a socket to the supervisor. The supervisor sends the assignment; the worker reports
that it serves and lives, and stops when the supervisor has closed the socket.
"""

from __future__ import annotations

import faulthandler
import signal
import socket
import sys

import msgspec

from wsflow.output import stderr
from wsflow.server.assignment import Assignment, inherit
from wsflow.server.exits import REFUSALS, refuse
from wsflow.server.loading import wired
from wsflow.server.parent import Parent
from wsflow.server.process import configure_logging, run_server


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
    configure_logging(assignment.settings)
    settings = assignment.settings
    parent = Parent(supervisor, settings.worker_timeout)
    try:
        plan = wired(assignment.target)
        return run_server(
            plan,
            settings,
            lambda _: parent.serves(),
            inherit(assignment.sockets),
            parent,
        )
    except REFUSALS as exc:
        return refuse(exc)


if __name__ == "__main__":
    faulthandler.enable()  # the supervisor has a worker that hangs say where, by SIGABRT
    for each in (signal.SIGINT, signal.SIGHUP):  # sent to all: they are for the supervisor
        signal.signal(each, lambda *_: None)
    main()
