"""Exit codes of commands, and the line that explains them."""

from __future__ import annotations

import errno
from enum import IntEnum

from wsflow.errors import BrokerError, ConnectError, DeclarationError
from wsflow.log import say
from wsflow.server.loading import LoadError
from wsflow.server.settings import Settings


class Exit(IntEnum):
    """Exit codes."""

    STOPPED = 0  # by a signal, in order
    FAILED = 1  # a crash, or handlers were cancelled because the grace period was over
    USAGE = 2
    APP = 3  # the app cannot be loaded, or its declarations are invalid
    ADDRESS = 4  # the address is in use
    BROKER = 5  # the broker cannot be reached
    UNREACHABLE = 6  # the server cannot be reached, or refuses the connection
    CLOSED = 7  # the connection did not end normally


class UsageError(Exception):
    """A setting cannot be used: one line with the reason and the fix."""


REFUSALS = (LoadError, DeclarationError, BrokerError, ConnectError, UsageError, ValueError)
"""Errors that end a command before it has begun: a user error, or an unreachable peer."""


def refuse(exc: Exception) -> Exit:
    """Print why a command ends, in one line. Returns its exit code."""
    say(f"wsflow: {exc}")
    if isinstance(exc, LoadError | DeclarationError):
        return Exit.APP
    if isinstance(exc, ConnectError):
        return Exit.UNREACHABLE
    return Exit.BROKER if isinstance(exc, BrokerError) else Exit.USAGE


def no_broker(exc: BrokerError) -> Exit:
    """Print that a server has no broker, and the fix. Returns the exit code."""
    return refuse(BrokerError(f"{exc}: start it, or name another with --broker"))


def not_bound(exc: OSError, settings: Settings) -> Exit:
    """Print that an address is in use. Returns the exit code.

    Raises:
        UsageError: the address cannot be listened on for another reason.
    """
    if exc.errno == errno.EADDRINUSE:
        say(
            f"wsflow: {address(settings)} is in use: stop what listens there, or choose "
            f"another with {'--uds' if settings.uds else '--port'}"
        )
        return Exit.ADDRESS
    why = exc.strerror or str(exc)
    if exc.errno == errno.EACCES and 0 < settings.port < 1024:
        why += "; ports below 1024 need privileges: choose another with --port"
    raise UsageError(f"cannot listen on {address(settings)}: {why}") from None


def address(settings: Settings) -> str:
    """Where a server listens, as readable text."""
    if settings.fd is not None:
        return f"file descriptor {settings.fd}"
    return str(settings.uds or f"{settings.host}:{settings.port}")
