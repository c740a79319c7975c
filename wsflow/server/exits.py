"""How a command ends: its exit code, and the line that says why."""

from __future__ import annotations

import errno
import sys
from enum import IntEnum

from wsflow.errors import BrokerError, ConnectError, DeclarationError
from wsflow.server.loading import LoadError
from wsflow.server.settings import Settings


class Exit(IntEnum):
    """Exit codes."""

    STOPPED = 0  # by a signal, in order
    FAILED = 1  # a crash, or connections were cut off because the grace time was over
    USAGE = 2
    APP = 3  # the app cannot be loaded, or does not wire
    ADDRESS = 4  # the address is in use
    BROKER = 5  # the broker cannot be reached
    UNREACHABLE = 6  # the server cannot be reached, or refuses
    CLOSED = 7  # the connection ended, and not well


class UsageError(Exception):
    """A setting cannot be used: one line that says why, and what to do."""


REFUSALS = (LoadError, DeclarationError, BrokerError, ConnectError, UsageError, ValueError)
"""What ends a command before it has begun: a user's mistake, or somebody who is not there."""


def refuse(exc: Exception) -> Exit:
    """Say why a command ends, in one line. Returns its exit code."""
    print(f"wsflow: {exc}", file=sys.stderr)
    if isinstance(exc, LoadError | DeclarationError):
        return Exit.APP
    if isinstance(exc, ConnectError):
        return Exit.UNREACHABLE
    return Exit.BROKER if isinstance(exc, BrokerError) else Exit.USAGE


def no_broker(exc: BrokerError) -> Exit:
    """Say that a server has no broker, and what to do."""
    return refuse(BrokerError(f"{exc}: start it, or name another with --broker"))


def not_bound(exc: OSError, settings: Settings) -> Exit:
    """Say why an address cannot be listened on.

    Raises:
        UsageError: for another reason than that it is in use.
    """
    if exc.errno == errno.EADDRINUSE:
        print(
            f"wsflow: {address(settings)} is in use: stop what listens there, or choose "
            f"another with {'--uds' if settings.uds else '--port'}",
            file=sys.stderr,
        )
        return Exit.ADDRESS
    why = exc.strerror or str(exc)
    if exc.errno == errno.EACCES and 0 < settings.port < 1024:
        why += "; ports below 1024 need privileges: choose another with --port"
    raise UsageError(f"cannot listen on {address(settings)}: {why}") from None


def address(settings: Settings) -> str:
    """Where a server listens, for people."""
    if settings.fd is not None:
        return f"file descriptor {settings.fd}"
    return str(settings.uds or f"{settings.host}:{settings.port}")
