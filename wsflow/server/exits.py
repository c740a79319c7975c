"""Exit codes of commands, and the line that explains them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from enum import IntEnum

from wsflow.addresses import Address
from wsflow.console.live import PATH
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


class AdminAddressError(OSError):
    """The admin port cannot be listened on; its file name is the address."""


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
    where, flag = address(settings), "--uds" if settings.uds else "--port"
    port: int | None = settings.port
    if isinstance(exc, AdminAddressError):
        where, flag, port = exc.filename, "--admin-port", settings.admin_port
    if exc.errno == errno.EADDRINUSE:
        say(f"wsflow: {where} is in use: stop what listens there, or choose another with {flag}")
        return Exit.ADDRESS
    why = exc.strerror or str(exc)
    if exc.errno == errno.EACCES and port and port < 1024:
        why += f"; ports below 1024 need privileges: choose another with {flag}"
    if exc.errno == errno.EADDRNOTAVAIL:
        host = flag.replace("port", "host")
        why += f"; {host} names an address of this machine, or 0.0.0.0 for all of IPv4"
    raise UsageError(f"cannot listen on {where}: {why}") from None


def address(settings: Settings) -> str:
    """Where a server listens, as readable text."""
    if settings.fd is not None:
        return f"file descriptor {settings.fd}"
    return str(settings.uds or f"{settings.host}:{settings.port}")


def base(settings: Settings, port: int) -> str | None:
    """The beginning of the URLs of a server, for this machine; None on a Unix socket."""
    if not port:
        return None
    scheme = "ws" if settings.ssl_certfile is None else "wss"
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"{scheme}://{Address(host, port)}"


def pages(settings: Settings, port: int) -> Iterator[str]:
    """Lines that say where the pages of a server are, but for the app's own; none on a Unix socket.
    The token of the console is not written down."""
    url = base(settings, port)
    if url is None:
        return
    url = f"http{url.removeprefix('ws')}"
    if settings.static is not None:
        yield f"       files: {url}/"
    if settings.console is not None:
        yield f"     console: {url}{PATH}/{'?token=…' if settings.console else ''}"
