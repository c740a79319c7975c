"""Listening sockets, of one process or of several at one address; and TLS."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import sys
from pathlib import Path

from wsflow.server.accepting import BACKLOG
from wsflow.server.settings import Settings


def inherited(fd: int) -> socket.socket:
    """A socket that the process has inherited as a file descriptor."""
    return socket.socket(fileno=os.dup(fd))


def bind_unix(path: Path, mode: int) -> socket.socket:
    """Bind a Unix socket at ``path``, and listen. Replaces one on which no process listens: so who
    starts later finds this one listening, although nothing is accepted yet.

    Args:
        path: where.
        mode: the permissions of its file. Who may write to it may connect.

    Raises:
        OSError: a process listens there (EADDRINUSE), or it cannot be bound.
    """
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)  # the owner's queue may be full
            match probe.connect_ex(str(path)):
                case errno.ECONNREFUSED:
                    path.unlink(missing_ok=True)
                case 0 | errno.EAGAIN:
                    raise OSError(errno.EADDRINUSE, "another process listens there")
                case other if other != errno.ENOENT:
                    raise OSError(other, os.strerror(other))
    bound = socket.socket(socket.AF_UNIX)
    before = os.umask(0o777 & ~mode)
    try:
        bound.bind(str(path))
        bound.listen(BACKLOG)
    except OSError as exc:
        bound.close()
        if exc.errno == errno.EADDRINUSE:
            raise OSError(errno.EEXIST, "there is a file of that name") from None
        raise
    finally:
        os.umask(before)
    return bound


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context that the settings ask for, None without a certificate.

    Raises:
        ValueError: a file cannot be read, or has no matching certificate or key.
    """
    if settings.ssl_certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(
            settings.ssl_certfile, settings.ssl_keyfile, settings.ssl_keyfile_password or ""
        )
    except OSError as exc:
        why = exc.strerror or str(exc)
        if isinstance(exc, ssl.SSLError):
            why = (
                "no certificate and private key (PEM) that match, or the key needs another "
                f"password ({why})"
            )
        files = " and ".join(
            str(file) for file in (settings.ssl_certfile, settings.ssl_keyfile) if file
        )
        raise ValueError(f"TLS cannot use {files}: {why}") from None
    return context


def bind(settings: Settings) -> list[socket.socket]:
    """The sockets of one process. Those at TCP ports do not listen yet, so that clients are refused
    until the app has started.

    Raises:
        OSError: the address cannot be listened on.
    """
    if settings.fd is not None:
        return [inherited(settings.fd)]
    if settings.uds is not None:
        return [bind_unix(settings.uds, int(settings.uds_mode, 8))]
    return _bind_tcp(settings.host, settings.port, 1)[0]


def listen(settings: Settings, count: int) -> list[list[socket.socket]]:
    """For each of ``count`` processes the sockets to listen on, all at the same address.

    On Linux each process has its own sockets, and the kernel distributes connections over them. The
    caller keeps them open: while a process is replaced, new connections wait in the accept queue.

    Raises:
        OSError: the address cannot be listened on.
    """
    if settings.fd is not None or settings.uds is not None:
        each = [bind(settings)] * count
    else:
        each = _bind_tcp(settings.host, settings.port, count)
    for sockets in each:
        for one in sockets:
            one.listen(BACKLOG)
    return each


def _bind_tcp(host: str, port: int, count: int) -> list[list[socket.socket]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    each: list[list[socket.socket]] = [[] for _ in range(count)]
    with contextlib.ExitStack() as undo:
        for family, _, _, _, address in dict.fromkeys(found):
            address = (address[0], port, *address[2:])
            first = _bind(family, address, alone=True)
            undo.callback(first.close)
            port = first.getsockname()[1]
            if count == 1 or sys.platform != "linux":
                for sockets in each:
                    sockets.append(first)
                continue
            first.close()  # it was only bound to check that the address is free
            address = (address[0], port, *address[2:])
            for sockets in each:
                sockets.append(_bind(family, address, alone=False))
                undo.callback(sockets[-1].close)
        undo.pop_all()
    return each


def _bind(family: int, address: tuple[object, ...], *, alone: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not alone:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound
